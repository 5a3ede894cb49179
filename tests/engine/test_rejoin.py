"""Parties that are killed, come back, or are told to stop: who notices, what is shared again, what is retried, and that no number serves
twice."""

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from moiety.engine import notice
from moiety.engine.counter import COUNTER_FILE
from moiety.engine.deployed import Private, Source
from moiety.engine.federation import Federation
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES, LocalParties, start
from moiety.engine.member import PAUSE_S
from moiety.engine.owner import OwnerSession
from moiety.errors import (
    ChannelError,
    DeadlineExceeded,
    InputError,
    MoietyError,
    NotDeployed,
    PeerLost,
    PeerStopping,
    RangeViolation,
)
from moiety.net import Fault, Injector, fault

from . import plans
from .conftest import HASTY, as_client, as_owner

X = np.linspace(-1, 1, 64).reshape(4, 16)
PLAN, WEIGHTS = plans.mlp(), plans.mlp_weights()
WORDS = plans.words(X)


@pytest.fixture(scope="module")
def faulty() -> Iterator[LocalParties]:
    with start(deadlines=HASTY, faults=True) as parties:
        yield parties


@pytest.fixture
def local(faulty: LocalParties) -> LocalParties:
    """With the model deployed, and without faults."""
    faulty.inject()
    for name in PARTIES:
        if name not in faulty.processes or faulty.processes[name].poll() is not None:
            faulty.restart(name)
    with as_owner(faulty) as owner:
        owner.deploy("mlp", [PLAN], WEIGHTS)
    return faulty


def right(found: Any) -> None:
    assert np.abs(plans.reals(found) - plans.mlp_float(WEIGHTS, X)).max() < 0.005


def logs(local: LocalParties, name: str, text: str, after: int = 0) -> str:
    """Wait until a party logged ``text``; what it logged behind the first ``after`` characters."""
    deadline = time.monotonic() + 10
    while text not in local.log(name)[after:]:
        assert time.monotonic() < deadline, local.log(name)
        time.sleep(0.02)
    return local.log(name)[after:]


def killed(local: LocalParties, name: str) -> None:
    """Die in mid-run, and come back with nothing."""
    local.inject(fault(name, 3, "kill"))
    with as_client(local) as client, pytest.raises((PeerLost, ChannelError)):
        client.run("mlp", PLAN, WORDS)
    assert local.processes[name].wait(10) == -signal.SIGKILL
    local.inject()
    local.restart(name)


@pytest.mark.parametrize("name", PARTIES)
def test_a_killed_party_rejoins(local: LocalParties, name: str) -> None:
    said = {other: len(local.log(other)) for other in PARTIES}
    killed(local, name)
    with as_client(local) as client, pytest.raises(NotDeployed, match=f"{name}, whose process is .* only nothing: what a party holds"):
        client.run("mlp", PLAN, WORDS)
    with as_client(local) as client, pytest.raises(NotDeployed, match=f"'mlp' is deployed at .* and .*, but {name} holds no plan of it"):
        client.fetch_plans("mlp")
    other = PARTIES[1 if name == PARTIES[2] else 2]
    logs(local, other, f"{name} was started anew since its last session", said[other])
    with as_owner(local) as owner:
        assert not owner.holding("mlp").weights
        assert [*owner.deploy("mlp", [PLAN], WEIGHTS)] == ["w0", "w1"]
        assert owner.deploy("mlp", [PLAN], WEIGHTS) == {}
    with as_client(local) as client:
        right(client.run("mlp", PLAN, WORDS))


def test_only_what_was_lost_is_shared_again(local: LocalParties) -> None:
    """A model that was deployed since the party came back stays."""
    killed(local, PARTIES[1])
    with as_owner(local) as owner:
        owner.deploy("later", [PLAN], WEIGHTS)
        assert [*owner.deploy("mlp", [PLAN], WEIGHTS)] == ["w0", "w1"]
        assert owner.deploy("later", [PLAN], WEIGHTS) == {}


