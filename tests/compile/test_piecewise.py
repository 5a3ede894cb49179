"""Functions in straight pieces against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.errors import RangeViolation

from .support import compiled, spread

EXACT = 2.0**-13
"""Input and answer are rounded to 14 fraction bits, nothing else is."""

FUNCTIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "relu6 in place": lambda x: F.relu6(x + 0, inplace=True),
    "hardtanh": F.hardtanh,
    "hardtanh with other ends": nn.Hardtanh(-0.5, 7.25),
    "hardtanh above all values": nn.Hardtanh(500.0, 600.0),
    "hardsigmoid": F.hardsigmoid,
}


@pytest.mark.parametrize("reach", [0.25, 9.0, 200.0])
def test_piecewise_functions(reach: float) -> None:
    """On the calibrated range and beyond it up to the margin."""
    case = compiled(lambda x: {**{name: f(x) for name, f in FUNCTIONS.items()}, "hardswish": F.hardswish(x)}, spread(20, 20, high=reach))
    x = spread(20, 20, low=-1.49 * reach, high=1.49 * reach)
    found, wanted = case.run(x), case.expected(x)
    for name in FUNCTIONS:
        assert (found[name] - wanted[name]).abs().max() < EXACT, name
    assert (found["hardswish"] - wanted["hardswish"]).abs().max() < EXACT * max(2.0, reach)


def test_both_ends_take_the_rounds_of_one() -> None:
    x = spread(5, 5, low=-9, high=9)
    assert len(compiled(F.relu6, x).plan.waves) == len(compiled(F.relu, x).plan.waves)


class Sharp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.layer.weight, 100.0)

    def forward(self, x):
        return F.relu6(self.layer(x * x))


def test_a_value_beyond_the_comparison_is_noticed() -> None:
    """Inside a model, where no input is refused."""
    case = compiled(Sharp(), torch.full((4, 1), 0.5), check_ranges=True)
    assert case.error() < 1e-2
    with pytest.raises(RangeViolation):
        case.run(torch.full((4, 1), 0.74))
