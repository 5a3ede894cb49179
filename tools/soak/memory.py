"""Resident memory of the parties, sampled, and the straight line through it."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EVERY_S = 0.5
WARM = 0.4
"""The part of a soak after which nothing should grow any more: allocators have met every size, every table is there."""
MOST_GROWTH = 0.05
"""What the line may rise from there to the end, as a part of its mean."""
LEAST_S = 60.0
"""A shorter soak tells nothing about growth."""


@dataclass
class Sampler:
    """Samples ``pids`` until ``stop``."""

    pids: Mapping[str, int]
    samples: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        began = time.monotonic()

        def run() -> None:
            while not self._over.wait(EVERY_S):
                for name, pid in self.pids.items():
                    self.samples.setdefault(name, []).append((time.monotonic() - began, resident(pid)))

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(samples: list[tuple[float, int]]) -> dict[str, Any]:
    """First, last and highest sample, and the line through those after the warm part. ``holds`` is None when it was too short."""
    times, sizes = np.array(samples).T
    warm = times >= WARM * times[-1]
    slope = float(np.polyfit(times[warm], sizes[warm], 1)[0])
    rise = slope * float(times[warm][-1] - times[warm][0]) / float(sizes[warm].mean())
    long = bool(times[-1] >= LEAST_S)
    return {
        "first_bytes": int(sizes[0]),
        "warm_bytes": int(sizes[warm][0]),
        "last_bytes": int(sizes[-1]),
        "most_bytes": int(sizes.max()),
        "slope_bytes_per_s": round(slope),
        "rise": round(rise, 4),
        "holds": rise <= MOST_GROWTH if long else None,
    }
