"""``moiety profile``: one traced run of a model between real processes here; where its time goes, by member and by module."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from moiety.cli.answers import size
from moiety.cli.output import paper, print_json, remark
from moiety.cli.source import Asked

if TYPE_CHECKING:
    from moiety.compile.plan import Plan
    from moiety.engine.trace import Trace

NAME: Final = "profile"
DEPTH: Final = 3
LOOPBACK: Final = "loopback"
READING: Final = "open it at https://ui.perfetto.dev or in chrome://tracing; it holds times and names, no values"
SHOWN_S: Final = 0.001
"""Of a module that speaks in no wave: views and constants."""


def profile(asked: Asked, link: str | None, out: Path, depth: int, *, as_json: bool) -> None:
    """Compile, deploy on parties that are started for it, run every program once to warm up and once traced. Raises as these do."""
    source = asked.source()
    titles: list[str] = []
    plans: list[Plan] = []
    weights: dict[str, Any] = {}
    for title, make in asked.drafts(source):
        compiled = make().compiled()
        titles.append(title)
        plans.append(compiled.plan)
        weights = dict(compiled.weights) | weights
    found = dict(zip(titles, traces(plans, weights, link), strict=False))
    files = save(out, found)
    if as_json:
        programs = [{"title": title, "file": str(files[title]), **as_data(trace, depth)} for title, trace in found.items()]
        print_json({"model": source.name, "title": source.title, "link": link or LOOPBACK, "programs": programs})
        return
    for title, trace in found.items():
        show(f"{source.title}, {title}", trace, depth)
        remark(f"{files[title]}: {READING}")


def traces(plans: "Sequence[Plan]", weights: Mapping[str, Any], link: str | None) -> "list[Trace]":
    """One traced run of each plan, on parties that are started for it."""
    from moiety.engine.federation import local
    from moiety.engine.trace import traced

    with local(link=link) as federation:
        federation.deploy_plans(NAME, plans, weights)
        with federation.open() as session:
            return list(traced(session, NAME, plans))


def save(out: Path, found: "Mapping[str, Trace]") -> dict[str, Path]:
    """Write every trace, the second and further ones to numbered files; returns where each is."""
    files = {title: out if not number else out.with_stem(f"{out.stem}-{number + 1}") for number, title in enumerate(found)}
    for title, trace in found.items():
        trace.save(files[title])
    return files


def as_data(trace: "Trace", depth: int) -> dict[str, Any]:
    """The tables as plain data."""
    return {
        "hash": trace.plan.hash,
        "seconds": trace.report.seconds,
        "payload_bytes": trace.report.payload_bytes,
        "members": [one._asdict() | {"rest_s": one.rest_s} for one in trace.members()],
        "modules": [one._asdict() for one in trace.modules(depth)],
        "lost_spans": sum(timeline.lost for timeline in trace.timelines),
    }


def show(title: str, trace: "Trace", depth: int) -> None:
    """The tables for people."""
    console = paper()
    console.print(f"[bold]{title}[/bold]  {trace.report.seconds:.3f} s, {size(trace.report.payload_bytes)} payload")
    _table(("member", "seconds", "computing", "waiting", "sending", "rest"), [(one.role, *one[2:], one.rest_s) for one in trace.members()])
    headings = ("module", "rounds", "spoken", "dealt", "computing", "P0", "waiting")
    _table(
        headings,
        [
            (one[0], f"{one[1]:,}", size(one[2]), size(one[3]), *one[4:])
            for one in trace.modules(depth)
            if one.rounds or max(one[4:]) > SHOWN_S
        ],
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("module", "member") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(f"{1000 * cell:.1f} ms" if isinstance(cell, float) else cell for cell in row))
    console = paper()
    console.print(table)
    console.print()
