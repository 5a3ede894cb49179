"""Pooling, padding and upsampling against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.errors import UnsupportedOp

from .support import All, compiled, errors_above, spread

EXACT = 2.0**-13


def image() -> torch.Tensor:
    return spread(2, 3, 7, 6, low=-4, high=4)


MEANS = {
    "2 x 2": nn.AvgPool2d(2),
    "overlapping": nn.AvgPool2d(3, stride=1),
    "padded": nn.AvgPool2d(3, stride=2, padding=1),
    "padding not counted": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "ceil": nn.AvgPool2d(2, ceil_mode=True),
    "ceil and padded": nn.AvgPool2d((3, 2), stride=(2, 3), padding=(1, 0), ceil_mode=True),
    "divisor": nn.AvgPool2d(2, divisor_override=3),
    "one place": nn.AvgPool2d(1, stride=2),
    "global": nn.AdaptiveAvgPool2d(1),
    "adaptive, even": nn.AdaptiveAvgPool2d((7, 3)),
    "adaptive, uneven": nn.AdaptiveAvgPool2d((3, 4)),
    "adaptive, larger": nn.AdaptiveAvgPool2d((9, None)),
    "mean": lambda x: x.mean((2, 3)),
    "one axis": lambda x: F.avg_pool1d(x[0], 3, padding=1),
    "one axis, adaptive": lambda x: F.adaptive_avg_pool1d(x[0], 4),
}
MAXIMA = {
    "2 x 2": nn.MaxPool2d(2),
    "padded": nn.MaxPool2d(3, stride=2, padding=1),
    "dilated": nn.MaxPool2d(2, stride=1, padding=1, dilation=2),
    "dilated more": nn.MaxPool2d(3, stride=2, padding=1, dilation=2),
    "ceil": nn.MaxPool2d((2, 3), ceil_mode=True),
    "one place": nn.MaxPool2d(1, stride=3),
    "adaptive": nn.AdaptiveMaxPool2d((2, 4)),
    "one axis": lambda x: F.max_pool1d(x[0], 3, padding=1),
    "one axis, adaptive": lambda x: F.adaptive_max_pool1d(x[0], 4),
    "after a relu": lambda x: F.max_pool2d(F.relu(x), 2),
}
MOVES = {
    "zeros": nn.ZeroPad2d((1, 0, 2, 3)),
    "a number": lambda x: F.pad(x, (1, 2), value=-2.5),
    "cut and padded": lambda x: F.pad(x, (-1, 2, 1, -2)),
    "a number after a factor": lambda x: F.pad(x * 0.3, (1, 2), value=-2.5),
    "reflected": nn.ReflectionPad2d((2, 1, 3, 0)),
    "repeated": nn.ReplicationPad2d((2, 1, 3, 0)),
    "circular": lambda x: F.pad(x, (2, 1, 3, 0), mode="circular"),
    "one axis": lambda x: F.pad(x[0], (2, 1), mode="reflect"),
    "upsampled": nn.Upsample(scale_factor=2),
    "upsampled unevenly": nn.Upsample(size=(10, 8)),
    "upsampled, one axis": lambda x: F.interpolate(x[0], scale_factor=3),
}


def test_means_over_windows() -> None:
    assert errors_above(2 * EXACT, compiled(All(MEANS), image())) == {}


def test_means_cost_nothing() -> None:
    """Beside the truncation that a factor alone needs, too."""
    x = spread(1, 2, 8, 8)
    pooled, copied = (compiled(f, x) for f in (nn.AvgPool2d(2), lambda x: x[:, :, ::2, ::2] * 0.99))
    assert len(pooled.plan.waves) == len(copied.plan.waves)
    assert all(sum(ours) <= sum(theirs) for ours, theirs in zip(pooled.plan.waves, copied.plan.waves, strict=True))


def test_maxima_over_windows() -> None:
    assert errors_above(EXACT, compiled(All(MAXIMA), image())) == {}


def test_values_below_all_padding() -> None:
    """Zeros around a negative input would win."""
    case = compiled(nn.MaxPool2d(3, padding=1), spread(1, 2, 5, 5, low=-4, high=-3))
    assert case.error() < EXACT


def test_large_windows_take_the_rounds_of_two_axes() -> None:
    small, large = (compiled(nn.MaxPool2d(n), torch.randn(1, 2, 8, 8)) for n in (2, 4))
    assert (small.ops["largest"], large.ops["largest"]) == (1, 2)


def test_moves() -> None:
    assert errors_above(EXACT, compiled(All(MOVES), image())) == {}
    assert len(compiled(nn.ReflectionPad2d(1), torch.randn(1, 1, 3, 3)).plan.waves) == 3


def test_what_has_no_private_form_is_refused() -> None:
    x = torch.randn(1, 2, 6, 6)
    with pytest.raises(UnsupportedOp, match="places of the maxima"):
        compiled(lambda x: F.max_pool2d(x, 2, return_indices=True)[1] + x[..., :3, :3], x)
    with pytest.raises(UnsupportedOp, match="padding alone"):
        compiled(lambda x: F.max_pool2d(x, 2, stride=1, padding=1, dilation=2), x[..., :1])
    with pytest.raises(UnsupportedOp, match="bilinear"):
        compiled(nn.Upsample(scale_factor=2, mode="bilinear"), x)
