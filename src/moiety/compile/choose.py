"""Which form of a step a plan takes: the one that the link carries soonest.

A form's rounds and bytes are those of its own text, run on shapes (``mpc/cost.py``). Its seconds are its delays and its bytes on the
fullest link; what it computes is left out, as forms of one step differ little in that.
"""

from collections.abc import Callable, Mapping

from moiety.mpc.cost import drive_on_shapes
from moiety.mpc.party import ShapeParty
from moiety.mpc.rounds import Protocol_, Role
from moiety.net import Net

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
