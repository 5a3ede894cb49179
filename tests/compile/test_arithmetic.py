"""Sums, products, powers, quotients, means: small functions, compiled and run by all roles, against torch."""

import pytest
import torch
from torch import nn

from moiety.errors import UnsupportedOp

from .support import compiled, spread

TOLERANCE = 1e-3


def reals() -> torch.Tensor:
    return spread(3, 8, low=-4, high=4)


def positives(low: float = 0.5, high: float = 4.0) -> torch.Tensor:
    return spread(3, 8, low=low, high=high)


UNARY = {
    "plus a number": lambda x: x + 3,
    "minus a number": lambda x: x - 0.25,
    "a number minus": lambda x: 2 - x,
    "minus": lambda x: -x,
    "times a number": lambda x: x * 0.3,
    "times a negative number": lambda x: x * -1.7,
    "times zero": lambda x: x * 0,
    "over a number": lambda x: x / 7,
    "plus a tensor": lambda x: x + torch.linspace(-1, 1, 8),
    "times a tensor": lambda x: x * torch.linspace(-1, 1, 8),
    "times integers": lambda x: x * torch.arange(8),
    "times booleans": lambda x: x * (torch.arange(8) > 3),
    "over a tensor": lambda x: x / torch.linspace(1, 2, 8),
    "alpha": lambda x: torch.add(x, x * x, alpha=-0.5),
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "mean": lambda x: x.mean(-1),
    "mean kept": lambda x: x.mean((0, 1), keepdim=True),
    "mean of an inner axis": lambda x: x.mean(0),
    "sum": lambda x: x.sum(-1),
    "sum of all": lambda x: x.sum((0, 1)) + 1,
    "mean of squares": lambda x: x.pow(2).mean(-1, keepdim=True),
    "mean of a product with itself": lambda x: (x * x).mean(-1),
    "centred": lambda x: x - x.mean(-1, keepdim=True),
    "left-over fractions meet": lambda x: x * x + x,
    "left-over factors meet": lambda x: 0.3 * x - 0.7 * (x * x),
}


@pytest.mark.parametrize("function", UNARY.values(), ids=UNARY)
def test_one_secret(function) -> None:
    assert compiled(function, reals()).error() < TOLERANCE


@pytest.mark.parametrize(
    "function",
    [torch.add, torch.sub, torch.mul, torch.rsub, lambda x, y: x @ y.T, lambda x, y: x[None] @ y.T[None]],
    ids=["add", "sub", "mul", "rsub", "matmul", "stacked matmul"],
)
def test_two_secrets(function) -> None:
    assert compiled(function, reals(), reals()).error() < TOLERANCE


def test_a_difference_of_secrets_is_local() -> None:
    assert not compiled(torch.sub, reals(), reals()).truncations


def test_shapes_are_broadcast() -> None:
    assert compiled(lambda x, y: x * y[:, :1] + y[0], reals(), reals()).error() < TOLERANCE


POSITIVE = {
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
    "gated": lambda x: torch.nn.functional.glu(x),
    "power 0.5": lambda x: x**0.5,
    "power -0.5": lambda x: x**-0.5,
    "a number over": lambda x: 3 / x,
    "a tensor over": lambda x: torch.linspace(1, 2, 8) / x,
}


@pytest.mark.parametrize("function", POSITIVE.values(), ids=POSITIVE)
def test_positive_values(function) -> None:
    assert compiled(function, positives()).error() < 2e-3


@pytest.mark.parametrize("function", [torch.rsqrt, torch.reciprocal])
def test_wide_range_relative_error(function) -> None:
    """Two decades: the error follows the value. The input's own resolution of 2^-15 counts, too."""
    case = compiled(function, positives(0.125, 16))
    expected = case.expected()
    assert ((case.run() - expected).abs() / expected).max() < 2**-10


@pytest.mark.parametrize("function", [torch.rsqrt, torch.reciprocal, torch.sqrt, torch.exp])
def test_calibrated_margin_is_served(function) -> None:
    """Values beyond the calibrated ones, within the margin of 1.5."""
    case = compiled(function, positives(1, 4))
    assert case.error(positives(1, 5.9)) < (0.3 if function is torch.exp else 2e-3)


@pytest.mark.parametrize("function", [lambda x, y: x / y, lambda x, y: 1 / y, lambda x, y: x * y**-1, lambda x, y: x * y**-0.5])
def test_divisors_of_either_sign_are_refused(function) -> None:
    with pytest.raises(UnsupportedOp, match=r"one sign|above zero"):
        compiled(function, reals(), reals())


@pytest.mark.parametrize("function", [torch.div, lambda x, y: 3 / y, lambda x, y: torch.linspace(1, 2, 8) / y])
def test_negative_divisors(function) -> None:
    assert compiled(function, reals(), -positives()).error() < 2e-3


def test_quotients_keep_their_relative_error() -> None:
    """A large quotient leaves less room for the reciprocal's fraction bits; it gives up no more of them than it must."""
    x, y = spread(3, 8, low=1000, high=6000), spread(3, 8, low=10, high=100)
    case = compiled(torch.div, x, y)
    assert ((case.run() - x / y).abs() / (x / y)).max() < 2e-4


def test_small_values_with_many_fraction_bits_are_looked_up() -> None:
    """The product of two small looked-up values has 64 fraction bits, the table's range at least one unit of reals."""

    def model(x):
        small = torch.tanh(x) * 1e-3
        return torch.tanh(small * torch.sigmoid(x))

    assert compiled(model, reals()).error() < TOLERANCE


