"""Where a private run parts from the model in float: node by node, in one process that sees everything.

Three evaluations of one input. *Float* is the model. *Fixed* is the plan on integers, all masks zero. *Private* is the plan with
(seeded) masks. For each operation the total errors of the latter two against float are told, and what the operation itself *adds*:
the private result against the operation applied, in float64, to the private operands. That is held against what is *allowed*:

```
4 * largest change when operands move by one unit and weights by half of one     (found by trying, not derived)
  + the same for weights that a norm was folded into, moved as they are after folding
  + 2 units of the result, times its pending gain
  + the measured errors of the tables that were looked up
```

Where the result is a truth value or a place, ``added`` counts those that differ though operands moved by four units agree, and none
is allowed. A unit is that of the activations' fraction at the value's bound. An operation that adds more has met a value outside its
calibrated range, an approximation that is coarser than its table says, or a defect.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import fx
from torch.utils import _pytree

from moiety import ring
from moiety.compile import signature
from moiety.compile.builder import Builder
from moiety.compile.calibrate import evaluate_all
from moiety.compile.capture import Source, operation
from moiety.compile.error import answers
from moiety.compile.lower import IGNORED, Emitted, Lowering
from moiety.compile.model import Draft
from moiety.compile.plan import Plan, Weight
from moiety.compile.rehearse import rehearse
from moiety.compile.values import Layer, Owned, Public, Secret, Square
from moiety.mpc.rounds import Role, Words
from moiety.mpc.share import Share

TRIALS: Final = 3
DECISIONS: Final = 16
"""Trials for a result that is no real number."""
SLACK: Final = 4.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One operation. ``size``: its largest magnitude in float; errors are absolute, ``mean_error`` that of the private run."""

    module: str
    operation: str
    file: str
    line: int
    code: str
    size: float
    fixed_error: float
    private_error: float
    mean_error: float
    added: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the operation adds no more than is allowed."""
        return self.added <= self.allowed


class Answer(msgspec.Struct, frozen=True):
    """One output of reals: the error that the plan states for it, None where it states none, and the largest ones of the two runs."""

    name: str
    stated: float | None
    fixed_error: float
    private_error: float

    @property
    def ok(self) -> bool:
        """Whether the private run is as near as the plan says."""
        return self.stated is None or self.private_error <= self.stated


class Comparison(msgspec.Struct, frozen=True):
    """Rows in the order of the model. ``first``: the number of the first one that adds too much, or -1. ``skipped``: operations that
    have no value of their own in the plan (merged, or on integers). ``out_of_range``: what the run's own check said, if it has one."""

    plan: str
    rows: tuple[Row, ...]
    first: int
    skipped: int
    out_of_range: bool | None
    answers: tuple[Answer, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every operation adds no more than is allowed, and every answer is as near as the plan says."""
        return self.first < 0 and all(answer.ok for answer in self.answers)


def compare(draft: Draft, inputs: Sequence[Any] | None = None) -> Comparison:
    """Compare on ``inputs`` (flattened; default: those of the draft). Raises InputError where one leaves its range."""
    given = list(inputs if inputs is not None else draft.inputs)
    lowering = draft.lowering()
    plan, place = _numbered(draft, lowering)
    words = signature.encode_inputs(plan, given[: len(plan.arguments)], {})
    clear = {node: _wide(value) for node, what, value in evaluate_all(draft.captured, given) if not what}
    fixed, results = _values(plan, lowering, place, words, clear, masked=False)
    private, shown = _values(plan, lowering, place, words, clear, masked=True)
    run = _Comparing(draft, lowering, fixed, private)
    for node, what, value in evaluate_all(draft.captured, given):
        if not what:
            run.visit(node, value)
    first = next((i for i, row in enumerate(run.rows) if not row.ok), -1)
    flag = None if plan.flag < 0 else bool(ring.decode(shown[plan.flag], 0).any())
    return Comparison(plan.hash, tuple(run.rows), first, run.skipped, flag, tuple(_answers(plan, lowering, clear, results, shown)))


def _answers(plan: Plan, lowering: Lowering, clear: Mapping[fx.Node, Any], *runs: Mapping[int, Words]) -> Iterator[Answer]:
    """The answers of both runs against float."""
    every: Any = lowering.captured.graph.output_node().args[0]
    for output, leaf in zip(plan.outputs, answers(lowering), strict=True):
        if output.form == "fixed" and output.fraction > 0:
            found = [torch.from_numpy(ring.decode(run[output.node], output.fraction)).reshape(output.shape) for run in runs]
            yield Answer(output.name, output.error, *(_largest(one - clear[every[leaf]]) for one in found))


def _numbered(draft: Draft, lowering: Lowering) -> tuple[Plan, dict[int, int]]:
    """The plan, and where the builder's nodes went: labels ride along through all passes, and are no part of the hash.

    Of several with one label the last has the value; a look-up that is only a factor has none.
    """
    builder: Builder = lowering.run()
    builder.modules = list(map(str, range(len(builder.nodes))))
    plan = draft.plan(lowering)
    return plan, {int(label): i for i, label in enumerate(plan.modules) if label.isdigit() and plan.nodes[i].op != "table_factor"}


def _values(
    plan: Plan, lowering: Lowering, place: Mapping[int, int], words: Sequence[Words], clear: Mapping[fx.Node, Any], *, masked: bool
) -> tuple[dict[fx.Node, torch.Tensor], Mapping[int, Words]]:
    """The real value of every operation that has one in the plan, and what the client receives."""
    wanted: dict[int, list[fx.Node]] = {}
    for node, value in lowering.values.items():
        if isinstance(value, Secret) and value.node in place:
            wanted.setdefault(place[value.node], []).append(node)
    masks: dict[int, Words] = {}
    out: dict[fx.Node, torch.Tensor] = {}

    def note(role: Role, i: int, result: Any) -> None:
        if i not in wanted or not isinstance(result, Share):
            return
        if role is Role.P0 and result.mask is not None:
            masks[i] = result.mask
        elif role is Role.P1 and result.masked is not None:
            shown = replace(result, masked=result.masked - masks.pop(i, np.uint64(0)))
            out.update({node: _real(lowering.values[node], shown, clear.get(node)) for node in wanted[i]})

    return out, rehearse(plan, lowering.builder.tensors, words, masked=masked, note=note).results[Role.CLIENT]


def _real(value: Secret, shown: Share, clear: Any) -> torch.Tensor:
    """The real numbers that words stand for. A ring that holds only what a table reads of a value leaves out which multiple of its size was
    meant: that nearest to the value in the clear."""
    above, unit = np.uint64(64 - shown.bits), value.factor * 2.0**-shown.fraction
    signed = (shown.masked.astype(np.uint64) << above).view(np.int64) >> above.astype(np.int64)  # type: ignore[union-attr]
    real = torch.from_numpy(np.ascontiguousarray(signed).astype(np.float64)) * unit
    if shown.bits < 64 and value.gain is value.shift is None and isinstance(clear, torch.Tensor) and clear.shape == real.shape:
        around = 2.0**shown.bits * unit
        real = real + around * torch.round((clear.double() - real) / around)
    if value.gain is not None:
        real = real * value.gain.tensor.double()
    return real if value.shift is None else real + value.shift.tensor.double()


def _wide(value: Any) -> Any:
    return value.detach().double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


class _Comparing:
    """A walk over the graph. ``current`` holds what an operation of the private run was applied to."""

    def __init__(
        self, draft: Draft, lowering: Lowering, fixed: Mapping[fx.Node, torch.Tensor], private: Mapping[fx.Node, torch.Tensor]
    ) -> None:
        self.draft, self.lowering, self.fixed, self.private = draft, lowering, fixed, private
        self.rows: list[Row] = []
        self.skipped = 0
        self.current: dict[fx.Node, Any] = {}
        self._carried: dict[fx.Node, float] = {}
        """What operations without a value of their own were allowed, for those that follow."""
        self._signs = torch.Generator().manual_seed(0)

    def visit(self, node: fx.Node, value: Any) -> None:
        """The next node, with its value in float."""
        if node.op == "placeholder":
            self.current[node] = self.private.get(node, _wide(value))
            return
        own = self.current[node] = None if node.target in IGNORED else self._applied(node, {})
        secret = self.lowering.values.get(node)
        if isinstance(secret, Layer):
            self._carried[node] = self._change(node, own)  # its norm is lowered with it
        elif isinstance(secret, tuple):
            self._carried[node] = SLACK * self._change(node, own) + self._folded(node)  # its parts follow
        if not isinstance(secret, Secret) or not isinstance(own, torch.Tensor):
            return
        found = self.private.get(node)
        if not own.is_floating_point():
            self._decided(node, value, own)
            return
        allowed = self._allowed(node, secret, own) + sum(self._carried.get(n, 0.0) for n in node.all_input_nodes)
        if found is None or found.shape != own.shape:
            self.skipped += 1
            self._carried[node] = allowed
            return
        self.current[node] = found
        self.rows.append(self._row(node, _wide(value), self.fixed[node], found, own, allowed))

    def _decided(self, node: fx.Node, value: torch.Tensor, own: torch.Tensor) -> None:
        """A comparison or a place: it may differ where moving the operands by four units makes it differ."""
        if node not in self.private or self.private[node].shape != own.shape:
            self.skipped += 1
            return
        fixed, found = (part[node].round().to(own.dtype) for part in (self.fixed, self.private))
        self.current[node] = found
        moves = {n: SLACK * unit for n in node.all_input_nodes if (unit := self._unit(n))}
        open_ = torch.zeros(own.shape, dtype=torch.bool)
        for _ in range(DECISIONS if moves else 0):
            open_ |= self._applied(node, {n: self._moved(self._operand(n), unit) for n, unit in moves.items()}) != own
        wrong = (found != own) & ~open_
        self.rows.append(self._row(node, value.double(), fixed.double(), found.double(), own.double(), 0.0, float(wrong.sum())))

    def _operand(self, node: fx.Node) -> Any:
        if node not in self.current:
            captured = self.draft.captured
            held = captured.owned[node.name][1] if node.name in captured.owned else captured.public[node.name]
            self.current[node] = _wide(held)
        return self.current[node]

    def _applied(self, node: fx.Node, moved: Mapping[fx.Node, Any]) -> Any:
        """The operation in float64, on the private operands or on those of ``moved``."""
        mapped: Any = fx.map_arg((node.args, node.kwargs), lambda n: moved[n] if n in moved else self._operand(n))
        args, kwargs = _pytree.tree_map(lambda one: torch.float64 if one is torch.float32 else one, mapped)  # a conversion would round
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        return tuple(map(_wide, result)) if isinstance(result, tuple | list) else _wide(result)

    def _allowed(self, node: fx.Node, secret: Secret, own: torch.Tensor) -> float:
        """What the operation may add to its operands' errors; see the top of the file."""
        size = _largest(own)
        tables = sum(one.error * (size if one.relative else 1.0) for one in self.lowering.emitted.get(node, Emitted()).lookups)
        return SLACK * self._change(node, own) + self._folded(node) + 2 * self._resolution(secret) + tables

    def _change(self, node: fx.Node, own: Any) -> float:
        """The largest change that was found when operands moved."""
        moves = {n: unit for n in node.all_input_nodes if (unit := self._unit(n))}
        changes = [0.0]
        for _ in range(TRIALS if moves else 0):
            moved = {n: self._moved(self._operand(n), unit) for n, unit in moves.items()}
            changes.append(_apart(self._applied(node, moved), own))
        return max(changes)

    def _folded(self, node: fx.Node) -> float:
        """Of weights into which their norm was folded: they are rounded as folded, so the norm does not scale that."""
        out = 0.0
        for layer in node.all_input_nodes:
            if isinstance(self.lowering.values.get(layer), Layer) and (made := _matrices(self.lowering.emitted[node])):
                unit = 2.0 ** -(min(weight.fraction for weight in made) + 1)
                owned = [n for n in layer.all_input_nodes if isinstance(self.lowering.values.get(n), Owned) and self._operand(n).dim() > 1]
                moved = {n: self._moved(self._operand(n), unit) for n in owned}
                out += SLACK * _apart(self._applied(layer, moved), self._operand(layer))
        return out

    def _unit(self, node: fx.Node) -> float:
        """How far an operand may be from what the model would have there: rounding alone."""
        match self.lowering.values.get(node):
            case Secret() as secret:
                return self._resolution(secret)
            case Square(x=secret):
                return 2 * self._resolution(secret) * math.sqrt(_largest(self._operand(node)))
            case Layer():
                return self._carried.get(node, 0.0)
            case Owned() as owned if owned.tensor.is_floating_point():
                return 2.0 ** -(self.lowering.builder.weight_fraction(owned) + 1)
            case Public(value=torch.Tensor() as value) if value.is_floating_point() and value.numel() > 1:
                return 2.0 ** -(self.draft.options.activation_fraction + 1)  # encoded; a scalar is not, it only changes the factor
        return 0.0

    def _resolution(self, secret: Secret) -> float:
        unit = max(secret.unit, 2.0 ** -self.lowering.builder.activation_fraction(secret.bound))
        return float(unit * max(1.0, _largest(secret.gain.tensor) if secret.gain is not None else 1.0))

    def _moved(self, value: Any, unit: float) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        signs = torch.randint(0, 2, value.shape, generator=self._signs, dtype=torch.int8)
        return value + unit * (2.0 * signs - 1.0)

    def _row(
        self,
        node: fx.Node,
        value: torch.Tensor,
        fixed: torch.Tensor,
        found: torch.Tensor,
        own: torch.Tensor,
        allowed: float,
        added: float | None = None,
    ) -> Row:
        source = self.draft.captured.sources.get(node.name, Source())
        errors = (found - value).abs()
        return Row(
            module=self.draft.captured.modules.get(node.name, ""),
            operation=operation(node),
            file=source.file,
            line=source.line,
            code=source.code,
            size=_largest(value),
            fixed_error=_largest(fixed - value),
            private_error=_largest(errors),
            mean_error=float(errors.mean()) if errors.numel() else 0.0,
            added=_largest(found - own) if added is None else added,
            allowed=allowed,
        )


def _matrices(emitted: Emitted) -> list[Weight]:
    return [weight for weight in emitted.weights if len(weight.shape) > 1]


def _apart(found: Any, own: Any) -> float:
    """The largest difference of two results; of several, that of their real parts."""
    if isinstance(own, tuple | list):
        return max((_apart(one, other) for one, other in zip(found, own, strict=True)), default=0.0)
    return _largest(found - own) if isinstance(own, torch.Tensor) and own.is_floating_point() else 0.0


def _largest(value: torch.Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0
