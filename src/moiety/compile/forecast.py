"""Memory that a run will take at each compute party, forecast from the plan alone.

What a run holds follows from the text of its protocols, run on shapes: values that nodes have yielded and others will read, what the
nodes under way have drawn, are dealt, say and hear. Protocols compute in place or a piece at a time, so that little is added to that
on the way to a result; what is, and what lies free between blocks of other sizes, is in ``SPREAD``.
"""

import math
from collections.abc import Collection, Iterator, Sequence

from moiety.compile.plan import Plan, Weight
from moiety.compile.program import Driven, Held, drive, streamable
from moiety.errors import LimitReached
from moiety.mpc.cost import Wave
from moiety.mpc.rounds import Role
from moiety.ring import PANEL

PROCESS_BYTES = 72_000_000
"""A compute party before it holds anything: interpreter, numpy, TLS, this package."""
AHEAD_BYTES = 64 << 20
"""What may wait at P0 for one evaluator, if a single frame is not larger: ``net.writer.QUEUE_BYTES``."""
SPREAD = 1.15
"""Heap that a run occupies for each byte that it holds, measured."""
WEIGHT_SPREAD = 1.06
"""The same of weights that are kept: blocks of other sizes come and go beside them while they arrive."""
PIECES_BYTES = 12 * (2 << 20)
"""Pieces of weights that are on their way, at deployment and where weights are streamed into a run."""
WORD = 8
DEALING = 2
"""Copies of a dealt value that P0 has beside it while it is made: the value itself and its receiver's pad."""
PARTS = {Role.P0: 1, Role.P1: 2, Role.P2: 2}
"""What each role keeps of a weight, in its size."""


def parts_of(role: Role, clear: int) -> float:
    """The same of one weight, which P1 may know in so many octets (``Weight.clear``)."""
    if not clear:
        return PARTS[role]
    return clear / WORD if role is Role.P1 else 1


def peak_bytes(plan: Plan, streamed: Collection[str] = ()) -> dict[Role, int]:
    """Peak resident bytes of P0, P1 and P2 until the end of a plan's first run, deployment of its weights included.

    ``streamed``: names of weights that the parties do not keep.
    """
    return _peaks(plan, drive(plan), streamed)


def _peaks(plan: Plan, found: Driven, streamed: Collection[str]) -> dict[Role, int]:
    fixed = PROCESS_BYTES + 3 * sum(len(c.data) for c in plan.constants)
    coming = min(PIECES_BYTES, 4 * max(map(_held_bytes, plan.weights), default=0))
    window = PIECES_BYTES if streamed else 0
    held = [w for w in plan.weights if w.name not in streamed]
    kept = {role: int(WEIGHT_SPREAD * sum(parts_of(role, w.clear) * _held_bytes(w) for w in held)) for role in PARTS}
    return {role: fixed + kept[role] + max(coming, run_bytes(found, role) + window) for role in PARTS}


def _held_bytes(w: Weight) -> int:
    return WORD * math.prod(w.shape[:-1]) * -(-w.shape[-1] // PANEL) * PANEL if w.packed else WORD * math.prod(w.shape)


def most_words(memory: int, clear: int = 0) -> int:
    """How many words of weights a party can keep at most if its process may take so many bytes; ``clear`` as for ``parts_of``."""
    return int(max(0, memory - PROCESS_BYTES - PIECES_BYTES) / (WORD * max(parts_of(role, clear) for role in PARTS)))


def to_stream(plans: Sequence[Plan], memory: int) -> frozenset[str]:
    """Which weights the parties cannot keep if the peak of each is to stay within ``memory`` bytes: the largest, as few as possible.

    Raises LimitReached when that is not enough.
    """
    driven = [(plan, drive(plan)) for plan in plans]
    if all(max(_peaks(plan, found, ()).values()) <= memory for plan, found in driven):
        return frozenset()
    weights = {w.name: w for plan in plans for w in plan.weights}
    others = {w.name for plan in plans for w in plan.weights if w.name not in streamable(plan)}
    candidates = sorted(weights.keys() - others, key=lambda name: (_held_bytes(weights[name]), name))
    peaks = [_peaks(plan, found, candidates) for plan, found in driven]
    peak = {role: max((one[role] for one in peaks), default=0) for role in PARTS}
    if (most := max(peak.values())) > memory:
        raise LimitReached(
            f"a party needs {most:,} bytes for a run of this model even if it keeps no weight of a linear layer; {memory:,} are allowed: "
            "allow more, or compile the model for smaller inputs"
        )
    kept = set[str]()
    for name in candidates:
        for role in PARTS:
            peak[role] += int(WEIGHT_SPREAD * parts_of(role, weights[name].clear) * _held_bytes(weights[name]))
        if max(peak.values()) > memory:
            break
        kept.add(name)
    return frozenset(set(candidates) - kept)


def run_bytes(found: Driven, role: Role) -> int:
    """The most that one run takes at a role beside what is held already: values, work under way, frames, and what P0 deals ahead."""
    waves = [*found.costs.waves, Wave()]  # after the last one, too
    if role is Role.P0:
        held = map(_at_helper, found.held, waves, _ahead(waves, Role.P1), _ahead(waves, Role.P2))
    else:
        held = map(_at_evaluator, found.held, waves)
    return int(SPREAD * max(held))


def _at_evaluator(held: Held, wave: Wave) -> int:
    """Every dealt value is there, drawn or received; what is sent is kept until it was added to what is heard."""
    spoken = sum(spec.passing_bytes for specs in wave.segments.values() for spec in specs)
    return 2 * WORD * held.elements + held.drawn + spoken + sum(word.spec.passing_bytes for _, word in wave.dealt.values())


def _at_helper(held: Held, wave: Wave, *waiting: int) -> int:
    dealt = [word.spec.passing_bytes for _, word in wave.dealt.values()]
    return WORD * held.elements + held.drawn + sum(dealt) + DEALING * max(dealt, default=0) + sum(waiting)


def _ahead(waves: Sequence[Wave], evaluator: Role) -> Iterator[int]:
    """What may wait at P0 for one evaluator, in every wave, of the frames before it."""
    total = largest = 0
    for wave in waves:
        yield min(total, max(AHEAD_BYTES, largest))
        frame = wave.links[Role.P0, evaluator]
        total, largest = total + frame, max(largest, frame)