def test_counters_only_rise_whatever_is_killed(local: LocalParties) -> None:
    """A party killed right after it took a number never takes it again: the number is on disk before anybody hears of it."""
    place, seen = local.folder / "party1" / COUNTER_FILE, []
    for frame in (0, 1):  # its part of the session id; ready
        local.inject(Fault.parse(f"party1#{frame}>{CLIENT}:kill"))
        with pytest.raises(ChannelError):
            as_client(local)
        assert local.processes["party1"].wait(10) == -signal.SIGKILL
        seen.append(int(place.read_text()))
        local.inject()
        local.restart("party1")
    assert seen == sorted(set(seen))
    with as_owner(local):
        assert int(place.read_text()) > seen[-1]


def private(local: LocalParties, wrap: Any = None) -> Private:
    """The model as its owner has it, without PyTorch."""
    federation = Federation(local.directory, local.identity(MODEL_OWNER), local.identity(CLIENT), deadlines=local.deadlines)
    if wrap is not None:
        federation.open = lambda: as_client(local, wrap=wrap)  # type: ignore[method-assign]
    made = Private(federation, "mlp", Source(None, (), {}, (), {}))
    assert made._source is not None
    made._source.weights.update(WEIGHTS)
    made.plans.append(PLAN)
    return made


def test_retry_after_a_transient_error(local: LocalParties) -> None:
    """The second attempt is a new session: it suffers no fault, and draws other masks."""
    told: list[str] = []
    due = [[fault(CLIENT, 0, "alter", peer="party1")], []]
    injector = Injector(CLIENT, lambda: due.pop(0) if due else [], told.append)
    mine = private(local, injector.wrap)
    with pytest.raises(MoietyError) as caught:
        mine.run(PLAN, WORDS)
    assert caught.value.transient
    due[:] = [[fault(CLIENT, 0, "close", peer="party2")], [fault(CLIENT, 0, "drop", peer="party1")], []]
    right(mine.run(PLAN, WORDS, retries=2))
    assert len(told) == 3
    mine.close()
    mine = private(local, injector.wrap)
    due[:] = [[fault(CLIENT, 0, "close", peer="party2")]] * 2
    with pytest.raises(ChannelError):
        mine.run(PLAN, WORDS, retries=1)
    mine.close()


