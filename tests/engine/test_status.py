"""What a party tells of its state, and to whom."""

import time

import numpy as np
import pytest

from moiety.engine import status
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES, LocalParties
from moiety.engine.messages import hear, say
from moiety.engine.status import Leave, Look, Probe, Reach, Standing
from moiety.errors import MoietyError, PolicyRefused
from moiety.mpc.rounds import Role
from moiety.net import AbortReceived, Kind, dial

from .conftest import STRANGER, as_client, as_owner
from .plans import mlp, mlp_weights


def looked(local: LocalParties, name: str, **options: int) -> list[Reach]:
    return status.look(local.directory, local.identity(name), **options)


def standings(local: LocalParties, name: str) -> list[Standing]:
    found = [reach.standing for reach in looked(local, name)]
    assert all(standing is not None for standing in found)
    return found


@pytest.fixture(scope="module", autouse=True)
def deployed(local: LocalParties) -> None:
    with as_owner(local) as session:
        session.deploy("unasked", [mlp()], mlp_weights())


def test_an_owner_sees_what_concerns_it(local: LocalParties) -> None:
    plan = mlp()
    for standing, name in zip(standings(local, MODEL_OWNER), PARTIES, strict=True):
        assert (standing.name, standing.role) == (name, f"P{PARTIES.index(name)}")
        assert [(model.name, model.plans) for model in standing.models] == [("unasked", (plan.hash,))]
        assert standing.models[0].nbytes > 8 * (16 * 32 + 32 * 8)
        assert (standing.sessions, standing.memory_bytes, standing.own_sessions) == (None, None, 0)
        assert standing.up_s > 0
    for name in (CLIENT, STRANGER):  # may neither deploy nor query it
        assert all(not standing.models for standing in standings(local, name))


def test_a_compute_party_sees_how_busy_the_others_are(local: LocalParties) -> None:
    with as_owner(local) as one, as_client(local) as other:
        one.holding("a")
        other.holding("a")
        assert [standing.own_sessions for standing in standings(local, CLIENT)] == [1, 1, 1]
        found = standings(local, PARTIES[1])
    assert [standing.name for standing in found] == [PARTIES[0], PARTIES[2]]
    assert all(standing.sessions == 2 and standing.memory_bytes > 0 for standing in found)
    assert all([model.name for model in standing.models] == ["unasked"] for standing in found)


def test_the_last_error_goes_to_its_owner_in_full(local: LocalParties) -> None:
    with as_client(local) as session, pytest.raises(PolicyRefused):
        session.run("unasked", mlp(), [np.zeros((4, 16), np.uint64)])
    own = standings(local, CLIENT)[1].last_error
    assert own is not None
    assert (own.owner, own.code) == (CLIENT, "MOI-403")
    assert "may not query the model 'unasked'" in own.text
    seen = standings(local, PARTIES[0])[0].last_error
    assert seen is not None
    assert (seen.owner, seen.code, seen.text) == (CLIENT, "MOI-403", "")
    assert all(standing.last_error is None for standing in standings(local, MODEL_OWNER))


def test_connections_are_measured(local: LocalParties) -> None:
    for reach in looked(local, CLIENT, probe_bytes=1 << 20):
        assert reach.ok
        assert 0 < reach.round_trip_s < reach.open_s
        assert reach.up_bytes_per_s > 1e6
        assert reach.down_bytes_per_s > 1e6
        assert abs(reach.ahead_s) < 5


def test_what_cannot_be_reached_says_why(local: LocalParties) -> None:
    local.end(PARTIES[2])
    try:
        found = looked(local, CLIENT, deadline_s=1)
    finally:
        local.restart(PARTIES[2])
    assert [reach.ok for reach in found] == [True, True, False]
    assert (found[2].code, found[2].name, found[2].standing) == ("MOI-302", PARTIES[2], None)
    assert f"start {PARTIES[2]}" in found[2].why
    assert all(reach.ok for reach in looked(local, CLIENT))


@pytest.mark.parametrize("said", ["too much", "another size", "endless"])
def test_questions_are_bounded(local: LocalParties, said: str) -> None:
    link = dial(local.identity(CLIENT), local.directory.compute(Role.P0), purpose=status.STATUS, deadline_s=5)
    try:
        match said:
            case "too much":
                say(link, Probe(status.MOST_BYTES + 1, 0))
            case "another size":
                say(link, Probe(10, 0))
                link.send(Kind.CONTROL, [bytes(11)])
            case "endless":
                for _ in range(status.MOST_QUERIES):
                    say(link, Look())
                    hear(link, Standing, deadline_s=5, awaited="its status")
        with pytest.raises(MoietyError):
            hear(link, Standing, deadline_s=5, awaited="nothing")
    finally:
        link.close()
    assert all(reach.ok for reach in looked(local, CLIENT))


def test_a_question_needs_no_session(local: LocalParties) -> None:
    link = dial(local.identity(STRANGER), local.directory.compute(Role.P1), purpose=status.STATUS, deadline_s=5)
    say(link, Look())
    assert hear(link, Standing, deadline_s=5, awaited="its status").own_sessions == 0
    say(link, Leave())
    link.close()


def test_those_who_stay_do_not_keep_sessions_out(local: LocalParties) -> None:
    """More connections than are answered: the last is refused with a reason, a session still opens, and the others end alone."""
    peer, me = local.directory.compute(Role.P0), local.identity(STRANGER)
    links = [dial(me, peer, purpose=status.STATUS, deadline_s=10) for _ in range(9)]
    try:
        with pytest.raises(AbortReceived, match="too many questions about its status") as refused:
            hear(links[-1], Standing, deadline_s=5, awaited="its status")
        assert refused.value.peer_code == "MOI-405"
        with as_client(local) as session:
            session.holding("a")
    finally:
        for link in links:
            link.close()
    deadline = time.monotonic() + 20
    while not looked(local, CLIENT)[0].ok:
        assert time.monotonic() < deadline
