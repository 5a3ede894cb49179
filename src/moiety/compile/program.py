"""Bind a plan to its operations: the same steps for a run on shapes, in lockstep and on the network."""

import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from moiety.compile.plan import LINKS, Plan, Weight
from moiety.errors import LimitReached, PlanError, PlanMismatch
from moiety.mpc import matrix, rep3
from moiety.mpc.cost import Costs, drive_on_shapes
from moiety.mpc.ops import OPS
from moiety.mpc.party import Party, ShapeParty
from moiety.mpc.rounds import Graph, Order, Protocol_, Schedule, Step, Words
from moiety.mpc.share import Share


class Sources(Protocol):
    """Where one role's values come from. On shapes, and at roles without them, values are None or bare shapes."""

    def input(self, index: int) -> Words | None:
        """The client's ring elements; None at all other roles."""

    def weight(self, index: int) -> matrix.Weight | matrix.Held | matrix.Streamed | Share: ...

    def state(self, index: int) -> Share: ...

    def constant(self, index: int) -> Words: ...


def bare(w: Weight) -> matrix.Weight | matrix.Held | Share:
    """A weight of which only the shape is known."""
    if w.clear:
        return matrix.Held(w.shape, w.fraction, w.clear)
    return matrix.Weight(w.shape, w.fraction) if w.packed else Share(w.shape, w.fraction)


class ShapeSources:
    """Shapes of everything a plan reads."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._constants: dict[int, Words] = {}

    def input(self, index: int) -> Words | None:
        return None

    def weight(self, index: int) -> matrix.Weight | matrix.Held | Share:
        return bare(self._plan.weights[index])

    def state(self, index: int) -> Share:
        s = self._plan.states[index]
        return Share(s.shape, s.fraction)

    def constant(self, index: int) -> Words:
        if index not in self._constants:
            words = self._plan.constants[index]
            self._constants[index] = words.words()[0] if words.by_position else words.words()
        return self._constants[index]


_SOURCES: Final = ("input", "weight", "state", "constant")
"""Operations that read what the plan lists, at their ``index``."""

Begin = Callable[[Party, Sources], Callable[..., Any]]
"""Of a party and its sources: what begins a node when it gets the results of its inputs; a value comes, or a coroutine."""


class Prepared(NamedTuple):
    """What every run of a plan does alike: its operations found, its nodes named, who reads what. At all roles but the client's."""

    begin: tuple[Begin, ...]
    labels: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]
    graph: Graph

    def steps(self, party: Party, sources: Sources) -> list[Step]:
        """One step for every node."""
        made = zip(self.begin, self.inputs, self.labels, strict=True)
        return [Step(begin(party, sources), inputs, label) for begin, inputs, label in made]

    def schedule(self, party: Party, sources: Sources, order: Order = sorted) -> Schedule:
        """The plan, bound and ready to run at one role."""
        return Schedule(party, self.steps(party, sources), self.graph, order)


def prepare(plan: Plan) -> Prepared:
    """Raises PlanError for an operation this version does not know."""
    for i, node in enumerate(plan.nodes):
        if any(not 0 <= j < i for j in node.inputs):
            raise PlanError(f"node {i} ({node.op}) reads a node that does not come before it; the plan is damaged")
    inputs = tuple([node.inputs for node in plan.nodes])
    begin = tuple([_begin(plan, i) for i in range(len(plan.nodes))])
    return Prepared(begin, tuple([_label(plan, i) for i in range(len(plan.nodes))]), inputs, Graph(inputs, kept(plan)))


def _label(plan: Plan, i: int) -> str:
    op = plan.nodes[i].op
    return f"{plan.modules[i]} ({op})" if i < len(plan.modules) and plan.modules[i] else f"node {i} ({op})"


def start(plan: Plan, party: Party, sources: Sources, i: int) -> Callable[..., Any]:
    """What begins node ``i`` alone."""
    return _begin(plan, i)(party, sources)


