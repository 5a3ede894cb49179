"""What a party is willing to hold: it refuses by sizes before it allocates, and its account is empty again when all have left."""

import threading
import time
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest

from moiety.compile.plan import Input, Node, Output, Plan
from moiety.engine import member, party
from moiety.engine import owner as owner_side
from moiety.engine.launch import CLIENT, MODEL_OWNER
from moiety.engine.limits import Limits, Memory
from moiety.engine.owner import OwnerSession, open_session
from moiety.engine.policy import accept_plan
from moiety.engine.states import States
from moiety.engine.waves import Bound
from moiety.errors import InputError, LimitReached, MoietyError, PlanError, PlanMismatch
from moiety.mpc.rounds import Role

from . import plans
from .conftest import BRISK, Threads

ROOMY = Limits(memory_bytes=64 << 30)
TIGHT = Limits(memory_bytes=300_000, plans=2, models=2, sessions_per_owner=2, plan_bytes=20_000)


def owner(threads: Threads, name: str) -> OwnerSession:
    return open_session(threads.directory, threads.identity(name), deadlines=BRISK)


def large(*middle: Node) -> Plan:
    """A small input, what is made of it, and the sum of that."""
    nodes = (Node("input", (), {"index": 0}), *middle)
    nodes += (Node("total", (len(nodes) - 1,), {"axes": (0,), "keepdims": True}), Node("reveal", (len(nodes),)))
    outputs = (Output("y", len(nodes) - 1, (1,), 12, 9.0),)
    return plans.finished(Plan(nodes=nodes, inputs=(Input("x", (1,), "fixed", 12, 8.0),), outputs=outputs))


EXPANDED = Node("expand", (0,), {"shape": (1 << 36,)})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: large(EXPANDED), "shape .68719476736,."),
        (lambda: large(Node("pad", (0,), {"before": (1 << 36,), "after": (0,)})), r"node 1 of the plan .pad. makes a tensor"),
        (lambda: large(*many(20)), "a run of the plan takes"),
        (lambda: large(*outer(300)), r"node 7 of the plan .add. makes a tensor of 8,100,000,000"),
    ],
)
def test_a_huge_tensor_is_refused_before_it_is_allocated(make: Any, said: str) -> None:
    plan = make()
    data, announced = plan.encode(), plan.hash
    tracemalloc.start()
    try:
        for role in (Role.P0, Role.P1, Role.P2):
            with pytest.raises(LimitReached, match=said):
                accept_plan(data, announced, role, msgspec.structs.replace(ROOMY, memory_bytes=16 << 30))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def many(count: int) -> list[Node]:
    """So many sums of 2^27 elements, all made before the first two of them are added up."""
    sums = [Node("expand", (0,), {"shape": (1 << 27,)}), *[Node("add", (1, 1))] * count]
    return [*sums, *(Node("add", (2 + i, len(sums) + i)) for i in range(count))]


def outer(count: int) -> list[Node]:
    """``count ** 4`` elements by broadcasting, with no such number in a parameter."""
    nodes = [Node("take", (0,), {"axis": 0, "indices": (0,) * count})]
    for n in (count, count**2):
        at = len(nodes)
        nodes += [Node("reshape", (at,), {"shape": (n, 1)}), Node("reshape", (at,), {"shape": (1, n)}), Node("add", (at + 1, at + 2))]
    return nodes


def test_a_shape_in_the_parameters_counts_before_the_operation_sees_it() -> None:
    plan = plans.chain(1)
    nodes = (plan.nodes[0], Node("zeros_like", (0,), {"shape": (1 << 36,), "fraction": 12}), *plan.nodes[2:])
    bad = msgspec.structs.replace(plan, nodes=nodes)
    with pytest.raises(LimitReached, match="elements that are served here"):
        accept_plan(bad.encode(), bad.hash, Role.P1, ROOMY)


def test_too_many_operations() -> None:
    plan = plans.chain(100)
    with pytest.raises(LimitReached, match="the plan has 202 operations, more than the 201"):
        accept_plan(plan.encode(), plan.hash, Role.P1, Limits(plan_nodes=201))
    accept_plan(plan.encode(), plan.hash, Role.P1, Limits(plan_nodes=202))


