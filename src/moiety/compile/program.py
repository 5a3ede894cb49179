"""Bind a plan to its operations: the same steps for a run on shapes, in lockstep and on the network."""

import math
from collections.abc import Callable
from typing import Any, Protocol

from moiety.compile.plan import LINKS, Plan
from moiety.errors import PlanError, PlanMismatch
from moiety.mpc import rep3
from moiety.mpc.cost import Costs, drive_on_shapes
from moiety.mpc.ops import OPS
from moiety.mpc.party import Party, ShapeParty
from moiety.mpc.rounds import Order, Schedule, Step, Words
from moiety.mpc.share import Share


class Sources(Protocol):
    """Where one role's values come from. On shapes, and at roles without them, values are None or bare shapes."""

    def input(self, index: int) -> Words | None:
        """The client's ring elements; None at all other roles."""

    def weight(self, index: int) -> rep3.Weight | Share: ...

    def state(self, index: int) -> Share: ...

    def constant(self, index: int) -> Words: ...


class ShapeSources:
    """Shapes of everything a plan reads."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._constants: dict[int, Words] = {}

    def input(self, index: int) -> Words | None:
        return None

    def weight(self, index: int) -> rep3.Weight | Share:
        w = self._plan.weights[index]
        return rep3.Weight(w.shape, w.fraction) if w.packed else Share(w.shape, w.fraction)

    def state(self, index: int) -> Share:
        s = self._plan.states[index]
        return Share(s.shape, s.fraction)

    def constant(self, index: int) -> Words:
        if index not in self._constants:
            words = self._plan.constants[index]
            self._constants[index] = words.words()[0] if words.by_position else words.words()
        return self._constants[index]


def steps(plan: Plan, party: Party, sources: Sources) -> list[Step]:
    """One step for every node. Raises PlanError for an operation this version does not know."""
    out = []
    for i, node in enumerate(plan.nodes):
        if any(not 0 <= j < i for j in node.inputs):
            raise PlanError(f"node {i} ({node.op}) reads a node that does not come before it; the plan is damaged")
        label = f"{plan.modules[i]} ({node.op})" if i < len(plan.modules) and plan.modules[i] else f"node {i} ({node.op})"
        out.append(Step(_start(plan, party, sources, i), node.inputs, label))
    return out


def _start(plan: Plan, party: Party, sources: Sources, i: int) -> Callable[..., Any]:
    node = plan.nodes[i]
    match node.op:
        case "input":
            index = node.params["index"]
            spec = plan.inputs[index]
            shape = (*spec.shape, spec.classes) if spec.form == "one_hot" else spec.shape
            return lambda: rep3.share_input(party, sources.input(index), shape, spec.fraction)
        case "weight":
            return lambda: sources.weight(node.params["index"])
        case "state":
            return lambda: sources.state(node.params["index"])
        case "constant":
            return lambda: sources.constant(node.params["index"])
    if node.op not in OPS:
        raise PlanError(f"node {i} names the operation {node.op!r}, which this version of moiety does not have")
    params = {key: tuple(value) if isinstance(value, list) else value for key, value in node.params.items()}
    return lambda *inputs: OPS[node.op](party, *inputs, **params)


def kept(plan: Plan) -> list[int]:
    """Nodes whose results outlive the run: reveals and new state rows."""
    flag = [plan.flag] if plan.flag >= 0 else []
    return [o.node for o in plan.outputs] + [s.write for s in plan.states if s.write >= 0] + flag


def schedule(plan: Plan, party: Party, sources: Sources, order: Order = sorted) -> Schedule:
    """The plan, bound and ready to run at one role."""
    return Schedule(party, steps(plan, party, sources), keep=kept(plan), order=order)


def costs(plan: Plan) -> Costs:
    """Drive the plan once on shapes, for all roles: exact waves, bytes, and the place of every dealt value."""
    return costs_and_live(plan)[0]


VIEWS = frozenset({"reshape", "permute", "cut", "expand", "as_fraction", "weight", "constant", "state"})
"""Nodes whose results take no memory of their own."""


def costs_and_live(plan: Plan) -> tuple[Costs, list[int]]:
    """As :func:`costs`, with the number of share elements that are alive at every wave."""
    holder: list[Schedule] = []
    live: list[int] = []

    def start(party: ShapeParty) -> Any:
        holder.append(schedule(plan, party, ShapeSources(plan)))
        return holder[0].run()

    def spoken() -> dict[int, int]:
        values = holder[0].values
        live.append(sum(math.prod(v.shape) for i, v in values.items() if isinstance(v, Share) and plan.nodes[i].op not in VIEWS))
        return holder[0].spoken()

    return drive_on_shapes(start, spoken)[1], live


def wave_table(found: Costs) -> tuple[tuple[int, ...], ...]:
    """The bytes of every wave on each of LINKS."""
    return tuple(tuple(wave.links[link] for link in LINKS) for wave in found.waves)


def check_waves(plan: Plan) -> Costs:
    """Costs of the plan, after checking that its own wave table says the same. Raises PlanMismatch."""
    found = costs(plan)
    if wave_table(found) != plan.waves:
        raise PlanMismatch("the plan's wave table is not what its program would say; refuse it and compile the model again")
    return found
