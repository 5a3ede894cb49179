"""Several clients, models and decoders with caches at once, on one federation of real processes: nothing is mixed, no mask is shared."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moiety.engine.directory import Rules
from moiety.engine.launch import PARTIES, LocalParties, start
from moiety.engine.owner import OwnerSession
from moiety.net import Kind

from . import plans
from .conftest import BRISK, as_client, as_owner
from .recording_party import Notes, RecordedLink, one_id_for_all, repeated

OWNERS = ("vendor", "north", "south")
RULES = {"*": Rules(("vendor",), ("north", "south"), ("north", "south"))}
COMMANDS = dict.fromkeys(PARTIES, (sys.executable, str(Path(__file__).with_name("recording_party.py"))))
ROUNDS = 3


def recording(folder: Path) -> LocalParties:
    return start(folder, owners=OWNERS, models=RULES, deadlines=BRISK, commands=COMMANDS)


def deploy(local: LocalParties) -> None:
    with as_client(local, "vendor") as vendor:
        for seed in (1, 2):
            vendor.deploy(f"mlp-{seed}", [plans.mlp()], plans.mlp_weights(seed))
        vendor.deploy("sums", [plans.running_sum(8)], {})


def ask_mlp(client: OwnerSession, seed: int, x: np.ndarray) -> None:
    for _ in range(ROUNDS):
        found = plans.reals(client.run(f"mlp-{seed}", plans.mlp(), plans.words(x)))
        assert np.abs(found - plans.mlp_float(plans.mlp_weights(seed), x)).max() < 0.005


def ask_sums(client: OwnerSession, rows: np.ndarray) -> None:
    """A decoder's way: every run goes on with the caches of this session, and of no other."""
    for _ in range(ROUNDS):
        for position in range(8):
            found = plans.reals(client.run("sums", plans.running_sum(8), plans.words(rows[position]), position=position))
            assert np.abs(found - (rows[: position + 1].sum(0) + position)).max() < 0.01


def at_once(local: LocalParties, *asks: tuple[str, Callable[[OwnerSession], None]]) -> None:
    """Every one in a session of its own, all together; raises what any of them raised."""
    problems: list[BaseException] = []
    ready = threading.Barrier(len(asks))

    def ask(name: str, what: Callable[[OwnerSession], None]) -> None:
        try:
            with as_client(local, name) as client:
                ready.wait(30)
                what(client)
        except BaseException as error:
            ready.abort()
            problems.append(error)

    threads = [threading.Thread(target=ask, args=one) for one in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if problems:
        raise problems[0]


def redeploy(local: LocalParties, stop: threading.Event) -> None:
    """Models come and go while others run."""
    seed = 10
    while not stop.is_set():
        with as_client(local, "vendor") as vendor:
            vendor.deploy("other", [plans.mlp(rows=2)], plans.mlp_weights(seed), replace=True)
        seed += 1


def test_concurrent_runs_share_no_mask_and_mix_nothing(tmp_path: Path) -> None:
    with recording(tmp_path / "federation") as local:
        deploy(local)
        generator, stop = np.random.default_rng(0), threading.Event()
        x, rows = np.ones((4, 16)), np.ones((8, 1, 3))
        deploying = threading.Thread(target=redeploy, args=(local, stop))
        deploying.start()
        try:
            at_once(
                local,
                ("north", lambda client: ask_mlp(client, 1, x)),  # equal inputs, of one client and of two
                ("north", lambda client: ask_mlp(client, 1, x)),
                ("south", lambda client: ask_mlp(client, 1, x)),
                ("south", lambda client: ask_mlp(client, 2, generator.normal(size=(4, 16)))),
                ("north", lambda client: ask_sums(client, rows)),
                ("north", lambda client: ask_sums(client, rows)),
                ("south", lambda client: ask_sums(client, generator.normal(size=(8, 1, 3)))),
            )
        finally:
            stop.set()
            deploying.join(30)
        local.stop()
        for name in PARTIES:
            draws, twice = repeated(local.folder / f"draws-{name}")
            assert draws > 200
            assert twice == 0, f"{name} drew {twice} masks more than once"
            frames, equal = repeated(local.folder / f"frames-{name}")
            assert frames > 80
            assert equal == 0, f"{equal} frames of {name} are equal"


def test_a_short_run_does_not_wait_for_a_long_one(local: LocalParties) -> None:
    """Nothing is timed: the long run has rounds left when the short one's ten are done."""
    long, x = plans.chain(600), np.ones((4, 16))
    with as_owner(local) as vendor:
        vendor.deploy("mlp-1", [plans.mlp()], plans.mlp_weights(1))
        vendor.deploy("long", [long], {})
    begun, reached = threading.Event(), list[int]()

    def progress(wave: int, waves: int) -> None:
        reached.append(wave)
        begun.set()

    def run_long() -> None:
        with as_client(local) as client:
            client.run("long", long, plans.words(np.ones(4)), on_progress=progress)

    with as_client(local) as client:
        client.run("mlp-1", plans.mlp(), plans.words(x))
        other = threading.Thread(target=run_long)
        other.start()
        assert begun.wait(30)
        client.run("mlp-1", plans.mlp(), plans.words(x))
        left = len(long.waves) - reached[-1]
        other.join(60)
    assert left > 0
    assert reached[-1] == len(long.waves)


def test_the_check_catches_two_runs_with_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with the mistake planted in all members: answers stay right, so nothing but this check would tell."""
    monkeypatch.setattr("moiety.engine.keys.run_keys", None)  # restored at the end
    one_id_for_all()
    (tmp_path / "federation").mkdir(mode=0o700)
    (tmp_path / "federation" / "planted").touch()
    with recording(tmp_path / "federation") as local:
        deploy(local)
        x = np.ones((4, 16))
        at_once(local, ("north", lambda client: ask_mlp(client, 1, x)), ("south", lambda client: ask_mlp(client, 1, x)))
        local.stop()
        for name in PARTIES:
            draws, twice = repeated(local.folder / f"draws-{name}")
            assert twice > 0.3 * draws / (2 * ROUNDS)
            _, equal = repeated(local.folder / f"frames-{name}")
            assert equal > 5


class Deaf:
    """A link that goes nowhere."""

    def send(self, *_: object, **__: object) -> None: ...


def test_equal_fingerprints_are_those_of_equal_draws_and_frames(tmp_path: Path) -> None:
    notes, frames = Notes(tmp_path / "notes"), Notes(tmp_path / "frames")
    for parts in ((b"key", b"place"), (b"key", b"place"), (b"key", b"other")):
        notes.note(*parts)
    assert repeated(tmp_path / "notes") == (3, 1)
    link = RecordedLink(Deaf(), frames)
    for payload in ([b"x" * 40], [b"x" * 20, b"x" * 20], [b"y" * 40], [b"short"], [b"short"]):
        link.send(Kind.WAVE, payload)
    assert repeated(tmp_path / "frames") == (3, 1)
    notes.close(), frames.close()
