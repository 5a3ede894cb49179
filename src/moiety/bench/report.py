"""Medians and ratios of what was measured."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

import msgspec

from moiety.bench import machine
from moiety.bench.machine import BUSY, Machine
from moiety.bench.peers import FLOOR, OURS, PEERS
from moiety.bench.results import Store
from moiety.bench.sides import Turn
from moiety.bench.workloads import TABLE, Workload


class Figures(msgspec.Struct, frozen=True):
    """Medians of the turns of one side; of parties, of the one that needs most."""

    wall_s: float
    """From shares to shares; of a decoder from floats to floats."""
    whole_s: float
    """From floats to floats at moiety; of peers as ``wall_s``."""
    cpu_s: float
    sent_bytes: float
    among_bytes: float
    """Of them, what the parties sent each other: all that peers count."""
    rounds: float
    peak_bytes: float
    compile_s: float
    share_s: float
    max_error: float
    """The largest of all turns."""
    first_s: float
    """Of the first run after sharing, which warms up."""
    wire_bytes: float
    walls: tuple[float, ...]
    """``wall_s`` of the turns."""
    calm: bool
    """Whether nothing else ran meanwhile."""
    versions: dict[str, str]


class Ratios(msgspec.Struct, frozen=True):
    """The peer's figure over moiety's, None where one of them is zero."""

    wall: float | None
    whole: float | None
    cpu: float | None
    sent: float | None
    among: float | None
    rounds: float | None
    memory: float | None
    sharing: float | None
    compiling: float | None


class Row(msgspec.Struct, frozen=True):
    """A workload. ``floor``: moiety's time from floats to floats over that of PyTorch in the clear."""

    workload: str
    title: str
    options: dict[str, int]
    sides: dict[str, Figures]
    ratios: dict[str, Ratios]
    floor: float | None


class Report(msgspec.Struct, frozen=True):
    """Everything of one build, in the order of the table of workloads."""

    machine: Machine
    load_before: float
    load_after: float
    notes: tuple[str, ...]
    failures: tuple[str, ...]
    rows: tuple[Row, ...]


NOTES: Final = (
    "wall: of the slowest party, from the moment at which all parties hold their shares of the inputs until all hold their share of the "
    "answer. What moiety's dealer did before that moment is added. Links of moiety (mutual TLS) and MP-SPDZ encrypt, those of SPU and "
    "CrypTen do not",
    "end to end: of moiety's data owner, from floats to floats. It adds the order to run, encoding, sharing the inputs and opening the "
    "answer, which peers were not asked to time; PyTorch's own time is held against it, and that of decoders is all of this kind",
    "bytes among parties are what the parties sent each other, which is all that peers count; bytes sent are everything that anybody sent, "
    "so at moiety the data owner's inputs and answer too, as are its parties' CPU-seconds",
    "moiety's rounds count two for the inputs and one for the answer, which peers' do not; SPU's are messages received by party 0; "
    "CPU-seconds and memory are those of the party that needs most",
    "MP-SPDZ tells seconds, bytes and rounds of the function alone, preprocessing included; its CPU-seconds and memory are of the whole "
    "process, and its sharing is not timed",
    "CrypTen runs with two parties and its default dealer, party 0, which knows every triple",
)


def made(store: Store, before: float, after: float, failures: Sequence[str] = ()) -> Report:
    """The report of all turns of the store's build."""
    turns = list(store.turns())
    rows = (_row(workload, [turn for turn in turns if turn.workload == workload.name]) for workload in TABLE)
    return Report(machine.describe(), before, after, NOTES, tuple(failures), tuple(row for row in rows if row.sides))


def _row(workload: Workload, turns: Sequence[Turn]) -> Row:
    by_side = {side: [turn for turn in turns if turn.side == side] for side in (OURS, *PEERS)}
    sides = {side: figures(taken) for side, taken in by_side.items() if taken}
    ours, floor = sides.get(OURS), sides.get(FLOOR)
    found = {side: ratios(theirs, ours) for side, theirs in sides.items() if ours and side not in (OURS, FLOOR)}
    over = _over(ours.whole_s, floor.wall_s) if ours and floor else None
    return Row(workload.name, workload.title, dict(workload.options), sides, found, over)


def figures(turns: Sequence[Turn]) -> Figures:
    """Of one side; turns during which something else ran count only where there are no others."""
    calm = [turn for turn in turns if turn.others <= BUSY]
    taken = calm or turns

    def middle(of: Callable[[Any], float]) -> float:
        return median(of(turn.measured) for turn in taken)

    return Figures(
        wall_s=middle(lambda one: one.wall_s),
        whole_s=middle(lambda one: one.whole_s),
        cpu_s=middle(lambda one: max(one.cpu_s)),
        sent_bytes=middle(lambda one: one.sent_bytes),
        among_bytes=middle(lambda one: one.among_bytes),
        rounds=middle(lambda one: one.rounds),
        peak_bytes=middle(lambda one: max(one.peak_bytes)),
        compile_s=middle(lambda one: one.compile_s),
        share_s=middle(lambda one: one.share_s),
        max_error=max(turn.max_error for turn in taken),
        first_s=middle(lambda one: one.walls[0]),
        wire_bytes=middle(lambda one: one.wire_bytes),
        walls=tuple(turn.measured.wall_s for turn in taken),
        calm=bool(calm),
        versions=taken[-1].measured.versions,
    )


def ratios(theirs: Figures, ours: Figures) -> Ratios:
    """Above 1 where moiety needs less."""
    names = ("wall_s", "whole_s", "cpu_s", "sent_bytes", "among_bytes", "rounds", "peak_bytes", "share_s", "compile_s")
    return Ratios(*(_over(getattr(theirs, name), getattr(ours, name)) for name in names))


def _over(one: float, other: float) -> float | None:
    return one / other if one and other else None


def restless(report: Report) -> list[str]:
    """The workloads whose seconds are not to be trusted."""
    return [row.title for row in report.rows if any(not side.calm for side in row.sides.values())]