def with_state(**changed: Any) -> Plan:
    plan = plans.running_sum(3)
    return msgspec.structs.replace(plan, states=(msgspec.structs.replace(plan.states[0], **changed),))


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_state(axis=2),
        lambda: with_state(axis=-1),
        lambda: with_state(write=99),
        lambda: with_state(write=-2),
        lambda: with_state(write=4),  # the constant
        lambda: msgspec.structs.replace(
            with_state(write=7), nodes=(*plans.running_sum(3).nodes, Node("as_fraction", (0,), {"fraction": 13}))
        ),
        lambda: with_state(axis=1),  # rows of another width
        lambda: twice(plans.running_sum(3)),
    ],
)
def test_states_that_no_session_could_keep(make: Any) -> None:
    plan = make()
    with pytest.raises(PlanError):
        accept_plan(plan.encode(), plan.hash, Role.P1)


def finer(plan: Plan) -> Plan:
    """One node more: the input with another fraction."""
    return msgspec.structs.replace(plan, nodes=(*plan.nodes, Node("as_fraction", (0,), {"fraction": 13})))


def twice(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, states=plan.states * 2)


def bound(plan: Plan) -> Bound:
    return accept_plan(plan.encode(), plan.hash, Role.P1)


def test_caches_are_accounted_for_and_serve_one_generation_of_their_model() -> None:
    memory, plan = Memory(8 * 2 * 3 * 5), bound(plans.running_sum(9))
    states = States(Role.P1, memory)
    for position in range(3):
        states.prepare("m", 0, plan, position)
        states._held["m"].by_name["cache"].length = position + 1  # what a run stores
    assert memory.taken == states.nbytes == 8 * 2 * 3 * 4
    with pytest.raises(InputError, match="beyond the 3 rows"):
        states.prepare("m", 0, plan, 4)
    for position in (3, 4):
        states._held["m"].by_name["cache"].length = position
        if position == 4:
            with pytest.raises(LimitReached, match="the cache 'cache' of 'm' needs 192 bytes"):
                states.prepare("m", 0, plan, position)
        else:
            states.prepare("m", 0, plan, position)
    with pytest.raises(PlanMismatch, match="was replaced since this session's last run"):
        states.prepare("m", 1, plan, 4)
    assert memory.taken == states.nbytes == 0
    states.prepare("m", 1, plan, 0)
    other = msgspec.structs.replace(plans.running_sum(9, width=2))
    with pytest.raises(PlanMismatch, match="this session holds it as"):
        states.prepare("m", 1, bound(other), 0)
    states.close()
    assert memory.taken == 0


def test_the_account() -> None:
    memory = Memory(100)
    with memory.held(60, "this"):
        with pytest.raises(LimitReached, match="that needs 41 bytes, but this party holds 60 of the 100"):
            memory.take(41, "that")
        memory.take(40, "that")
    assert memory.taken == 40


@pytest.fixture
def houses(monkeypatch: pytest.MonkeyPatch) -> list[member.House]:
    """What the sessions of the parties share, as the parties make it."""
    made: list[member.House] = []
    make = party.House

    def record(*given: Any) -> member.House:
        made.append(make(*given))
        return made[-1]

    monkeypatch.setattr(party, "House", record)
    return made


@pytest.mark.parametrize("threads", [{"limits": TIGHT}], indirect=True)
def test_limits_of_a_party(houses: list[member.House], threads: Threads) -> None:
    plan, x = plans.mlp(), plans.words(np.ones((4, 16)))
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("mlp", [plan], plans.mlp_weights())
    held = [house.memory.taken for house in houses if house.memory.taken]
    assert len(held) == 3
    for what, said in [
        (lambda s: s.deploy("mlp", [plans.mlp(hidden=2000)], plans.mlp_weights(hidden=2000), replace=True), "sharing the weights .* needs"),
        (lambda s: s.deploy("more", [plans.chain(3000)], {}), "above the limit of 20000"),
        (lambda s: s.deploy("mlp", [plans.mlp(rows=2), plans.mlp(rows=3)], {}), "already has 2 plans here"),
        (lambda s: [s.deploy(name, [plans.chain(1)], {}) for name in ("two", "three")], "already holds 2 models"),
        (lambda s: s.deploy("mlp", [plans.chain(1, (6000,))], {}, replace=True), "elements that are served here|a run of the plan takes"),
    ]:
        with owner(threads, MODEL_OWNER) as session, pytest.raises(MoietyError, match=said):
            what(session)
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("mlp", [plan], plans.mlp_weights(), replace=True)
        session.deploy("two", [plans.running_sum(3)], {}, replace=True)
    with owner(threads, CLIENT) as one, owner(threads, CLIENT) as other:
        one.run("mlp", plan, x), other.run("mlp", plan, x)
        with pytest.raises(LimitReached, match="already serves 2 sessions of client"):
            owner(threads, CLIENT)
        owner(threads, MODEL_OWNER).close()
        one.run("two", plans.running_sum(3), plans.words(np.ones((1, 3))), position=0)
        assert all(house.memory.taken > kept(house) for house in houses)
    left(houses)


