"""Follow a page as its reader would: save its files, type its commands, compare what they print with what it shows.

```python title="name.py"   a file to save, with a machine before it (``clinic/ask.py``) there, else on every machine
```console                  ``$ command`` with the lines it prints; ``alice$`` is typed at alice's machine, ``everywhere$`` at each

A machine is a folder here. Of the output every shown line must come, in that order; ``…`` stands for any text. A command must succeed.
``moiety party`` keeps running until the page is left.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from typer.testing import CliRunner

from moiety.cli.app import app

from .conftest import environment

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(\w*)\$ (.*)$")
PLAIN = re.compile(r"moiety [^|>&;]*")
PATIENCE_S = 200


class Reader:
    """Someone who follows pages in a folder; every machine that a page names is a folder in it."""

    def __init__(self, folder: Path, machines: Sequence[str] = ("",), replace: Mapping[str, str] | None = None) -> None:
        self.folder, self.machines, self.replace = folder, machines, dict(replace or {})
        self.parties: list[subprocess.Popen[bytes]] = []
        for machine in machines:
            (folder / machine).mkdir(exist_ok=True)
        bin_ = folder / ".bin"
        bin_.mkdir()
        for name, command in {"moiety": f"{sys.executable} -m moiety.cli", "python": sys.executable}.items():
            (bin_ / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (bin_ / name).chmod(0o755)
        self.environment = environment() | {"PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for party in self.parties:
            party.send_signal(signal.SIGTERM)
        assert [party.wait(20) for party in self.parties] == [0] * len(self.parties)

    def follow(self, text: str) -> None:
        """Save the files and type the commands of the text, in order."""
        for language, title, body in BLOCK.findall(text):
            if title:
                self.save(title, body)
            elif language == "console":
                for machine, command, shown in commands(body):
                    for one in self.machines if machine == "everywhere" else [machine]:
                        self.type(one, self.here(command), shown)

    def save(self, title: str, body: str) -> None:
        """A file of the page."""
        machine, _, name = title.rpartition("/")
        for one in [machine] if machine else self.machines:
            (self.folder / one / name).write_text(self.here(body), encoding="utf8")

    def here(self, text: str) -> str:
        """The text with what differs on this machine."""
        for name, value in self.replace.items():
            text = text.replace(name, value)
        return text

    def type(self, machine: str, command: str, shown: str) -> None:
        """Run one command and compare what it prints."""
        place = self.folder / machine
        if command.startswith("moiety party "):
            self.start(place, command)
            return
        status, printed = self.plainly(place, command) if PLAIN.fullmatch(command) else self.by_shell(place, command)
        assert status == 0, f"{machine}$ {command}\n{printed}"
        wanted = ".*".join("^" + re.escape(line).replace("…", r"[^\n]*") + r" *\n" for line in shown.splitlines())
        assert re.search(wanted, printed, re.DOTALL | re.MULTILINE), f"{machine}$ {command}\n{printed}\nbut the page shows\n{shown}"

    def plainly(self, place: Path, command: str) -> tuple[int, str]:
        """Here in this process, which has PyTorch loaded already. Other tests run commands as processes."""
        with contextlib.chdir(place):
            done = CliRunner().invoke(app, shlex.split(command)[1:])
        return done.exit_code, done.output

    def by_shell(self, place: Path, command: str) -> tuple[int, str]:
        """As everything that is more than one command of moiety."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout

    def start(self, place: Path, command: str) -> None:
        """Leave a party running, once the log that the page names says that it listens."""
        log = place / command.rpartition("2> ")[2]
        log.touch()
        self.parties.append(subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=place, env=self.environment))
        deadline = time.monotonic() + PATIENCE_S
        while " listens on " not in log.read_text():
            assert self.parties[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{command} does not listen"
            time.sleep(0.05)


def commands(body: str) -> Iterator[tuple[str, str, str]]:
    """Machine, command and shown output of every command in a console block."""
    machine, command, shown = "", "", ""
    for line in body.splitlines(keepends=True):
        if match := COMMAND.match(line):
            if command:
                yield machine, command, shown
            (machine, command), shown = match.groups(), ""
        else:
            shown += line
    yield machine, command, shown


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()
