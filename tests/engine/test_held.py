"""A model whose owner runs P1: it knows the matrices of linear layers, the others hold as little of them as ever."""

import msgspec
import numpy as np
import pytest

from moiety.compile.plan import Node, Plan
from moiety.engine.launch import MODEL_OWNER, LocalParties
from moiety.engine.messages import Tensor
from moiety.engine.owner import open_session
from moiety.engine.policy import accept_plan
from moiety.errors import InconsistentInput, InputError, PlanError, PolicyRefused
from moiety.mpc.rounds import Role

from . import plans
from .conftest import BRISK, Threads, as_client, as_owner
from .test_refusals import alter
from .test_run import check_counters

torch = pytest.importorskip("torch")

WEIGHTS = plans.mlp_weights()


def held(rows: int = 4) -> Plan:
    from moiety.compile.hold import hold

    return hold(plans.mlp(rows), {name: torch.from_numpy(array) for name, array in WEIGHTS.items()})


def test_the_plan_says_it() -> None:
    from moiety.compile.hold import hold

    plan, shared = held(), plans.mlp()
    assert [weight.clear for weight in plan.weights] == [2, 2]
    assert "P1 knows 2 of the 2 weights in the clear" in plan.leakage[-1]
    assert plan.hash != shared.hash
    assert Plan.decode(plan.encode()).hash == plan.hash
    assert sum(map(sum, plan.waves)) - sum(map(sum, shared.waves)) == 8 * (4 * 16 + 4 * 32)  # a word an input element
    large = hold(shared, {"w0": torch.full((16, 32), 8.0), "w1": torch.full((32, 8), 2.0**19)})
    assert [weight.clear for weight in large.weights] == [4, 8]
    with pytest.raises(InputError, match="only P1 can hold weights, not 'P2'"):
        hold(shared, {}, "P2")


def test_answers_and_what_the_parties_keep(local: LocalParties) -> None:
    x, plan = np.random.default_rng(0).normal(size=(4, 16)), held()
    with as_owner(local) as owner:
        assert set(owner.deploy("held", [plan], WEIGHTS)) == {"w0", "w1"}
        assert not owner.deploy("held", [plan, held(rows=2)], WEIGHTS), "what all hold is not shared again"
        owner.deploy("mlp", [plans.mlp()], WEIGHTS)
    with as_client(local) as client:
        assert plan.hash in {found.hash for found in client.fetch_plans("held")}
        result, usual = client.run("held", plan, plans.words(x)), client.run("mlp", plans.mlp(), plans.words(x))
    assert np.abs(plans.reals(result) - plans.reals(usual)).max() <= 2**-10
    assert np.abs(plans.reals(result) - plans.mlp_float(WEIGHTS, x)).max() < 0.005
    check_counters(plan, result.report)
    words = 16 * 32 + 32 * 32  # whole panels of 32 columns
    assert [result.report.of(role).weight_bytes for role in ("P0", "P1", "P2")] == [8 * words, 2 * words, 8 * words]


def test_an_owner_who_does_not_run_p1(threads: Threads) -> None:
    """Here no file says who runs it, and the parties refuse weights, manifest and plan."""
    with (
        open_session(threads.directory, threads.identity(MODEL_OWNER), deadlines=BRISK) as owner,
        pytest.raises(PolicyRefused, match="run_by"),
    ):
        owner.deploy("mlp", [held()], WEIGHTS)
    with open_session(threads.directory, threads.identity(MODEL_OWNER), deadlines=BRISK) as owner:
        owner.share("mlp", [plans.mlp()], WEIGHTS)
        with pytest.raises(PolicyRefused, match="which only an owner may who runs it"):
            owner.give("mlp", [held()])


@pytest.mark.parametrize("peer", ["party1", "party2"])
def test_an_owner_who_tells_p1_other_weights_than_p2_has(local: LocalParties, peer: str) -> None:
    with as_owner(local, wrap=alter(peer, 4, 60)) as owner, pytest.raises(InconsistentInput, match="different weights"):
        owner.deploy("fresh", [held()], WEIGHTS)
    with as_owner(local) as owner:
        assert owner.holding("fresh").weights == {}


def test_weights_that_do_not_fit_what_the_plan_says(local: LocalParties) -> None:
    with as_owner(local) as owner, pytest.raises(InputError, match="'w0' does not fit 2 octets"):
        owner.deploy("fresh", [held()], {**WEIGHTS, "w0": WEIGHTS["w0"] + 100})


def test_plans_that_cannot_be() -> None:
    plan = held()
    odd = msgspec.structs.replace(plan, weights=(msgspec.structs.replace(plan.weights[0], clear=3), plan.weights[1]))
    read = msgspec.structs.replace(plan, nodes=(*plan.nodes, Node("reshape", (1,), {"shape": (32, 16)})))
    for wrong in (odd, read):
        with pytest.raises(PlanError, match="lets P1 hold the weight 'w0', which cannot be"):
            accept_plan(wrong.encode(), wrong.hash, Role.P0)


def test_what_p2_is_told_has_a_mask_of_a_stream_that_it_never_has() -> None:
    from moiety import ring
    from moiety.engine import deploy
    from moiety.engine.pieces import Masks, Matrix, pieces
    from moiety.mpc.party import Key

    weight = held().weights[0]
    tensor, session, streams = Tensor.of(weight), b"s" * 32, {Key.D: b"d" * 32, Key.E: b"e" * 32}
    matrix, [piece] = Matrix(tensor, WEIGHTS["w0"]), list(pieces(tensor))
    clear, masked = deploy.told(Masks(streams, session, 1), matrix, 0, piece)
    encoded = ring.encode(WEIGHTS["w0"], weight.fraction).view(np.int64)
    assert np.array_equal(clear.reshape(16, 32), encoded)
    assert Masks({Key.E: b"e" * 32}, session, 1).known_to_p1(0, piece) is None
    for role_streams in ({Key.D: b"d" * 32}, streams):
        mask = Masks(role_streams, session, 1).known_to_p1(0, piece)
        assert np.array_equal((masked - mask).view(np.int64).reshape(16, 32), encoded)
    again = Masks(streams, session, 2).known_to_p1(0, piece)
    assert not np.array_equal(again, Masks(streams, session, 1).known_to_p1(0, piece)), "every sharing has its own"
