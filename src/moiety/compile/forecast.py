"""Memory that a run will take at each compute party, forecast from the plan alone.

What a run holds follows from the text of its protocols, run on shapes: values that nodes have yielded and others will read, what the
nodes under way have drawn, are dealt, say and hear. Protocols compute in place or a piece at a time, so that little is added to that
on the way to a result; what is, and what lies free between blocks of other sizes, is in ``SPREAD``.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from moiety.compile.plan import Plan
from moiety.compile.program import Driven, Held, drive
from moiety.mpc.cost import Wave
from moiety.mpc.rounds import Role

PROCESS_BYTES = 72_000_000
"""A compute party before it holds anything: interpreter, numpy, TLS, this package."""
AHEAD_BYTES = 64 << 20
"""What may wait at P0 for one evaluator, if a single frame is not larger: ``net.writer.QUEUE_BYTES``."""
SPREAD = 1.15
"""Heap that a run occupies for each byte that it holds, measured."""
WEIGHT_SPREAD = 1.06
"""The same of weights that are kept: blocks of many sizes come and go beside them while they are packed."""
WORD = 8
DEALING = 2
"""Copies of a dealt value that P0 has beside it while it is made: the value itself and its receiver's pad."""
PACKING = {Role.P0: 1, Role.P1: 3, Role.P2: 3}
"""Copies of a weight that exist while it is packed, beside those that are kept."""


def peak_bytes(plan: Plan) -> dict[Role, int]:
    """Peak resident bytes of P0, P1 and P2 until the end of a plan's first run, deployment of its weights included."""
    found, fixed = drive(plan), PROCESS_BYTES + 3 * sum(len(c.data) for c in plan.constants)
    return {role: fixed + max(_deploy_bytes(plan, role), _kept_bytes(plan, role) + run_bytes(found, role)) for role in PACKING}


def _sizes(plan: Plan, role: Role) -> list[int]:
    """What is kept of every weight: one part at P0, two at the evaluators."""
    return [(1 if role is Role.P0 else 2) * WORD * math.prod(w.shape) for w in plan.weights]


def _kept_bytes(plan: Plan, role: Role) -> int:
    return int(WEIGHT_SPREAD * sum(_sizes(plan, role)))


def _deploy_bytes(plan: Plan, role: Role) -> int:
    """The most that is held while weights come, one after the other."""
    packing = [PACKING[role] * WORD * math.prod(w.shape) if w.packed else 0 for w in plan.weights]
    return max((held + more for held, more in zip(accumulate(_sizes(plan, role)), packing, strict=True)), default=0)


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
