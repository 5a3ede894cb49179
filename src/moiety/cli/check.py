"""``moiety check``: everything that stands between a model and its private run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from moiety.cli.output import paper, print_json
from moiety.cli.source import Asked

if TYPE_CHECKING:
    from moiety.compile.check import Checked, Finding

MANY = 3
"""Modules that are named before the rest is counted."""


def check(asked: Asked, *, as_json: bool) -> bool:
    """Look, and print what was found. Returns whether nothing stands in the way."""
    from moiety.compile.check import check as look

    source = asked.source()
    programs = {title: look(make) for title, make in asked.drafts(source)}
    ok = all(found.ok for found in programs.values())
    if as_json:
        print_json(
            {
                "model": source.name,
                "title": source.title,
                "ok": ok,
                "programs": [{"title": title, "ok": found.ok, **_data(found)} for title, found in programs.items()],
            }
        )
        return ok
    _print(paper(), source.title, programs)
    return ok


def _data(found: "Checked") -> dict[str, Any]:
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(found)
    return data


def _print(console: Console, title: str, programs: "Mapping[str, Checked]") -> None:
    said: set[tuple[str, ...]] = set()
    for program, found in programs.items():
        inputs = ", ".join(f"{given.name} {_shape(given.shape)} {given.form}" for given in found.inputs if given.form != "cache")
        console.print(f"[bold]{title}[/bold], {program}: {found.operations} operations, {found.secret_operations} of them on secrets")
        if inputs:
            console.print(f"  inputs: {inputs}", markup=False, soft_wrap=True)
        for key, group in _grouped(found.findings).items():
            if key in said:
                continue  # the same in another program
            said.add(key)
            _obstacle(console, group)
    if said:
        console.print(f"{len(said)} {'thing stands' if len(said) == 1 else 'things stand'} in the way", style="bold red")
    else:
        console.print("nothing stands in the way; see what it costs with `moiety plan`", style="green", markup=False)


def _grouped(findings: "tuple[Finding, ...]") -> "dict[tuple[str, ...], list[Finding]]":
    """Findings of one kind at one line of the source together: thirty layers are one thing to mend."""
    out: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        out.setdefault((finding.kind, finding.what, finding.file, str(finding.line)), []).append(finding)
    return out


def _obstacle(console: Console, group: "list[Finding]") -> None:
    first = group[0]
    console.print(f"  [red]{first.kind}[/red]  [bold]{first.what}[/bold]", end="  ")
    console.print(first.why, markup=False, soft_wrap=True)
    modules = [finding.module or "the model itself" for finding in group]
    more = f" and {len(modules) - MANY} more" if len(modules) > MANY else ""
    if first.kind not in ("branch", "export"):
        console.print(f"    in  {', '.join(modules[:MANY])}{more}", markup=False, soft_wrap=True)
    if first.file:
        console.print(f"    at  {place(first.file)}:{first.line}  {first.code}", markup=False, soft_wrap=True)
    if first.advice:
        console.print(f"    do  {first.advice}", markup=False, soft_wrap=True)


def place(file: str) -> str:
    """A file as short as it can be found from here."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
