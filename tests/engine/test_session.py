"""Three parties as threads of one process, where a test sees every key: who holds which, that none repeats, that none is logged."""

import itertools
import time
from typing import Any

import numpy as np
import pytest

from moiety.engine import keys as key_rules
from moiety.engine import session as sessions
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES
from moiety.engine.limits import Limits
from moiety.engine.owner import OwnerSession, open_session
from moiety.errors import PolicyRefused
from moiety.mpc.party import Key
from moiety.mpc.rounds import Role

from . import plans
from .conftest import BRISK, Threads

HOLDERS = {Key.A: {0, 1}, Key.B: {0, 2}, Key.C: {1, 2}, Key.D: {0, 1, 3}, Key.E: {0, 2, 3}}


class Seen:
    """Everything that was drawn from or could be: run keys by (session, run, role), pair keys, session ids."""

    def __init__(self) -> None:
        self.runs: dict[tuple[bytes, int], dict[Role, dict[Key, bytes]]] = {}
        self.secrets: set[bytes] = set()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    out, derive = Seen(), key_rules.run_keys

    def run_keys(role: Role, pairs: Any, streams: Any, session: bytes, number: int, plan: str) -> dict[Key, bytes]:
        found = derive(role, pairs, streams, session, number, plan)
        out.runs.setdefault((session, number), {})[role] = found
        out.secrets |= {*pairs.values(), *streams.values(), *found.values()}
        return found

    monkeypatch.setattr(key_rules, "run_keys", run_keys)
    return out


def owner(threads: Threads, name: str) -> OwnerSession:
    return open_session(threads.directory, threads.identity(name), deadlines=BRISK)


def test_keys(threads: Threads, seen: Seen) -> None:
    plan, x = plans.mlp(), np.zeros((4, 16))
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("mlp", [plan], plans.mlp_weights())
    for _ in range(2):
        with owner(threads, CLIENT) as session:
            for _ in range(2):
                session.run("mlp", plan, plans.words(x))
    assert len(seen.runs) == 4
    assert len({session for session, _ in seen.runs}) == 2
    everything: list[bytes] = []
    for run in seen.runs.values():
        for key, holders in HOLDERS.items():
            assert {int(role) for role, held in run.items() if key in held} == holders
            values = {held[key] for held in run.values() if key in held}
            assert len(values) == 1
            everything += values
    assert len(set(everything)) == len(everything) == 4 * 5
    logged = "".join(log.getvalue() for log in threads.logs.values())
    assert "run 2 of 'mlp'" in logged
    for secret in seen.secrets:
        assert secret.hex() not in logged
        assert repr(secret) not in logged


class OneWay:
    """A channel of P0 to an evaluator: hearing anything on it but the hello is a mistake."""

    def __init__(self, link: Any) -> None:
        self._link = link

    def __getattr__(self, name: str) -> Any:
        assert not name.startswith("receive"), "P0 received from an evaluator"
        return getattr(self._link, name)


def deaf(link: Any, purpose: str) -> Any:
    return OneWay(link) if purpose == sessions.DEALT else link


@pytest.mark.parametrize("threads", [{"party0": {"wrap": deaf}}], indirect=True)
def test_p0_hears_only_the_owner(threads: Threads) -> None:
    plan, weights, x = plans.mlp(), plans.mlp_weights(), np.ones((4, 16))
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("mlp", [plan], weights)
    with owner(threads, CLIENT) as session:
        assert np.abs(plans.reals(session.run("mlp", plan, plans.words(x))) - plans.mlp_float(weights, x)).max() < 0.005


class Recorder:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def wave_started(self, wave: int, label: str) -> None:
        self.events.append(("start", wave))

    def wave_ended(self, wave: int, label: str) -> None:
        self.events.append(("end", wave))

    def run_failed(self, wave: int, error: BaseException) -> None:
        self.events.append((type(error).__name__, wave))


RECORDER = Recorder()


@pytest.mark.parametrize("threads", [{"party1": {"watcher": RECORDER}}], indirect=True)
def test_watcher(threads: Threads) -> None:
    plan = plans.chain(2)
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("chain", [plan], {})
    with owner(threads, CLIENT) as session:
        session.run("chain", plan, plans.words(np.zeros(4)))
    waves = range(len(plan.waves))
    assert RECORDER.events == list(itertools.chain(*((("start", w), ("end", w)) for w in waves)))


def test_two_sessions_share_nothing(threads: Threads, seen: Seen) -> None:
    """One aborts while the other is open: the other goes on."""
    plan = plans.chain(3)
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("chain", [plan], {})
    with owner(threads, CLIENT) as one, owner(threads, CLIENT) as other:
        one.run("chain", plan, plans.words(np.ones(4)))
        one.session.abort("MOI-300", "a test")
        other.run("chain", plan, plans.words(np.ones(4)))
    for name in PARTIES:
        assert threads.logs[name].getvalue().count("aborts") == 1


@pytest.mark.parametrize("threads", [{"limits": Limits(sessions=2)}], indirect=True)
def test_session_limit(threads: Threads) -> None:
    with owner(threads, CLIENT), owner(threads, CLIENT), pytest.raises(PolicyRefused, match="already serves 2 sessions"):
        owner(threads, CLIENT)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # the parties take a moment to see that a session ended
        try:
            owner(threads, CLIENT).close()
            return
        except PolicyRefused:
            time.sleep(0.05)
    pytest.fail("a place did not become free")
