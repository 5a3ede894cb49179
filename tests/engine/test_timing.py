"""The time that is predicted for a run is made of the plan's own table, and the tree of modules of the plan's own bytes."""

import pytest
import torch

from moiety.compile import program
from moiety.compile.model import compile_model
from moiety.compile.plan import LINKS, Plan
from moiety.engine.timing import NETS, Net, Rates, Work, net, predict, rates, work
from moiety.engine.tree import Branch, tree
from moiety.errors import ConfigError
from moiety.mpc.rounds import Role

IDLE = Rates(0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def plan() -> Plan:
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU())
    return compile_model(torch.nn.Sequential(first, torch.nn.Linear(16, 4)), (torch.randn(2, 8),), calibration=()).plan


def test_waiting_and_transfer_follow_from_the_wave_table(plan: Plan) -> None:
    slow = Net("slow", 2.0, 1e30)
    rounds = program.costs(plan).rounds
    assert predict(plan, slow, IDLE).seconds == rounds * 1.0
    narrow = predict(plan, Net("narrow", 0.0, 1000.0), IDLE)
    busiest = sum(max(nbytes for link, nbytes in zip(LINKS, row, strict=True) if link[0] is not Role.P0) for row in plan.waves)
    dealt = max(sum(row[LINKS.index((Role.P0, evaluator))] for row in plan.waves) for evaluator in (Role.P1, Role.P2))
    assert narrow.transfer_s == pytest.approx(busiest / 1000)
    assert narrow.dealt_s == pytest.approx(dealt / 1000)
    assert narrow.seconds == pytest.approx(max(busiest, dealt) / 1000)


def test_work_counts_what_an_evaluator_multiplies(plan: Plan) -> None:
    total = sum(work(plan), Work())
    assert total.products == 2 * 2 * (8 * 16 + 16 * 4)
    assert total.weight_words == 2 * (8 * 16 + 16 * 4)
    busy = Rates(0.0, 0.0, 0.0, 1.0, 0.0)
    assert predict(plan, Net("at once", 0.0, 1e30), busy).seconds == pytest.approx(total.products)


def test_rates_of_this_machine_are_positive() -> None:
    found = rates()
    assert all(rate >= 0 for rate in found)
    assert found.node_s > 0
    assert found.product_s > 0


def test_the_tree_holds_every_byte_once(plan: Plan) -> None:
    whole = tree(plan, NETS["lan"], IDLE, depth=9)
    assert whole.spoken_bytes + whole.dealt_bytes == sum(sum(row) for row in plan.waves)
    assert whole.rounds == program.costs(plan).rounds
    names = {part.name: part for part in whole.parts}
    assert {"0", "1"} <= names.keys()
    assert [part.name for part in names["0"].parts] == ["0", "1"]
    assert [lookup.function for lookup in names["0"].parts[1].lookups] == ["gelu"]
    assert leaves(whole) == (whole.spoken_bytes, whole.dealt_bytes)
    assert [part.parts for part in tree(plan, NETS["lan"], IDLE, depth=1).parts] == [()] * len(whole.parts)


def leaves(branch: Branch) -> tuple[int, int]:
    """Bytes of what has no parts, added up; of a module with parts and nodes of its own, those too."""
    own = [leaves(part) for part in branch.parts] or [(branch.spoken_bytes, branch.dealt_bytes)]
    return sum(spoken for spoken, _ in own), sum(dealt for _, dealt in own)


def test_networks_by_name_and_by_number() -> None:
    assert net("wan") == Net("wan", 0.04, 12.5e6)
    own = net("lan", "20ms", "100Mbit")
    assert (own.rtt_s, own.bytes_per_s, own.name) == (0.02, 12.5e6, "20 ms, 100 Mbit/s")
    for given in (("moon",), ("lan", "20"), ("lan", None, "fast"), ("lan", None, "0Mbit")):
        with pytest.raises(ConfigError):
            net(*given)
