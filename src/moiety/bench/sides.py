"""One turn of one side: a process that evaluates a job in a folder of its own and says what it took, in one line of JSON."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np

from moiety.bench import jobs, machine

LATEST_S: Final = 3600.0
"""A turn that takes longer is given up."""
TELLING: Final = 1500
"""Characters of what a side said before it failed."""


class TurnFailed(RuntimeError):
    """A side of a measurement ended without a result."""


class Measured(msgspec.Struct, frozen=True):
    """What a side says. Its ``walls`` are runs one after the other in the same processes, of which the first warm up."""

    walls: tuple[float, ...]
    cpu_s: tuple[float, ...]
    """Of each party, in the last run."""
    peak_bytes: tuple[int, ...]
    """Of each party's process."""
    sent_bytes: int
    """By everybody, in the last run."""
    among_bytes: int
    """Of them, what the parties sent each other."""
    rounds: int
    compile_s: float
    share_s: float
    versions: dict[str, str]
    wire_bytes: int = 0
    """``sent_bytes`` with all framing and encryption, where the side knows."""
    steady: int = 1
    """How many of the last runs count; their median is the turn's. The job says it, not the side."""
    between_s: float | None = None
    """Seconds from shares to shares, where the walls are more than that."""

    @property
    def whole_s(self) -> float:
        """Seconds of a run that was warmed up."""
        return median(self.walls[-self.steady :])

    @property
    def wall_s(self) -> float:
        """From shares to shares, where the side tells it."""
        return self.whole_s if self.between_s is None else self.between_s


class Turn(msgspec.Struct, frozen=True):
    """One measurement, as it is kept. ``max_error`` is against float64; of an index 1 if it is another."""

    workload: str
    side: str
    build: str
    runs: int
    began: float
    load: float
    others: float
    """Processors that were busy with something else meanwhile, on average."""
    measured: Measured
    max_error: float


def take(side: str, command: Sequence[str], job: Path, build: str, *, latest_s: float = LATEST_S) -> Turn:
    """Run a side on a job and compare its answer. Raises TurnFailed."""
    before, load = machine.Usage.now(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="moiety-bench-") as out:
        began = time.time()
        lines = printed(side, [*command, str(job), out], latest_s).splitlines() or [b"nothing"]
        try:
            told = msgspec.json.decode(lines[-1], type=Measured)
        except msgspec.MsgspecError as error:
            raise TurnFailed(f"{side} ended with {lines[-1][-TELLING:]!r}, which is no result: {error}") from None
        output = np.load(Path(out) / "output.npy", allow_pickle=False)
    described = jobs.read(job)
    counted = max(1, min(described.counted, len(told.walls) - 1))  # the first run never counts where there are more
    told = msgspec.structs.replace(told, steady=counted)
    wrong = jobs.error(np.load(job / "reference.npy", allow_pickle=False), output)
    return Turn(described.workload, side, build, len(told.walls), began, load, machine.Usage.now().others(before), told, wrong)


def printed(title: str, command: Sequence[str], latest_s: float = LATEST_S) -> bytes:
    """What a process prints; it and all that it started are stopped when it takes too long. Raises TurnFailed unless it ends well."""
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, start_new_session=True) as process:
            try:
                output, _ = process.communicate(timeout=latest_s)
            except subprocess.TimeoutExpired:
                raise TurnFailed(f"{title} did not end within {latest_s:g} s and was stopped") from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if process.returncode:
        raise TurnFailed(f"{title} ended with status {process.returncode}: {text[-TELLING:].strip() or 'it said nothing'}")
    return output
