"""The memory that a plan announces is the memory that the parties take."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import moiety
from moiety.compile import signature
from moiety.compile.forecast import AHEAD_BYTES, peak_bytes
from moiety.mpc.rounds import Role


def wide() -> tuple[nn.Module, torch.Tensor]:
    """Weights and one look-up."""
    return nn.Sequential(nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768)), torch.randn(64, 768)


def images() -> tuple[nn.Module, torch.Tensor]:
    """Large values between small weights: comparisons, selections, both kinds of convolution."""
    layers = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU6(), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers), torch.randn(2, 3, 80, 80)


@pytest.mark.parametrize("make", [wide, images])
def test_peak_memory_is_as_forecast(make: Callable[[], tuple[nn.Module, torch.Tensor]]) -> None:
    torch.manual_seed(0)
    model, x = make()
    with moiety.local(parties=3) as federation:
        private = federation.deploy(model.eval(), (x,))
        [plan] = private.plans
        report = private.run(plan, signature.encode_inputs(plan, (x,), {})).report
    forecast = peak_bytes(plan)
    for role in (Role.P0, Role.P1, Role.P2):
        measured = report.of(role.name).peak_memory_bytes
        slack = 2 * AHEAD_BYTES if role is Role.P0 else 0  # P0 may run so far ahead, and need not
        assert 0.95 * measured <= forecast[role] <= 1.25 * measured + slack, (
            f"{role.name}: forecast {forecast[role]:,}, measured {measured:,}"
        )
