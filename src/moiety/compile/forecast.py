"""Memory that a run will take at each compute party, forecast from the plan alone."""

import math

from moiety.compile.plan import Plan
from moiety.compile.program import Driven, drive
from moiety.mpc.rounds import Role

PROCESS_BYTES = 72_000_000
"""A compute party before it holds anything: interpreter, numpy, TLS, this package."""
AHEAD_BYTES = 2 * (64 << 20)
"""What the dealer may have queued for both evaluators."""
WORD = 8


def peak_bytes(plan: Plan) -> dict[Role, int]:
    """Peak resident bytes of P0, P1 and P2 until the end of a plan's first run, deployment of its weights included."""
    found, live, *_ = drive(plan)
    fixed = PROCESS_BYTES + 3 * sum(len(c.data) for c in plan.constants)
    sizes = [WORD * math.prod(w.shape) for w in plan.weights]
    frames = max((sum(wave.links.values()) for wave in found.waves), default=0)
    values = WORD * max(live, default=0)
    dealt = sum(found.nbytes((Role.P0, r)) for r in (Role.P1, Role.P2))
    helper = fixed + sum(sizes) + values + frames + min(dealt, AHEAD_BYTES)
    packing = 3 * max(sizes, default=0) // 2  # the largest tensor exists unpacked, in parts, beside what is packed already
    evaluator = fixed + 2 * sum(sizes) + max(packing, 2 * values + 2 * frames)
    return {Role.P0: helper, Role.P1: evaluator, Role.P2: evaluator}


def run_bytes(found: Driven, role: Role) -> int:
    """The most that one run takes at a role beside what is held already: values alive, frames, and what the dealer runs ahead."""
    frames = max((sum(wave.links.values()) for wave in found.costs.waves), default=0)
    if role is Role.P0:
        dealt = sum(found.costs.nbytes((Role.P0, r)) for r in (Role.P1, Role.P2))
        return WORD * found.most + frames + min(dealt, AHEAD_BYTES)
    return 2 * WORD * found.most + 2 * frames
