"""Norms over other axes than the last, and statistics, against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.errors import UnsupportedOp

from .support import compiled

NORMS = {
    "layer norm of two axes": (nn.LayerNorm((4, 8)), (2, 4, 8)),
    "layer norm of two axes without gain": (nn.LayerNorm((4, 8), elementwise_affine=False), (2, 4, 8)),
    "rms norm": (nn.RMSNorm(8), (2, 4, 8)),
    "rms norm of two axes": (nn.RMSNorm((4, 8)), (2, 4, 8)),
    "group norm": (nn.GroupNorm(2, 4), (2, 4, 3, 5)),
    "group norm of vectors": (nn.GroupNorm(2, 8), (3, 8)),
    "group norm without gain": (nn.GroupNorm(4, 4, affine=False), (2, 4, 6)),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), (2, 4, 3, 5)),
    "instance norm of one axis": (nn.InstanceNorm1d(4), (2, 4, 7)),
}


@pytest.mark.parametrize(("norm", "shape"), NORMS.values(), ids=NORMS)
def test_norms(norm: nn.Module, shape: tuple[int, ...]) -> None:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    assert compiled(norm, 2 * torch.randn(shape) + 1).error() < 3e-3


def test_a_norm_of_two_axes_before_a_layer() -> None:
    model = nn.Sequential(nn.LayerNorm((4, 8)), nn.Linear(8, 3))
    nn.init.normal_(model[0].weight)
    assert compiled(model, torch.randn(2, 4, 8)).error() < 2e-3


STATISTICS = {
    "var": lambda x: x.var(-1),
    "var of all": lambda x: x.var(),
    "var of an inner axis": lambda x: x.var(1, correction=0),
    "var of two axes": lambda x: x.var((0, 2), keepdim=True),
    "std": lambda x: x.std(-1),
    "var and mean": lambda x: torch.stack(torch.var_mean(x, -1)),
    "length": lambda x: x.norm(dim=-1),
    "length of all": lambda x: x.norm(),
    "length of columns": lambda x: torch.linalg.vector_norm(x, dim=(0, 1)),
    "normalised": lambda x: F.normalize(x, dim=-1),
    "mean of all": torch.mean,
    "sum of all": torch.sum,
}


@pytest.mark.parametrize("function", STATISTICS.values(), ids=STATISTICS)
def test_statistics(function) -> None:
    assert compiled(function, 2 * torch.randn(2, 4, 8) + 1).error() < 2e-3


def test_what_has_no_private_form_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match="order 3"):
        compiled(lambda x: x.norm(p=3, dim=-1), torch.randn(2, 8))
    with pytest.raises(UnsupportedOp, match="gain or shift"):
        compiled(lambda x: F.group_norm(x, 2, x[0, :, 0], None), torch.randn(2, 4, 8))
