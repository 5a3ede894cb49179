"""A model through five members: three party processes, and two owners here, over mutual TLS."""

import stat
import threading

import numpy as np
import psutil
import pytest

from moiety.compile.plan import Plan
from moiety.engine import owner as owner_side
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES, LocalParties
from moiety.engine.owner import open_session
from moiety.engine.report import RunReport
from moiety.engine.waves import payload
from moiety.errors import ChannelError, InputError, PlanMismatch
from moiety.mpc.party import Party

from . import plans
from .conftest import BRISK, Threads, as_client, as_owner


def check_counters(plan: Plan, report: RunReport) -> None:
    """Both ends of every link counted exactly what the plan's wave table says, and nobody anything else."""
    expected = {f"{a.name}->{b.name}": numbers for (a, b), numbers in payload(plan).items() if numbers[0]}
    for member in report.members:
        counted = {link: (traffic.frames, traffic.payload_bytes) for link, traffic in member.links.items()}
        assert counted == {link: numbers for link, numbers in expected.items() if member.role in link.split("->")}
    assert report.payload_bytes == sum(nbytes for _, nbytes in expected.values())
    for one, other in (("P1", "P2"), ("P2", "P1")):  # these channels carry nothing but waves while a run lasts
        sent = report.of(one).wire[report.of(other).name][0]
        assert sent > expected[f"{one}->{other}"][1]


def test_mlp(local: LocalParties) -> None:
    weights, x = plans.mlp_weights(), np.random.default_rng(0).normal(size=(4, 16))
    with as_owner(local) as owner:
        owner.deploy("mlp", [plans.mlp()], weights)
    seen: list[tuple[int, int]] = []
    with as_client(local) as client:
        [plan] = client.fetch_plans("mlp")
        for _ in range(3):
            result = client.run("mlp", plan, plans.words(x), on_progress=lambda done, of: seen.append((done, of)))
            assert np.abs(plans.reals(result) - plans.mlp_float(weights, x)).max() < 0.005
            assert result.flag is None
            check_counters(plan, result.report)
    assert seen[0] == (0, len(plan.waves))
    assert seen[-1] == (len(plan.waves), len(plan.waves))
    assert "array" not in repr(result)


def test_parties_load_no_torch(local: LocalParties) -> None:
    with as_owner(local) as owner:
        owner.deploy("tiny", [plans.chain(1)], {})
    with as_client(local) as client:
        report = client.run("tiny", plans.chain(1), plans.words(np.ones(4))).report
    for role, name in zip(("P0", "P1", "P2"), PARTIES, strict=True):
        assert not {"torch", "transformers"}.intersection(report.of(role).packages)
        assert "numpy" in report.of(role).packages
        maps = {mapped.path for mapped in psutil.Process(local.processes[name].pid).memory_maps()}
        assert not [path for path in maps if "torch" in path]


def test_progress_at_twenty_waves(local: LocalParties) -> None:
    plan, seen = plans.chain(100), list[int]()
    with as_owner(local) as owner:
        owner.deploy("chain", [plan], {})
    x = np.linspace(-3, 3, 4)
    with as_client(local) as client:
        result = client.run("chain", plan, plans.words(x), on_progress=lambda done, of: seen.append(done))
    assert np.abs(plans.reals(result) - x * 2.0**-100).max() < 2.5 * 2.0**-plans.FRACTION
    check_counters(plan, result.report)
    assert 15 <= len(seen) <= 22
    assert seen == sorted(seen)


def test_two_models_and_sessions_at_once(local: LocalParties) -> None:
    weights = {"one": plans.mlp_weights(1), "two": plans.mlp_weights(2)}
    plan = plans.mlp(rows=8)
    with as_owner(local) as owner:
        for name, arrays in weights.items():
            owner.deploy(name, [plan], arrays)
    worst: dict[str, float] = {}

    def ask(name: str) -> None:
        generator = np.random.default_rng(len(name))
        with as_client(local) as client:
            for _ in range(5):
                x = generator.normal(size=(8, 16))
                found = plans.reals(client.run(name, plan, plans.words(x)))
                worst[name] = max(worst.get(name, 0.0), float(np.abs(found - plans.mlp_float(weights[name], x)).max()))

    running = [threading.Thread(target=ask, args=(name,)) for name in weights]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
    assert set(worst) == set(weights)
    assert max(worst.values()) < 0.005


