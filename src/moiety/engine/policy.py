"""What every party checks of a plan before it accepts it. The owner who sends it is not trusted to have compiled it honestly."""

import math
from collections.abc import Iterator
from typing import Any, Final

from moiety.compile import program
from moiety.compile.plan import LINKS, OCTETS, Plan
from moiety.engine.limits import MODEST, Limits
from moiety.engine.waves import Bound, bind
from moiety.errors import LimitReached, MoietyError, PlanError, PlanMismatch, PolicyRefused
from moiety.mpc.cost import Costs
from moiety.mpc.rounds import Role
from moiety.mpc.share import Share

REVEAL = "reveal"
MOST_ELEMENTS: Final = 1 << 40
"""What a shape may hold: sizes in bytes then fit 64 bits many times over."""
PART_OF_MEMORY: Final = 64
"""One tensor may have so many bytes' worth of a party's memory an element: 8 bytes, and an eighth of all."""
MOST: Final = 1 << 62
SMALL: Final = {"axis": 64, "bits": 64, "drop": 64, "fraction": 512, "ring_bits": 8, "step_bits": 64, "t": 64, "width": 64}
"""Parameters that count bits, axes or rounds."""
TOKENS: Final = frozenset({"argmax"})
"""Operations whose results are places of largest values, and no values."""
UNCHANGED: Final = frozenset({"reshape", "permute", "cut"})
"""Operations that move elements and change none."""
OPENED_BITS: Final = 64
"""What P1 and P2 each send to the client for one element, unless the reveal says less."""


def accept_plan(data: bytes, announced: str, role: Role, limits: Limits = MODEST) -> Bound:
    """Decode, check and bind a plan. Raises PlanMismatch, PolicyRefused or PlanError; a plan never crashes the party."""
    try:
        plan = Plan.decode(data)
        if plan.hash != announced:
            raise PlanMismatch(
                f"the plan that came has the hash {plan.hash[:16]}..., announced was {announced[:16]}...; it was changed on the way"
            )
        return check_plan(plan, role, limits)
    except MoietyError:
        raise
    except Exception as error:  # any indexing or shape error of a plan that no compiler made
        raise PlanError(f"the plan is damaged ({type(error).__name__} while it was checked); compile the model again") from None


def check_plan(plan: Plan, role: Role, limits: Limits = MODEST) -> Bound:
    """Bind a plan that reveals what it declares, to the client, and whose wave table is that of its program.

    Nothing of the sizes that it names is allocated before they are known to fit the limits. The client holds few of the values,
    so only numbers that are no sizes are refused there.
    """
    if plan.protocol != "rep3":
        raise PlanError(f"the plan is for the protocol {plan.protocol!r}, which this party does not run")
    most = MOST_ELEMENTS if role is Role.CLIENT else limits.memory_bytes // PART_OF_MEMORY
    check_numbers(plan, limits, most)
    check_held(plan)
    check_reveals(plan)
    found = program.check_waves(plan, most)
    check_outward(plan, found.costs)
    check_states(plan, found)
    bound = bind(plan, role, found)
    if role is not Role.CLIENT and bound.run_bytes > limits.memory_bytes:
        raise LimitReached(
            f"a run of the plan takes {bound.run_bytes:,} bytes at {role.name}, whose limit is {limits.memory_bytes:,}; "
            "compile the model for smaller inputs"
        )
    return bound


def check_numbers(plan: Plan, limits: Limits, most: int) -> None:
    """Raises PlanError unless sizes are sizes and parameters whole numbers or names: parties compute in the ring, never in floats.

    Raises LimitReached for more nodes than the limit, or a tensor of more than ``most`` elements.
    """
    if len(plan.nodes) > limits.plan_nodes:
        raise LimitReached(f"the plan has {len(plan.nodes):,} operations, more than the {limits.plan_nodes:,} that are served here")
    for i, node in enumerate(plan.nodes):
        for name, value in node.params.items():
            values = value if isinstance(value, tuple | list) else (value,)
            if not all(_plain(name, one) for one in values):
                raise PlanError(f"node {i} ({node.op[:32]}) has the parameter {name[:32]!r}, which is no small whole number or name")
    for shape in _shapes(plan):
        _check_shape(shape, most)
    for weight in plan.weights:  # of their memory the deployment decides
        _check_shape(weight.shape, MOST_ELEMENTS)


def _check_shape(shape: tuple[int, ...], most: int) -> None:
    if min(shape, default=0) < 0 or math.prod(shape) > MOST_ELEMENTS:
        raise PlanError(f"the plan has a tensor of shape {shape}, which no party can hold; compile the model again")
    if math.prod(shape) > most:
        raise LimitReached(f"the plan has a tensor of shape {shape}, above the {most:,} elements that are served here")


