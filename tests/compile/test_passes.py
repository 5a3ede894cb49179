"""Rewrites of finished plans keep what they compute."""

import pytest
import torch

from moiety.compile import passes, program
from moiety.compile.model import compile_model
from moiety.errors import InputError
from moiety.mpc.rounds import Role


class Two(torch.nn.Module):
    """One output that is ready long before the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early = self.first(x)
        return early, self.second(torch.nn.functional.gelu(self.first(torch.tanh(early))))


def opening_waves(plan) -> list[int]:
    waves = program.costs(plan).waves
    return [i for i, wave in enumerate(waves) if wave.links[Role.P1, Role.CLIENT] or wave.links[Role.P2, Role.CLIENT]]


def test_all_outputs_and_the_range_flag_open_in_the_last_wave() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    for check_ranges in (False, True):
        plan = compile_model(Two().eval(), (x,), check_ranges=check_ranges).plan
        assert opening_waves(plan) == [len(plan.waves) - 1]
        assert len(plan.outputs) == 2


def test_no_node_is_left_that_nothing_needs() -> None:
    class Wasteful(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            _ = torch.tanh(x)
            return torch.sigmoid(x)

    plan = compile_model(Wasteful(), (torch.randn(2, 3),)).plan
    assert sum(node.op == "table" for node in plan.nodes) == 1


def test_truncations_merge_within_the_budget_only() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)).eval()
    exact, merged = (compile_model(layers, (x,), check_ranges=False, failure_budget=budget).plan for budget in (0.0, 2.0**-4))
    assert exact.expected_failures == 0 < merged.expected_failures <= 2.0**-4
    assert len(merged.waves) < len(exact.waves)
    assert any("truncation failures" in line for line in merged.leakage)


def test_small_range_checks_are_done_together_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(4):
                x = torch.nn.functional.silu(self.layer(x))
            return x

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)) * 3

    def checks() -> list[str]:
        return [node.op for node in compile_model(Deep(), (x,), check_ranges=True).plan.nodes if "out_of_range" in node.op]

    assert "all_out_of_range" in checks()
    monkeypatch.setattr(passes, "JOINED_CHECK", 24)
    two = checks()
    monkeypatch.setattr(passes, "SMALL_CHECK", 11)
    assert len(checks()) > len(two) > 1
    assert set(checks()) == {"out_of_range"}


def test_made_up_inputs_stay_positive_where_the_example_is() -> None:
    class Root(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.rsqrt(x)

    plan = compile_model(Root(), (torch.rand(4, 4) + 0.5,)).plan
    assert plan.lookups[0].low > 0


def test_a_misspelt_public_input_is_refused() -> None:
    with pytest.raises(InputError, match="atention_mask"):
        compile_model(Two().eval(), (torch.randn(3, 4),), public=("atention_mask",))


def test_the_last_row_of_a_norm_leaves_its_gain_to_the_next_layer() -> None:
    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = torch.nn.LayerNorm(8), torch.nn.Linear(8, 5)
            torch.nn.init.normal_(self.norm.weight, 1.0, 0.3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(x)[:, -2:, :][:, -1])

    names = [w.name for w in compile_model(Head().eval(), (torch.randn(2, 4, 8),)).plan.weights]
    assert not any(name.startswith("norm.weight@") for name in names), "the gain was multiplied in instead of folded into the head"