def _begin(plan: Plan, i: int) -> Begin:
    node = plan.nodes[i]
    index: int = node.params["index"] if node.op in _SOURCES else 0
    match node.op:
        case "input":
            spec = plan.inputs[index]
            shape = (*spec.shape, spec.classes) if spec.form == "one_hot" else spec.shape
            return lambda party, sources: lambda: rep3.share_input(party, sources.input(index), shape, spec.fraction)
        case "weight":
            return lambda party, sources: partial(sources.weight, index)
        case "state":
            return lambda party, sources: partial(sources.state, index)
        case "constant":
            return lambda party, sources: partial(sources.constant, index)
    if node.op not in OPS:
        raise PlanError(f"node {i} names the operation {node.op!r}, which this version of moiety does not have")
    operation, params = OPS[node.op], {key: tuple(value) if isinstance(value, list) else value for key, value in node.params.items()}
    return lambda party, sources: partial(operation, party, **params)


Note = Callable[[int, Any], None]


def noting(made: list[Step], note: Note) -> list[Step]:
    """The same steps; ``note`` is told the result of each when it is there."""

    def noted(i: int, step: Step) -> Step:
        def start(*inputs: Any) -> Any:
            result = step.start(*inputs)
            if isinstance(result, Coroutine):
                return _noted(result, i, note)
            note(i, result)
            return result

        return step._replace(start=start)

    return [noted(i, step) for i, step in enumerate(made)]


async def _noted(protocol: Protocol_, i: int, note: Note) -> Any:
    result = await protocol
    note(i, result)
    return result


def shapes(plan: Plan) -> list[tuple[int, ...]]:
    """The shape of what every node yields."""
    return [tuple(getattr(value, "shape", None) or ()) for value in values(plan)]


def values(plan: Plan) -> list[Any]:
    """What every node yields on shapes: shares without their words, weights without theirs, public words."""
    out: list[Any] = [None] * len(plan.nodes)

    def note(i: int, result: Any) -> None:
        out[i] = result

    made = prepare(plan)
    drive_on_shapes(lambda party: Schedule(party, noting(made.steps(party, ShapeSources(plan)), note), made.graph).run())
    return out


def kept(plan: Plan) -> list[int]:
    """Nodes whose results outlive the run: reveals and new state rows."""
    flag = [plan.flag] if plan.flag >= 0 else []
    return [o.node for o in plan.outputs] + [s.write for s in plan.states if s.write >= 0] + flag


def costs(plan: Plan) -> Costs:
    """Drive the plan once on shapes, for all roles: exact waves, bytes, and the place of every dealt value."""
    return drive(plan).costs


VIEWS = frozenset({"reshape", "permute", "cut", "expand", "as_fraction", "weight", "constant", "state"})
"""Nodes whose results take no memory of their own."""


class Held(NamedTuple):
    """What a run holds when a wave is spoken, beside weights, constants and the wave's own frames."""

    elements: int
    """Of shares that nodes have yielded, at most since the wave before; local nodes included."""
    drawn: int
    """Bytes of masks and pads that the nodes under way have drawn so far."""


class Driven(NamedTuple):
    """A plan that was driven on shapes. ``held``: at every wave; ``kept``: the shapes of what outlives a run, by node.

    ``order``: all nodes as they start, in a run too. ``opened``: the shares that are revealed, by node.
    """

    costs: Costs
    held: list[Held]
    kept: dict[int, Any]
    order: tuple[int, ...]
    opened: dict[int, Share]


