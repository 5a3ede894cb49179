"""Comparisons, masks, selections and maxima against torch: exact, where the compared values are farther apart than their errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.errors import InputError, UnsupportedOp

from .support import Case, compiled, spread


def reals() -> torch.Tensor:
    return spread(3, 8, low=-4, high=4)


def others() -> torch.Tensor:
    return spread(3, 8, low=-2.9, high=3.1)


PAIRS = {
    "gt": torch.gt, "ge": torch.ge, "lt": torch.lt, "le": torch.le, "eq": torch.eq, "ne": torch.ne,
    "with an owned operand": lambda x, y: x > torch.linspace(-1, 1, 8),
    "of products": lambda x, y: x * y > x,
    "of left-over factors": lambda x, y: 0.3 * x < 0.7 * y,
    "broadcast": lambda x, y: x[:, :1] < y[0],
    "and": lambda x, y: (x > 0) & (y > 0),
    "or": lambda x, y: (x > 0) | (y > 0),
    "xor": lambda x, y: (x > 0) ^ (y > 0),
    "not": lambda x, y: ~(x > y),
    "and with a public mask": lambda x, y: (x > 0) & (torch.arange(8) > 3),
    "or with a public mask": lambda x, y: torch.logical_or(x > 0, torch.arange(8) > 3),
    "xor with a public mask": lambda x, y: torch.logical_xor(torch.arange(8) > 3, x > 0),
    "not of numbers": lambda x, y: torch.logical_not(x * (y > 0)),
    "any": lambda x, y: (x > 3).any(-1),
    "all": lambda x, y: (x < 3).all(0),
    "any of all": lambda x, y: (x > 100).any(),
    "all of two axes": lambda x, y: (x > -5).all((0, 1)),
    "equal masks": lambda x, y: (x > 0) == (y > 0),
    "moves": lambda x, y: torch.cat([x > 0, y > 0]).T.flip(0)[1:],
}  # fmt: skip


@pytest.mark.parametrize("function", PAIRS.values(), ids=PAIRS)
def test_masks(function) -> None:
    case = compiled(lambda x, y: function(x, y).float(), reals(), others())
    assert case.error() == 0


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 1, 5)])
@pytest.mark.parametrize("scale", [0.01, 1.0, 3000.0])
def test_comparisons_of_any_shape_and_range(shape: tuple[int, ...], scale: float) -> None:
    x, y = scale * torch.randn(shape), scale * torch.randn(shape)
    assert compiled(lambda x, y: (x > y).float() + 2 * (x <= 0.1 * scale), x, y).error() == 0


def test_equal_values_are_neither_greater_nor_less() -> None:
    x = torch.tensor([0.25, -1.0, 0.3, 2.0])
    case = compiled(lambda x, y: torch.stack([x < y, x <= y, x > y, x >= y, x == y, x != y]).float(), x, x.clone())
    assert case.run().tolist() == case.expected().tolist()


def test_masks_are_numbers() -> None:
    def model(x, y):
        mask = x > 0
        return (x * mask).sum(-1) / (mask.sum(-1) + 1) + mask.float().mean(-1) + torch.cumsum(mask, -1)[:, -1]

    assert compiled(model, reals(), others()).error() < 2e-3


def test_comparisons_with_the_owners_values() -> None:
    class Thresholds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cuts = nn.Parameter(torch.linspace(-1, 1, 8))

        def forward(self, x):
            return torch.where(x > self.cuts, x, self.cuts) + torch.where(self.cuts > 0, x, 2.0) + torch.where(x > 0, self.cuts, 1.0)

    assert compiled(Thresholds(), reals()).error() < 2e-3


SELECTIONS = {
    "where": lambda x, y: torch.where(x > 0, x, y),
    "where of a number": lambda x, y: torch.where(x > 0, x, 0.5),
    "where of zero": lambda x, y: torch.where(x > y, 0.0, y),
    "where of two numbers": lambda x, y: torch.where(x > 0, 1.0, -0.5),
    "where of public tensors": lambda x, y: torch.where(x > 0, torch.linspace(0, 1, 8), torch.linspace(1, 2, 8)),
    "where of a public mask": lambda x, y: torch.where(torch.arange(8) > 3, x, y),
    "where of a public mask and a number": lambda x, y: torch.where(torch.arange(8) > 3, 0.5, x),
    "where of a public mask and a tensor": lambda x, y: torch.where(torch.arange(8) > 3, x * y, torch.linspace(1, 2, 8)),
    "masked fill": lambda x, y: x.masked_fill(y > 0, 2.0),
    "public masked fill": lambda x, y: x.masked_fill(torch.arange(8) > 3, 2.0),
    "triangle": lambda x, y: x.tril() + y.triu(1),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "maximum of a public tensor": lambda x, y: torch.maximum(x, torch.linspace(-1, 1, 8)),
    "clamp": lambda x, y: x.clamp(-1, 2),
    "clamp of one end": lambda x, y: x.clamp(min=0.3) + y.clamp(max=0.2) + torch.clamp_max(x, 1),
    "clamp by tensors": lambda x, y: torch.clamp(x, torch.linspace(-1, 0, 8), torch.linspace(1, 2, 8)),
    "clamp by a secret": lambda x, y: torch.clamp(x, min=y),
    "magnitude": lambda x, y: x.abs(),
    "sign": lambda x, y: torch.sign(x),
    "leaky": lambda x, y: F.leaky_relu(x, 0.1),
    "threshold": lambda x, y: F.threshold(x, 0.4, -1.0),
    "shrink": lambda x, y: F.softshrink(x) + F.hardshrink(y),
    "prelu": lambda x, y: F.prelu(x, torch.tensor([0.25])),
    "largest": lambda x, y: x.amax(-1),
    "largest of columns": lambda x, y: x.amax(0, keepdim=True),
    "smallest": lambda x, y: x.amin(-1),
    "largest of all": lambda x, y: x.max() + y.min(),
    "largest of two axes": lambda x, y: x.reshape(3, 2, 4).amax((0, 2)),
    "values of max": lambda x, y: x.max(-1, keepdim=True).values,
    "places of min": lambda x, y: y.min(0).indices * 1.0,
    "values and places": lambda x, y: x.max(-1).values + x.max(-1).indices,
}


@pytest.mark.parametrize("function", SELECTIONS.values(), ids=SELECTIONS)
def test_selections(function) -> None:
    assert compiled(function, reals(), others()).error() < 1e-3


def test_prelu_of_channels() -> None:
    layer = nn.PReLU(4)
    nn.init.normal_(layer.weight)
    assert compiled(layer, torch.randn(2, 4, 3)).error() < 1e-3
    assert compiled(layer, torch.randn(2, 4)).error() < 1e-3


def outputs(function) -> tuple[Case, torch.Tensor]:
    case = compiled(function, reals())
    return case, case.run()


@pytest.mark.parametrize("function", [lambda x: x.argmax(-1), lambda x: x.argmin(0), lambda x: x.argmax(), lambda x: (x > 0).sum(-1)])
def test_integers_as_answers(function) -> None:
    case, found = outputs(function)
    assert found.dtype is torch.int64
    assert torch.equal(found, case.expected())


def test_masks_as_answers() -> None:
    case, found = outputs(lambda x: x > 0)
    assert found.dtype is torch.bool
    assert torch.equal(found, case.expected())


def test_a_secret_place_as_one_hot() -> None:
    assert compiled(lambda x: F.one_hot(x.argmax(-1), 8) * x, reals()).error() < 1e-3


def test_comparisons_cost_their_rounds() -> None:
    """Input 2, comparison 3, the bit as a number 1, answer 1; a public selection adds none."""
    assert len(compiled(lambda x: (x > 0).float(), reals(), check_ranges=False).plan.waves) == 7
    assert len(compiled(lambda x: torch.where(torch.arange(8) > 3, x, 1.0), reals()).plan.waves) == 3
    assert len(compiled(lambda x: (x[:, :1] == 1).float(), 0.01 * reals(), check_ranges=False).plan.waves) == 7


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x.to(torch.bool).float(), "x != 0"),
        (lambda x: (x.argmax(-1) & 3) * 1.0, "secret integers"),
        (lambda x: x.index_select(1, x[0, :2].argmax()[None]), "public places"),
    ],
)
def test_what_has_no_private_form_is_refused(function, text: str) -> None:
    with pytest.raises((UnsupportedOp, InputError), match=text):
        compiled(function, reals())
