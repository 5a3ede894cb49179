"""What a transformer costs at moiety and at PUMA's own implementation, side by side on one machine: kept figures of ``moiety bench``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

import moiety
from moiety.bench.peers import OURS
from moiety.bench.report import Report
from moiety.claims.registry import Row

KEPT: Final = Path(moiety.__file__).parents[2] / "docs" / "performance.json"
"""What ``make performance`` kept; an installation without the repository has none."""
THEIRS: Final = "spu"
"""SPU with PUMA's functions is what PUMA was published with."""
SIDES: Final = "moiety and SPU with PUMA's functions"
"""How the name of every row here ends."""
WORKLOADS: Final = ("gpt2", "bert", "llama-7b")


class Kept(msgspec.Struct, frozen=True):
    """The part of docs/performance.json that is read here."""

    report: Report


def kept(path: Path = KEPT) -> Report | None:
    """The last kept measurement, if there is one."""
    return msgspec.json.decode(path.read_bytes(), type=Kept).report if path.is_file() else None


def rows(report: Report | None) -> Iterator[Row]:
    """Seconds from shares to shares and bytes among the parties; of workloads that both sides ran."""
    for row in report.rows if report else ():
        ours, theirs = row.sides.get(OURS), row.sides.get(THEIRS)
        if row.workload not in WORKLOADS or ours is None or theirs is None:
            continue
        for what, unit, measured, baseline in (
            ("time", "s", ours.wall_s, theirs.wall_s),
            ("bytes among parties", "MB", ours.among_bytes / 1e6, theirs.among_bytes / 1e6),
        ):
            yield Row(f"{row.title}, {what}, {SIDES}", None, measured, baseline, unit, measured < baseline)