def test_room_for_expected_weights(houses: list[member.House], threads: Threads) -> None:
    words, weights, x = 40_000, plans.mlp_weights(), np.linspace(-1, 1, 64).reshape(4, 16)
    with owner(threads, MODEL_OWNER) as session:
        session.expect("mlp", words)
        assert sorted(house.memory.taken for house in houses) == [8 * words, 16 * words, 16 * words]
        session.deploy("mlp", [plans.mlp()], weights)
        session.expect("mlp", words)  # something is here already
        assert [house.memory.taken - kept(house) for house in houses] == [0, 0, 0]
        session.expect("another", words, 4)
        assert sorted(house.memory.taken - kept(house) for house in houses) == [4 * words, 8 * words, 8 * words]
        session.expect("another", 0)
        assert [house.memory.taken - kept(house) for house in houses] == [0, 0, 0]
        session.expect("another", words)
        assert all(house.memory.taken > kept(house) for house in houses)
    with owner(threads, CLIENT) as session:
        found = session.run("mlp", plans.mlp(), plans.words(x))
    assert np.abs(plans.reals(found) - plans.mlp_float(weights, x)).max() < 0.005
    left(houses)


def left(houses: list[member.House]) -> None:
    """The account has nothing but models, soon: the parties take a moment to see that a session ended."""
    deadline = time.monotonic() + 10
    while any(house.memory.taken != kept(house) for house in houses) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [house.memory.taken - kept(house) for house in houses] == [0, 0, 0]


def kept(house: member.House) -> int:
    """What the models take."""
    return sum(model.nbytes for model in house.store.models().values())


def test_one_deployment_of_a_model_at_a_time(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once could leave one party with the weights of the first, another with those of the second."""
    plan, begun, go, send = plans.mlp(), threading.Event(), threading.Event(), owner_side.send_weights

    def late(*given: Any) -> None:
        begun.set()
        assert go.wait(10)
        send(*given)

    def deploy() -> None:
        with owner(threads, MODEL_OWNER) as session:
            session.deploy("mlp", [plan], plans.mlp_weights())

    monkeypatch.setattr(owner_side, "send_weights", late)
    first = threading.Thread(target=deploy)
    first.start()
    assert begun.wait(10)
    monkeypatch.setattr(owner_side, "send_weights", send)
    with owner(threads, MODEL_OWNER) as session, pytest.raises(LimitReached, match="is being deployed in another session"):
        session.deploy("mlp", [plan], plans.mlp_weights(seed=2))
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("another", [plan], plans.mlp_weights(seed=3))
    go.set()
    first.join(20)
    x = np.ones((4, 16))
    with owner(threads, CLIENT) as client:
        for model, seed in (("mlp", 1), ("another", 3)):
            found = plans.reals(client.run(model, plan, plans.words(x)))
            assert np.abs(found - plans.mlp_float(plans.mlp_weights(seed), x)).max() < 0.005


def test_a_replaced_model_does_not_go_on_with_old_caches(threads: Threads) -> None:
    steps, ones = plans.running_sum(4), plans.words(np.ones((1, 3)))
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("sums", [steps], {}, replace=True)
    with owner(threads, CLIENT) as client, owner(threads, CLIENT) as other:
        for one in (client, other):
            one.run("sums", steps, ones, position=0)
        with owner(threads, MODEL_OWNER) as session:
            session.deploy("sums", [steps], {}, replace=True)
        with pytest.raises(PlanMismatch, match="'sums' was replaced since this session's last run"):
            client.run("sums", steps, ones, position=1)
        other.run("sums", steps, ones, position=0)
        assert np.abs(plans.reals(other.run("sums", steps, ones, position=1)) - 3).max() < 0.01
