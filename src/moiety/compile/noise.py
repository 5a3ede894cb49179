"""The captured graph in float with the errors that its plan makes, drawn at random where they arise.

| error | within | of |
| --- | --- | --- |
| rounding | 1 unit of what is left, times a pending gain | every value that is rounded somewhere; the result of what rounds inside |
| encoding | 1/2 unit of the fraction | inputs, weights, public factors |
| table, or what takes its place | its measured error | the result that it is looked up for; of recurrent layers at every time step |
| relative table | its share of each element (of attention: of the row's largest), and of the row as a whole | the same |
| cache | what its rows are told to be off | a state that is read |

All draws are uniform and seeded, those of weights are signs. A value that calibration never saw below zero stays above half of the least
that it saw.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import fx

from moiety.compile import recurrent
from moiety.compile.calibrate import last_uses, placeholder
from moiety.compile.capture import Captured, evaluate
from moiety.compile.lower import Emitted, Lowering
from moiety.compile.values import Layer, Owned, Public, Secret

aten = torch.ops.aten
LOCAL: Final = frozenset({"as_fraction", "expand", "negate", "permute", "reshape", "scale"})
"""Operations of a plan behind which a rounding still counts as that of their operand."""
MIXES: Final = frozenset({aten.scaled_dot_product_attention.default})
"""What looks up the shares of what it adds up, so that errors do not shrink with the sum."""

Given = Callable[[fx.Node, Any], Any]
Applied = Callable[[fx.Node, Mapping[fx.Node, Any]], Any]


def leaves(captured: Captured, inputs: Sequence[Any], given: Given = lambda _, value: value, applied: Applied = evaluate) -> list[Any]:
    """What the graph yields for flattened inputs. ``given``: what becomes of every input of the graph; ``applied``: of an operation."""
    known, values, last = dict(zip(captured.inputs, inputs, strict=True)), dict[fx.Node, Any](), last_uses(captured.graph)
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            values[node] = given(node, placeholder(captured, node.name, known))
        elif node.op == "call_function":
            values[node] = applied(node, values)
        for dead in last.get(node, ()):
            del values[dead]
    every: Any = captured.graph.output_node().args[0]
    return [values[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in every]


class Noise:
    """The errors of one evaluation: methods for :func:`leaves`. ``rows``: how far the rows of every state are off."""

    def __init__(self, lowering: Lowering, seed: int, rows: Mapping[str, float]) -> None:
        self._lowering, self._rows = lowering, rows
        self._draws = torch.Generator().manual_seed(seed)
        self._folded: dict[fx.Node, torch.Tensor] = {}
        """Layers into which a norm is folded: what the weights' rounding makes of them, which the norm does not scale."""
        self._units: dict[int, float] = {}
        """Values of the graph that are rounded, by their node in the plan."""
        self._inside: set[int] = set()
        """Nodes of the plan that round, or approximate, what is no value of the graph."""
        self._find_roundings()

    def _find_roundings(self) -> None:
        nodes = self._lowering.builder.nodes
        own = {part.node for value in self._lowering.values.values() for part in _parts(value) if isinstance(part, Secret)}
        for rounding in self._lowering.builder.roundings:
            origin = rounding.node
            while origin not in own and nodes[origin].op in LOCAL:
                origin = nodes[origin].inputs[0]
            if origin in own:
                self._units[origin] = max(rounding.unit, self._units.get(origin, 0.0))
            else:
                self._inside.add(rounding.result)
        self._inside.update(i for i, node in enumerate(nodes) if node.op.startswith("puma_"))

    def given(self, node: fx.Node, value: Any) -> Any:
        """An input as it is encoded; of a cache, as it was computed."""
        secret = self._lowering.values.get(node)
        if not isinstance(secret, Secret):
            return value
        width = secret.unit / 2 + self._rows.get(self._lowering.reads.get(node.name, ""), 0.0)
        return value + self._uniform(value, width + self._units.get(secret.node, 0.0))

    def applied(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """An operation on operands that are off, with the errors of its own."""
        made = self._lowering.values.get(node)
        parts = _parts(made)
        if not any(isinstance(part, Secret | Layer) for part in parts):
            return evaluate(node, values)
        if isinstance(made, Layer):
            plain = evaluate(node, values)
            self._folded[node] = self._evaluated(node, values) - plain
            return plain
        recurs = node.target in recurrent.STEPS
        found = self._step_by_step(node, values) if recurs else self._evaluated(node, values)
        if not isinstance(made, tuple):
            return self._added(node, found, made)
        return tuple(self._added(node, one, part, tables=not recurs) for one, part in zip(found, parts, strict=True))

    def _added(self, node: fx.Node, value: Any, secret: Any, *, tables: bool = True) -> Any:
        """A result with the errors that its operation makes."""
        if not isinstance(secret, Secret) or not value.is_floating_point() or not value.numel():
            return value
        for layer in node.all_input_nodes:
            value = value + self._folded.pop(layer) if layer in self._folded else value
        emitted = self._lowering.emitted.get(node, Emitted())
        unit = self._units.get(secret.node, 0.0) + (self._unit(secret) if not self._inside.isdisjoint(emitted.nodes) else 0.0)
        unit += secret.unit / 2 if node.target is aten.embedding.default else 0.0
        if unit:
            value = value + self._uniform(value, unit) * (1.0 if secret.gain is None else secret.gain.tensor.abs())
        if tables and (width := sum(one.error for one in emitted.lookups if not one.relative)):
            value = value + self._uniform(value, width)
        if share := sum(one.error for one in emitted.lookups if one.relative):
            known = value.where(value.isfinite(), 0.0)
            row = known.abs().amax(-1, keepdim=True) if known.dim() else known.abs()
            each = row if node.target in MIXES else known
            value = value + share * (known * self._signs(row.shape) + self._uniform(known, 1.0) * each)
        seen = self._lowering.builder.ranges.get(self._lowering.sites.get(node, ""))
        return value.clamp(min=seen.low / 2) if seen is not None and seen.low >= 0 else value

    def _evaluated(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """An operation on operands as they are encoded. Of a linear layer the weights stay as they are: what moving them would change
        is a product of two vectors, and weights are most of what a large model has to read."""
        read, weight = node.args[:2] if node.target is aten.linear.default else (None, None)
        operands = {n: values[n] if n is weight else self._encoded(node, n, values[n]) for n in node.all_input_nodes}
        found = evaluate(node, operands)
        if isinstance(read, fx.Node) and isinstance(weight, fx.Node) and isinstance(owned := self._lowering.values[weight], Owned):
            rows, columns = (self._signs((n,)).to(found.dtype) for n in values[weight].shape)
            found = found + self._half_unit(node, owned) * (operands[read] @ columns)[..., None] * rows
        return found

    def _step_by_step(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[torch.Tensor, ...]:
        """A recurrent layer whose activations are off at every time step, by their tables and a unit of the states."""
        unit = max(self._unit(part) for part in self._lowering.values[node])
        errors: dict[str, float] = {}
        for one in self._lowering.emitted[node].lookups:
            errors[one.function] = max(one.error, errors.get(one.function, 0.0))

        def look(name: str, x: torch.Tensor) -> torch.Tensor:
            return recurrent.exactly(name, x) + self._uniform(x, errors.get(name, 0.0) + unit)

        given: Any = fx.map_arg(node.args, lambda n: self._encoded(node, n, values[n]))
        with torch.no_grad():
            return recurrent.evaluate(recurrent.STEPS[node.target], *given, found={}, look=look)

    def _unit(self, secret: Secret) -> float:
        """Of the result of an operation that rounds inside, before a pending gain."""
        return max(secret.unit, 2.0 ** -self._lowering.builder.activation_fraction(secret.bound))

    def _encoded(self, node: fx.Node, operand: fx.Node, value: Any) -> Any:
        """An operand of a private operation that is no secret: rounded to its fraction."""
        match self._lowering.values.get(operand):
            case Owned() as owned if value.is_floating_point() and value.numel() and node.target is not aten.embedding.default:
                rows, columns = self._signs((*value.shape[:1], *(1 for _ in value.shape[1:]))), self._signs((1, *value.shape[1:]))
                return torch.addcmul(value, rows.to(value.dtype), columns.to(value.dtype), value=self._half_unit(node, owned))
            case Public() if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1:
                moved = value + self._uniform(value, 2.0 ** -(self._lowering.builder.options.activation_fraction + 1))
                return moved.where(value.isfinite() & (value != value.round()), value)  # whole numbers are exact
        return value

    def _half_unit(self, node: fx.Node, owned: Owned) -> float:
        """Of the weights that an operation reads; a folded norm has been taken into account by the one that folds it."""
        maker = next(iter(node.users)) if isinstance(self._lowering.values[node], Layer) else node
        made = [one.fraction for one in self._lowering.emitted.get(maker, Emitted()).weights if len(one.shape) > 1]
        return 2.0 ** -(1 + (min(made) if made and owned.tensor.dim() > 1 else self._lowering.builder.weight_fraction(owned)))

    def _uniform(self, like: torch.Tensor, width: float) -> torch.Tensor:
        return (2 * width * torch.rand(like.shape, generator=self._draws) - width).to(like.dtype)

    def _signs(self, shape: Sequence[int]) -> torch.Tensor:
        return 2.0 * torch.randint(0, 2, tuple(shape), generator=self._draws) - 1.0


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
