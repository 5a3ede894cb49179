"""docs/performance.md from measurements: ``make performance`` after ``make bench``.

    python tools/performance.py [REPORT]      REPORT: what moiety bench saved, by default bench-results/report.json

Keeps the report and the costs of GPT-2's plans in docs/performance.json, draws docs/pictures/peers.svg and docs/pictures/length.svg,
writes what stands between the marks of the page, and the speed rows of the claim about PUMA (docs/systems/puma.json and its page).
Without a REPORT all is written again from what is kept; no figure in it is typed.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from moiety.bench import bars
from moiety.bench.report import Figures, Ratios, Report, Row
from moiety.claims import puma_speed
from moiety.claims.registry import Reproduction
from moiety.claims.registry import Row as ClaimRow

ROOT: Final = Path(__file__).parents[1]
DATA, PAGE = ROOT / "docs" / "performance.json", ROOT / "docs" / "performance.md"
PEERS_PLOT, LENGTH_PLOT = ROOT / "docs" / "pictures" / "peers.svg", ROOT / "docs" / "pictures" / "length.svg"
CLAIM, CLAIM_PAGE = ROOT / "docs" / "systems" / "puma.json", ROOT / "docs" / "systems" / "puma.md"
REPORT: Final = ROOT / "bench-results" / "report.json"
NOTHING: Final = "No measurement is kept yet."
LENGTHS: Final = (8, 16, 32, 64, 128)
LAYERS: Final = 12
DELAYS_MS: Final = (0.1, 0.5, 2.0, 10.0, 40.0)
BANDWIDTH: Final = "1Gbit"


class Length(msgspec.Struct, frozen=True):
    """GPT-2 small on so many tokens: exact costs of its plan, and forecast seconds for every delay of ``DELAYS_MS``."""

    tokens: int
    rounds: int
    payload_bytes: int
    seconds: tuple[float, ...]
    plan: str


class Kept(msgspec.Struct, frozen=True):
    """docs/performance.json."""

    report: Report
    lengths: tuple[Length, ...]


def lengths() -> Iterator[Length]:
    """Compile GPT-2 for every length; the forecast measures its operations here and now."""
    import torch

    from moiety.bench.networks import Gpt2
    from moiety.compile.model import compile_model
    from moiety.engine import effort, timing
    from moiety.engine.cost import cost
    from moiety.models.quiet import quiet

    nets = [timing.net(f"{delay:g}ms,{BANDWIDTH}") for delay in DELAYS_MS]
    for tokens in LENGTHS:
        with quiet():
            module = Gpt2(LAYERS, tokens).eval()
        module.randomise(torch.Generator().manual_seed(0))
        x = 0.5 * torch.randn(1, tokens, 768, generator=torch.Generator().manual_seed(1))
        plan = compile_model(module, (x,)).plan
        found, efforts = cost(plan), effort.measure(plan)
        seconds = tuple(round(timing.predict(plan, net, efforts).seconds, 3) for net in nets)
        yield Length(tokens, found.rounds, found.payload_bytes, seconds, plan.hash[:12])
        print(f"{tokens} tokens: {found.rounds} rounds, {found.payload_bytes / 1e6:.0f} MB", file=sys.stderr, flush=True)


def machine(report: Report) -> str:
    """Where and when it was measured."""
    here, turns = report.machine, max(len(side.walls) for row in report.rows for side in row.sides.values())
    lines = [
        f"{here.processor}, {here.cores} cores, {here.memory_bytes / 2**30:.0f} GiB, {here.system}, Python {here.python}; moiety "
        f"{here.moiety}, build {here.build}. Medians of up to {turns} turns, taken alternately. Load average {report.load_before:.1f} "
        f"before and {report.load_after:.1f} after."
    ]
    busy = [row.title for row in report.rows if any(not side.calm for side in row.sides.values())]
    if busy:
        lines += ["", f"Something else ran while these were measured, so their seconds say little: {', '.join(busy)}."]
    if report.failures:
        lines += ["", *(f"- Not measured: {failure.splitlines()[0]}" for failure in report.failures)]
    lines += ["", "[performance.json](performance.json) holds every figure."]
    return "\n".join([*lines, "", *(f"- {note[0].upper()}{note[1:]}." for note in report.notes)])


def ratios(report: Report) -> str:
    """How many times more a peer needs."""
    lines = ["![Seconds of one run of every workload at moiety and its peers](pictures/peers.svg)", ""]
    lines += ["How many times more each peer needs; above 1 is in moiety's favour.", ""]
    head = "| | peer | wall | by our end to end | CPU-s a party | among parties | by all we send | rounds | memory | sharing |"
    lines += [head, "| --- | --- |" + " ---: |" * 8]
    for row in report.rows:
        for side, found in row.ratios.items():
            lines.append(f"| {row.title} | {side} | " + " | ".join(map(_times, _shown(found))) + " |")
    return "\n".join(lines)


def _shown(found: Ratios) -> tuple[float | None, ...]:
    return found.wall, found.whole, found.cpu, found.among, found.sent, found.rounds, found.memory, found.sharing


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}×" if ratio < 100 else f"{ratio:.0f}×"


def figures(report: Report) -> str:
    """Every side of every workload."""
    head = (
        "| | | wall | end to end | first | CPU-s a party | among parties | sent | rounds | memory a party | error | sharing | compiling |"
    )
    lines = [head, "| --- | --- |" + " ---: |" * 11]
    for row in report.rows:
        for number, (side, one) in enumerate(row.sides.items()):
            lines.append(f"| {'' if number else _title(row)} | {side} | " + " | ".join(_cells(one)) + " |")
    return "\n".join(lines)


def _title(row: Row) -> str:
    bits = row.options.get("activation_fraction")
    return f"{row.title}, {bits} fraction bits" if bits else row.title


def _cells(one: Figures) -> Iterator[str]:
    for seconds in (one.wall_s, one.whole_s, one.first_s, one.cpu_s):
        yield f"{seconds:.3g} s"
    for size in (one.among_bytes, one.sent_bytes):
        yield f"{size / 1e6:,.1f} MB"
    yield f"{one.rounds:,.0f}"
    yield f"{one.peak_bytes / 1e6:,.0f} MB"
    yield f"{one.max_error:.1e}"
    yield f"{one.share_s:.3g} s"
    yield f"{one.compile_s:.3g} s"


def floor(report: Report) -> str:
    """Seconds over those of PyTorch in the clear."""
    lines = ["| | moiety | PyTorch | times |", "| --- | ---: | ---: | ---: |"]
    for row in report.rows:
        if row.floor is not None and not row.options:
            ours, plain = row.sides["moiety"].whole_s, row.sides["torch"].wall_s
            lines.append(f"| {row.title} | {ours:.3g} s | {plain:.3g} s | {row.floor:.0f} |")
    return "\n".join(lines)


def lengths_plot(_: Report) -> str:
    """The plot of lengths and delays, and what it is."""
    return (
        "![Bytes and rounds of GPT-2 by length, and forecast seconds by delay](pictures/length.svg)\n\n"
        "Bytes and rounds are those of plans, exact and the same everywhere; the seconds are [the forecast](links.md) with operations as "
        "measured on\nthe machine above, each party on one like it."
    )


PARTS: Final = {"machine": machine, "ratios": ratios, "floor": floor, "lengths": lengths_plot, "figures": figures}


def written(page: str, kept: Kept | None) -> str:
    """The page with its measured parts."""
    for name, make in PARTS.items():
        mark = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text = NOTHING if kept is None else make(kept.report)
        page, count = mark.subn(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
        if count != 1:
            sys.exit(f"performance: {PAGE} has {count} places for {name}")
    return page


def claimed(stored: Reproduction, report: Report) -> Reproduction:
    """A claim as it was measured, its speed rows those of the report."""
    others = [row for row in stored.rows if not row.quantity.endswith(puma_speed.SIDES)]
    rows = (*others, *puma_speed.rows(report))
    return msgspec.structs.replace(stored, rows=rows, holds=all(row.holds for row in rows))


def claim_page(page: str, rows: Sequence[ClaimRow]) -> str:
    """The page with its table of rows."""
    lines = ["| quantity | paper | measured | against | unit | holds |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        values = " | ".join("-" if value is None else f"{value:.4g}" for value in (row.paper, row.measured, row.baseline))
        lines.append(f"| {row.quantity.replace('|', '&#124;')} | {values} | {row.unit} | {'yes' if row.holds else 'NO'} |")
    page, count = re.subn(r"\| quantity \|.*?\n(?=\n)", lambda found: "\n".join(lines) + "\n", page, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"performance: {CLAIM_PAGE} has {count} tables of the claim")
    return page


WIDTH, HEIGHT, TOP, BOTTOM, MIDDLE = 860, 330, 40, 46, 440
STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .small { font-size: 11px } line { stroke: #ddd } rect { fill: #2b5c96 }
  polyline { fill: none; stroke: #2b5c96; stroke-width: 2 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } line { stroke: #444 } rect { fill: #a9c8ee } polyline { stroke: #a9c8ee } }
"""


