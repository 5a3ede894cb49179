"""Three compute parties on this machine: separate processes on loopback with mutual TLS, the same code as between organisations.

No port is guessed: every party listens on one that the system chooses and tells it through its pipe; then the federation
file is completed, and a line on their standard input lets the parties go on. They end when that pipe ends, so nothing
outlives the process that started them, however it ends.
"""

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from moiety.engine import directory
from moiety.engine.directory import Directory, Entry, Rules
from moiety.engine.injection import write_faults
from moiety.engine.limits import MODEST, Limits
from moiety.engine.session import USUAL, Deadlines
from moiety.errors import ChannelError, ConfigError, DeadlineExceeded
from moiety.net import Fault, Identity, create_identity, load_identity, net

PARTIES: Final = ("party0", "party1", "party2")
MODEL_OWNER: Final = "model-owner"
CLIENT: Final = "client"
START_S: Final = 60.0
STOP_S: Final = 5.0
OPEN_TO_ALL: Final = {directory.ANY_MODEL: Rules((MODEL_OWNER,), (CLIENT,), (CLIENT,))}
COMMAND: Final = (sys.executable, "-m", "moiety.engine.party_main")


@dataclass(slots=True)
class LocalParties:
    """Handles of what ``start`` started. ``stop`` ends it; also a context manager."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    deadlines: Deadlines = USUAL
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faults: Path | None = None
    """The file that names faults which the parties commit, where they were started for that."""
    link: str | None = None
    """The slow link that the parties send by, like ``wan`` or ``20ms,100Mbit``; owners have to be told by themselves."""
    device: str | None = None
    """Where the parties' products run, like ``cuda``."""
    _temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def federation(self) -> Path:
        """The federation file."""
        return self.folder / "federation.toml"

    @property
    def directory(self) -> Directory:
        """The federation file, read."""
        return directory.load(self.federation)

    def identity(self, name: str) -> Identity:
        """The identity of a party or owner, whose folder has its name."""
        return load_identity(self.folder / name)

    def log(self, name: str) -> str:
        """What a party logged so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def spawn(self, name: str, *, port: int | None = None) -> None:
        """Start one party's process; ``release`` lets it go on."""
        command = [*self.commands.get(name, COMMAND), str(self.folder / name), str(self.federation), "--name", name, "--parent"]
        command += ["--deadlines", msgspec.json.encode(self.deadlines).decode()]
        if self.faults is not None:
            command += ["--faults", str(self.faults)]
        if self.link is not None:
            command += ["--link", self.link]
        if self.device is not None:
            command += ["--device", self.device]
        if port is not None:
            command += ["--port", str(port)]
        place = self.folder / f"{name}.log"
        with place.open("ab") as log:
            place.chmod(0o600)
            self.processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def port(self, name: str, deadline: float) -> int:
        """The port that a party tells. Raises ChannelError with its log when it ends instead, DeadlineExceeded when it is silent."""
        process = self.processes[name]
        assert process.stdout is not None, "made with a pipe"
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise DeadlineExceeded(f"{name} did not listen in time; its log says: {self.log(name)[-2000:]!r}")
        line = process.stdout.readline()
        if not line:
            raise ChannelError(
                f"{name} ended with status {process.wait(STOP_S)} before it listened; its log says: {self.log(name)[-2000:]}"
            )
        return int(line)

    def release(self, name: str) -> None:
        """The federation file is complete: go on."""
        pipe = self.processes[name].stdin
        assert pipe is not None, "made with a pipe"
        with contextlib.suppress(OSError):
            pipe.write(b"go\n")
            pipe.flush()

    def inject(self, *faults: Fault) -> None:
        """What sessions that open from now on suffer."""
        assert self.faults is not None, "the parties were started to be faithful"
        write_faults(self.faults, faults)

    def restart(self, name: str) -> None:
        """Start a party again, at its address in the federation file."""
        self.end(name)
        self.spawn(name)
        self.port(name, time.monotonic() + START_S)
        self.release(name)

    def end(self, name: str) -> None:
        """Terminate one party, then kill it if it does not stop."""
        process = self.processes.pop(name, None)
        if process is not None:
            _end([process])

    def stop(self) -> None:
        """End all processes, remove the temporary folder. May be called twice."""
        _end(list(self.processes.values()))
        self.processes.clear()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> "LocalParties":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    folder: str | os.PathLike[str] | None = None,
    *,
    owners: Sequence[str] = (MODEL_OWNER, CLIENT),
    models: Mapping[str, Rules] = OPEN_TO_ALL,
    limits: Limits = MODEST,
    deadlines: Deadlines = USUAL,
    commands: Mapping[str, Sequence[str]] | None = None,
    faults: bool = False,
    link: str | None = None,
    device: str | None = None,
) -> LocalParties:
    """Make identities in ``folder`` (default: a temporary one, mode 0700), start the parties and wait until they listen.

    ``commands`` replaces the command of single parties; ``faults`` lets all of them fail on purpose (``LocalParties.inject``);
    ``link`` lets them send as slowly as such a link would (``net.shape``); ``device`` is where their products run. Raises ConfigError.
    """
    if link is not None:
        net(link)
    temporary = tempfile.TemporaryDirectory(prefix="moiety-") if folder is None else None
    place = Path(temporary.name if temporary else os.fspath(folder or ""))
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    local = LocalParties(
        place,
        deadlines=deadlines,
        commands=commands or {},
        faults=place / "faults" if faults else None,
        link=link,
        device=device,
        _temporary=temporary,
    )
    try:
        identities = {name: create_identity(name, place / name) for name in (*PARTIES, *owners)}
        _write(local, identities, models, limits, dict.fromkeys(PARTIES, 0))
        for name in PARTIES:
            local.spawn(name, port=0)
        deadline = time.monotonic() + START_S
        _write(local, identities, models, limits, {name: local.port(name, deadline) for name in PARTIES})
        for name in PARTIES:
            local.release(name)
    except BaseException:
        local.stop()
        raise
    return local


def _write(
    local: LocalParties, identities: Mapping[str, Identity], models: Mapping[str, Rules], limits: Limits, ports: Mapping[str, int]
) -> None:
    entries = {}
    for name, identity in identities.items():
        compute = name in ports
        certificate = os.path.relpath(identity.certificate_path, local.folder)
        role = f"p{PARTIES.index(name)}" if compute else "owner"
        runs = MODEL_OWNER if role == "p1" and MODEL_OWNER in identities else ""
        entries[name] = Entry((role,), certificate, identity.fingerprint, f"127.0.0.1:{ports[name]}" if compute else "", runs)
    directory.write(local.federation, entries, models, limits)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask, ask again, kill: the second time a party waits for no run."""
    for end in (subprocess.Popen.terminate, subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in processes:
            end(process)
        deadline = time.monotonic() + STOP_S
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        if all(process.returncode is not None for process in processes):
            break
    for process in processes:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def require_three(parties: int) -> None:
    """Raises ConfigError unless three parties are asked for."""
    if parties != 3:
        raise ConfigError(f"the protocol rep3 has exactly 3 compute parties, not {parties}")
