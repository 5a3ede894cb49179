"""A workload written to disk for every side to read: weights, inputs, and what float64 makes of them.

Making one needs PyTorch and much memory (``material``); reading one and judging an answer does not.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np


class Job(msgspec.Struct, frozen=True):
    """``job.json``: what the runners of peers read, and the workload's name for moiety's own side."""

    workload: str
    family: str
    settings: dict[str, Any]
    runs: int
    counted: int
    """How many of the last runs count."""


def read(folder: Path) -> Job:
    """The job in a folder."""
    return msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)


def error(reference: np.ndarray[Any, Any], output: np.ndarray[Any, Any]) -> float:
    """The largest difference. Of an index: 0 or 1, whether it is another."""
    if reference.dtype.kind == "i":
        return float(not np.array_equal(reference.reshape(-1), output.astype(np.int64).reshape(-1)))
    return float(np.abs(reference.reshape(-1) - output.astype(np.float64).reshape(-1)).max())
