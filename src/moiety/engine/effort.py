"""What a plan computes, in seconds of this machine: each kind of node is run here once, by all roles in turn, on zeros.

No time depends on a value, so the operation and its sizes decide it. Nodes of one operation whose inputs, results and random draws have the
same shapes are measured once, whatever their ranges: twelve equal layers cost one. Network, framing and the scheduler are left out, and
weights are zeros too: they need not be there.
"""

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from moiety import ring
from moiety.compile import program, signature
from moiety.compile.plan import Plan
from moiety.engine.timeline import noted
from moiety.mpc import lockstep
from moiety.mpc.matrix import Held, Weight
from moiety.mpc.party import Party
from moiety.mpc.rounds import Protocol_, Role, Scope, Spec, Words
from moiety.mpc.share import Share, dtype_of

SOURCES: Final = frozenset({"weight", "constant", "state"})
CLIENTS: Final = frozenset({"input", "reveal"})
"""Operations that the client takes part in; of others it follows nothing (``compile/client.py``)."""
ENOUGH_S: Final = 0.02
TWICE: Final = 2
TIMES: Final = 3
"""A node is run twice, as the first time finds cold caches and fresh pages, and again if it took less than ``ENOUGH_S``; the least time of
each piece counts."""


class Effort(NamedTuple):
    """Seconds that one node computes, piece by piece: before its first wave, between its waves, after its last.

    At P0, at an evaluator (the mean of both), and at the client.
    """

    helper_s: tuple[float, ...] = ()
    evaluator_s: tuple[float, ...] = ()
    client_s: tuple[float, ...] = ()


def measure(plan: Plan) -> list[Effort]:
    """The effort of every node, measured here. It takes about as long as the distinct nodes of a run, some three times over."""
    values = program.values(plan)
    draws: list[list[Spec]] = [[] for _ in plan.nodes]
    for address, spec in program.costs(plan).draws:
        draws[address.path[0]].append(spec)
    known: dict[Any, Effort] = {}
    out = []
    for i, node in enumerate(plan.nodes):
        told = tuple(draws[i]) or repr(node.params)  # a local operation is told by its parameters
        kind = (node.op, told, *(_kind(values[j]) for j in (i, *node.inputs)))
        if kind not in known:
            known[kind] = Effort() if node.op in SOURCES else _measured(plan, i, values)
        out.append(known[kind])
    return out


def _kind(value: Any) -> tuple[Any, ...]:
    return (type(value).__name__, tuple(getattr(value, "shape", ())), getattr(value, "bits", 0), getattr(value, "octets", 0))


def _measured(plan: Plan, i: int, values: Sequence[Any]) -> Effort:
    given = {role: [_zeros(values[j], role) for j in plan.nodes[i].inputs] for role in Role}
    runs: list[dict[Role, list[float]]] = []
    while len(runs) < TWICE or (len(runs) < TIMES and sum(map(sum, runs[-1].values())) < ENOUGH_S):
        runs.append(_once(plan, i, given))
    zero, one, two, client = ([min(pieces) for pieces in zip(*(run[role] for run in runs), strict=True)] for role in Role)
    if plan.nodes[i].op not in CLIENTS:
        client = [0.0] * len(client)
    return Effort(tuple(zero), tuple((a + b) / 2 for a, b in zip(one, two, strict=True)), tuple(client))


def _once(plan: Plan, i: int, given: dict[Role, list[Any]]) -> dict[Role, list[float]]:
    pieces: dict[Role, list[float]] = {role: [] for role in Role}

    def protocol(role: Role) -> Callable[[Party], Protocol_]:
        def start(party: Party) -> Protocol_:
            party.scope = Scope((i,))
            return _timed(program.start(plan, party, _Zeros(plan), i), given[role], pieces[role])

        return start

    with np.errstate(over="ignore"):
        lockstep.run({role: protocol(role) for role in Role})
    return pieces


async def _timed(start: Callable[..., Any], inputs: list[Any], out: list[float]) -> Any:
    def note(began: float) -> None:
        out.append(time.perf_counter() - began)

    began = time.perf_counter()
    result = start(*inputs)
    if isinstance(result, Coroutine):
        return await noted(result, note)
    note(began)
    return result


class _Zeros(program.ShapeSources):
    """The client's inputs are zeros too; every role is asked, the client's alone count."""

    def input(self, index: int) -> Words | None:
        return signature.zeros(self._plan)[index]


def _zeros(value: Any, role: Role) -> Any:
    """The value as a role holds it, when it and all masks are zero."""
    if isinstance(value, Held):
        return value._replace(part=_zero_part(value, role))
    if isinstance(value, Weight):
        held = [ring.pack(_zero(value.shape, 64)) if here else None for here in (role in (Role.P1, Role.P2), role is not Role.CLIENT)]
        return Weight(value.shape, value.fraction, *held)
    if not isinstance(value, Share):
        return value
    masked = _zero(value.shape, value.bits) if role in (Role.P1, Role.P2) else None
    mask = _zero(value.shape, value.bits) if role is not Role.CLIENT else None
    return Share(value.shape, value.fraction, value.bits, masked, mask)


def _zero_part(value: Held, role: Role) -> ring.Packed | None:
    if role is Role.CLIENT:
        return None
    part = ring.pack(_zero(value.shape, 64))
    small = {2: np.int16, 4: np.int32}.get(value.octets) if role is Role.P1 else None
    return part if small is None else ring.packed(part.shape, part.panels.astype(small))


def _zero(shape: tuple[int, ...], bits: int) -> Words:
    """Zeros that were written, so that each page is memory of its own."""
    out: Words = np.empty(shape, dtype_of(bits))
    out.fill(0)
    return out