def _shapes(plan: Plan) -> Iterator[tuple[int, ...]]:
    for group in (plan.constants, plan.inputs, plan.states, plan.outputs):
        yield from (entry.shape for entry in group)
    yield from ((*entry.shape, entry.classes) for entry in plan.inputs)
    for node in plan.nodes:
        shape = node.params.get("shape", ())
        if -1 not in shape:  # a place that numpy fills in, from a tensor that is checked itself
            yield tuple(shape)


def check_held(plan: Plan) -> None:
    """Raises PlanError unless what P1 knows is read by linear layers alone, and has a size that integers have."""
    only = program.streamable(plan) if any(weight.clear for weight in plan.weights) else ()
    for weight in plan.weights:
        if weight.clear and (weight.clear not in OCTETS or weight.name not in only):
            raise PlanError(f"the plan lets P1 hold the weight {weight.name[:64]!r}, which cannot be; compile the model again")


def check_states(plan: Plan, found: program.Driven) -> None:
    """Raises PlanError unless every state is one tensor that grows along one axis by rows that fit it."""
    if len({state.name for state in plan.states}) != len(plan.states):
        raise PlanError("the plan names a state twice; compile the model again")
    for state in plan.states:
        if not 0 <= state.axis < len(state.shape) or not -1 <= state.write < len(plan.nodes):
            raise PlanError(f"the state {state.name[:64]!r} has no axis {state.axis} or no node {state.write}; compile the model again")
        rows = found.kept.get(state.write)
        if state.write >= 0 and not (
            isinstance(rows, Share)
            and rows.bits == 64
            and rows.fraction == state.fraction
            and other_axes(rows.shape, state.axis) == other_axes(state.shape, state.axis)
        ):
            raise PlanError(f"node {state.write} yields no rows of the state {state.name[:64]!r} {state.shape}; compile the model again")


def other_axes(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape without one axis."""
    return (*shape[:axis], *shape[axis + 1 :])


def _plain(name: str, value: Any) -> bool:
    most = SMALL.get(name, MOST)
    return isinstance(value, str) or (isinstance(value, int) and -most <= value <= most)


def check_reveals(plan: Plan) -> None:
    """Raises PolicyRefused when the plan opens anything but its declared outputs and its range flag."""
    declared = {output.node for output in plan.outputs} | ({plan.flag} if plan.flag >= 0 else set())
    opened = {i for i, node in enumerate(plan.nodes) if node.op == REVEAL}
    if extra := sorted(opened - declared):
        raise PolicyRefused(f"the plan reveals node {extra[0]}, which is not among its declared outputs; refuse its source, compile again")
    if missing := sorted(declared - opened):
        raise PolicyRefused(f"the plan declares node {missing[0]} as an output, but that is no reveal; compile the model again")
    if written := [s.name for s in plan.states if s.write in opened]:
        raise PolicyRefused(f"the plan stores an opened value as the state {written[0]!r}; compile the model again")


def check_opens_tokens(plan: Plan) -> None:
    """Raises PolicyRefused when an output is anything but the place of a largest value; the range flag may be."""
    for output in plan.outputs:
        source = plan.nodes[plan.nodes[output.node].inputs[0]]
        while source.op in UNCHANGED:
            source = plan.nodes[source.inputs[0]]
        if source.op not in TOKENS:
            raise PolicyRefused(
                f"the plan opens {output.name[:64]!r} (node {output.node}), which is no token, "
                'and the federation file has reveal = "token" for this model; compile it with reveal="token"'
            )


def check_outward(plan: Plan, costs: Costs) -> None:
    """Whatever the operations are called: no byte leaves on an unknown link, and reveals tell the client what is declared."""
    _check_sizes(plan, costs)
    reveals = {i for i, node in enumerate(plan.nodes) if node.op == REVEAL}
    for number, wave in enumerate(costs.waves):
        if strange := [link for link in wave.links if link not in LINKS]:
            sender, receiver = strange[0]
            raise PolicyRefused(f"wave {number} of the plan would send from {sender.name} to {receiver.name}, which no protocol here does")
        spoken = sum(nbytes for step, nbytes in wave.spoken.items() if step in reveals)
        if wave.links[Role.P1, Role.CLIENT] + wave.links[Role.P2, Role.CLIENT] > spoken:
            raise PolicyRefused(f"wave {number} of the plan sends to the client what no declared output reveals")


def _check_sizes(plan: Plan, costs: Costs) -> None:
    """Outputs have the shapes that are declared, and the range flag is one word."""
    declared = {output.node: (output.name[:64], math.prod(output.shape)) for output in plan.outputs}
    if plan.flag >= 0:
        declared[plan.flag] = ("the range flag", 1)
    for node, (name, count) in declared.items():
        opened, word = sum(wave.spoken.get(node, 0) for wave in costs.waves), 2 * -(-plan.nodes[node].params.get("bits", OPENED_BITS) // 8)
        if opened != word * count:
            raise PolicyRefused(f"the plan declares {count} words for {name}, but opens {opened // word}; refuse its source, compile again")
