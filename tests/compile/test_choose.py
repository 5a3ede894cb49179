"""A plan takes the form of a step that its link carries soonest, and says so."""

import msgspec
import pytest
import torch
from torch import nn

from moiety.compile import points, program
from moiety.compile.builder import Builder, Options
from moiety.compile.choose import seconds
from moiety.compile.forms import STEPS
from moiety.compile.model import compile_model
from moiety.compile.plan import Node, Plan
from moiety.engine.effort import Effort, measure
from moiety.engine.timing import predict
from moiety.errors import ConfigError
from moiety.mpc import rep3
from moiety.mpc.share import Share
from moiety.net import NETS, Net, net

from .replay import Block
from .support import Case, compiled

LINKS = {"slow": "50ms,1Gbit", "thin": "1us,1Mbit"}
NORMS = [STEPS["layers"], STEPS["factors"]]
FORMS = {
    "slow": {"truncation and squares": "together", **{name: few for name, few, _ in NORMS}},
    "thin": {"truncation and squares": "apart", **{name: many for name, _, many in NORMS}},
}


class Scores(nn.Module):
    """Products of bounded rows: what they read of a layer is more than its truncation leaves, and less than 64 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), x)


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
    assert thin.rounds - slow.rounds == 4, "squares with the truncation, twice; a look-up as a factor; a layer that does not wait for it"
    assert thin.total_bytes < slow.total_bytes
    few = {"rescale_and_square": 2, "table_factor": 2, "multiply_factor": 2}
    assert {op: cases["slow"].ops[op] for op in few} == few
    assert not few.keys() & cases["thin"].ops.keys()


def test_a_plan_says_what_was_chosen_and_why(cases) -> None:
    for link, case in cases.items():
        chosen = {choice.step: next(iter(choice.seconds)) for choice in case.plan.choices}
        assert chosen == FORMS[link]
        for choice in case.plan.choices:
            assert choice.link == LINKS[link]
            assert list(choice.seconds.values()) == sorted(choice.seconds.values())
        assert Plan.decode(case.plan.encode()).choices == case.plan.choices
        places = [choice.places for choice in case.plan.choices if choice.step == STEPS["factors"][0]]
        assert places == [2], "both norms, which are alike"


def test_steps_of_equal_cost_are_one_choice_of_several_places() -> None:
    builder = Builder(Options(), {})
    for size in (3, 3, 4):
        builder.form("step", {"a form": lambda party, size=size: rep3.reshare(party, None, (size,), 0)})
    assert [(choice.places, choice.whole) for choice in builder.choices] == [(2, False), (1, False)]


@pytest.mark.parametrize("llama", [False, True])
def test_a_layer_of_a_transformer_in_all_forms(llama) -> None:
    """Pending gains, heads, reshapes, a causal mask whose rows are lifted, a residual stream: on either link the same answer."""
    torch.manual_seed(0)
    made = {link: compiled(Block(llama), torch.randn(1, 6, 16), link=LINKS[link]) for link in LINKS}
    assert all(case.error() < 4e-3 for case in made.values())
    slow, thin = (program.costs(made[link].plan) for link in ("slow", "thin"))
    assert slow.rounds <= thin.rounds - 5
    assert slow.total_bytes > thin.total_bytes


def test_a_product_is_computed_where_it_need_not_be_raised() -> None:
    made = {link: compiled(Scores(), torch.randn(1, 4, 8), link=LINKS[link]) for link in LINKS}
    assert all(case.error() < 2e-3 for case in made.values())
    slow, thin = ([node.params for node in made[link].plan.nodes if node.op == "linear"] for link in ("slow", "thin"))
    assert [(w["width"], w["bits"]) for w in slow] == [(40, 40)] * 2
    assert [(w["width"], w["bits"]) for w in thin] == [(24, 40)] * 2
    step, few, many = STEPS["wide"]
    chosen = {link: next(iter(c.seconds)) for link, case in made.items() for c in case.plan.choices if c.step == step}
    assert chosen == {"slow": few, "thin": many}


def by_points(case: Case) -> list[bool]:
    return ["points" in node.params for node in case.plan.nodes if node.op == "table"]


@pytest.mark.parametrize("llama", [False, True])
def test_look_ups_by_point_functions_where_a_round_takes_long(llama) -> None:
    torch.manual_seed(0)
    near, far = (compiled(Block(llama), torch.randn(1, 6, 16), link=link) for link in ("lan", "20ms,1Gbit"))
    assert not any(by_points(near))
    assert any(by_points(far))
    assert far.error() < 4e-3
    chosen = {next(iter(choice.seconds)) for choice in far.plan.choices if choice.step == points.STEP}
    assert points.FEW in chosen
    without = msgspec.structs.replace(far.plan, nodes=tuple(stripped(node) for node in far.plan.nodes))
    without = msgspec.structs.replace(without, waves=program.wave_table(program.costs(without)))
    assert program.costs(far.plan).rounds < program.costs(without).rounds
    soon, late = (predict(plan, net("20ms,1Gbit"), measure(plan)).seconds for plan in (far.plan, without))
    assert soon < late, "what it computes included, as measured here"


def stripped(node: Node) -> Node:
    return Node(node.op, node.inputs, {key: value for key, value in node.params.items() if key != "points"})


def test_many_look_ups_stay_one_hots() -> None:
    """Of 2^17 values the keys would take longer than a round does."""
    few, many = (compiled(nn.Tanh(), torch.randn(n), link="20ms,1Gbit", check_ranges=False) for n in (1 << 6, 1 << 17))
    assert (by_points(few), by_points(many)) == ([True], [False])


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
