"""The README's plot: what one more token costs against the length of the cache, from plans. ``make plot``.

Compiles SmolLM2's step for a few cache lengths and writes the costs of the plans to docs/pictures/token.json and their plot to
docs/pictures/token.svg. Nothing is run, so nothing in it depends on this machine.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
MODEL = "smollm2"
CACHES = (64, 128, 256, 512, 1024)


class Point(NamedTuple):
    """The cost of one token: of a step over a cache of up to so many rows."""

    cache: int
    rounds: int
    payload_bytes: int
    """Of all parties and the data owner together."""
    talked_bytes: int
    """Of them between P1 and P2, round by round."""
    plan: str


def measure() -> list[Point]:
    """Compile every step."""
    from moiety.cli.source import LENGTH, resolve
    from moiety.compile import decoder
    from moiety.compile.builder import Options
    from moiety.compile.plan import LINKS
    from moiety.engine.cost import cost
    from moiety.mpc.rounds import Role

    source = resolve(MODEL)
    ranges = decoder.measure(source.model, source.sequences(LENGTH))
    evaluators = [i for i, link in enumerate(LINKS) if set(link) == {Role.P1, Role.P2}]
    points = []
    for cache in CACHES:
        plan = decoder.draft_step(source.model, cache, ranges, Options(margin=source.margin)).compiled().plan
        found = cost(plan)
        talked = sum(wave[i] for wave in plan.waves for i in evaluators)
        points.append(Point(cache, found.rounds, found.payload_bytes, talked, plan.hash[:12]))
        print(points[-1], file=sys.stderr, flush=True)
    return points


WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 320, 40, 44, 64
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .small { font-size: 11px } line { stroke: #ccc }
  .dealt { fill: #9db8d9 } .talked { fill: #2b5c96 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } line { stroke: #555 } .dealt { fill: #5b7da6 } .talked { fill: #a9c8ee } }
"""


def plot(points: Sequence[Point]) -> str:
    """Bars of bytes, each with its rounds, as SVG."""
    most = max(point.payload_bytes for point in points)
    scale, step = (HEIGHT - TOP - BOTTOM) / most, (WIDTH - LEFT) / len(points)
    floor = HEIGHT - BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"><style>{STYLE}</style>']
    out.append(f'<text x="{LEFT}" y="16">MB a token, everybody together</text>')
    out += [mark(250, "talked", "between P1 and P2, round by round"), mark(478, "dealt", "from P0 and the data owner, ahead")]
    for tick in range(0, int(most / 1e6) + 1, 50):
        y = floor - tick * 1e6 * scale
        out.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for number, point in enumerate(points):
        x, talked, whole = LEFT + (number + 0.25) * step, point.talked_bytes * scale, point.payload_bytes * scale
        out.append(f'<rect class="dealt" x="{x:.1f}" y="{floor - whole:.1f}" width="{step / 2:.1f}" height="{whole - talked:.1f}"/>')
        out.append(f'<rect class="talked" x="{x:.1f}" y="{floor - talked:.1f}" width="{step / 2:.1f}" height="{talked:.1f}"/>')
        middle = f'x="{x + step / 4:.1f}" text-anchor="middle"'
        out.append(f'<text {middle} y="{floor - whole - 20:.1f}">{point.payload_bytes / 1e6:.0f} MB</text>')
        out.append(f'<text class="small" {middle} y="{floor - whole - 5:.1f}">{point.rounds:,} rounds</text>')
        out.append(f'<text {middle} y="{floor + 18}">{point.cache}</text>')
    out.append(f'<text class="small" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">cache, in tokens</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def mark(x: float, kind: str, text: str) -> str:
    """An entry of the legend."""
    return f'<rect class="{kind}" x="{x}" y="6" width="11" height="11"/><text class="small" x="{x + 16}" y="16">{text}</text>'


def read() -> list[Point]:
    """The points as they were last measured."""
    return [Point(**point) for point in json.loads((FOLDER / "token.json").read_text(encoding="utf-8"))]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    measured = measure()
    lines = ",\n".join("  " + json.dumps(point._asdict()) for point in measured)
    (FOLDER / "token.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (FOLDER / "token.svg").write_text(plot(measured), encoding="utf-8")
