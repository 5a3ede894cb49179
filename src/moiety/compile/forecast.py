"""Memory that a run will take at each compute party, forecast from the plan alone."""

import math

from moiety.compile.plan import Plan
from moiety.compile.program import costs_and_live
from moiety.mpc.rounds import Role

PROCESS_BYTES = 72_000_000
"""A compute party before it holds anything: interpreter, numpy, TLS, this package."""
WORD = 8


def peak_bytes(plan: Plan) -> dict[Role, int]:
    """Peak resident bytes of P0, P1 and P2 in one run of the plan on a freshly deployed model."""
    found, live = costs_and_live(plan)
    fixed = PROCESS_BYTES + 3 * sum(len(c.data) for c in plan.constants)
    weights = WORD * sum(math.prod(w.shape) for w in plan.weights)
    frames = max((sum(wave.links.values()) for wave in found.waves), default=0)
    values = WORD * max(live, default=0)
    evaluator = fixed + 2 * weights + 2 * values + 2 * frames
    return {Role.P0: fixed + weights + values + frames, Role.P1: evaluator, Role.P2: evaluator}
