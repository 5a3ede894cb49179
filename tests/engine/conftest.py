import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moiety.engine import launch
from moiety.engine.directory import Entry, Rules, write
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES, LocalParties, start
from moiety.engine.limits import MODEST
from moiety.engine.owner import OwnerSession, open_session
from moiety.engine.party import serve
from moiety.engine.session import Deadlines
from moiety.net import create_identity

BRISK = Deadlines(open_s=20.0, wave_s=10.0, result_s=20.0, idle_s=60.0, stall_s=20.0)
HASTY = Deadlines(open_s=4.0, wave_s=1.5, result_s=6.0, idle_s=60.0, stall_s=5.0)
STRANGER = "stranger"
RULES = {
    "*": Rules((MODEL_OWNER,), (CLIENT,), (CLIENT,)),
    "unreceived": Rules((MODEL_OWNER,), (CLIENT,), ()),
    "untraced": Rules((MODEL_OWNER,), (CLIENT,), (CLIENT,), trace=False),
    "unasked": Rules((MODEL_OWNER,), (), (CLIENT,)),
}


def as_owner(local: LocalParties, **seams: Any) -> OwnerSession:
    return open_session(local.directory, local.identity(MODEL_OWNER), deadlines=local.deadlines, **seams)


def as_client(local: LocalParties, name: str = CLIENT, **seams: Any) -> OwnerSession:
    return open_session(local.directory, local.identity(name), deadlines=local.deadlines, **seams)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalParties]:
    """Three parties that the tests of a module share: most tests also show that what came before left them well."""
    with start(deadlines=BRISK, owners=(MODEL_OWNER, CLIENT, STRANGER), models=RULES) as parties:
        yield parties


@pytest.fixture(scope="module")
def faulty() -> Iterator[LocalParties]:
    """Three parties with short deadlines that fail on purpose, as ``inject`` says."""
    with start(deadlines=HASTY, faults=True) as parties:
        yield parties


@dataclass
class Threads:
    """Three parties as threads of this process, so that a test sees what all of them hold."""

    folder: Path
    deadlines: Deadlines = BRISK
    logs: dict[str, io.StringIO] = field(default_factory=dict)

    federation = LocalParties.federation
    directory = LocalParties.directory
    identity = LocalParties.identity


@pytest.fixture
def threads(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Threads]:
    """The parameter has seams of single parties, {name: {"wrap": ..., "watcher": ...}}, and may have {"limits": Limits(...)}."""
    out, stop, complete = Threads(tmp_path), threading.Event(), threading.Event()
    identities = {name: create_identity(name, tmp_path / name) for name in (*PARTIES, MODEL_OWNER, CLIENT)}
    ports: dict[str, int] = dict.fromkeys(PARTIES, 0)

    def file() -> None:
        entries = {
            name: Entry(
                (f"p{PARTIES.index(name)}" if name in ports else "owner",),
                str(one.certificate_path.relative_to(tmp_path)),
                one.fingerprint,
                f"127.0.0.1:{ports[name]}" if name in ports else "",
            )
            for name, one in identities.items()
        }
        write(out.federation, entries, launch.OPEN_TO_ALL, getattr(request, "param", {}).get("limits", MODEST))

    def announce(name: str, port: int) -> None:
        ports[name] = port
        if all(ports.values()):
            file()
            complete.set()
        complete.wait(10)

    file()
    running = []
    for name in PARTIES:
        out.logs[name] = io.StringIO()
        seams = getattr(request, "param", {}).get(name, {})
        options = {"announce": lambda port, name=name: announce(name, port), "out": out.logs[name], "stop": stop, **seams}
        running.append(threading.Thread(target=serve, args=(tmp_path / name, out.federation), kwargs={"deadlines": BRISK, **options}))
        running[-1].start()
    assert complete.wait(10)
    yield out
    stop.set()
    for thread in running:
        thread.join(10)
        assert not thread.is_alive()
