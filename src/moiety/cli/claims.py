"""``moiety systems`` and ``moiety reproduce``: what published systems are built here, and whether their claims hold."""

import traceback
from typing import Final

import typer
from rich.table import Table

from moiety.claims import registry
from moiety.cli.failures import fail
from moiety.cli.output import paper, print_json, remark
from moiety.errors import MoietyError

REFUTED: Final = 1
COULD_NOT_RUN: Final = 2


def systems(*, as_json: bool) -> None:
    """List the built systems."""
    found = list(registry.systems().values())
    if as_json:
        print_json(found)
        return
    console = paper()
    for system in found:
        console.print(f"[bold]{system.id}[/bold]  {system.title}\n  {system.paper}")
        table = Table(box=None, show_header=False, padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        for part in system.built:
            table.add_row("built", f"{part.what}: {part.where}")
        for limit in system.limits:
            table.add_row("limit", limit)
        table.add_row("claim", f"{system.claim} Measure it: moiety reproduce {system.id}")
        table.add_row("page", system.page)
        console.print(table)


def reproduce(name: str, *, quick: bool, as_json: bool) -> None:
    """Measure a system's claim; the exit status says whether it holds."""

    def told(row: registry.Row) -> None:
        if not as_json:
            remark(f"{row.quantity}: {'holds' if row.holds else 'DOES NOT HOLD'}")

    try:
        found = registry.reproduce(name, quick=quick, on_row=told)
    except MoietyError as error:
        fail(error.code, str(error), COULD_NOT_RUN)
    except (FileNotFoundError, ModuleNotFoundError, BrokenPipeError):
        raise  # reported as what is missing
    except Exception:  # a fault of the measurement must not pass for a refuted claim
        traceback.print_exc()
        raise typer.Exit(COULD_NOT_RUN) from None
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found.holds:
        raise typer.Exit(REFUTED)


def _print(found: registry.Reproduction) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("quantity", "paper", "measured", "against", "unit", "holds"):
        table.add_column(title, justify="right" if title in ("paper", "measured", "against") else "left")
    for row in found.rows:
        figures = ("-" if value is None else f"{value:.4g}" for value in (row.paper, row.measured, row.baseline))
        table.add_row(row.quantity, *figures, row.unit, "yes" if row.holds else "NO")
    console = paper()
    console.print(table)
    verdict = "the claim holds" if found.holds else "the claim does not hold"
    console.print(f"{found.title} ({found.paper}): {verdict}; {found.seconds:.0f} s")