def test_further_plan_shares_no_weight_again(local: LocalParties, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = plans.mlp_weights(3)
    shared: list[tuple[str, ...]] = []
    send = owner_side.send_weights
    monkeypatch.setattr(
        owner_side, "send_weights", lambda s, m, *rest: (shared.append(tuple(t.name for t in m.tensors)), send(s, m, *rest))
    )
    with as_owner(local) as owner:
        owner.deploy("grows", [plans.mlp(rows=2)], {name: (lambda a=array: a) for name, array in weights.items()})
    with as_owner(local) as owner:
        owner.deploy("grows", [plans.mlp(rows=2), plans.mlp(rows=5)], {})
        with pytest.raises(InputError, match="neither given nor shared"):
            owner.deploy("other", [plans.mlp(rows=5)], {})
    assert shared == [("w0", "w1")]
    x = np.random.default_rng(4).normal(size=(5, 16))
    with as_client(local) as client:
        assert len(client.fetch_plans("grows")) == 2
        assert np.abs(plans.reals(client.run("grows", plans.mlp(rows=5), plans.words(x))) - plans.mlp_float(weights, x)).max() < 0.005


def test_replace_forgets(local: LocalParties) -> None:
    x = np.random.default_rng(5).normal(size=(4, 16))
    for seed in (6, 7):
        weights = plans.mlp_weights(seed)
        with as_owner(local) as owner:
            owner.deploy("renewed", [plans.mlp()], weights, replace=True)
        with as_client(local) as client:
            [plan] = client.fetch_plans("renewed")
            assert np.abs(plans.reals(client.run("renewed", plan, plans.words(x))) - plans.mlp_float(weights, x)).max() < 0.005


def test_weights_in_many_chunks(local: LocalParties) -> None:
    plan, weights = plans.mlp(1, 600, 4000, 1), plans.mlp_weights(8, 600, 4000, 1)  # 2.4 million words: three chunks
    weights["w0"] /= 10
    x = np.random.default_rng(9).normal(size=(1, 600))
    with as_owner(local) as owner:
        owner.deploy("large", [plan], weights)
    with as_client(local) as client:
        result = client.run("large", plan, plans.words(x))
    assert np.abs(plans.reals(result) - plans.mlp_float(weights, x)).max() < 0.05
    assert result.report.of("P1").weight_bytes > 2 * result.report.of("P0").weight_bytes * 0.9


def test_state_round_trip(local: LocalParties) -> None:
    short, long = plans.running_sum(3), plans.running_sum(6)
    with as_owner(local) as owner:
        owner.deploy("sums", [short, long], {})
    rows = np.random.default_rng(10).normal(size=(6, 1, 3))
    with as_client(local) as client:
        for position in range(6):
            plan = short if position < 3 else long
            found = plans.reals(client.run("sums", plan, plans.words(rows[position]), position=position))
            assert np.abs(found - (rows[: position + 1].sum(0) + position)).max() < 0.01
        assert client.run("sums", long, plans.words(rows[0]), position=5).report.of("P2").state_bytes > 0
        again = plans.reals(client.run("sums", long, plans.words(rows[5]), position=2))  # back: later rows are forgotten
        assert np.abs(again - (rows[0] + rows[1] + rows[5] + 2)).max() < 0.01
        with pytest.raises(InputError, match="too long"):
            client.run("sums", long, plans.words(rows[0]), position=6)
        with pytest.raises(InputError, match="give one"):
            client.run("sums", long, plans.words(rows[0]))
        assert not client.closed
        with pytest.raises(InputError, match="beyond the 3 rows"):
            client.run("sums", long, plans.words(rows[0]), position=5)
        with pytest.raises(ChannelError, match="session is over"):
            client.run("sums", short, plans.words(rows[0]), position=0)
    with as_client(local) as client:  # a session's cache is its own
        assert np.abs(plans.reals(client.run("sums", short, plans.words(rows[1]), position=0)) - rows[1]).max() < 0.01


def test_wrong_inputs_are_found_before_anything_is_sent(local: LocalParties) -> None:
    plan = plans.chain(1)
    with as_owner(local) as owner:
        owner.deploy("checked", [plan], {})
    with as_client(local) as client:
        for bad in ([], [np.zeros(5, np.uint64)], [np.zeros(4)]):
            with pytest.raises(InputError):
                client.run("checked", plan, bad)
        client.run("checked", plan, plans.words(np.zeros(4)))


def test_files_are_private(local: LocalParties) -> None:
    assert stat.S_IMODE(local.folder.stat().st_mode) == 0o700
    for name in PARTIES:
        assert stat.S_IMODE((local.folder / name).stat().st_mode) == 0o700
        for place in (local.folder / name).iterdir():
            if place.suffix != ".crt":
                assert stat.S_IMODE(place.stat().st_mode) == 0o600, place
        assert stat.S_IMODE((local.folder / f"{name}.log").stat().st_mode) == 0o600


def test_words_of_another_kind_than_the_table_has_are_not_sent(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many bytes, but no words: what an operation hands over is checked before it leaves."""
    plan, additive = plans.chain(1), Party.additive
    with open_session(threads.directory, threads.identity(MODEL_OWNER), deadlines=BRISK) as session:
        session.deploy("chain", [plan], {})
    monkeypatch.setattr(Party, "additive", lambda party, x: additive(party, x).view(np.float64))
    monkeypatch.setattr("moiety.mpc.rep3.wrap", lambda words, bits: words)
    client, said = open_session(threads.directory, threads.identity(CLIENT), deadlines=BRISK), r"would send float64 \(4,\) to CLIENT"
    with client, pytest.raises(PlanMismatch, match=said):
        client.run("chain", plan, plans.words(np.ones(4)))
