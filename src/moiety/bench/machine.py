"""Where it was measured, and what else the machine did meanwhile."""

import hashlib
import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

import moiety

BUSY: Final = 0.2
"""Processors busy with something else, from which on seconds are not to be trusted."""


class Machine(msgspec.Struct, frozen=True):
    """The environment of a measurement."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    moiety: str
    commit: str
    """With ``-dirty`` where files were changed since; empty outside a clone."""
    build: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds so far: of the whole machine, and of what this process started and waited for."""

    at: float
    busy_s: float
    own_s: float

    @classmethod
    def now(cls) -> "Usage":
        """As it is."""
        children, own = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
        return cls(time.monotonic(), _busy_s(), sum(used.ru_utime + used.ru_stime for used in (children, own)))

    def others(self, before: "Usage") -> float:
        """How many processors were busy with something else since ``before``, on average."""
        elapsed = max(self.at - before.at, 1e-9)
        return max(0.0, (self.busy_s - before.busy_s) - (self.own_s - before.own_s)) / elapsed


def _busy_s() -> float:
    """0 where the system does not tell."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    except OSError:
        return 0.0
    user, nice, system = map(int, first[1:4])  # interrupts are left out: loopback's own belong to nobody
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def build() -> str:
    """A digest of the installed package: what was measured, whatever its version and commit are called."""
    folder, digest = Path(moiety.__file__).parent, hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".so")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def describe() -> Machine:
    """This machine and installation."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    versions = (platform.python_version(), moiety.__version__, _commit(), build())
    return Machine(_processor(), cores, memory, system, *versions)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    root = Path(moiety.__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    done = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
