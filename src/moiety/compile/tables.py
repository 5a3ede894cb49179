"""Choose the window and the coefficients of a table: as few cells as the wanted error allows.

The error is measured, not assumed: every candidate is evaluated in the clear with its rounded coefficients, at both cells in
which a value may land.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moiety.errors import PlanError, ProtocolMisuse
from moiety.mpc.functions.table import Table, Window, fit
from moiety.mpc.functions.table import values as table_values

INDEX_BITS = range(4, 14)
CELL_BITS = range(6, 14)
"""Resolution inside a cell: finer bits of the input are dropped before the look-up. More bits need more fraction bits of the table."""
INSIDE = 15
"""Coarse cells that are left to the fine table: beyond them a coarse cell is small against its distance from the low end."""

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Wanted(NamedTuple):
    """What a function must achieve: ``error`` absolute; with ``floor``, relative to the value but never to less than ``floor``."""

    error: float
    floor: float | None = None


class Span(NamedTuple):
    """Real inputs in [low, high], of which one unit is worth ``unit``."""

    low: float
    high: float
    unit: float

    def window(self, index_bits: int, cell_bits: int) -> Window:
        """The narrowest window of 2^index_bits power-of-two cells that covers the span, with a spare cell at either end."""
        first = math.floor(self.low / self.unit)
        span = math.ceil(self.high / self.unit) - first
        cell = 0
        while ((1 << index_bits) - 3) << cell < span:
            cell += 1
        drop = max(0, cell - cell_bits)
        return Window(first - (1 << cell), drop, cell - drop, index_bits)


class Level(NamedTuple):
    """One table of uniform cells."""

    window: Window
    table: Table


class Choice(NamedTuple):
    """Tables for one span, finest first: one where uniform cells serve it all, more for a wide dynamic range."""

    levels: tuple[Level, ...]
    error: float


@functools.lru_cache(maxsize=4096)
def choose(f: Function, span: Span, fraction: int, wanted: Wanted) -> Choice:
    """The smallest quadratic table of ``f`` on ``span``; two or three levels where one would need more than 2^13 cells.

    Raises PlanError when even three levels miss the wanted error.
    """
    best = math.inf
    for index_bits in INDEX_BITS:
        choice = _best_resolution(f, span, span, fraction, wanted, index_bits)
        best = min(best, choice.error)
        if choice.error <= wanted.error:
            return choice
    for count in (2, 3):
        for index_bits in range(8, 13):
            several = _levels(f, span, fraction, wanted, index_bits, count)
            if several is not None:
                return several
    where = f"[{span.low:g}, {span.high:g}]"
    raise PlanError(f"no table reaches an error of {wanted.error:g} on {where} (best {best:.2g}); narrow the range or relax the error")


def _best_resolution(f: Function, covered: Span, used: Span, fraction: int, wanted: Wanted, index_bits: int) -> Choice:
    """Try all resolutions inside a cell: coarse ones lose the input's low bits, fine ones the coefficients'."""
    best: Choice | None = None
    for cell_bits in CELL_BITS:
        window = covered.window(index_bits, cell_bits)
        table = _fitted(f, covered, window, fraction)
        if table is not None:
            error = _error(f, window, table, used, wanted)
            if best is None or error < best.error:
                best = Choice((Level(window, table),), error)
    return best or Choice((), math.inf)


def _fitted(f: Function, span: Span, window: Window, fraction: int) -> Table | None:
    """Fit ``f`` on the window, held constant outside the span so that spare cells stay finite; None if it does not fit the ring."""
    margin = 2.5 * window.cell * span.unit
    low = max(span.low - margin, span.low / 2) if span.low > 0 else span.low - margin
    try:
        return fit(lambda x: f(np.clip(x, low, span.high + margin)), window, span.unit, fraction)
    except ProtocolMisuse:
        return None


def _error(f: Function, window: Window, table: Table, span: Span, wanted: Wanted, aheads: tuple[int, ...] = (0, 1)) -> float:
    """Largest error on a dense grid, over both cells in which a value may land and both roundings of its dropped bits."""
    grid = np.linspace(span.low, span.high, min(40 << window.index_bits, 1 << 15))
    units = np.clip(np.round(grid / span.unit), window.low, window.high - 1).astype(np.int64)
    exact = f(units.astype(np.float64) * span.unit)
    scale = 1.0 if wanted.floor is None else np.maximum(np.abs(exact), wanted.floor)
    worst = 0.0
    for ahead in aheads:
        for rounding in (0, 1) if window.drop else (0,):
            error = np.abs(table_values(table, window, units + (rounding << window.drop), ahead) - exact)
            worst = max(worst, float((error / scale).max()))
    return worst


def _levels(f: Function, span: Span, fraction: int, wanted: Wanted, index_bits: int, count: int) -> Choice | None:
    """Coarse cells over the whole span, zero in the first INSIDE of them, which finer levels cover with a cell to spare."""
    if count == 1:
        choice = _best_resolution(f, span, span, fraction, wanted, index_bits)
        return choice if choice.error <= wanted.error else None
    probe = span.window(index_bits, 0)
    base, cell = probe.low * span.unit, probe.cell * span.unit
    inner = _levels(f, span._replace(high=base + (INSIDE + 1) * cell), fraction, wanted, index_bits, count - 1)
    if inner is None:
        return None
    for cell_bits in CELL_BITS:
        window = span.window(index_bits, cell_bits)
        coarse = _fitted(f, span._replace(low=base + (INSIDE - 2) * cell), window, fraction)
        if coarse is None:
            continue
        coarse.coefficients[:, :INSIDE] = 0
        # a coarse cell is reached from its own values and, one ahead, from those of the cell before it
        ends = [span._replace(low=base + (INSIDE - ahead) * cell) for ahead in (0, 1)]
        far = max(_error(f, window, coarse, end, wanted, (ahead,)) for ahead, end in enumerate(ends))
        if far <= wanted.error:
            return Choice((*inner.levels, Level(window, coarse)), max(inner.error, far))
    return None