class _Measured(Schedule):
    """A schedule on shapes that adds up what is held, and stops at a tensor above ``limit`` elements before the next node sees it."""

    def __init__(self, plan: Plan, party: ShapeParty, limit: float) -> None:
        made = prepare(plan)
        super().__init__(party, made.steps(party, ShapeSources(plan)), made.graph)
        self._plan, self._limit, self._alive, self._most = plan, limit, 0, 0
        self._shapes, self._seen = party, 0
        self._drawn: Counter[int] = Counter()
        self.held: list[Held] = []
        self.order: list[int] = []
        self.opened: dict[int, Share] = {}

    def _start(self, i: int) -> list[int]:
        self.order.append(i)
        if self._plan.nodes[i].op == "reveal":
            self.opened[i] = self.values[self._steps[i].inputs[0]]
        return super()._start(i)

    def spoken(self) -> dict[int, int]:
        """As its base, noting what is held in this wave."""
        dealt = {address for address, _ in self._shapes.dealt}
        for address, spec in self._shapes.draws[self._seen :]:
            self._drawn[address.path[0]] += 0 if address in dealt else spec.memory_bytes
        self._seen = len(self._shapes.draws)
        for ended in self._drawn.keys() - self.live.keys():
            del self._drawn[ended]
        self.held.append(Held(self._most, self._drawn.total()))
        self._most = self._alive
        return super().spoken()

    def _finish(self, i: int, result: Any) -> list[int]:
        if self._plan.nodes[i].op != "weight" and math.prod(getattr(result, "shape", ())) > self._limit:
            raise LimitReached(
                f"node {i} of the plan ({self._plan.nodes[i].op[:32]}) makes a tensor of {math.prod(result.shape):,} elements, "
                f"above the {self._limit:,} that are served here; compile the model for smaller inputs"
            )
        self._alive += self._own(i, result)
        self._most = max(self._most, self._alive)
        reads = {j: self.values[j] for j in self._steps[i].inputs}
        ready = super()._finish(i, result)
        self._alive -= sum(self._own(j, value) for j, value in reads.items() if j not in self.values)
        self._alive -= 0 if i in self.values else self._own(i, result)
        return ready

    def _own(self, i: int, result: Any) -> int:
        # A reshape may copy (what was expanded or permuted before it), so that here it counts.
        op = self._plan.nodes[i].op
        return math.prod(result.shape) if isinstance(result, Share) and (op not in VIEWS or op == "reshape") else 0


def drive(plan: Plan, limit: float = math.inf) -> Driven:
    """Drive the plan once on shapes. Raises LimitReached at a tensor of more than ``limit`` elements; nothing of it is allocated."""
    holder: list[_Measured] = []

    def start(party: ShapeParty) -> Any:
        holder.append(_Measured(plan, party, limit))
        return holder[0].run()

    results, found = drive_on_shapes(start, lambda: holder[0].spoken())
    holder[0].spoken()  # what was held after the last wave
    return Driven(found, holder[0].held, results, tuple(holder[0].order), holder[0].opened)


def layers(plan: Plan, order: Iterable[int]) -> tuple[str, ...]:
    """The weights that linear layers read, in the order in which these nodes start; one that several read, several times."""
    read = [plan.nodes[plan.nodes[i].inputs[1]] for i in order if plan.nodes[i].op == "linear"]
    return tuple(plan.weights[node.params["index"]].name for node in read if node.op == "weight")


def streamable(plan: Plan) -> frozenset[str]:
    """Weights that only linear layers read, so that a run needs any part of them once."""
    others = {j for node in plan.nodes for place, j in enumerate(node.inputs) if (node.op, place) != ("linear", 1)}
    held = {plan.weights[plan.nodes[j].params["index"]].name for j in others if plan.nodes[j].op == "weight"}
    return frozenset(w.name for w in plan.weights if w.packed) - held


def wave_table(found: Costs) -> tuple[tuple[int, ...], ...]:
    """The bytes of every wave on each of LINKS."""
    return tuple(tuple(wave.links[link] for link in LINKS) for wave in found.waves)


def check_waves(plan: Plan, limit: float = math.inf) -> Driven:
    """As :func:`drive`, after checking that the plan's own wave table says the same. Raises PlanMismatch, LimitReached."""
    found = drive(plan, limit)
    if wave_table(found.costs) != plan.waves:
        raise PlanMismatch("the plan's wave table is not what its program would say; refuse it and compile the model again")
    return found
