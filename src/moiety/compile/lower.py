"""From a captured graph to plan nodes. What is public is evaluated, what is the owner's is evaluated by the owner, the rest is lowered."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx

from moiety.compile.builder import Builder, Options
from moiety.compile.calibrate import Ranges, sites
from moiety.compile.capture import Captured
from moiety.compile.fuse import Chain, Composed, chains, inside
from moiety.compile.known import described
from moiety.compile.plan import Input, Lookup, Output, State, Weight
from moiety.compile.values import Index, Layer, Masked, Owned, Public, Secret, Square, Value
from moiety.errors import InputError, PlanError, UnsupportedOp

aten = torch.ops.aten


class Call:
    """One operation while it is lowered: its node, its values, and the ranges around it."""

    def __init__(self, lowering: "Lowering", node: fx.Node) -> None:
        self.lowering, self.node, self.builder = lowering, node, lowering.builder
        self.args: Any = fx.map_arg(node.args, lambda n: lowering.values[n])
        self.kwargs: Any = fx.map_arg(node.kwargs, lambda n: lowering.values[n])
        made = node.meta.get("val")
        shape = getattr(made[0] if isinstance(made, tuple | list) else made, "shape", ())
        if not all(isinstance(n, int) for n in shape):
            raise UnsupportedOp(
                f"{node.target} in {lowering.builder.module}: the size of what it yields depends on data; multiply by a mask"
            )
        self.shape: tuple[int, ...] = tuple(shape)
        """Of the result; of several, of the first."""

    def arg(self, position: int, name: str = "", default: Any = None) -> Any:
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def site(self) -> str:
        return self.lowering.sites[self.node]

    @property
    def bound(self) -> float:
        """Largest magnitude of the result: calibrated, with margin."""
        val = self.node.meta["val"]
        if isinstance(val, torch.Tensor) and val.dtype is torch.bool:
            return 1.0
        return self.builder.range_of(self.site).bound * self.builder.options.margin

    def dtype(self, position: int) -> torch.dtype:
        """Type of an argument: masks are booleans, places and counts integers."""
        node = self.node.args[position]
        return node.meta["val"].dtype if isinstance(node, fx.Node) else torch.as_tensor(node).dtype

    @property
    def name(self) -> str:
        """Name of the operation, without its overload."""
        return str(self.node.target).split(".")[1]

    def input_bound(self) -> float:
        """Largest magnitude of the first argument, with margin."""
        low, high = self.input_range()
        return max(abs(low), abs(high)) * self.builder.options.margin

    def input_range(self, position: int = 0) -> tuple[float, float]:
        """Calibrated low and high of an argument, without margin."""
        node = self.node.args[position]
        found = self.builder.range_of(self.lowering.sites.get(node, getattr(node, "name", "")))  # type: ignore[arg-type]
        return found.low, found.high


class ChainCall(Call):
    """A chain as one operation: its arguments are the root's value and the composed function."""

    def __init__(self, lowering: "Lowering", chain: Chain) -> None:
        self.lowering, self.node, self.builder, self.chain = lowering, chain.nodes[-1], lowering.builder, chain
        lowering.builder.module = lowering.captured.modules.get(self.node.name, "")
        self.args, self.kwargs = (lowering.values[chain.root], chain.function), {}
        self.shape = tuple(self.node.meta["val"].shape)

    def input_range(self, position: int = 0) -> tuple[float, float]:
        """Calibrated low and high of the root, without margin."""
        found = self.builder.range_of(self.lowering.sites.get(self.chain.root, self.chain.root.name))
        return found.low, found.high


Rule = Callable[[Call], Value]
RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Register how an ATen operation with a secret operand is lowered."""

    def register(f: Rule) -> Rule:
        for target in targets:
            RULES[target] = f
        return f

    return register


TAKES_MASKED: set[Rule] = set()


def takes_masked(f: Rule) -> Rule:
    """Mark a rule that also serves scores of which only some count."""
    TAKES_MASKED.add(f)
    return f


TAKES_INDEX: set[Rule] = set()


def takes_index(f: Rule) -> Rule:
    """Mark a rule that also serves the client's secret integers."""
    TAKES_INDEX.add(f)
    return f


