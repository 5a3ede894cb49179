"""``moiety compare``: where float, fixed point and the private run part."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table

from moiety.cli import models
from moiety.cli.check import place
from moiety.cli.output import paper, print_json, remark
from moiety.cli.source import LENGTH, Asked, Source

if TYPE_CHECKING:
    from moiety.compile.compare import Comparison, Row
    from moiety.compile.model import Draft


def compare(asked: Asked, on: Path | None, depth: int, check_ranges: bool, *, as_json: bool) -> bool:
    """Run the first program of the model in three ways. Returns whether every operation adds no more error than is allowed, and every
    answer is as near as the plan says."""
    from moiety.compile.builder import Options
    from moiety.compile.compare import compare as run

    source = asked.source()
    title, make = next(iter(asked.drafts(source, Options(margin=source.margin, check_ranges=check_ranges))))
    draft = make()
    found = run(draft, inputs(source, draft, max(asked.lengths()), on))
    if as_json:
        rows = [{**msgspec.to_builtins(row), "ok": row.ok} for row in found.rows]
        answers = [{**msgspec.to_builtins(answer), "ok": answer.ok} for answer in found.answers]
        print_json(
            {"model": source.name, "program": title, "ok": found.ok, **msgspec.structs.asdict(found), "rows": rows, "answers": answers}
        )
    else:
        _print(paper(), f"{source.title}, {title}", found, depth)
    return found.ok


def inputs(source: Source, draft: "Draft", length: int, on: Path | None) -> Sequence[Any]:
    """The input to compare on: the first example of a file, else the first that ranges were measured on."""
    if source.kind != models.DECODER:
        return draft.inputs if on is None else source.example(on, length)
    import torch

    [tokens] = source.example(on, length) if on is not None else (source.sequences(LENGTH)[0][:, :length],)
    return (tokens, torch.tensor(0))


def _print(console: Console, title: str, found: "Comparison", depth: int) -> None:
    from moiety.engine.cost import stated

    console.print(f"[bold]{title}[/bold]: largest errors against float, and of what each operation may add at most how much it does")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("module", "operations", "size", "fixed", "private", "of allowed", "by"):
        table.add_column(heading, justify="left" if heading in ("module", "by") else "right", overflow="fold")
    for name, rows in _grouped(found.rows, depth).items():
        worst = max(rows, key=_share)
        share, errors = _share(worst), (max(row.fixed_error for row in rows), max(row.private_error for row in rows))
        style = "" if all(row.ok for row in rows) else "red"
        size, (fixed, private) = max(row.size for row in rows), errors
        cells = (str(len(rows)), f"{size:.3g}", f"{fixed:.1e}", f"{private:.1e}", f"{share:.0%}", _short(worst.operation))
        table.add_row(name, *cells, style=style)
    console.print(table)
    for one in found.answers:
        text = f"fixed {one.fixed_error:.1e}, private {one.private_error:.1e}; the plan expects at most {stated(one.stated)}"
        console.print(f"{one.name}: largest error {text}", style="" if one.ok else "red", highlight=False)
    if found.out_of_range:
        console.print("! a value left its calibrated range: calibrate with inputs like this one", style="yellow")
    if found.first < 0:
        console.print("every operation stays within its error", style="green")
    else:
        _first(console, found.rows[found.first])
    remark("all parties were simulated in this process, with seeded masks; fixed is the plan on integers, without masks")


def _first(console: Console, row: "Row") -> None:
    console.print("[bold red]here they part first[/bold red]:", f"{row.operation} in {row.module or 'the model itself'}")
    if row.file:
        console.print(f"  at  {place(row.file)}:{row.line}  {row.code}", markup=False, soft_wrap=True)
    console.print(f"  it adds {row.added:.2e} where {row.allowed:.2e} is allowed; its values reach {row.size:.3g}", soft_wrap=True)


def _grouped(rows: "Sequence[Row]", depth: int) -> "dict[str, list[Row]]":
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(".".join(row.module.split(".")[:depth]) or "-", []).append(row)
    return out


def _share(row: "Row") -> float:
    return row.added / row.allowed if row.allowed else row.added


def _short(operation: str) -> str:
    return operation.removeprefix("aten.").removesuffix(".default")