def plot(found: Sequence[Length]) -> str:
    """Left: bytes and rounds by length. Right: forecast seconds by delay, a line for each length."""
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"><style>{STYLE}</style>']
    out += _bars(found) + _lines(found)
    return "\n".join([*out, "</svg>"]) + "\n"


def _bars(found: Sequence[Length]) -> list[str]:
    floor, step = HEIGHT - BOTTOM, (MIDDLE - 60) / len(found)
    scale = (floor - TOP - 30) / max(one.payload_bytes for one in found)
    out = ['<text x="10" y="18">GPT-2 small: MB and rounds of one run</text>']
    for number, one in enumerate(found):
        x, height = 20 + number * step, one.payload_bytes * scale
        middle = f'x="{x + step * 0.3:.1f}" text-anchor="middle"'
        out.append(f'<rect x="{x:.1f}" y="{floor - height:.1f}" width="{step * 0.6:.1f}" height="{height:.1f}"/>')
        out.append(f'<text {middle} y="{floor - height - 20:.1f}">{one.payload_bytes / 1e6:,.0f} MB</text>')
        out.append(f'<text class="small" {middle} y="{floor - height - 5:.1f}">{one.rounds:,} rounds</text>')
        out.append(f'<text {middle} y="{floor + 18}">{one.tokens}</text>')
    return [*out, f'<text class="small" x="{MIDDLE / 2 - 20}" y="{HEIGHT - 6}" text-anchor="middle">tokens</text>']


