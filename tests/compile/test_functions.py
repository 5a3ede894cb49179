"""Functions by table against torch, over their ranges and up to the margin."""

import pytest
import torch
import torch.nn.functional as F

from moiety.errors import UnsupportedOp

from .support import compiled, spread

SMOOTH = {
    "erf": torch.erf,
    "erfc": torch.erfc,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "mish": F.mish,
    "log sigmoid": F.logsigmoid,
    "softplus": lambda x: F.softplus(x, beta=2.5),
    "elu": F.elu,
    "elu of another slope": lambda x: F.elu(x, alpha=0.5),
    "selu": F.selu,
    "celu": F.celu,
    "celu of another slope": lambda x: F.celu(x, alpha=2.0),
    "sin": torch.sin,
    "cos": torch.cos,
    "soft sign": F.softsign,
    "tanh shrink": F.tanhshrink,
}


@pytest.mark.parametrize("reach", [0.5, 40.0])
@pytest.mark.parametrize("function", SMOOTH.values(), ids=SMOOTH)
def test_smooth_functions(function, reach: float) -> None:
    case = compiled(function, spread(40, 20, low=-reach, high=reach))
    assert case.error() < 2.0**-9
    assert case.error(spread(40, 20, low=-1.4 * reach, high=1.4 * reach)) < 2.0**-9


GROWING = {
    "expm1": torch.expm1,
    "exp2": torch.exp2,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "2 to the power of": lambda x: 2**x,
    "0.3 to the power of": lambda x: 0.3**x,
}


@pytest.mark.parametrize("function", GROWING.values(), ids=GROWING)
def test_growing_functions(function) -> None:
    """Relative where they are large."""
    case = compiled(function, spread(40, 20, low=-5, high=5))
    expected = case.expected()
    assert ((case.run() - expected).abs() / expected.abs().clamp(min=1.0)).max() < 2.0**-10


@pytest.mark.parametrize("function", [torch.sin, torch.cos])
@pytest.mark.parametrize("reach", [1e-2, 300.0, 20_000.0])
def test_angles_of_any_size(function, reach: float) -> None:
    """No range to leave: the table of one period wraps where the function does."""
    case = compiled(function, spread(40, 20, low=-reach, high=reach))
    assert case.error() < 2.0**-10
    assert all(node.op != "table" or len(node.params["windows"]) == 4 for node in case.plan.nodes)


LOGARITHMS = {"log": torch.log, "log2": torch.log2, "log10": torch.log10, "log1p": torch.log1p}


@pytest.mark.parametrize(("low", "high"), [(0.5, 4.0), (0.02, 0.5), (1.0, 3000.0)])
@pytest.mark.parametrize("function", LOGARITHMS.values(), ids=LOGARITHMS)
def test_logarithms(function, low: float, high: float) -> None:
    """A value's own resolution of 2^-15 counts, the more the smaller it is."""
    case = compiled(function, spread(40, 20, low=low, high=high))
    assert case.error() < 2.0**-10 + 2.0**-14 / low


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (torch.log, "above zero"),
        (lambda x: x**-1.5, "above zero"),
        (lambda x: torch.log1p(x - 1), "above -1"),
        (torch.tan, "tan"),
        (torch.round, "round"),
    ],
)
def test_what_has_no_private_form_there_is_refused(function, text: str) -> None:
    with pytest.raises(UnsupportedOp, match=text):
        compiled(function, spread(5, 5, low=-2, high=2))
