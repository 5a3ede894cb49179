"""The commands for those who run or supervise a compute party: its audit log."""

from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.failures import reported
from moiety.cli.options import Json

app = typer.Typer(help="Check, show and anchor the audit log of a compute party.", no_args_is_help=True)

Log = Annotated[Path, typer.Argument(metavar="FILE", help="audit.jsonl in a party's folder, or a copy.")]
Logs = Annotated[list[Path], typer.Argument(metavar="FILE...", help="The files of one log, the oldest first.")]
Anchor = Annotated[list[str] | None, typer.Option(help="A head kept elsewhere, as `moiety audit head` printed it: N:HASH.")]


@app.command()
@reported
def verify(files: Logs, anchor: Anchor = None, as_json: Json = False) -> None:
    """Find altered, removed or moved entries; exit status 9 if there are any."""
    from moiety.cli.audit import verify as run

    run(files, anchor or [], as_json)


@app.command()
@reported
def show(file: Log, as_json: Json = False) -> None:
    """Print the entries, for people or as JSON."""
    from moiety.cli.audit import show as run

    run(file, as_json)


@app.command()
@reported
def head(file: Log, as_json: Json = False) -> None:
    """Print the last entry's number and hash, to be kept where the party cannot change it."""
    from moiety.cli.audit import head as run

    run(file, as_json)
