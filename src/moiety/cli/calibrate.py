"""``moiety calibrate``: the ranges of a model's values on public examples, as a file, and which of them are doubtful."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table

from moiety.cli import models
from moiety.cli.output import paper, print_json, remark
from moiety.cli.source import LENGTH, Asked, Source, alike
from moiety.errors import ConfigError

if TYPE_CHECKING:
    from moiety.compile.calibrate import Ranges
    from moiety.compile.ranges import Site


def calibrate(asked: Asked, out: Path, top: int, *, as_json: bool) -> bool:
    """Measure, write, print. Returns whether no range is doubtful."""
    from moiety.compile.ranges import joined, judge, save

    source = asked.source()
    _check_free(out, source.name)
    each = measure(source, asked)
    save(out, joined(each), model=source.name, examples=len(each))
    sites = judge(each, source.margin)
    doubtful = [site for site in sites if site.suspicions]
    if as_json:
        rows = [msgspec.to_builtins(site) for site in sites]
        print_json({"model": source.name, "examples": len(each), "file": str(out), "doubtful": len(doubtful), "ranges": rows})
        return not doubtful
    widest = sorted((site for site in sites if not site.suspicions), key=lambda site: -max(-site.low, site.high))[:top]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("module", "left"), ("operation", "left"), ("low", "right"), ("high", "right"), ("typical", "right")):
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row, suspicions in dict.fromkeys((_row(site), site.suspicions) for site in (*doubtful, *widest)):  # what looks alike once
        table.add_row(*row)
        for suspicion in suspicions:
            table.add_row("", f"[yellow]! {suspicion}[/yellow]")
    paper().print(table)
    remark(f"{len(sites)} ranges from {len(each)} examples in {out}; deploy, plan and check take it by --ranges")
    if source.made_up:
        remark("! the examples were made up: measure on inputs like those to come, with --data")
    if doubtful:
        remark(f"! {len(doubtful)} ranges are doubtful")
    return not doubtful


def _check_free(out: Path, model: str) -> None:
    """Raises ConfigError when the file is anything but earlier ranges of this model."""
    from moiety.compile.ranges import load

    if out.exists() and not alike((found := load(out)).model, model):
        raise ConfigError(
            f"{out} holds the ranges of {found.model}, which would be lost; give those of {model} a file of their own with --out"
        )


def measure(source: Source, asked: Asked) -> "list[Ranges]":
    """The ranges of every example by itself. Raises ConfigError, PlanError."""
    from moiety.compile import decoder
    from moiety.compile.calibrate import calibrate_each
    from moiety.compile.capture import capture, flatten
    from moiety.compile.model import inputs_like

    if source.kind == models.DECODER:
        return list(decoder.measure_each(source.model, source.sequences(LENGTH)))
    if source.kind == models.ENCODER:
        return [found for length in asked.lengths() for found in _sentences(source, length)]
    captured = capture(source.model, source.args, source.kwargs)
    given = dict(zip(captured.inputs, flatten(source.args, source.kwargs), strict=True))
    known = {name: given[name] for name in source.public if name in given}
    rows: list[Any] = [list(row) for row in source.examples] if source.examples else [list(given.values()), *inputs_like(given, known)]
    return list(calibrate_each(captured, rows))


def _sentences(source: Source, length: int) -> "list[Ranges]":
    from moiety.compile.calibrate import calibrate_each
    from moiety.compile.capture import capture
    from moiety.private.pooled import Pooled, inputs

    rows = [inputs(tokens) for tokens in source.sequences(length)]
    return list(calibrate_each(capture(Pooled(source.model).eval(), rows[0]), rows))


def _row(site: "Site") -> tuple[str, ...]:
    operation = site.operation.removeprefix("aten.").removesuffix(".default")
    what = f" ({site.site.rpartition('|')[2]})" if site.site.count("|") > 2 else ""
    return site.module or "-", operation + what, f"{site.low:.4g}", f"{site.high:.4g}", f"{site.typical:.4g}"
