"""Memory that a run will take at each compute party, forecast from the plan alone."""

import math

from moiety.compile.plan import Plan
from moiety.compile.program import costs_and_live
from moiety.mpc.rounds import Role

PROCESS_BYTES = 72_000_000
"""A compute party before it holds anything: interpreter, numpy, TLS, this package."""
AHEAD_BYTES = 2 * (64 << 20)
"""What the dealer may have queued for both evaluators."""
WORD = 8


def peak_bytes(plan: Plan) -> dict[Role, int]:
    """Peak resident bytes of P0, P1 and P2 until the end of a plan's first run, deployment of its weights included."""
    found, live = costs_and_live(plan)
    fixed = PROCESS_BYTES + 3 * sum(len(c.data) for c in plan.constants)
    sizes = [WORD * math.prod(w.shape) for w in plan.weights]
    frames = max((sum(wave.links.values()) for wave in found.waves), default=0)
    values = WORD * max(live, default=0)
    dealt = sum(found.nbytes((Role.P0, r)) for r in (Role.P1, Role.P2))
    helper = fixed + sum(sizes) + values + frames + min(dealt, AHEAD_BYTES)
    packing = 3 * max(sizes, default=0) // 2  # the largest tensor exists unpacked, in parts, beside what is packed already
    evaluator = fixed + 2 * sum(sizes) + max(packing, 2 * values + 2 * frames)
    return {Role.P0: helper, Role.P1: evaluator, Role.P2: evaluator}