OUTPUT_ROOM = 4.0
"""An output may exceed its calibrated bound by this before the client rejects it. What wraps behind the last table exceeds it by far."""

IGNORED = {aten._assert_tensor_metadata.default}


class Emitted(NamedTuple):
    """What the lowering of one operation added to the plan. ``nodes``: their numbers."""

    nodes: Sequence[int] = ()
    lookups: Sequence[Lookup] = ()
    weights: Sequence[Weight] = ()


class Lowering:
    """One pass over the graph.

    ``states``: name -> (axis, output leaf that is written to it), with their ranges among ``ranges``; ``reads``: input name -> state.
    ``argmax``: of the first output only the place of its largest element is revealed.
    """

    def __init__(
        self,
        captured: Captured,
        ranges: Ranges,
        options: Options,
        *,
        public: Mapping[str, Any],
        position: tuple[str, Sequence[int]] | None = None,
        states: Mapping[str, tuple[int, int]] | None = None,
        reads: Mapping[str, str] | None = None,
        argmax: bool = False,
    ) -> None:
        self.captured, self.options = captured, options
        self.builder = Builder(options, ranges)
        self.sites = sites(captured)
        self.public, self.position, self.states, self.reads, self.argmax = public, position, states or {}, reads or {}, argmax
        self.values: dict[fx.Node, Any] = {}
        self.emitted: dict[fx.Node, Emitted] = {}
        self._chains = chains(captured, self._secret()) if options.fuse else {}
        self._inside = inside(self._chains)

    def run(self) -> Builder:
        """Lower everything. Raises UnsupportedOp that lists all operations without a private form."""
        missing = self._unsupported()
        if missing:
            raise UnsupportedOp("no private form for:\n" + "\n".join(f"  {line}" for line in missing))
        for node in self.captured.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self._visit(node)
            elif node.op == "output":
                self._outputs(node.args[0])
        self.builder.check_variants()
        return self.builder

    def _secret(self) -> dict[fx.Node, None]:
        """All values that depend on a secret, in the order of the graph."""
        secret: dict[fx.Node, None] = {}
        for node in self.captured.graph.nodes:
            if node.op == "placeholder":
                given = node.name in self.captured.inputs and node.name not in self.public
                if given and not (self.position and node.name == self.position[0]):
                    secret[node] = None
            elif node.op == "call_function" and any(n in secret for n in node.all_input_nodes):
                secret[node] = None
        return secret

    def _unsupported(self) -> list[str]:
        missing = []
        for node in self._secret():
            if node.op == "call_function" and node.target not in RULES and node.target not in IGNORED:
                where = self.captured.modules.get(node.name) or "the model itself"
                missing.append(f"{node.target} in {where}  {self.captured.sources.get(node.name, '')}".rstrip())
        return missing

    def _visit(self, node: fx.Node) -> None:
        """Lower an operation: as the whole function of one secret that it completes, where a table serves that."""
        if node in self._inside:
            return
        parts: tuple[fx.Node, ...] = (node,)
        if (chain := self._chains.get(node)) is not None:
            try:
                self.values[node] = self._followed(node, RULES[Composed], ChainCall(self, chain))
            except PlanError:  # no table serves it, or only a large one: operation by operation, then
                parts = chain.nodes
        for part in parts:
            if part not in self.values:
                self.values[part] = self._followed(part, self._call, part)

    def _followed(self, node: fx.Node, lower: Callable[[Any], Value], given: Any) -> Value:
        """What ``lower`` makes of what it is given; what it emits is kept as the node's."""
        b = self.builder
        nodes, lookups, weights = len(b.nodes), len(b.lookups), len(b.weights)
        value = lower(given)
        self.emitted[node] = Emitted(range(nodes, len(b.nodes)), b.lookups[lookups:], b.weights[weights:])
        return value

    def _placeholder(self, node: fx.Node) -> Any:
        name = node.name
        if name in self.captured.owned:
            target, tensor = self.captured.owned[name]
            return Owned(tensor, target)
        if name in self.captured.public:
            return Public(self.captured.public[name])
        if self.position and name == self.position[0]:
            return Public(None, tuple(torch.tensor(p) for p in self.position[1]))
        if name in self.public:
            return Public(self.public[name])
        val = node.meta["val"]
        if not isinstance(val, torch.Tensor):
            return Public(val)
        shape = tuple(int(s) for s in val.shape)
        if name in self.reads:
            state = self.reads[name]
            bound = self.builder.range_of(state).bound
            fraction = self.builder.activation_fraction(bound)
            self.builder.states.append(State(state, shape, self.states[state][0], fraction))
            return Secret(self.builder.emit("state", index=len(self.builder.states) - 1), shape, fraction, bound)
        if val.is_floating_point():
            bound = self.builder.range_of(name).bound * self.options.margin
            fraction = self.builder.activation_fraction(bound)
            self.builder.inputs.append(Input(name, shape, "fixed", fraction, bound))
            return Secret(self.builder.emit("input", index=len(self.builder.inputs) - 1), shape, fraction, bound)
        return Index(name, shape)

    def given_shape(self, name: str) -> tuple[int, ...]:
        """Shape in which the caller gives an input."""
        node = next(n for n in self.captured.graph.nodes if n.op == "placeholder" and n.name == name)
        return tuple(int(s) for s in node.meta["val"].shape)

    def _call(self, node: fx.Node) -> Any:
        self.builder.module = self.captured.modules.get(node.name, "")
        if node.target in IGNORED:
            return Public(None)
        used = [self.values[n] for n in node.all_input_nodes]
        try:
            if any(_is_secret(v) for v in used):
                return self._lowered(node, used)
            if any(isinstance(v, Owned) for v in used):
                return self._owned(node)
        except (PlanError, InputError) as error:
            return self.refused(node, error)
        return self._evaluate(node)

    def refused(self, node: fx.Node, error: PlanError | InputError) -> Value:
        """What takes the place of an operation without a private form: nothing here, the error is raised. A check goes on instead."""
        raise error

    def _lowered(self, node: fx.Node, used: Sequence[Any]) -> Value:
        """By the operation's rule."""
        if node.target not in RULES:
            raise UnsupportedOp(f"{node.target} in {self.builder.module or 'the model itself'} has no private form")
        if any(isinstance(v, Index) for v in used) and RULES[node.target] not in TAKES_INDEX:
            raise InputError(
                f"{node.target} in {self.builder.module or 'the model itself'} computes with secret integers, which can only be looked "
                "up in an embedding; name that input in public=(...) if all parties may know it, else pass it as floats"
            )
        if any(isinstance(v, Masked) for v in used) and RULES[node.target] not in TAKES_MASKED:
            raise UnsupportedOp(
                f"{node.target} in {self.builder.module or 'the model itself'} reads scores that a mask excludes; only a softmax may"
            )
        return RULES[node.target](Call(self, node))

    def _evaluate(self, node: fx.Node) -> Public:
        count = max((len(v.rows) for n in node.all_input_nodes if (v := self.values[n]).rows is not None), default=0)
        if not count:
            return Public(self._torch(node, lambda v: v.value))
        return Public(None, tuple(self._torch(node, lambda v, i=i: v.value if v.rows is None else v.rows[i]) for i in range(count)))  # type: ignore[misc]

    def _torch(self, node: fx.Node, value: Callable[[Any], Any]) -> Any:
        mapped: Any = fx.map_arg((node.args, node.kwargs), lambda n: value(self.values[n]))
        args, kwargs = mapped
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _owned(self, node: fx.Node) -> Owned | Secret:
        text = str(fx.map_arg((node.args, node.kwargs), lambda n: described(self.values[n])))
        if len(text) > 200:  # names of names would double with every residual
            text = hashlib.sha256(text.encode()).hexdigest()
        used = [self.values[n] for n in node.all_input_nodes]
        count = max((len(v.rows) for v in used if isinstance(v, Public) and v.rows is not None), default=0)
        if not count:
            return Owned(self._torch(node, _held), f"{node.target}{text}")
        rows = [self._torch(node, lambda v, i=i: _held(v, i)) for i in range(count)]  # type: ignore[misc]
        return self._row(Owned(torch.stack(rows), f"{node.target}{text} by position"), node)

    def _row(self, rows: Owned, node: fx.Node) -> Secret:
        """What the owner computes from the run's position: shared for all positions at once, of which a run takes its row. Local."""
        if not rows.tensor.is_floating_point():
            raise UnsupportedOp(f"{node.target} in {self.builder.module} makes whole numbers of weights and the run's position")
        bound = float(rows.tensor.abs().max())
        fraction = self.builder.activation_fraction(bound)
        place = self.builder.constant(np.arange(len(rows.tensor), dtype=np.uint64), by_position=True)
        picked = self.builder.emit("row", self.builder.weight(rows, fraction, packed=False), place)
        return Secret(picked, tuple(rows.tensor.shape[1:]), fraction, bound)

    def _outputs(self, leaves: Any) -> None:
        written = {leaf: name for name, (_, leaf) in self.states.items()}
        self.builder.module = "output"
        index = 0
        for leaf, node in enumerate(leaves):
            if node is None:  # the structure says so
                continue
            value = self.values[node] if isinstance(node, fx.Node) else node
            if not isinstance(value, Secret):
                raise InputError(f"output {leaf} of the model depends on no secret input; return only what the data owner's input decides")
            if leaf in written:
                self._write(written[leaf], value)
                continue
            dtype = node.meta["val"].dtype if isinstance(node, fx.Node) else torch.float32
            form = "boolean" if dtype is torch.bool else "fixed" if dtype.is_floating_point else "integer"
            whole = form != "fixed" and (value.fraction, value.factor) == (0, 1)
            settled = self.builder.plain(value) if whole else self.builder.settled(value)
            if self.argmax and index == 0:
                settled = self._place(settled)
            reveal = self.builder.emit("reveal", settled.node)
            self.builder.outputs.append(
                Output(f"output {index}", reveal, settled.shape, settled.fraction, OUTPUT_ROOM * settled.bound, form)
            )
            index += 1

    def _place(self, x: Secret) -> Secret:
        """Where the largest element of the last axis is, found without revealing any."""
        bits = math.ceil(x.bits) + 2
        return Secret(self.builder.emit("argmax", x.node, bits=bits), x.shape[:-1], 0, float(x.shape[-1]))

    def _write(self, name: str, x: Secret) -> None:
        """Write new rows at the fraction that every plan gives this state."""
        x = self.builder.settled(x, self.builder.activation_fraction(self.builder.range_of(name).bound))
        states, axis = self.builder.states, self.states[name][0]
        for i, state in enumerate(states):
            if state.name == name:
                states[i] = State(name, state.shape, axis, state.fraction, x.node)
                return
        empty = tuple(0 if a == axis else n for a, n in enumerate(x.shape))
        states.append(State(name, empty, axis, x.fraction, x.node))


def _held(value: Public | Owned, row: int = 0) -> Any:
    if isinstance(value, Owned):
        return value.tensor
    return value.value if value.rows is None else value.rows[row]


def _is_secret(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_is_secret(v) for v in value)
    return isinstance(value, Secret | Index | Square | Layer | Masked)
