"""Stages of long work: bars on a terminal, lines elsewhere, silence for ``--json``. All on stderr, but for the text itself."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

LABELS: Final = {
    "start": "three compute parties start",
    "tokenise": "data owner splits the text into tokens",
    "load": "model owner loads the model",
    "compile": "model owner compiles the plans",
    "share": "model owner shares the weights",
    "prefill": "parties run the prompt",
    "tokens": "parties run the next tokens",
    "embed": "parties run the sentence",
    "prepare": "data owner prepares the images",
    "classify": "parties run the images",
    "check": "the same in the clear",
}


class Screen:
    """Measures the stages, and shows nothing."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """A stage begins. It may begin again: its times add up."""
        self._began[name] = time.perf_counter()

    def progress(self, name: str, done: float, of: float) -> None:
        """So much of the stage is done."""

    def end(self, name: str) -> None:
        """A stage is over."""
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - self._began.pop(name)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """``begin`` and ``end``; a stage that fails does not end."""
        self.begin(name)
        yield
        self.end(name)

    def text(self, piece: str) -> None:
        """A piece of the answer was revealed."""

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Lines(Screen):
    """One line for each stage when it is over; the text as it comes."""

    def __init__(self, *, stream: bool = True) -> None:
        super().__init__()
        self._stream, self._open = stream, False

    def end(self, name: str) -> None:
        super().end(name)
        if self._open:  # the text has a line of its own
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._open = False
        sys.stderr.write(f"{LABELS[name]:<40} {self.seconds[name]:6.1f} s\n")
        sys.stderr.flush()

    def text(self, piece: str) -> None:
        if self._stream:
            sys.stdout.write(piece)
            sys.stdout.flush()
            self._open = True


class Bars(Screen):
    """A bar for each stage, and the text below as it comes. ``keep`` leaves them standing at the end."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.answer = Text(style="bold")
        self._bars = Progress(TextColumn("{task.description:<40}"), BarColumn(28), TimeElapsedColumn())
        self._tasks: dict[str, TaskID] = {}
        body = Group(self._bars, Padding(self.answer, (1, 0, 0, 2)))
        self._live = Live(body, console=Console(stderr=True), refresh_per_second=8, transient=not keep, redirect_stdout=False)

    def begin(self, name: str) -> None:
        super().begin(name)
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(LABELS[name], total=None)

    def progress(self, name: str, done: float, of: float) -> None:
        self._bars.update(self._tasks[name], completed=done, total=of)

    def end(self, name: str) -> None:
        super().end(name)
        self._bars.update(self._tasks[name], completed=1, total=1)

    def text(self, piece: str) -> None:
        self.answer.append(piece)

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._began:  # failed or interrupted: no bar may look as if it were going on
            self._bars.stop_task(self._tasks[name])
        self._live.stop()


def screen(*, silent: bool, keep: bool = False, stream: bool = True) -> Screen:
    """The screen that fits: none for ``silent``, bars on a terminal, else lines. ``stream``: lines show the text, too."""
    if silent:
        return Screen()
    return Bars(keep=keep) if sys.stderr.isatty() else Lines(stream=stream)
