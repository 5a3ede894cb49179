"""The time that is predicted for a run is played through from the plan's own table, and the tree of modules has the plan's own bytes."""

from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
import torch
from tests.engine import plans

from moiety.compile import program
from moiety.compile.model import compile_model
from moiety.compile.plan import LINKS, Plan
from moiety.engine import timing
from moiety.engine.effort import Effort, measure
from moiety.engine.timing import net, predict
from moiety.engine.tree import Branch, tree
from moiety.errors import ConfigError
from moiety.mpc.rounds import Role
from moiety.net import NETS, Net

NEAR = 0.01


@pytest.fixture(scope="module")
def plan() -> Plan:
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU())
    return compile_model(torch.nn.Sequential(first, torch.nn.Linear(16, 4)), (torch.randn(2, 8),), calibration=()).plan


@pytest.fixture(scope="module")
def efforts(plan: Plan) -> list[Effort]:
    return measure(plan)


def idle(plan: Plan) -> list[Effort]:
    return [Effort()] * len(plan.nodes)


def test_every_round_waits_one_delay(plan: Plan) -> None:
    """The client's words arrive while the parties still agree, which takes three delays; what is opened takes one more."""
    rounds = program.costs(plan).rounds
    found = predict(plan, Net("slow", 1.0, 1e30), idle(plan))
    assert found.seconds == pytest.approx(3 + rounds - 1, rel=NEAR)
    assert found.latency_s == rounds


def test_bytes_take_their_link_and_dealing_runs_ahead() -> None:
    """Four words of 0.8 MB on each link at 1 MB/s: input, what is dealt, what is said, output. What is dealt comes with the input."""
    plan = plans.chain(1, (100_000,))
    found = predict(plan, Net("narrow", 0.0, 1e6), idle(plan))
    assert found.seconds == pytest.approx(3 * 0.8, rel=NEAR)
    assert (found.transfer_s, found.dealt_s) == (pytest.approx(3 * 0.8, rel=NEAR), 0.8)


def test_a_full_dealing_link_holds_the_rounds_up() -> None:
    """Were everything dealt 20 times as wide, the run would take as long as dealing."""
    plan = plans.mlp(rows=64, hidden=64)
    wider = [[n * (20 if link[0] is Role.P0 else 1) for n, link in zip(row, LINKS, strict=True)] for row in plan.waves]
    plan = msgspec.structs.replace(plan, waves=tuple(map(tuple, wider)))
    found = predict(plan, Net("narrow", 0.0, 1e6), idle(plan))
    assert found.dealt_s > found.transfer_s
    assert found.dealt_s <= found.seconds <= found.dealt_s + found.transfer_s


def test_computing_counts_where_it_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plans.chain(3)
    rescales = [i for i, node in enumerate(plan.nodes) if node.op == "rescale"]
    at_once = Net("at once", 0.0, 1e30)

    def seconds(effort: Effort, net: Net = at_once) -> float:
        return predict(plan, net, [effort if i in rescales else Effort() for i in range(len(plan.nodes))]).seconds

    assert seconds(Effort((0.0, 0.0), (1.0, 2.0), (0.0, 0.0))) == pytest.approx(9, rel=NEAR)
    assert seconds(Effort((4.0, 0.0), (1.0, 2.0), (0.0, 0.0))) == pytest.approx(12 + 3, rel=NEAR), "the last wait for what P0 deals"
    monkeypatch.setattr(timing, "cores", lambda: 2)
    together = Net("at once", 0.0, 1e30, shared=True)
    assert seconds(Effort((1.0, 0.0), (5.0, 5.0), (0.0, 0.0)), together) == pytest.approx(30 + 1.5, rel=0.1), "half of what P0 takes"


def test_efforts_have_a_piece_for_every_exchange(plan: Plan, efforts: Sequence[Effort]) -> None:
    lives = Counter(step for wave in program.costs(plan).waves for step in wave.spoken)
    for i, (node, effort) in enumerate(zip(plan.nodes, efforts, strict=True)):
        pieces = 0 if node.op in ("weight", "constant") else 1 + lives[i]
        assert [len(of) for of in effort] == [pieces] * 3, node.op
        assert all(seconds > 0 for of in (effort.helper_s, effort.evaluator_s) for seconds in of)
        assert all((seconds > 0) == (node.op in ("input", "reveal")) for seconds in effort.client_s), "it follows nothing else"


def test_equal_nodes_are_measured_once() -> None:
    """Also where their ranges differ; but not where their sizes do."""
    plan = plans.chain(5)
    nodes = [
        msgspec.structs.replace(node, params={"fraction": 12 - i % 2}) if node.op == "rescale" else node
        for i, node in enumerate(plan.nodes)
    ]
    found = [
        effort
        for node, effort in zip(nodes, measure(msgspec.structs.replace(plan, nodes=tuple(nodes))), strict=True)
        if node.op == "rescale"
    ]
    assert len(found) == 5
    assert all(effort is found[0] for effort in found)
    rows = measure(plans.mlp())
    assert rows[3] is not rows[9], "rescales of 32 and of 8 columns"


def test_the_tree_holds_every_byte_once(plan: Plan, efforts: Sequence[Effort]) -> None:
    whole = tree(plan, NETS["lan"], efforts, depth=9)
    assert whole.spoken_bytes + whole.dealt_bytes == sum(sum(row) for row in plan.waves)
    assert whole.rounds == program.costs(plan).rounds
    assert whole.products == 2 * 2 * (8 * 16 + 16 * 4)
    names = {part.name: part for part in whole.parts}
    assert {"0", "1"} <= names.keys()
    assert [part.name for part in names["0"].parts] == ["0", "1"]
    assert [lookup.function for lookup in names["0"].parts[1].lookups] == ["gelu"]
    assert leaves(whole) == (whole.spoken_bytes, whole.dealt_bytes)
    assert [part.parts for part in tree(plan, NETS["lan"], efforts, depth=1).parts] == [()] * len(whole.parts)


def leaves(branch: Branch) -> tuple[int, int]:
    """Bytes of what has no parts, added up; of a module with parts and nodes of its own, those too."""
    own = [leaves(part) for part in branch.parts] or [(branch.spoken_bytes, branch.dealt_bytes)]
    return sum(spoken for spoken, _ in own), sum(dealt for _, dealt in own)


def test_links_by_name_and_by_number() -> None:
    assert net("wan") == NETS["wan"]
    assert net("20ms,100Mbit") == Net("20ms,100Mbit", 0.02, 12.5e6)
    own = net("lan", "20ms", "100Mbit")
    assert (own.delay_s, own.bytes_per_s, own.name) == (0.01, 12.5e6, "20 ms, 100 Mbit/s")
    for given in (("moon",), ("lan", "20"), ("lan", None, "fast"), ("lan", None, "0Mbit")):
        with pytest.raises(ConfigError):
            net(*given)
