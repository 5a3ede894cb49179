"""``moiety bench``: moiety and its peers on the same work, one command."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.table import Table

from moiety.cli.output import paper, print_json, remark

if TYPE_CHECKING:
    from moiety.bench.report import Figures, Report, Row

REPORT: Final = "report.json"
PLOT: Final = "report.svg"


def bench(
    names: Sequence[str], *, peers: Sequence[str], turns: int, quick: bool, environments: Path | None, out: Path, as_json: bool
) -> bool:
    """Measure, save and print; whether nothing failed. Raises ConfigError for what does not exist."""
    from moiety.bench import bars, driver, machine
    from moiety.bench.peers import folder, usual
    from moiety.bench.report import restless
    from moiety.bench.results import Store
    from moiety.bench.workloads import QUICK, WORKLOADS

    workloads, sides = driver.chosen(names or (QUICK if quick else tuple(WORKLOADS)), peers or usual(environments or folder()))
    store = Store(out, machine.build())
    report = driver.Bench(workloads, sides, 1 if quick else turns, store, environments or folder(), remark).run()
    (out / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    (out / PLOT).write_text(bars.plot(report), encoding="utf-8")
    if as_json:
        print_json(report)
    else:
        _print(report)
    for title in restless(report):
        remark(f"{title}: something else ran meanwhile; take no seconds from it")
    remark(f"saved {out / REPORT} and {out / PLOT}")
    return not report.failures


def profile(names: Sequence[str], link: str | None, out: Path, *, as_json: bool) -> None:
    """Where moiety's own time goes on each workload: tables, and a trace in ``out``. Raises ConfigError."""
    from moiety.bench import driver, ours
    from moiety.bench.workloads import WORKLOADS
    from moiety.cli.profile import DEPTH, LOOPBACK, READING, as_data, save, show, traces

    workloads, _ = driver.chosen(names or tuple(WORKLOADS), ())
    out.mkdir(parents=True, exist_ok=True)
    programs: list[dict[str, Any]] = []
    for workload in workloads:
        plans, weights = ours.compiled(workload)
        found = {f"{workload.title}{f', part {n + 1}' if n else ''}": trace for n, trace in enumerate(traces(plans, weights, link))}
        files = save(out / f"{workload.name}.trace.json", found)
        for title, trace in found.items():
            programs.append({"title": title, "file": str(files[title]), **as_data(trace, DEPTH)})
            if not as_json:
                show(title, trace, DEPTH)
                remark(f"{files[title]}: {READING}")
    if as_json:
        print_json({"link": link or LOOPBACK, "programs": programs})


def _print(report: "Report") -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for title in ("", "", "wall", "end to end", "CPU-s", "among", "rounds", "memory", "error", "sharing", "compiling"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for row in report.rows:
        for number, (side, figures) in enumerate(row.sides.items()):
            table.add_row("" if number else row.workload, side, *_cells(figures))
            if side in row.ratios:
                table.add_row("", "", *_ratios(row, side), style="dim")
    console = paper()
    console.print(table)
    for note in report.notes:
        console.print(f"- {note}")


def _cells(one: "Figures") -> tuple[str, ...]:
    times = (f"{one.wall_s:.3g} s", f"{one.whole_s:.3g} s", f"{one.cpu_s:.3g}")
    sizes = (f"{one.among_bytes / 1e6:,.1f} MB", f"{one.rounds:.0f}", f"{one.peak_bytes / 1e6:,.0f} MB")
    return (*times, *sizes, f"{one.max_error:.1e}", f"{one.share_s:.3g} s", f"{one.compile_s:.3g} s")


def _ratios(row: "Row", side: str) -> tuple[str, ...]:
    found = row.ratios[side]
    ordered = (
        found.wall,
        found.whole,
        found.cpu,
        found.among,
        found.rounds,
        found.memory,
        None,
        found.sharing,
        found.compiling,
    )
    return tuple("" if one is None else f"×{one:.1f}" for one in ordered)
