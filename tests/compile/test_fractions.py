"""Fraction bits follow the size of what a layer computes."""

import pytest
import torch
from torch import Tensor, nn

from moiety.compile.builder import Options
from moiety.errors import BudgetExceeded

from .support import Case, compiled


class Tiny(nn.Module):
    """All activations stay below ``size``."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.first, self.second, self.size = nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False), size
        nn.init.uniform_(self.first.weight, -0.25, 0.25)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x) * (2 * torch.sigmoid(self.first(x)))  # a product of secrets, truncated before the next layer
        return self.second(hidden)


def relative(case: Case) -> float:
    return case.error() / float(case.expected().abs().max())


@pytest.mark.parametrize("size", [1.0, 2.0**-4, 2.0**-7])
def test_small_activations_keep_their_significant_bits(size: float) -> None:
    torch.manual_seed(3)
    case = compiled(Tiny(size), torch.rand(8, 16) * size)
    assert relative(case) < 2.0**-10


def test_small_inputs_are_encoded_finer() -> None:
    inputs = {size: compiled(nn.Linear(4, 2), torch.full((2, 4), size)).plan.inputs[0] for size in (1.0, 0.01, 1e-9)}
    assert [i.fraction for i in inputs.values()] == [14, 14 + 6, 14 + 8]
    other = compiled(nn.Linear(4, 2), torch.ones(2, 4), options=Options(activation_fraction=11)).plan.inputs[0]
    assert other.fraction == 11


@pytest.mark.parametrize("power", [10, 18, 20])
def test_large_activations_give_up_fraction_bits_for_room(power: int) -> None:
    """At 14 fraction bits each, the last two products would leave the ring."""
    torch.manual_seed(4)
    x, y = (torch.rand(2, 4, 8) + 0.5) * 2.0**power
    assert relative(compiled(lambda x, y: x * y * 2.0 ** (-2 * power), x, y)) < 2.0**-9


def test_a_product_without_room_is_refused() -> None:
    def huge(x: Tensor, y: Tensor) -> Tensor:
        return (x * 1e9 + y) * (y * 1e9 + x) * (x * 1e9 + y)

    with pytest.raises(BudgetExceeded, match="leaves no room"):
        compiled(huge, *(torch.rand(2, 4, 8) + 0.5))
