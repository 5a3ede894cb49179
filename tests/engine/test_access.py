"""The rules of the federation file: who may do what with which model, how often, and what is opened. Each party enforces them alone."""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import pytest

from moiety.compile.plan import Input, Node, Output, Plan
from moiety.engine.directory import Rules
from moiety.engine.launch import LocalParties, start
from moiety.engine.messages import AddPlan, Ask, Deploy, Fine, Run, Tensor, say
from moiety.engine.owner import OwnerSession
from moiety.engine.policy import check_opens_tokens
from moiety.engine.quota import Quotas
from moiety.errors import LimitReached, MoietyError, PolicyRefused
from moiety.mpc.rounds import Role
from moiety.net import Kind

from . import plans
from .conftest import BRISK, as_client

PARTS = (Role.P0, Role.P1, Role.P2)
KEYS = {Role.P0: {"key_d": b"d" * 32, "key_e": b"e" * 32}, Role.P1: {"key_d": b"d" * 32}, Role.P2: {"key_e": b"e" * 32}}
ECHO = plans.chain(1)
RULES = {
    "open-*": Rules(("vendor",), ("clinic-*",), ("clinic-*",)),
    "open-but-not-to-north": Rules(("vendor",), ("clinic-south",), ("clinic-south",)),
    "unreceived": Rules(("vendor",), ("clinic-*",), ()),
    "tokens": Rules(("vendor",), ("clinic-*",), ("clinic-*",), reveal="token"),
    "slow": Rules(("vendor",), ("clinic-*",), ("clinic-*",), runs_per_minute=2),
    "scarce": Rules(("vendor",), ("clinic-*",), ("clinic-*",), answers_per_day=2),
}


@pytest.fixture(scope="module")
def local() -> Iterator[LocalParties]:
    with start(deadlines=BRISK, owners=("vendor", "clinic-north", "clinic-south", "press"), models=RULES) as parties:
        with as_client(parties, "vendor") as vendor:
            for name in ("open-echo", "open-but-not-to-north", "unreceived", "slow", "scarce"):
                vendor.deploy(name, [ECHO], {})
            vendor.deploy("tokens", [places()], {})
        yield parties


def places(revealed: int = 2) -> Plan:
    """Where the largest of each row is, or (1) the rows themselves."""
    nodes = (Node("input", (), {"index": 0}), Node("argmax", (0,), {"bits": 20}), Node("reshape", (1,), {"shape": (4,)}))
    shape = (2, 8) if revealed == 0 else (4,)
    source = Input("x", (2, 8) if revealed == 0 else (4, 8), "fixed", 12, 8.0)
    plan = Plan(nodes=(*nodes[: 1 + revealed], Node("reveal", (revealed,))), inputs=(source,), outputs=(Output("y", 0, shape, 0, 9.0),))
    return plans.finished(msgspec.structs.replace(plan, outputs=(Output("y", 1 + revealed, shape, 0, 9.0),)))


def answer(session: OwnerSession, role: Role, speak: Callable[[], None]) -> None:
    """Say something to one party alone, and raise what it answers."""
    with session.guarded():
        speak()
        session._hear(role, Fine, "its verdict")


@pytest.mark.parametrize("role", PARTS)
@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("press", "open-echo", "press may not query the model 'open-echo'; the federation file allows clinic-"),
        ("clinic-north", "open-but-not-to-north", "clinic-north may not query .*allows clinic-south"),
        ("clinic-north", "unreceived", "clinic-north may not receive .*allows nobody"),
        ("vendor", "open-echo", "vendor may not query"),
        ("clinic-north", "closed", "names no model 'closed'"),
    ],
)
def test_every_party_refuses_a_run_for_itself(local: LocalParties, role: Role, name: str, model: str, said: str) -> None:
    with as_client(local, name) as session, pytest.raises(PolicyRefused, match=said):
        answer(session, role, lambda: say(session._link(role), Run(1, model, ECHO.hash, **KEYS[role])))


