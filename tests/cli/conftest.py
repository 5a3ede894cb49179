"""Run commands as a user does: as processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

COMMAND = [sys.executable, "-m", "moiety.cli"]


def environment() -> dict[str, str]:
    """That of the tests, in which relative paths of modules hold in any folder."""
    paths = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def moiety(*arguments: str, timeout: float = 100, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A command, run to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=timeout, cwd=cwd, env=environment())


def data(*arguments: str, **options: Any) -> Any:
    """What a command prints with --json."""
    done = moiety(*arguments, "--json", **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


class Running:
    """A command that runs, with its lines on stderr as they come, and everything that it started."""

    def __init__(self, *arguments: str) -> None:
        # A shell that runs the tests in the background makes them ignore SIGINT, and children inherit that; a handler they do not.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
            )
        finally:
            signal.signal(signal.SIGINT, before)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    def wait_for(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        with self._news:
            while not any(text in line for line in self.lines):
                left = deadline - time.monotonic()
                assert left > 0, f"{text!r} did not come: {self.lines}"
                assert self.process.poll() is None or self._reader.is_alive(), f"ended without {text!r}: {self.lines}"
                self._news.wait(min(left, 0.2))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self._reader.join(5)
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()


def gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    """Whether all have ended."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.fixture
def stories(data_folder: Path) -> str:
    """The name of the small model; the test is skipped where its files are not."""
    if not (data_folder / "models" / "stories260K").is_dir():
        pytest.skip("stories260K is not in the data folder")
    return "stories"
