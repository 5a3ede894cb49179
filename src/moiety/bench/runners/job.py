"""A job as the runners of peers read it, and how they answer. Runs in a peer's environment: numpy and the standard library alone.

A job is a folder: ``job.json`` with the family of the workload, its settings and how often to run it, ``arrays.npz`` with the
weights (``w.NAME``) and the inputs (``x.0``, ``x.1`` ...). A runner writes ``output.npy`` into a folder of its own and prints one
line of JSON. Every matrix of a linear layer is stored to be applied from the right: ``x @ matrix``.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = Any


class Job:
    """What is to be evaluated."""

    def __init__(self, folder: str) -> None:
        described = json.loads((Path(folder) / "job.json").read_text(encoding="utf-8"))
        self.family: str = described["family"]
        self.settings: dict[str, Any] = described["settings"]
        self.runs: int = described["runs"]
        self._arrays = np.load(Path(folder) / "arrays.npz")

    def weights(self) -> dict[str, Array]:
        """All weights by name."""
        return {name[2:]: self._arrays[name] for name in self._arrays.files if name.startswith("w.")}

    def inputs(self) -> list[Array]:
        """The inputs in order."""
        return [self._arrays[name] for name in sorted(self._arrays.files) if name.startswith("x.")]


def answer(folder: str, output: Array, **measured: Any) -> None:
    """Keep the output and print what was measured; the line is the runner's last word."""
    np.save(Path(folder) / "output.npy", np.asarray(output))
    sys.stdout.write(json.dumps(measured) + "\n")
    sys.stdout.flush()


def peak_bytes() -> int:
    """The most memory this process ever held; getrusage alone would count what its parent held when it started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
