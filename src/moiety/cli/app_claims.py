"""The commands about published systems: which are built here, and whether their claims hold."""

from typing import Annotated

import typer

from moiety.cli.failures import reported
from moiety.cli.options import Json

STATUSES = (
    "Exit status: 0 the claim holds; 1 it does not hold; 2 it could not be measured: a model, data or a package is missing, or the "
    "measurement failed."
)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(reported(systems))
    app.command(epilog=STATUSES)(reported(reproduce))


def systems(as_json: Json = False) -> None:
    """List the published systems that are built here: what of them, where, their limits and claims."""
    from moiety.cli.claims import systems as run

    run(as_json=as_json)


def reproduce(
    system: Annotated[str, typer.Argument(help="The system's id, as `moiety systems` lists it.")],
    quick: Annotated[bool, typer.Option("--quick", help="Take a small part of the data: under a minute.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a published system's claim on this machine."""
    from moiety.cli.claims import reproduce as run

    run(system, quick=quick, as_json=as_json)
