"""A federation for one command: three party processes and a model owner's process on this machine. Or one that runs elsewhere."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from moiety.cli.screen import Screen
from moiety.cli.vendor import Event, Request
from moiety.engine import launch
from moiety.engine.deployed import Private
from moiety.engine.directory import Rules
from moiety.engine.federation import Federation, connect
from moiety.engine.launch import CLIENT, MODEL_OWNER, LocalParties
from moiety.errors import ChannelError, ConfigError, MoietyError

VENDOR: Final = (sys.executable, "-m", "moiety.cli.vendor")
FAREWELL_S: Final = 5.0


@dataclass(slots=True)
class Place:
    """Where a command computes. ``vendor`` is the model owner's report where it ran here."""

    federation: Federation
    name: str
    parties: LocalParties | None = None
    vendor: dict[str, Any] | None = None
    _private: Private | None = None

    def private(self) -> Private:
        """The model as the data owner reaches it: by its plans. Raises InputError when the parties hold none."""
        if self._private is None:
            self._private = self.federation.model(self.name)
        return self._private

    def deploy(self, model: str, lengths: tuple[int, ...], context: int, reveal: str, screen: Screen) -> None:
        """Let a model owner's process deploy; a model that runs elsewhere is there already."""
        if self.parties is not None:
            request = Request(str(self.parties.federation), MODEL_OWNER, model, self.name, lengths, context, reveal, link=self.parties.link)
            self.vendor = run_vendor(request, screen)


@contextlib.contextmanager
def local(name: str, screen: Screen, link: str | None = None) -> Iterator[Place]:
    """Three parties on this machine, for as long as the block lasts; all members send as slowly as by ``link``."""
    screen.begin("start")
    with launch.start(models={name: Rules((MODEL_OWNER,), (CLIENT,), (CLIENT,))}, link=link) as parties:
        screen.end("start")
        with connect(parties.federation, party=CLIENT, link=link) as federation:
            yield Place(federation, name, parties)


@contextlib.contextmanager
def elsewhere(file: str, party: str | None, name: str, identity: str | None) -> Iterator[Place]:
    """The parties of a federation file."""
    with connect(file, party=party, identity=identity) as federation:
        place = Place(federation, name)
        place.private()  # what is wrong with file, key, parties or rules shows before anything else is done
        yield place


def run_vendor(request: Request, screen: Screen) -> dict[str, Any]:
    """Run the model owner's process to its end, and return its report. Raises what it raised."""
    with tempfile.TemporaryFile() as log:
        command = [*VENDOR, msgspec.json.encode(request).decode()]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            report = _follow(process, screen)
        finally:
            _end(process)  # with its report it has no more to say, however long it takes to give back its memory
        if report is None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ChannelError(f"the model owner's process ended with status {process.returncode}: {''.join(said) or 'it said nothing'}")
        return report


def _follow(process: "subprocess.Popen[bytes]", screen: Screen) -> dict[str, Any] | None:
    assert process.stdout is not None, "made with a pipe"
    for line in process.stdout:
        event = msgspec.json.decode(line, type=Event)
        show(event, screen)
        if event.kind == "error":
            raise as_raised(event)
        if event.kind == "done":
            return event.report
    return None


def show(event: Event, screen: Screen) -> None:
    """Put a model owner's event on the screen."""
    match event.kind:
        case "begin":
            screen.begin(event.stage)
        case "progress":
            screen.progress(event.stage, event.done, event.of)
        case "end":
            screen.end(event.stage)


def as_raised(event: Event) -> MoietyError:
    """The error of the other process, of its own class."""
    pending: list[type[MoietyError]] = [MoietyError]
    while pending:
        kind = pending.pop()
        if kind.code == event.code:
            return kind(event.message)
        pending += kind.__subclasses__()
    return ConfigError(event.message)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The process ends when its standard input does; what hangs is killed."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(FAREWELL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