def _lines(found: Sequence[Length]) -> list[str]:
    left, right, floor = MIDDLE + 40, WIDTH - 90, HEIGHT - BOTTOM
    step, most = (right - left) / (len(DELAYS_MS) - 1), max(one.seconds[-1] for one in found)
    scale = (floor - TOP) / most
    out = [f'<text x="{MIDDLE}" y="18">forecast seconds of one run, {BANDWIDTH}/s links</text>']
    tick = next(width for width in (1, 2, 5, 10, 20, 50, 100) if most / width <= 8)
    for second in range(0, int(most) + 1, tick):
        y = floor - second * scale
        out.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="small" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{second}</text>')
    for number, delay in enumerate(DELAYS_MS):
        out.append(f'<text x="{left + number * step:.1f}" y="{floor + 18}" text-anchor="middle">{delay:g} ms</text>')
    label = 0.0  # of the longest run, which is highest; the others stay below one another
    for one in sorted(found, key=lambda one: -one.seconds[-1]):
        points = [(left + number * step, floor - second * scale) for number, second in enumerate(one.seconds)]
        out.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        label = max(points[-1][1] + 4, label + 12)
        out.append(f'<text class="small" x="{right + 8}" y="{label:.1f}">{one.tokens} tokens</text>')
    return [*out, f'<text class="small" x="{(left + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">delay of a link, one way</text>']


def read() -> Kept | None:
    """What is kept, if anything is."""
    return msgspec.json.decode(DATA.read_bytes(), type=Kept) if DATA.exists() else None


def main(given: Sequence[str]) -> None:
    """Keep, draw, write."""
    source = Path(given[0]) if given else REPORT
    if source.is_file():
        report = msgspec.json.decode(source.read_bytes(), type=Report)
        kept = Kept(report, tuple(lengths()))
        DATA.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    elif given:
        sys.exit(f"performance: there is no {source}; run moiety bench")
    kept = read()
    if kept is not None:
        PEERS_PLOT.write_text(bars.plot(kept.report), encoding="utf-8")
        LENGTH_PLOT.write_text(plot(kept.lengths), encoding="utf-8")
        claim = claimed(msgspec.json.decode(CLAIM.read_bytes(), type=Reproduction), kept.report)
        CLAIM.write_bytes(msgspec.json.format(msgspec.json.encode(claim), indent=2) + b"\n")
        CLAIM_PAGE.write_text(claim_page(CLAIM_PAGE.read_text(encoding="utf-8"), claim.rows), encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
