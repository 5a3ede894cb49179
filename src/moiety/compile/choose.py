"""Which form of a step a plan takes: the one that the link carries soonest.

A step by itself (:func:`compared`): a form's rounds and bytes are those of its own text, run on shapes (``mpc/cost.py``). Its seconds
are its delays and its bytes on the fullest link; what it computes is left out, as forms of one step differ little in that.
Where other steps share its rounds, the whole run is played (:func:`run_seconds`, for :mod:`.forms`).
"""

from collections.abc import Callable, Mapping, Sequence

from moiety.compile.plan import LINKS
from moiety.mpc.cost import drive_on_shapes
from moiety.mpc.party import ShapeParty
from moiety.mpc.rounds import Protocol_, Role
from moiety.net import Net

WAVE_S = 200e-6
"""Of a wave at an evaluator, beside its delay: framing, checks, threads. Roughly, as is the next."""
WORK_S = 4e-9
"""Of a byte that an evaluator is dealt or speaks: to draw, multiply, encrypt and decrypt it. On a busy machine with two processors, plans
that differed by 12 MB of these took 6 ns longer for each, and 2 ns of their processors' time."""

Form = Callable[[ShapeParty], Protocol_]


def seconds(link: Net, form: Form) -> float:
    """What the link takes for a form. Dealt bytes count as spread evenly over both evaluators, which the addresses of a plan see to."""
    _, costs = drive_on_shapes(form)
    spoken = max(costs.nbytes((Role.P1, Role.P2)), costs.nbytes((Role.P2, Role.P1)))
    dealt = (costs.nbytes((Role.P0, Role.P1)) + costs.nbytes((Role.P0, Role.P2))) / 2
    return costs.rounds * link.delay_s + (spoken + dealt) / link.bytes_per_s


def compared(link: Net, forms: Mapping[str, Form]) -> dict[str, float]:
    """Seconds of every form, the fastest first; of equal ones the first given."""
    found = {name: seconds(link, form) for name, form in forms.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def run_seconds(link: Net, waves: Sequence[Sequence[int]]) -> float:
    """What the link takes for a run with this wave table, and what its bytes cost the evaluators. P0 deals ahead, on links of its own."""
    dealt = dict.fromkeys((Role.P1, Role.P2), 0)
    now, nbytes = 0.0, 0
    for wave in waves:
        row = dict(zip(LINKS, wave, strict=True))
        for role in dealt:
            dealt[role] += row[Role.P0, role]
        spoken = max(count for (sender, _), count in row.items() if sender is not Role.P0)
        nbytes += spoken + (row[Role.P0, Role.P1] + row[Role.P0, Role.P2]) // 2
        now = max(now, max(dealt.values()) / link.bytes_per_s)
        now += spoken / link.bytes_per_s + (link.delay_s + WAVE_S if spoken else 0.0)
    return now + nbytes * WORK_S
