"""A plan is refused before it runs when it is damaged, from another release, or says something else than its table."""

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moiety.compile import program, rehearse, signature
from moiety.compile.client import prepare_client
from moiety.compile.plan import Node, Plan
from moiety.errors import PlanError, PlanMismatch
from moiety.mpc import lockstep
from moiety.mpc.rounds import Role

from .support import Case, compiled

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def case() -> Case:
    torch.manual_seed(0)
    return compiled(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), torch.randn(2, 4))


def with_node(plan: Plan, at: int, node: Node) -> Plan:
    return replace(plan, nodes=(*plan.nodes[:at], node, *plan.nodes[at + 1 :]))


def at(plan: Plan, op: str) -> int:
    return [node.op for node in plan.nodes].index(op)


def test_the_table_is_what_the_program_says(case: Case) -> None:
    assert program.wave_table(program.check_waves(case.plan).costs) == case.plan.waves


def test_the_client_alone_says_and_hears_what_it_would_following_the_plan(case: Case) -> None:
    plan, found = case.plan, program.check_waves(case.plan)
    waves = sum(1 for wave in found.costs.waves if wave.spoken)
    whole, alone = program.prepare(plan), prepare_client(plan, found, waves)
    assert not any(alone.inputs)

    def drive(client: program.Prepared) -> lockstep.Transcript:
        sources = rehearse.Sources(plan, case.compiled.weights, signature.encode_inputs(plan, (torch.ones(2, 4),), {}), 0, {}, True)
        members = dict.fromkeys(Role, whole) | {Role.CLIENT: client}
        return lockstep.run({role: lambda party: members[party.role].schedule(party, sources.at(party)).run() for role in Role})

    one, two = drive(whole), drive(alone)
    assert [[(w.sender, w.receiver, w.spec, w.value.tobytes()) for w in wave] for wave in one.waves] == [
        [(w.sender, w.receiver, w.spec, w.value.tobytes()) for w in wave] for wave in two.waves
    ]
    expected, heard = one.results[Role.CLIENT], two.results[Role.CLIENT]
    assert heard.keys() == expected.keys()
    assert all((heard[i] == expected[i]).all() for i in heard)


def test_a_client_that_nothing_is_opened_to_follows_the_whole_plan(case: Case) -> None:
    found = program.check_waves(case.plan)
    assert prepare_client(case.plan, found._replace(opened={}), found.costs.rounds).inputs == program.prepare(case.plan).inputs


@pytest.mark.parametrize("change", [lambda w: w[:-1], lambda w: (*w, w[0]), lambda w: (w[0], w[2], w[1], *w[3:]), lambda w: ()])
def test_another_table_is_refused(case: Case, change) -> None:
    with pytest.raises(PlanMismatch, match="wave table"):
        program.check_waves(replace(case.plan, waves=change(case.plan.waves)))


def test_a_program_that_says_more_is_refused(case: Case) -> None:
    plan = case.plan
    with pytest.raises(PlanMismatch):
        program.check_waves(replace(plan, weights=(*plan.weights[:-1], replace(plan.weights[-1], shape=(6, 3)))))


def test_an_unknown_operation_is_refused(case: Case) -> None:
    with pytest.raises(PlanError, match="'teleport'"):
        program.check_waves(with_node(case.plan, at(case.plan, "table"), Node("teleport", (0,))))


@pytest.mark.parametrize("reads", [(5,), (99,), (-1,)])
def test_a_forward_reference_is_refused(case: Case, reads: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="damaged"):
        program.check_waves(with_node(case.plan, 2, Node("negate", reads)))


def test_decoding_errors_say_what_to_do(case: Case) -> None:
    for data in (b"", b"no plan", case.plan.encode()[:-3], msgspec.msgpack.encode({"nodes": 3}), msgspec.msgpack.encode([1])):
        with pytest.raises(PlanError, match="not a plan"):
            Plan.decode(data)
    with pytest.raises(PlanError, match="compile the model again"):
        Plan.decode(replace(case.plan, format=99).encode())


def test_a_plan_survives_its_journey(case: Case) -> None:
    assert Plan.decode(case.plan.encode()).encode() == case.plan.encode()


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3).map(lambda heads: 2 * heads))


@settings(max_examples=8, deadline=None)
@given(SHAPES, st.booleans(), st.booleans())
def test_costs_of_any_shape_are_what_is_spoken(shape: tuple[int, int, int], causal: bool, check: bool) -> None:
    """Case.run compares bytes on every link in every wave with the plan's table."""

    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.qkv, self.norm, self.head = nn.Linear(width, 3 * width), nn.LayerNorm(width), nn.Linear(width, 3)

        def forward(self, x):
            q, k, v = self.qkv(self.norm(x)).unsqueeze(1).chunk(3, dim=-1)
            x = x + F.scaled_dot_product_attention(q, k, v, is_causal=causal).squeeze(1)
            return self.head(F.relu(x)), F.silu(x).sum(-1)

    torch.manual_seed(1)
    case = compiled(Model(shape[-1]), torch.randn(shape), check_ranges=check)
    for got, wanted in zip(case.run(), case.expected(), strict=True):
        assert (got - wanted).abs().max() < 2e-2  # a row of two that are nearly equal makes any norm coarse
