"""The command that holds moiety against other systems."""

from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.failures import reported
from moiety.cli.options import Json
from moiety.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(reported(bench))


def bench(
    workloads: Annotated[list[str] | None, typer.Argument(help="Names of workloads, such as gpt2; none: all.")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="spu, spu-jax, crypten, mp-spdz or torch; default: all but spu-jax, and mp-spdz where it is built. Repeatable."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Turns of each side; their medians count.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One turn each, without WORKLOADS only of three small ones.")] = False,
    peers: Annotated[Path | None, typer.Option(help="Where the peers' environments are made; default: the user's cache.")] = None,
    out: Annotated[Path, typer.Option(help="Where results are kept; a bench that was stopped goes on from them.")] = Path("bench-results"),
    profile: Annotated[bool, typer.Option("--profile", help="No peers: show where moiety's own time goes, and write traces.")] = False,
    link: Annotated[str | None, typer.Option(help="With --profile: on lan, wan, or a delay one way and bandwidth: 20ms,100Mbit.")] = None,
    as_json: Json = False,
) -> None:
    """Hold moiety against SPU, CrypTen, MP-SPDZ and plain PyTorch on the same work, in turn, on this machine."""
    from moiety.cli.bench import bench as run
    from moiety.cli.bench import profile as show

    if profile:
        show(workloads or (), link, out, as_json=as_json)
        return
    if link is not None:
        raise ConfigError("--link goes with --profile: the links of peers cannot be shaped, so nothing could be compared")
    if not run(workloads or (), peers=peer or (), turns=runs, quick=quick, environments=peers, out=out, as_json=as_json):
        raise typer.Exit(1)
