"""Rules that only whole sessions can break: no mask serves twice, whatever was aborted or deployed; who is linked to whom; what a
client shows of its answer."""

import threading
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from moiety.compile.plan import Node, Plan
from moiety.engine import member
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES
from moiety.engine.owner import OwnerSession, open_session
from moiety.engine.states import States
from moiety.errors import MoietyError
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.party import Key
from moiety.mpc.rounds import Address, Role, Spec, Words

from . import plans
from .conftest import BRISK, Threads

X = np.ones((4, 16))


def owner(threads: Threads, name: str, **seams: Any) -> OwnerSession:
    return open_session(threads.directory, threads.identity(name), deadlines=BRISK, **seams)


class Refuser:
    """A watcher that fails in a chosen wave of a chosen party, once."""

    due: tuple[str, int] | None = None

    def __init__(self, name: str) -> None:
        self._name = name

    def wave_started(self, wave: int, label: str) -> None:
        if Refuser.due == (self._name, wave):
            Refuser.due = None
            raise MoietyError("a test")

    def wave_ended(self, wave: int, label: str) -> None: ...
    def run_failed(self, wave: int, error: BaseException) -> None: ...


class Drawn:
    """How often every place of every stream was drawn. ``holder``: the streams that the drawing role held tell roles apart."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places: Counter[tuple[bytes, bytes, tuple[Key, ...]]] = Counter()
        self._turn = threading.Lock()
        self._held: dict[int, dict[Key, bytes]] = {}
        self._alive: list[KeyedDraws] = []  # so that no identity repeats
        make, words = KeyedDraws.__init__, KeyedDraws.words

        def __init__(draws: KeyedDraws, held: Any) -> None:
            make(draws, held)
            with self._turn:
                self._held[id(draws)] = dict(held)
                self._alive.append(draws)

        def record(draws: KeyedDraws, key: Key, address: Address, spec: Spec) -> Words:
            held = self._held[id(draws)]
            with self._turn:
                self.places[held[key][:16], address.nonce(), tuple(sorted(held))] += 1
            return words(draws, key, address, spec)

        monkeypatch.setattr(KeyedDraws, "__init__", __init__)
        monkeypatch.setattr(KeyedDraws, "words", record)

    def repeated(self) -> list[object]:
        # The owner of weights and P0 both hold D and E while weights are shared.
        return [place for place, count in self.places.items() if count > (2 if place[2] == (Key.D, Key.E) else 1)]


@pytest.mark.parametrize("threads", [{name: {"watcher": Refuser(name)} for name in PARTIES}], indirect=True)
def test_rules_5_and_7_no_draw_repeats_over_deployments_runs_steps_and_aborts(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, plan, steps = Drawn(monkeypatch), plans.mlp(), plans.running_sum(3)
    for _ in range(2):
        with owner(threads, MODEL_OWNER) as session:
            session.deploy("mlp", [plan], plans.mlp_weights(), replace=True)
            session.deploy("sums", [steps], {}, replace=True)
    for wave in range(len(plan.waves)):
        for name in (PARTIES[wave % 3], PARTIES[(wave + 1) % 3]):
            before = sum(drawn.places.values())
            with owner(threads, CLIENT) as client:
                client.run("mlp", plan, plans.words(X))
                Refuser.due = (name, wave)
                with pytest.raises(MoietyError):
                    client.run("mlp", plan, plans.words(X))
                assert Refuser.due is None
                with pytest.raises(MoietyError, match="session is over"):
                    client.run("mlp", plan, plans.words(X))
            assert sum(drawn.places.values()) > before
    with owner(threads, CLIENT) as client:
        client.run("mlp", plan, plans.words(X))
        for position in (0, 1, 2, 1, 0):
            client.run("sums", steps, plans.words(np.ones((1, 3))), position=position)
    assert len(drawn.places) > 500
    assert drawn.repeated() == []


def test_the_repetition_check_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, place = Drawn(monkeypatch), Address((1,), 1, 0)
    for _ in range(2):
        KeyedDraws({Key.A: bytes(32), Key.B: bytes([1]) * 32}).words(Key.A, place, Spec((1,), 64))
    assert len(drawn.repeated()) == 1


class Topology:
    """A wrapper that notes who has a channel to whom, and for what."""

    seen: set[tuple[str, str, str]] = set()  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, link: Any, purpose: str) -> Any:
        Topology.seen.add((self._name, link.peer, purpose))
        return link


@pytest.mark.parametrize("threads", [{name: {"wrap": Topology(name)} for name in PARTIES}], indirect=True)
def test_rule_16_every_channel_ends_at_the_two_who_speak(threads: Threads) -> None:
    Topology.seen.clear()
    with owner(threads, CLIENT):
        pass
    zero, one, two = PARTIES
    between = {
        (zero, one, "dealt"),
        (zero, two, "dealt"),
        (one, zero, "dealt"),
        (two, zero, "dealt"),
        (one, two, "waves"),
        (two, one, "waves"),
    }
    assert Topology.seen == between | {(name, CLIENT, "session") for name in PARTIES}


def checked(rows: int = 4) -> Plan:
    """The input goes back, with a flag that says whether it left +-1."""
    plan = plans.chain(1, (rows,))
    nodes = (*plan.nodes, Node("out_of_range", (0,), {"low": -4096, "high": 4097}))
    nodes += (Node("any_flag", (len(nodes) - 1,)),)
    nodes += (Node("reveal", (len(nodes) - 1,)),)
    return plans.finished(msgspec.structs.replace(plan, nodes=nodes, flag=len(nodes) - 1))


def test_rule_20_a_flagged_run_looks_like_any_other(threads: Threads) -> None:
    plan = checked()
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("checked", [plan], {})
    with owner(threads, CLIENT) as client:
        traffic = []
        for x, flagged in ((0.5, False), (3.0, True), (0.5, False)):
            link = {role: client.session.send[role].counters for role in (Role.P0, Role.P1, Role.P2)}
            before = {role: (c.frames_sent, c.payload_sent, c.frames_received) for role, c in link.items()}
            assert client.run("checked", plan, plans.words(np.full(4, x))).flag is flagged
            after = {role: (c.frames_sent, c.payload_sent, c.frames_received) for role, c in link.items()}
            traffic.append({role: tuple(np.subtract(after[role], before[role])) for role in after})
        assert traffic[0] == traffic[1] == traffic[2]
    for name in PARTIES:
        assert "aborts" not in threads.logs[name].getvalue()


def test_a_run_reads_one_snapshot_of_its_model(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody replaces the model after a party took its weights for a run: it must not claim to hold the new ones."""
    plan, weights = plans.mlp(), plans.mlp_weights()
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("mlp", [plan], weights)
    taken, replaced, prepare = threading.Barrier(4), threading.Event(), States.prepare

    def late(states: States, *rest: Any) -> None:
        if not replaced.is_set():
            taken.wait(10)  # all parties have their snapshot
            assert replaced.wait(10)
        prepare(states, *rest)

    monkeypatch.setattr(member.States, "prepare", late)
    found: list[np.ndarray] = []

    def run() -> None:
        with owner(threads, CLIENT) as client:
            found.append(plans.reals(client.run("mlp", plan, plans.words(X))))

    client = threading.Thread(target=run)
    client.start()
    subjects: list[bytes] = []
    digest = member.keys.digest
    taken.wait(10)
    with owner(threads, MODEL_OWNER) as session:
        session.deploy("mlp", [plan], plans.mlp_weights(seed=2), replace=True)
    fresh = threads_sharing(threads, plan)

    def watch(label: str, *parts: Any) -> bytes:
        if label == "moiety run":
            subjects.append(parts[4])
        return digest(label, *parts)

    monkeypatch.setattr(member.keys, "digest", watch)
    replaced.set()
    client.join(20)
    assert np.abs(found[0] - plans.mlp_float(weights, X)).max() < 0.005
    assert len(subjects) == 3
    assert fresh not in subjects


def threads_sharing(threads: Threads, plan: Plan) -> bytes:
    """The digest of the sharing that the parties hold now, as a run of this moment names it."""
    seen: list[bytes] = []
    digest = member.keys.digest

    def watch(label: str, *parts: Any) -> bytes:
        if label == "moiety run":
            seen.append(parts[4])
        return digest(label, *parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(member.keys, "digest", watch)
        patch.setattr(member.States, "prepare", lambda *_: None)
        with owner(threads, CLIENT) as client:
            client.run("mlp", plan, plans.words(X))
    assert len(set(seen)) == 1
    return seen[0]
