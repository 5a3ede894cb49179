"""A plan takes the form of a step that its link carries soonest, and says so."""

import pytest
import torch
from torch import nn

from moiety.compile import program
from moiety.compile.choose import seconds
from moiety.compile.model import compile_model
from moiety.compile.plan import Plan
from moiety.engine.effort import Effort
from moiety.engine.timing import predict
from moiety.errors import ConfigError
from moiety.mpc import rep3
from moiety.mpc.share import Share
from moiety.net import NETS, Net, net

from .support import Case, compiled

LINKS = {"slow": "50ms,1Gbit", "thin": "1us,1Mbit"}
FORMS = {"slow": "together", "thin": "apart"}


def norms(link: str) -> Case:
    torch.manual_seed(0)
    return compiled(nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.LayerNorm(24)), torch.randn(4, 24), link=LINKS[link])


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {link: norms(link) for link in LINKS}


def test_both_forms_are_right(cases) -> None:
    assert all(case.error() < 2e-3 for case in cases.values())


def test_a_slow_link_takes_fewer_rounds_and_a_thin_one_fewer_bytes(cases) -> None:
    slow, thin = (program.costs(cases[link].plan) for link in ("slow", "thin"))
    assert thin.rounds - slow.rounds == 2, "one in each norm"
    assert thin.total_bytes < slow.total_bytes
    assert cases["slow"].ops["rescale_and_square"] == 2
    assert "rescale_and_square" not in cases["thin"].ops


def test_a_plan_says_what_was_chosen_and_why(cases) -> None:
    for link, case in cases.items():
        assert [choice.step for choice in case.plan.choices] == ["truncation and squares"] * 2
        for choice in case.plan.choices:
            assert choice.link == LINKS[link]
            assert next(iter(choice.seconds)) == FORMS[link]
            assert list(choice.seconds.values()) == sorted(choice.seconds.values())
        assert Plan.decode(case.plan.encode()).choices == case.plan.choices


def test_what_was_chosen_arrives_sooner_by_forecast(cases) -> None:
    """Played through by its waves, without computing, each plan is the faster one on its own link."""

    def forecast(case: Case, link: str) -> float:
        return predict(case.plan, net(LINKS[link]), [Effort()] * len(case.plan.nodes)).seconds

    assert forecast(cases["slow"], "slow") < forecast(cases["thin"], "slow")
    assert forecast(cases["thin"], "thin") < forecast(cases["slow"], "thin")


def test_seconds_are_delays_and_the_fullest_link() -> None:
    x = Share((1000,), 20)
    link = Net("x", 0.5, 1000.0)
    assert seconds(link, lambda party: rep3.rescale(party, x, 4)) == pytest.approx(0.5 + 8 + 5), "8 B each way, 10 B dealt to two"


def test_a_link_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="is no link"):
        compile_model(nn.LayerNorm(4), (torch.randn(2, 4),), link="fast")
    assert compile_model(nn.LayerNorm(8), (torch.randn(2, 8),)).plan.choices[0].link == NETS["lan"].name
