"""Convolutions and batch norms against torch."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.errors import UnsupportedOp

from .support import All, compiled, errors_above

TOLERANCE = 1e-3


class Part(nn.Module):
    """A layer on the first places of every axis."""

    def __init__(self, layer: nn.Module, *shape: int) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x):
        x = x[(0,) * (x.ndim - len(self.shape))]
        for axis, size in enumerate(self.shape):
            x = x.narrow(axis, 0, size)
        return self.layer(x)


LAYERS = {
    "one channel into one": Part(nn.Conv2d(1, 1, 3), 1, 1, 5, 5),
    "1 x 1": Part(nn.Conv2d(6, 4, 1), 2, 6, 4, 5),
    "1 x 1 with a stride": Part(nn.Conv2d(6, 4, 1, stride=2, bias=False), 1, 6, 5, 5),
    "padded": Part(nn.Conv2d(3, 5, 3, padding=1), 2, 3, 6, 7),
    "uneven": Part(nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(1, 2)), 1, 3, 7, 8),
    "same": Part(nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), 1, 3, 6, 6),
    "valid": Part(nn.Conv2d(3, 4, 2, padding="valid"), 1, 3, 6, 6),
    "reflected": Part(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), 1, 2, 5, 4),
    "circular": Part(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), 1, 2, 5, 4),
    "patches": Part(nn.Conv2d(3, 8, 4, stride=4), 1, 3, 8, 12),
    "depthwise": Part(nn.Conv2d(6, 6, 3, padding=1, groups=6), 2, 6, 5, 5),
    "depthwise, several each": Part(nn.Conv2d(4, 12, 5, stride=2, padding=2, groups=4, bias=False), 1, 4, 7, 7),
    "grouped": Part(nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3), 1, 6, 7, 7),
    "one example": Part(nn.Conv2d(3, 4, 3, padding=1), 3, 5, 5),
    "one axis": Part(nn.Conv1d(4, 6, 3, stride=2, padding=1), 2, 4, 9),
    "one axis, depthwise, dilated": Part(nn.Conv1d(4, 4, 3, dilation=2, padding="same", groups=4), 2, 4, 9),
    "one example of one axis": Part(nn.Conv1d(4, 6, 3), 4, 9),
}


def images() -> torch.Tensor:
    return torch.randn(2, 6, 9, 12)


def test_convolutions() -> None:
    case = compiled(All(LAYERS), images())
    assert errors_above(TOLERANCE, case) == {}
    assert case.ops["convolution"] == case.truncations == len(LAYERS)
    assert len(case.plan.waves) == 4, "two for the input, the convolutions with their truncations, the answer"


def test_the_functional_form_and_a_public_kernel() -> None:
    kernel = torch.randn(4, 3, 2, 2)
    settings: tuple[Any, ...] = ([1, 2], [1, 0], [1, 1], False, [0, 0], 1)
    assert compiled(lambda x: torch.convolution(x, kernel, None, *settings), torch.randn(2, 3, 5, 5)).error() < TOLERANCE


def test_small_and_large_kernels() -> None:
    small, large = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
    nn.init.normal_(small.weight, std=1e-3)
    nn.init.normal_(large.weight, std=1e3)
    assert compiled(nn.Sequential(small, large), torch.randn(1, 2, 8, 8)).error() < 0.05  # against outputs of about 10


def test_truncation_in_the_round_of_the_convolution() -> None:
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)), torch.randn(1, 2, 8, 8)
    exact, merged = (compiled(model, x, check_ranges=False, failure_budget=budget) for budget in (0.0, 2.0**-6))
    assert len(merged.plan.waves) < len(exact.plan.waves)
    assert [node.params.get("drop", 0) > 0 for node in merged.plan.nodes if node.op == "convolution"] == [False, True, True]
    assert merged.error() < TOLERANCE


def test_transposed_convolutions_and_secret_kernels_are_refused() -> None:
    with pytest.raises(UnsupportedOp, match="transposed convolution"):
        compiled(nn.ConvTranspose2d(2, 2, 2), torch.randn(1, 2, 4, 4))
    turned = ([1, 1], [0, 0], [1, 1], True, [0, 0], 1)
    with pytest.raises(UnsupportedOp, match="transposed convolution"):
        compiled(lambda x: torch.convolution(x, torch.ones(2, 2, 2, 2), None, *turned), torch.randn(1, 2, 4, 4))
    with pytest.raises(UnsupportedOp, match="not a parameter"):
        compiled(lambda x: F.conv2d(x, x[:, :, :2, :2]), torch.randn(1, 2, 4, 4))


def trained(norm: Any) -> Any:
    """A batch norm that has seen data."""
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.2, 3.0)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


FOLDED = {
    "convolution": Part(nn.Sequential(nn.Conv2d(3, 5, 3), trained(nn.BatchNorm2d(5))), 2, 3, 6, 6),
    "convolution without bias": Part(nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), trained(nn.BatchNorm2d(5))), 1, 3, 6, 6),
    "depthwise": Part(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), trained(nn.BatchNorm2d(4, affine=False))), 1, 4, 6, 6),
    "one axis": Part(nn.Sequential(nn.Conv1d(4, 6, 3), trained(nn.BatchNorm1d(6, eps=0.1))), 2, 4, 6),
    "linear": Part(nn.Sequential(nn.Linear(4, 6), trained(nn.BatchNorm1d(6))), 3, 4),
}


def test_a_norm_behind_a_layer_is_folded_into_it() -> None:
    case = compiled(All(FOLDED), images())
    assert errors_above(TOLERANCE, case) == {}
    assert case.ops["convolution"] + case.ops["linear"] == len(FOLDED)
    assert case.ops["multiply"] == 0
    assert len(case.plan.waves) == 4
    places = {module for module, node in zip(case.plan.modules, case.plan.nodes, strict=True) if node.op in ("convolution", "linear")}
    assert all(place.endswith("layer.0") for place in places), "the norm costs nothing"


class Norms(nn.Module):
    """Norms that cannot be folded backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (trained(nn.BatchNorm2d(3)) for _ in range(3))
        self.flat, self.rows = trained(nn.BatchNorm1d(12)), trained(nn.BatchNorm1d(3))
        self.conv, self.head, self.other = nn.Conv2d(3, 3, 1), nn.Linear(12, 5), nn.Linear(4, 4)

    def forward(self, x):
        y = self.conv(F.relu(self.first(x)))
        y = self.second(y) + self.third(y)
        rows = self.rows(self.other(y.flatten(2)))
        return self.head(self.flat(rows.flatten(1)))


def test_norms_elsewhere_are_gains_and_shifts() -> None:
    case = compiled(Norms(), torch.randn(2, 3, 2, 2))
    assert case.error() < 5 * TOLERANCE
    assert case.ops["multiply"] == 4, "that of two axes waits for the head"
    assert case.ops["linear"] == 2


def test_norms_that_measure_their_input_are_refused() -> None:
    with pytest.raises(UnsupportedOp, match="batch_norm"):
        compiled(nn.BatchNorm2d(3, track_running_stats=False), torch.randn(2, 3, 4, 4))
    with pytest.raises(UnsupportedOp, match="depend on a secret"):
        compiled(lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3), x[0, :, 0, 0], None), torch.randn(2, 3, 4, 4))


def test_channels_of_different_sizes_keep_their_digits() -> None:
    """As a folded norm makes them: what one channel multiplies by a hundred, the next layer divides."""
    first, second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)
    sizes = torch.tensor([0.05, 1.0, 100.0, 1.0])
    with torch.no_grad():
        first.weight *= sizes[:, None, None, None]
        first.bias *= sizes
        second.weight /= sizes[:, None, None]
    assert compiled(nn.Sequential(first, second), torch.randn(1, 2, 8, 8)).error() < 2 * TOLERANCE
