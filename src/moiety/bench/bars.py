"""The plot: seconds of every workload and side as bars, on a logarithmic axis."""

import math
from collections.abc import Container
from html import escape
from typing import Final

from moiety.bench.peers import FLOOR, OURS
from moiety.bench.report import Report, Row

WIDTH: Final = 860
LEFT, RIGHT, TOP, BOTTOM = 250, 130, 52, 30
BAR, GAP = 13, 10
SHORTEST: Final = -3
"""Power of ten at which the axis begins at the latest; what is shorter has a mark alone."""
SIDES: Final = (OURS, "spu", "spu-jax", "crypten", "mp-spdz", FLOOR)
STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .small { font-size: 11px } line { stroke: #ddd }
  .moiety { fill: #2b5c96 } .spu { fill: #c58a3d } .spu-jax { fill: #dfbd8c } .crypten { fill: #9a7bb0 } .mp-spdz { fill: #7fa88b }
  .torch { fill: #bbb }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } line { stroke: #444 } .moiety { fill: #a9c8ee } .torch { fill: #666 } }
"""


def plot(report: Report) -> str:
    """SVG: bars of wall time; peers with their ratio to moiety, and marked where their answer is wrong."""
    rows = [row for row in report.rows if OURS in row.sides]
    seconds = [side.wall_s for row in rows for side in row.sides.values()]
    low = max(math.floor(math.log10(min(seconds, default=1))), SHORTEST)
    high = math.ceil(math.log10(max(seconds, default=10)))
    scale = (WIDTH - LEFT - RIGHT) / max(high - low, 1)
    height = TOP + BOTTOM + sum(GAP + BAR * len(row.sides) for row in rows)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"><style>{STYLE}</style>']
    out += _legend({name for row in rows for name in row.sides})
    for power in range(low, high + 1):
        x = LEFT + (power - low) * scale
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - BOTTOM}"/>')
        out.append(f'<text class="small" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{10.0**power:g} s</text>')
    y = TOP
    for row in rows:
        out += _bars(row, y, low, scale)
        y += GAP + BAR * len(row.sides)
    return "\n".join([*out, "</svg>"]) + "\n"


def _bars(row: Row, y: float, low: int, scale: float) -> list[str]:
    out = [f'<text x="{LEFT - 10}" y="{y + 11}" text-anchor="end">{escape(row.title)}</text>']
    for side in _ordered(row.sides):
        wall = row.sides[side].wall_s
        width = max((math.log10(wall) - low) * scale, 1.0)
        out.append(f'<rect class="{side}" x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{BAR - 2}"/>')
        out.append(f'<text class="small" x="{LEFT + width + 5:.1f}" y="{y + 10:.1f}">{_label(row, side)}</text>')
        y += BAR
    return out


def _label(row: Row, side: str) -> str:
    shown = f"{row.sides[side].wall_s:.3g} s"
    ratio = row.ratios[side].wall if side in row.ratios else None
    return shown if ratio is None else f"{shown}, {ratio:.1f}×, error {row.sides[side].max_error:.0e}"


def _legend(present: set[str]) -> list[str]:
    out, x = ['<text x="10" y="18">seconds of one run from shares to shares, parties on one machine; of decoders end to end</text>'], LEFT
    for side in _ordered(present):
        out.append(f'<rect class="{side}" x="{x}" y="27" width="11" height="11"/><text class="small" x="{x + 16}" y="37">{side}</text>')
        x += 90
    return out


def _ordered(sides: Container[str]) -> list[str]:
    return [side for side in SIDES if side in sides]