@pytest.mark.parametrize("role", PARTS)
def test_every_party_refuses_a_deployment_for_itself(local: LocalParties, role: Role) -> None:
    tensors = (Tensor("w", (2,), 12, False),)
    for message in (Deploy("open-echo", 1, tensors, **KEYS[role]), AddPlan("open-echo", ECHO.hash)):
        with as_client(local, "clinic-north") as session, pytest.raises(PolicyRefused, match="may not deploy"):
            answer(session, role, lambda message=message: say(session._link(role), message))  # type: ignore[misc]
    with as_client(local, "press") as session, pytest.raises(PolicyRefused, match="may not deploy"):
        answer(session, role, lambda: say(session._link(role), Ask("open-echo")))


@pytest.mark.parametrize("role", PARTS)
def test_every_party_refuses_a_changed_plan_for_itself(local: LocalParties, role: Role) -> None:
    changed = msgspec.structs.replace(ECHO, outputs=(msgspec.structs.replace(ECHO.outputs[0], shape=(2,)),))
    for plan, announced in ((ECHO, changed.hash), (changed, changed.hash)):
        with (
            as_client(local, "vendor") as session,
            pytest.raises(MoietyError, match=r"changed on the way|declares 2 words for y") as caught,
        ):
            answer(session, role, lambda plan=plan, announced=announced: send(session, role, "open-echo", plan, announced))  # type: ignore[misc]
        assert caught.value.code in ("MOI-402", "MOI-403")


@pytest.mark.parametrize("role", PARTS)
def test_every_party_opens_tokens_alone_where_the_file_says_so(local: LocalParties, role: Role) -> None:
    plan = places(revealed=0)
    with (
        as_client(local, "vendor") as session,
        pytest.raises(PolicyRefused, match=r"opens .y. .node 1., which is no token"),
    ):
        answer(session, role, lambda: send(session, role, "tokens", plan, plan.hash))
    for good in (places(1), places(2)):
        check_opens_tokens(good)


def send(session: OwnerSession, role: Role, model: str, plan: Plan, announced: str) -> None:
    say(session._link(role), AddPlan(model, announced))
    session._link(role).send(Kind.CONTROL, [plan.encode()])


def test_what_is_allowed_works(local: LocalParties) -> None:
    x = np.linspace(-2, 2, 32).reshape(4, 8)
    with as_client(local, "clinic-north") as client:
        assert np.abs(plans.reals(client.run("open-echo", ECHO, plans.words(x[0, :4]))) - x[0, :4] / 2).max() < 0.01
        assert client.run("tokens", places(), plans.words(x)).outputs[0].tolist() == [7] * 4


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("slow", "clinic-north started 2 runs of the model 'slow' within a minute.*try again in"),
        ("scarce", "clinic-north had 2 answers of the model 'scarce' on"),
    ],
)
def test_quotas_hold_over_sessions_and_for_each_owner_alone(local: LocalParties, model: str, said: str) -> None:
    words = plans.words(np.ones(4))
    for _ in range(2):
        with as_client(local, "clinic-north") as client:
            client.run(model, ECHO, words)
    for role in PARTS:  # every party counted for itself
        with as_client(local, "clinic-north") as client, pytest.raises(LimitReached, match=said):
            answer(client, role, lambda role=role: say(client._link(role), Run(1, model, ECHO.hash, **KEYS[role])))  # type: ignore[misc]
    with as_client(local, "clinic-south") as other:
        other.run(model, ECHO, words)


def test_quotas_come_back() -> None:
    now, day = [0.0], ["2030-01-01"]
    quotas = Quotas(lambda: now[0], lambda: day[0])
    rules = Rules(runs_per_minute=2, answers_per_day=3)

    def charge(answers: bool = True) -> None:
        quotas.charge(rules, "clinic", "m", answers=answers)

    charge(), charge()
    with pytest.raises(LimitReached, match=r"within a minute.*try again in 60 s"):
        charge()
    now[0] = 59.0
    with pytest.raises(LimitReached, match="try again in 1 s"):
        charge()
    now[0] = 60.0
    charge()
    with pytest.raises(LimitReached, match="had 3 answers of the model 'm' on 2030-01-01"):
        charge()
    charge(answers=False)  # what opens nothing is no answer
    now[0], day[0] = 130.0, "2030-01-02"
    charge()
    now[0] = 200.0
    for _ in range(2):
        quotas.restore("clinic", "m", "2030-01-02")
    with pytest.raises(LimitReached, match="2030-01-02"):
        charge()