def test_who_waits_hears_who_is_silent(local: LocalParties, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Long before the deadline; of a run that ends in time nothing is said."""
    mine = private(local)
    right(mine.run(PLAN, WORDS))
    assert not caplog.messages
    monkeypatch.setattr(notice, "AFTER_S", 0.1)
    monkeypatch.setattr(notice, "ANSWER_S", 0.3)
    local.processes["party1"].send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(MoietyError, match="party1"):
            mine.run(PLAN, WORDS)
    finally:
        local.processes["party1"].send_signal(signal.SIGCONT)
    assert [text.partition("s: ")[2] for text in caplog.messages] == ["party1 does not answer; still waiting, until the deadline"]
    mine.close()


def test_retry_restores_what_a_killed_party_lost(local: LocalParties) -> None:
    mine = private(local)
    local.inject(fault("party2", 2, "kill"))
    with pytest.raises(ChannelError):
        mine.run(PLAN, WORDS)
    local.inject()
    assert local.processes["party2"].wait(10) == -signal.SIGKILL
    local.restart("party2")
    right(mine.run(PLAN, WORDS, retries=1))
    mine.close()


def test_what_is_not_retried(local: LocalParties, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, attempts = private(local), []

    def fail(error: MoietyError) -> Callable[..., Any]:
        def run(*_: Any, **__: Any) -> Any:
            attempts.append(error)
            raise error

        return run

    for error, count in ((RangeViolation("a"), 1), (InputError("a"), 1), (DeadlineExceeded("a"), 3), (PeerStopping("a"), 3)):
        attempts.clear()
        monkeypatch.setattr(OwnerSession, "run", fail(error))
        with pytest.raises(type(error)):
            mine.run(PLAN, WORDS, retries=2)
        assert len(attempts) == count
    with pytest.raises(InputError, match="cannot be repeated by itself"):
        mine.run(plans.running_sum(3), plans.words(np.ones((1, 3))), position=0, retries=1)
    mine.close()


def test_an_owner_hears_at_once_whoever_fails(local: LocalParties) -> None:
    """It waits for P1, which waits for P0, which is silent; P2 has failed and says so."""
    local.inject(Fault.parse("party0@1>party1:delay=1.2"), Fault.parse("party1@2>party2:lie=20"))
    with as_client(local) as client, pytest.raises(MoietyError, match=r"party2 ended the run with MOI-303"):
        client.run("mlp", PLAN, WORDS)


def test_a_deployment_counts_only_when_all_have_it(local: LocalParties) -> None:
    """P1 is killed when it has the weights: P0 and P2 keep none of them, and what they held under the name stays."""
    before = {name: len(local.log(name)) for name in PARTIES}
    local.inject(Fault.parse("party1#2>party2:kill"))  # greeting, agreement, digest of the weights
    with as_owner(local) as owner, pytest.raises(ChannelError):
        owner.deploy("mlp", [PLAN], plans.mlp_weights(seed=9), replace=True)
    local.inject()
    assert local.processes["party1"].wait(10) == -signal.SIGKILL
    for name in ("party0", "party2"):
        assert "shared 2 weights" not in logs(local, name, "with model-owner aborts", before[name])
    local.restart("party1")


def test_a_running_session_goes_on_while_a_party_stops(local: LocalParties) -> None:
    with as_client(local) as client, as_client(local) as idle:
        for _ in range(2):
            right(client.run("mlp", PLAN, WORDS))
        began, said = time.monotonic(), len(local.log("party1"))
        local.processes["party1"].send_signal(signal.SIGTERM)
        logs(local, "party1", "is being stopped", said)
        runs = 0
        while time.monotonic() < began + 2 * PAUSE_S:  # a session in use is not cut
            right(client.run("mlp", PLAN, WORDS))
            runs += 1
        assert runs > 2
        with pytest.raises(PeerStopping, match="takes no new session"):
            as_client(local)
        with pytest.raises(PeerStopping, match="in which nothing is running"):
            idle.run("mlp", PLAN, WORDS)
    assert local.processes["party1"].wait(10) == 0


def test_a_second_signal_stops_at_once(local: LocalParties) -> None:
    with as_client(local) as client:
        stop = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                while not stop.is_set():
                    client.run("mlp", PLAN, WORDS)
            except MoietyError as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        process, said = local.processes["party2"], len(local.log("party2"))
        process.send_signal(signal.SIGINT)
        logs(local, "party2", "is being stopped", said)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(8) == 0
        stop.set()
        thread.join(10)
        [error] = failed
        assert isinstance(error, PeerStopping)
        assert "waits no longer" in str(error)


def test_an_ordinary_party_takes_no_faults(local: LocalParties) -> None:
    """Only a flag of its own makes a party fail on purpose, and it says so."""
    assert "*** THIS PARTY FAILS ON PURPOSE" in local.log("party0")
    faithful, said = dataclasses.replace(local, faults=None), local.log("party0").count("ON PURPOSE")
    local.inject(fault("party0", 0, "kill"))
    faithful.restart("party0")
    with as_owner(local) as owner:
        owner.deploy("mlp", [PLAN], WEIGHTS)
    with as_client(local) as client:
        right(client.run("mlp", PLAN, WORDS))
    assert local.log("party0").count("ON PURPOSE") == said
    local.restart("party0")
    local.inject()
    done = subprocess.run(
        [sys.executable, "-m", "moiety.engine.party_main", str(local.folder / "party0"), str(local.federation), "--faults", __file__],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "is no fault" in done.stderr
