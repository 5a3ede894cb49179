"""The commands for those who own a model: what stands in its way, what it will cost, where it goes wrong, what its ranges are."""

from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.failures import reported
from moiety.cli.options import CheckRanges, Context, Data, HeldBy, Inputs, Json, Lengths, Link, Model, Public, Ranges, Reveal


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (check, plan, profile, compare, calibrate):
        app.command()(reported(command))


def check(
    model: Model,
    inputs: Inputs = None,
    public: Public = None,
    lengths: Lengths = None,
    context: Context = 64,
    reveal: Reveal = "logits",
    ranges: Ranges = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Find everything that stands between a model and its private run, with its place in your source."""
    from moiety.cli.check import check as run
    from moiety.cli.source import Asked

    if not run(Asked(model, inputs or (), public or (), lengths, context, reveal, ranges, data), as_json=as_json):
        raise typer.Exit(1)


def plan(
    model: Model,
    inputs: Inputs = None,
    public: Public = None,
    lengths: Lengths = None,
    context: Context = 64,
    reveal: Reveal = "logits",
    ranges: Ranges = None,
    data: Data = None,
    link: Annotated[str, typer.Option(help="The network: loopback, lan, wan, or delay one way and bandwidth, like 20ms,100Mbit.")] = "lan",
    rtt: Annotated[str | None, typer.Option(help="Its round trip (twice the delay) instead, like 40ms.")] = None,
    bandwidth: Annotated[str | None, typer.Option(help="Its bandwidth instead, like 100Mbit.")] = None,
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show.")] = 3,
    check_ranges: CheckRanges = True,
    failure_budget: Annotated[float, typer.Option(min=0.0, help="Truncation failures to expect a run, traded for rounds.")] = 0.0,
    held_by: HeldBy = None,
    as_json: Json = False,
) -> None:
    """Say what a model will cost and leak: rounds, bytes, memory, time on a network, by module."""
    from moiety.cli.plan import plan as run
    from moiety.cli.source import Asked
    from moiety.engine.timing import net

    asked = Asked(model, inputs or (), public or (), lengths, context, reveal, ranges, data)
    run(asked, net(link, rtt, bandwidth), depth, check_ranges, failure_budget, held_by, as_json=as_json)


def profile(
    model: Model,
    inputs: Inputs = None,
    public: Public = None,
    lengths: Lengths = None,
    context: Context = 64,
    reveal: Reveal = "logits",
    ranges: Ranges = None,
    data: Data = None,
    link: Link = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the trace here.")] = Path("trace.json"),
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show.")] = 3,
    as_json: Json = False,
) -> None:
    """Run a model privately on this machine, and show where the time goes: by party, by module, and as a trace for Perfetto."""
    from moiety.cli.profile import profile as run
    from moiety.cli.source import Asked

    asked = Asked(model, inputs or (), public or (), lengths, context, reveal, ranges, data)
    run(asked, link, out, depth, as_json=as_json)


def compare(
    model: Model,
    inputs: Inputs = None,
    public: Public = None,
    lengths: Lengths = None,
    ranges: Ranges = None,
    data: Data = None,
    on: Annotated[Path | None, typer.Option(help="Compare on the first example of this file (.npz, .pt or .txt).")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Levels of modules to show.")] = 3,
    check_ranges: CheckRanges = True,
    as_json: Json = False,
) -> None:
    """Find the first operation where the private run parts from the model: float, fixed point and private, side by side."""
    from moiety.cli.compare import compare as run
    from moiety.cli.source import Asked

    asked = Asked(model, inputs or (), public or (), lengths, ranges=ranges, data=data)
    if not run(asked, on, depth, check_ranges, as_json=as_json):
        raise typer.Exit(1)


def calibrate(
    model: Model,
    data: Annotated[Path | None, typer.Option(help="Examples like those to come: .npz, .pt, or .txt for language models.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the ranges here.")] = Path("ranges.json"),
    inputs: Inputs = None,
    public: Public = None,
    lengths: Lengths = None,
    top: Annotated[int, typer.Option(min=0, help="Show so many of the widest ranges.")] = 12,
    as_json: Json = False,
) -> None:
    """Measure a model's ranges on public examples, for check, plan, compare and deploy; doubtful ones are marked."""
    from moiety.cli.calibrate import calibrate as run
    from moiety.cli.source import Asked

    if not run(Asked(model, inputs or (), public or (), lengths, data=data), out, top, as_json=as_json):
        raise typer.Exit(1)
