"""``moiety plan``: what a model will cost, before anything is deployed."""

from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from moiety.cli.answers import size
from moiety.cli.output import MADE_UP, paper, print_json, remark
from moiety.cli.source import Asked

if TYPE_CHECKING:
    from moiety.compile.plan import Plan
    from moiety.engine.timing import Prediction
    from moiety.engine.tree import Branch
    from moiety.net import Net

NEAR: Final = "an estimate for parties with machines like this one, as quiet as it was just now; without congestion"


def plan(asked: Asked, net: "Net", depth: int, check_ranges: bool, budget: float, held_by: str | None = None, *, as_json: bool) -> None:
    """Compile, and print what is known of every program. Raises as compiling does."""
    from moiety.compile.builder import Options

    source = asked.source()
    options = Options(margin=source.margin, check_ranges=check_ranges, link=net, failure_budget=budget)
    programs = {title: as_data(make().compiled().held(held_by).plan, net, depth) for title, make in asked.drafts(source, options)}
    if as_json:
        print_json({"model": source.name, "title": source.title, "net": _net(net), "programs": _titled(programs)})
        return
    console = paper()
    for title, found in programs.items():
        _print(console, f"{source.title}, {title}", found)
    remark(f"predicted for {net.name}: {1000 * net.delay_s:g} ms one way, {net.bytes_per_s * 8e-6:g} Mbit/s each way; {NEAR}")
    if source.made_up and asked.ranges is None:
        remark(MADE_UP)


def _net(net: "Net") -> dict[str, Any]:
    return msgspec.structs.asdict(net) | {"rtt_s": 2 * net.delay_s}


def _titled(programs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    def plain(p: "Prediction") -> dict[str, Any]:
        return msgspec.structs.asdict(p) | {"net": _net(p.net)}

    return [{"title": title, **found, "prediction": plain(found["prediction"])} for title, found in programs.items()]


def as_data(found: "Plan", net: "Net", depth: int) -> dict[str, Any]:
    """Everything that is known of a plan."""
    from moiety.engine.cost import cost
    from moiety.engine.effort import measure
    from moiety.engine.timing import predict
    from moiety.engine.tree import tree

    costs, efforts = cost(found), measure(found)
    prediction = predict(found, net, efforts)
    return {
        "hash": found.hash,
        "rounds": costs.rounds,
        "payload_bytes": costs.payload_bytes,
        "sent_bytes": costs.sent_bytes,
        "memory_forecast_bytes": costs.forecast_bytes,
        "weight_words": sum(_count(weight.shape) for weight in found.weights),
        "clear_words": sum(_count(weight.shape) for weight in found.weights if weight.clear),
        "expected_failures": costs.expected_failures,
        "inputs": [{"name": one.name, "shape": one.shape, "form": one.form, "bound": one.bound} for one in found.inputs],
        "outputs": [{"name": one.name, "shape": one.shape, "bound": one.bound, "error": one.error} for one in found.outputs],
        "checks_ranges": found.flag >= 0,
        "prediction": prediction,
        "lookups": [dict(zip(one.__struct_fields__, msgspec.to_builtins(one), strict=True)) for one in found.lookups],
        "choices": [dict(zip(one.__struct_fields__, msgspec.to_builtins(one), strict=True)) for one in found.choices],
        "modules": tree(found, net, efforts, depth),
        "promise": costs.promise,
        "leakage": found.leakage,
    }


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _print(console: Console, title: str, found: dict[str, Any]) -> None:
    from moiety.engine.cost import stated

    p: Prediction = found["prediction"]
    console.print(f"[bold]{title}[/bold]  plan {found['hash'][:12]}")
    console.print(f"  {found['rounds']:,} rounds, {size(found['payload_bytes'])} payload; sent by {_each(found['sent_bytes'])}")
    parts = f"delays {p.latency_s:.2f}, transfer {p.transfer_s:.2f}, computing {p.compute_s:.2f}"
    beside = f"dealing beside it: transfer {p.dealt_s:.2f}, computing {p.helper_s:.2f}"
    console.print(f"  predicted on {p.net.name}: [bold]{p.seconds:.2f} s[/bold] ({parts}; {beside})")
    clear = f", {found['clear_words']:,} of them known to P1" if found["clear_words"] else ""
    console.print(f"  memory forecast: {_each(found['memory_forecast_bytes'])}; weights {found['weight_words']:,} words{clear}")
    console.print(f"  expected truncation failures a run: {found['expected_failures']:.2g}; ranges {_checked(found)}")
    errors = ", ".join(f"{one['name']} {stated(one['error'])}" for one in found["outputs"])
    console.print(f"  largest error to expect against float: {errors}")
    for line in _chosen(found["choices"]):
        console.print(f"  {line}", soft_wrap=True)
    for line in found["leakage"]:
        console.print(f"  leakage: {line}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("module", "rounds", "spoken", "dealt", "alone"):
        table.add_column(heading, justify="left" if heading == "module" else "right", overflow="fold")
    for part in found["modules"].parts:
        _rows(table, part, 1)
    console.print(table)
    console.print()


def _chosen(choices: list[dict[str, Any]]) -> list[str]:
    """What was chosen for the link, how often, and what the forms would take there in all these places, or what that saves the run."""
    lines = []
    alone: dict[tuple[str, str], list[tuple[dict[str, float], int]]] = {}
    for one in choices:
        if one["whole"]:
            form, *_ = one["seconds"]
            chosen, other = one["seconds"].values()
            saved = f"{other - chosen:.3f} s"
            lines.append(f"{one['step']}: {form}, {one['places']} times from {one['module'] or 'the model'} on (saves {saved})")
            continue
        alone.setdefault((one["step"], next(iter(one["seconds"]))), []).append((one["seconds"], one["places"]))
    for (step, form), each in alone.items():
        sums = ", ".join(f"{name} {sum(seconds[name] * places for seconds, places in each):.3f} s" for name in each[0][0])
        lines.append(f"{step}: {form}, {sum(places for _, places in each)} times ({sums})")
    return lines


def _checked(found: dict[str, Any]) -> str:
    return "are checked in secret" if found["checks_ranges"] else "are checked at inputs and outputs only"


def _each(nbytes: dict[str, int]) -> str:
    return ", ".join(f"{role} {size(count)}" for role, count in nbytes.items())


def _rows(table: Table, branch: "Branch", level: int) -> None:
    from moiety.engine.cost import described

    numbers = (f"{branch.rounds:,}", size(branch.spoken_bytes), size(branch.dealt_bytes), f"{1000 * branch.alone_s:.1f} ms")
    table.add_row("  " * level + branch.name, *numbers)
    for what in described(branch.lookups):
        table.add_row(f"[dim]{'  ' * level}  {what}[/dim]")
    for part in branch.parts:
        _rows(table, part, level + 1)