def test_large_numbers_magnify_no_truncation() -> None:
    case = compiled(lambda x: (x * torch.full((8,), 1e-5)) * 1e5, reals())
    assert case.error() < TOLERANCE


class Norm(nn.Module):
    """The mean-square norm as Llama writes it, after a layer or alone."""

    def __init__(self, width: int, gain: float = 1.0, *, first: bool = False, last: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.0, width) * gain)
        self.first = nn.Linear(width, width) if first else nn.Identity()
        self.last = nn.Linear(width, 4) if last else nn.Identity()

    def forward(self, x):
        x = self.first(x)
        normal = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.last(self.gain * normal)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("first", [False, True])
def test_mean_square_norm(scale: float, first: bool) -> None:
    """Also right behind a layer, whose product still has all its fraction bits."""
    assert compiled(Norm(64, first=first), scale * torch.randn(3, 64)).error() < (2e-3 if scale > 0.1 else 5e-3)


@pytest.mark.parametrize("last", [False, True])
def test_a_large_gain_is_not_mistaken_for_a_large_value(last: bool) -> None:
    case = compiled(Norm(576, 50.0, last=last), torch.randn(3, 576))
    assert case.error() < 50 * TOLERANCE


def test_two_gains_of_one_norm() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Parameter(torch.full((8,), 2.0)), nn.Parameter(torch.tensor([2.0, -2.0] * 4))
            self.norm = nn.LayerNorm(8, elementwise_affine=False)

        def forward(self, x):
            normal = self.norm(x)
            return ((normal * self.left) * (normal * self.right)).mean(-1)

    assert compiled(Twice(), reals()).error() < 2e-3


class Owner(nn.Module):
    """A parameter meets a secret in every way."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.linspace(1, 2, 8))

    def forward(self, x):
        return self.function(x, self.weight)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x + w,
        lambda x, w: w - x,
        lambda x, w: x * w,
        lambda x, w: (x * w) * w,
        lambda x, w: x * w + w,
        lambda x, w: x * w[None, :] ** 2,
        lambda x, w: x / w,
        lambda x, w: w / (x * x + 1),
        lambda x, w: x * w.sum(),
    ],
)
def test_secrets_meet_parameters(function) -> None:
    assert compiled(Owner(function), reals()).error() < 2e-3


@pytest.mark.parametrize("power", [1, 2, 3, 4, 5, 6, 8])
def test_whole_powers(power: int) -> None:
    """Relative to the largest: every product doubles the relative error of what it multiplies."""
    case = compiled(lambda x: x**power, spread(3, 8, low=-2, high=2))
    assert case.error() < 1e-3 * 2**power / 2


@pytest.mark.parametrize("power", [1.5, 0.3, -1, -2, -3, -0.7, -1.5])
def test_other_powers_of_positive_values(power: float) -> None:
    case = compiled(lambda x: x**power, positives())
    assert ((case.run() - case.expected()).abs() <= 2e-3 * case.expected() + 2**-14).all()


def test_powers_without_a_private_form_are_refused() -> None:
    for function, way in ((torch.pow, "torch.exp"), (lambda x, y: x**1.5, "above zero"), (lambda x, y: (-2.0) ** x, "must be positive")):
        with pytest.raises(UnsupportedOp, match=way):
            compiled(function, reals(), positives())


VECTORS = {
    "matrix and vector": lambda x, y: x @ y[0],
    "vector and matrix": lambda x, y: x[0] @ y.T,
    "two vectors": lambda x, y: x[0] @ y[0],
    "dot": lambda x, y: torch.dot(x[0], y[1]),
    "mv": lambda x, y: torch.mv(x, y[0]),
    "outer": lambda x, y: torch.outer(x[0], y[0]),
    "inner": torch.inner,
    "public vector": lambda x, y: x @ torch.linspace(0, 1, 8),
    "addmm": lambda x, y: torch.addmm(y[:, :3], x, y.T, beta=0.5, alpha=2),
    "addmm with a public sum": lambda x, y: torch.addmm(torch.ones(3, 3), x, y.T, beta=2),
    "addmm without its sum": lambda x, y: torch.addmm(y[:, :3], x, y.T, beta=0),
    "addmv": lambda x, y: torch.addmv(y[:, 0], x, y[0]),
    "baddbmm": lambda x, y: torch.baddbmm(y[None, :, :3], x[None], y.T[None], beta=2, alpha=0.5),
    "secret weights": torch.nn.functional.linear,
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "kron": lambda x, y: torch.kron(x[:2, :2], y[:2, :2]),
    "cosine similarity": lambda x, y: torch.nn.functional.cosine_similarity(x, y, dim=-1),
    "distance": torch.nn.functional.pairwise_distance,
    "mean square": torch.nn.functional.mse_loss,
}


@pytest.mark.parametrize("function", VECTORS.values(), ids=VECTORS)
def test_products_of_every_rank(function) -> None:
    assert compiled(function, reals(), positives(1, 3)).error() < 2e-3


EINSUMS = {
    "bij,bkj->bik": 2, "bij,bjk->bik": (3, 4), "bij,bij->b": 2, "bij->b": 1, "bii->bi": 1, "bii->b": 1, "bij->jib": 1, "bij,cij->bc": 2,
    "bhqd,bhkd->bhqk": 2, "...i,...i->...": 2, "bij,bjk,bkl->bil": 3,
}  # fmt: skip


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum(equation: str) -> None:
    terms = equation.split("->")[0].split(",")
    parts = [spread(*(4 for letter in term.replace("...", "xy")), low=-2, high=2) for term in terms]
    assert compiled(lambda *given: torch.einsum(equation, *given), *parts).error() < 5e-3
