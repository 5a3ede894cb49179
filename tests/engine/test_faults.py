"""Peers that die, vanish, fall silent or garble: the run ends with an error that says who and where, and the next run works."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from moiety.engine import launch
from moiety.engine.counter import COUNTER_FILE
from moiety.engine.launch import CLIENT, PARTIES, LocalParties
from moiety.errors import (
    AddressInUse,
    ChannelError,
    DeadlineExceeded,
    FrameError,
    InconsistentInput,
    MoietyError,
    PeerLost,
    PlanMismatch,
    ReuseRefused,
)
from moiety.mpc.rounds import Role
from moiety.net import Fault, FaultyChannel, fault

from . import plans
from .conftest import HASTY, as_client, as_owner

X = np.linspace(-2, 2, 4)
PLAN = plans.chain(12)


def works(local: LocalParties) -> None:
    """Deploy what is missing, and run."""
    with as_owner(local) as owner:
        owner.deploy("chain", [PLAN], {})
    with as_client(local) as client:
        found = plans.reals(client.run("chain", PLAN, plans.words(X)))
    assert np.abs(found - X * 2.0**-12).max() < 2.5 * 2.0**-plans.FRACTION


def fails(local: LocalParties, *errors: type[MoietyError]) -> MoietyError:
    with as_client(local) as client, pytest.raises(errors) as caught:
        client.run("chain", PLAN, plans.words(X))
    assert client.closed
    return caught.value


@pytest.fixture(autouse=True)
def well_before_and_after(faulty: LocalParties) -> object:
    faulty.inject()
    works(faulty)
    yield
    faulty.inject()
    works(faulty)
    assert all(process.poll() is None for process in faulty.processes.values())


@pytest.mark.parametrize("name", PARTIES)
@pytest.mark.parametrize("wave", [0, 1, 6])
def test_killed_in_mid_run(faulty: LocalParties, name: str, wave: int) -> None:
    local = faulty
    local.inject(fault(name, wave, "kill"))
    error = fails(local, PeerLost, ChannelError)
    assert name in str(error)
    assert local.processes[name].wait(5) == -signal.SIGKILL
    local.inject()
    for other in PARTIES:
        assert other == name or local.processes[other].poll() is None
    local.restart(name)


GARBLED = (FrameError, PeerLost, ChannelError, InconsistentInput)
"""The wave's frame on the channel of the sender: a greeting and an agreement come before wave 0's digest."""


@pytest.mark.parametrize("action", ["lie=20", "alter", "truncate=20", "duplicate", "drop", "close"])
@pytest.mark.parametrize(("party", "peer"), [("party1", "party2"), ("party2", "party1"), ("party0", "party2")])
def test_garbled_frames(faulty: LocalParties, action: str, party: str, peer: str) -> None:
    local = faulty
    local.inject(Fault.parse(f"{party}@2>{peer}:{action}"))
    error = fails(local, *GARBLED, DeadlineExceeded)
    if action != "close":
        assert party in str(error)


def test_a_frame_of_the_wrong_wave_names_the_op(faulty: LocalParties) -> None:
    local = faulty
    local.inject(fault("party1", 2, "duplicate", peer="party2"))
    assert "rescale" in str(fails(local, FrameError))


def test_silent_peer(faulty: LocalParties) -> None:
    local = faulty
    local.inject(fault("party1", 3, "delay", peer="party2", amount=4.0))
    began = time.monotonic()
    error = fails(local, DeadlineExceeded, ChannelError)
    assert time.monotonic() - began < HASTY.result_s
    for text in ("party1", "wave", "rescale", "within 1.5 s", "s ago"):
        assert text in str(error)


def test_partition(faulty: LocalParties) -> None:
    """Nobody hears of the party any more, nor it of them: deadlines end the run, and the first to be late tells the others."""
    local = faulty
    local.inject(fault("party2", 4, "partition"))
    error = fails(local, DeadlineExceeded)
    assert "nothing came from party2 within 1.5 s" in str(error)


def test_garbled_greeting(faulty: LocalParties) -> None:
    """The session does not come to be; nobody hangs."""
    local = faulty
    for party, peer in (("party0", "party1"), ("party2", "party1")):
        local.inject(Fault.parse(f"{party}#0>{peer}:lie=60"))
        with pytest.raises((FrameError, PlanMismatch, ReuseRefused, ChannelError)):
            as_client(local)


def test_client_vanishes(faulty: LocalParties) -> None:
    """Whatever it was in the middle of: the connection is cut without a word."""
    local = faulty
    for frame in (1, 2, 3):  # roster, run, input

        def cut(link: object, purpose: str, frame: int = frame) -> object:
            return FaultyChannel.once(link, f"client#{frame}:close") if link.peer == "party1" else link  # type: ignore[attr-defined, arg-type]

        with pytest.raises(ChannelError), as_client(local, wrap=cut) as client:
            client.run("chain", PLAN, plans.words(X))


def test_client_killed(faulty: LocalParties) -> None:
    local = faulty
    code = (
        "import os, signal\n"
        "from moiety.engine.directory import load\nfrom moiety.engine.owner import open_session\nfrom moiety.net import load_identity\n"
        f"s = open_session(load({str(local.federation)!r}), load_identity({str(local.folder / CLIENT)!r}))\n"
        "print(s.session.id.hex()[:12], flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    session = done.stdout.decode().strip()
    deadline = time.monotonic() + 5
    while any(f"session {session} with client aborts" not in local.log(name) for name in PARTIES):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_counter_restored_under_a_running_party(faulty: LocalParties) -> None:
    local = faulty
    place = local.folder / "party2" / COUNTER_FILE
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    snapshot = place.read_bytes()
    works(local)
    later = place.read_bytes()
    place.write_bytes(snapshot)
    with pytest.raises(ReuseRefused, match="an old copy"):
        as_client(local)
    place.write_bytes(later)


def test_folder_restored_repeats_no_session(faulty: LocalParties) -> None:
    """A party restarted from an old copy of its folder takes part again, under ids that nobody used before."""
    local = faulty
    place = local.folder / "party1" / COUNTER_FILE
    snapshot, ids = place.read_bytes(), set()
    for _ in range(3):
        local.end("party1")
        place.write_bytes(snapshot)
        local.spawn("party1")
        local.port("party1", time.monotonic() + 20)
        local.release("party1")
        with as_client(local) as client:
            ids.add(client.session.id)
    assert len(ids) == 3


def test_any_order(faulty: LocalParties) -> None:
    """A party that comes late is waited for."""
    local = faulty
    for late in PARTIES:
        local.end(late)

        def come(name: str = late) -> None:
            time.sleep(0.7)
            local.spawn(name)
            local.port(name, time.monotonic() + 20)
            local.release(name)

        thread = threading.Thread(target=come)
        thread.start()
        works(local)
        thread.join()


def test_absent_party(faulty: LocalParties) -> None:
    local = faulty
    local.end("party2")
    with pytest.raises(DeadlineExceeded, match=r"party2 at 127\.0\.0\.1"):
        as_client(local)
    local.restart("party2")


def test_port_in_use(faulty: LocalParties) -> None:
    local = faulty
    port = local.directory.compute(Role.P0).port
    local.end("party0")
    local.spawn("party0")
    local.port("party0", time.monotonic() + 20)
    command = [*launch.COMMAND, str(local.folder / "party1"), str(local.federation), "--port", str(port)]
    taken = subprocess.run(command, capture_output=True, timeout=30)  # the folder of party1 is in use by party1 itself
    assert b"another process already runs the party" in taken.stderr
    local.end("party1")
    taken = subprocess.run(command, capture_output=True, timeout=30)
    assert taken.returncode == AddressInUse.exit_status
    assert AddressInUse.code.encode() in taken.stderr
    local.release("party0")
    local.restart("party1")


def test_stops_in_good_order(faulty: LocalParties) -> None:
    local = faulty
    for number in (signal.SIGTERM, signal.SIGINT):
        with as_client(local):
            process = local.processes["party1"]
            os.kill(process.pid, number)
            assert process.wait(10) == 0
        assert local.log("party1").rstrip().endswith("stopped")
        local.restart("party1")


def test_parties_end_with_their_parent() -> None:
    code = (
        "import os, signal\nfrom moiety.engine.launch import start\nlocal = start()\n"
        "print(*[p.pid for p in local.processes.values()], local.folder, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30)
    *pids, folder = done.stdout.decode().split()
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    shutil.rmtree(folder)
