"""What a run cost at every member: exact payload by link, bytes on the wire, memory, time and, where asked for, its timeline."""

import resource
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import msgspec

from moiety.mpc.rounds import Words


class Traffic(msgspec.Struct, frozen=True):
    """One direction of one link within one run: frames of the plan, and their payload."""

    frames: int = 0
    payload_bytes: int = 0


class Report(msgspec.Struct, frozen=True):
    """One member's view of one run. Links are named ``"P1->P2"``; ``wire`` is (sent, received) by peer, TLS and control included."""

    name: str
    role: str
    waves: int
    rounds: int
    seconds: float
    waiting_s: float
    links: dict[str, Traffic]
    wire: dict[str, tuple[int, int]]
    peak_memory_bytes: int
    """The most that the member's process ever held; 0 at a compute party that runs for other owners too: it would tell of them."""
    weight_bytes: int = 0
    """Of the weights that the plan reads."""
    state_bytes: int = 0
    """Of this session's caches."""
    cpu_s: float = 0.0
    """Processor time of all threads of the process, what was dealt ahead of the run included; 0 where the peak memory is."""
    streamed_bytes: int = 0
    """Of weights that their owner streamed to this member for this run."""
    kernels: dict[str, str] = {}
    packages: tuple[str, ...] = ()
    """Packages beyond the standard library that the process has loaded: a compute party needs no torch, and shows it."""

    @property
    def sent_bytes(self) -> int:
        """Payload that this member sent."""
        return sum(t.payload_bytes for link, t in self.links.items() if link.startswith(self.role + "->"))


Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class What(IntEnum):
    """What a role does in a span."""

    COMPUTE = 0
    WAIT = 1
    SEND = 2


class Span(msgspec.Struct, frozen=True, array_like=True):
    """``us`` microseconds from ``begin_us`` on, in a wave. ``of``: the node that is computed, or the role that is waited for or sent to.

    A node may wait for dealt values while it computes: then one span lies within another.
    """

    what: What
    of: Count
    wave: Count
    begin_us: Count
    us: Count


class Timeline(msgspec.Struct, frozen=True):
    """The spans of one role in one run. ``began_s``: what its clock said when they begin (Unix time); ``lost``: how many were too many."""

    name: str
    role: str
    began_s: float
    spans: tuple[Span, ...]
    lost: int = 0


@dataclass(frozen=True, slots=True)
class RunReport:
    """The reports of all four members."""

    members: tuple[Report, ...]
    seconds: float

    def of(self, role: str) -> Report:
        """The report of one role: P0, P1, P2 or CLIENT."""
        return next(report for report in self.members if report.role == role)

    @property
    def payload_bytes(self) -> int:
        """Payload of the whole run, everything counted once."""
        return sum(report.sent_bytes for report in self.members)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What the client has after a run: the words of every output, whether a value left its range (None: not checked), costs."""

    outputs: list[Words]
    flag: bool | None
    report: RunReport
    timelines: tuple[Timeline, ...] = ()
    """Of all members, where they were asked for."""

    def __repr__(self) -> str:  # outputs are the client's secret
        return f"<RunResult of {len(self.outputs)} outputs, {self.report.seconds:.3g} s, {self.report.payload_bytes:,} B>"


def peak_memory_bytes() -> int:
    """The most memory this process ever held."""
    try:
        # getrusage would count what the parent held when it started this process.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def packages() -> tuple[str, ...]:
    """Top-level packages that are loaded and not of the standard library."""
    names = {name.partition(".")[0] for name in list(sys.modules)}
    return tuple(sorted(name for name in names if name not in sys.stdlib_module_names and not name.startswith("_")))
