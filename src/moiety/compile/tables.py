"""Choose the window and the coefficients of a table: as few cells as the wanted error allows.

The error is measured, not assumed: every candidate is evaluated in the clear with its rounded coefficients, in every cell, at both
cells in which a value may land. Estimates only decide what is tried first.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moiety.errors import PlanError, ProtocolMisuse
from moiety.mpc.functions.table import Table, Window, fit, values

INDEX_BITS = range(4, 14)
START = 6
"""Index bits that are tried first."""
CELL_BITS = range(6, 14)
"""Resolution inside a cell: finer bits of the input are dropped before the look-up. More bits need more fraction bits of the table."""
SAMPLES = 12
"""Places inside every cell, beside its first, where the error is measured."""
ROOM = 62
"""Bits that a span may have in units."""
INSIDE = 15
"""Coarse cells that are left to the fine table: beyond them a coarse cell is small against its distance from the low end."""

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Wanted(NamedTuple):
    """What a function must achieve: ``error`` absolute; with ``floor``, relative to the value but never to less than ``floor``.

    ``index_bits``: log2 of the most cells that it is worth; below the largest, several levels are not tried either. ``degree``: of the
    polynomial in each cell; a line needs more cells, and fewer fraction bits of its coefficients.
    """

    error: float
    floor: float | None = None
    index_bits: int = INDEX_BITS[-1]
    degree: int = 2


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


def choose(f: Function, span: Span, fraction: int, wanted: Wanted) -> Choice:
    """The smallest table of ``f`` on ``span``; several levels where one would need more than 2^13 cells.

    Raises PlanError when even four levels miss the wanted error.
    """
    where = f"{getattr(f, '__name__', 'a function')} on [{span.low:g}, {span.high:g}]"
    if not span.low < span.high or not max(abs(span.low), abs(span.high)) / span.unit < 2.0**ROOM:
        raise PlanError(f"no table for {where} in units of {span.unit:.3g}: the range is empty or leaves the ring")
    found = _best(f, span, fraction, wanted)
    if found.error <= wanted.error:
        return found
    raise PlanError(
        f"no table reaches an error of {wanted.error:g} for {where} (best {found.error:.2g}); narrow the range or relax the error"
    )


@functools.lru_cache(maxsize=4096)
def _best(f: Function, span: Span, fraction: int, wanted: Wanted) -> Choice:
    """The smallest table that serves, of several levels if it must be; else the best of one level."""
    found = _smallest(f, span, fraction, wanted)
    if found.error <= wanted.error:
        return found
    for count in (2, 3, 4) if wanted.index_bits == INDEX_BITS[-1] else ():
        for index_bits in range(8, 13):
            several = _levels(f, span, fraction, wanted, index_bits, count)
            if several is not None:
                return several
    return found


def _smallest(f: Function, span: Span, fraction: int, wanted: Wanted) -> Choice:
    """The fewest uniform cells that serve, or the best there is. A bit more divides a quadratic's error by 8, a line's
    by 4: that says where to look."""
    tried: dict[int, Choice] = {}

    def serves(bits: int) -> bool:
        if bits not in tried:
            tried[bits] = _best_resolution(f, span, span, fraction, wanted, bits)
        return tried[bits].error <= wanted.error

    first, last = INDEX_BITS[0], wanted.index_bits
    bits = START
    if not serves(bits):
        excess = min(tried[bits].error, 2.0**40) / wanted.error
        bits = min(last, bits + math.ceil(math.log2(max(excess, 1.5)) / (wanted.degree + 1)))
    while bits < last and not serves(bits):
        bits += 1
    while bits > first and serves(bits - 1):
        bits -= 1
    return tried[bits] if serves(bits) else min(tried.values(), key=lambda choice: choice.error)


def _best_resolution(f: Function, covered: Span, used: Span, fraction: int, wanted: Wanted, index_bits: int) -> Choice:
    """Cells of the likely best resolution, else of one next to it."""
    best = Choice((), math.inf)
    for window in _windows(f, used, fraction, wanted, covered, index_bits)[:3]:
        table = _fitted(f, covered, window, fraction, wanted.degree)
        if table is not None:
            error = _error(f, window, table, used, wanted, 0)
            if error < best.error:
                error = max(error, _error(f, window, table, used, wanted, 1))
            if error < best.error:
                best = Choice((Level(window, table),), error)
            if error <= wanted.error:
                break
    return best


def _windows(f: Function, used: Span, fraction: int, wanted: Wanted, covered: Span, index_bits: int) -> list[Window]:
    """Resolutions inside a cell, the likely best first: coarse ones lose the input's low bits, fine ones the coefficients'."""
    near = (used.high - used.low) * 1e-7
    grid = np.linspace(used.low, used.high - near, 257)
    values = f(grid)
    scale = 1.0 if wanted.floor is None else np.maximum(np.abs(values), max(wanted.floor, 1e-300))
    slope = float((np.abs(f(grid + near) - values) / near / scale).max())
    windows = {covered.window(index_bits, cell_bits) for cell_bits in CELL_BITS}

    def loss(window: Window) -> float:
        dropped = slope * used.unit * ((1 << window.drop) - 1)
        rounded = 2.0 ** (wanted.degree * window.cell_bits - fraction - 1) / float(np.min(scale))
        return dropped + rounded

    return sorted(windows, key=lambda window: (loss(window), window))


def _fitted(f: Function, span: Span, window: Window, fraction: int, degree: int) -> Table | None:
    """Fit ``f`` on the window, held constant outside the span so that spare cells stay finite; None if it does not fit the ring."""
    margin = 2.5 * window.cell * span.unit
    low = max(span.low - margin, span.low / 2) if span.low > 0 else span.low - margin
    try:
        return fit(lambda x: f(np.clip(x, low, span.high + margin)), window, span.unit, fraction, degree)
    except ProtocolMisuse:
        return None


def _error(f: Function, window: Window, table: Table, span: Span, wanted: Wanted, ahead: int, from_cell: int = 0) -> float:
    """Largest error in every cell of the span from ``from_cell`` on, for values that land ``ahead`` cells further on."""
    bits, step = window.cell_bits, 1 << window.drop
    first = (max(round(span.low / span.unit), window.low) - window.low) >> window.drop
    last = ((min(round(span.high / span.unit), window.high - 1) - window.low) >> window.drop) + (step > 1)
    cells = np.arange(max(first >> bits, from_cell), (last >> bits) + 1)
    begin = np.maximum(first - (cells << bits), 0)[:, None]
    end = np.minimum(last - (cells << bits), (1 << bits) - 1)[:, None]
    local = np.hstack([begin + (end - begin) * np.arange(SAMPLES + 1) // SAMPLES, np.minimum(begin + np.array([1, 2]), end)])
    found = _polynomials(table, cells + ahead, local - (ahead << bits))
    units = (((cells << bits)[:, None] + local) << window.drop) + window.low
    # dropped bits round down or up: the farthest inputs that land here are its own highest and its predecessor's lowest
    # the lowest input is encoded as a whole unit, which may lie below it: that is the encoding's error, not the table's
    lowest = min(span.low, max(1, round(span.low / span.unit)) * span.unit) if span.low > 0 else span.low
    worst = 0.0
    for farthest in (step - 1, -step) if step > 1 else (0,):
        exact = f(np.clip((units + farthest) * span.unit, lowest, span.high))
        scale = 1.0 if wanted.floor is None else np.maximum(np.abs(exact), wanted.floor)
        worst = max(worst, float((np.abs(found - exact) / scale).max()))
    return worst


def _polynomials(table: Table, cells: NDArray[np.int64], local: NDArray[np.int64]) -> NDArray[np.float64]:
    """The polynomial of every cell at its row of local coordinates."""
    coefficients = table.coefficients.view(np.int64)[:, cells & (table.coefficients.shape[1] - 1)].astype(np.float64)
    value = np.zeros(local.shape)
    for row in coefficients[::-1]:
        value = value * local + row[:, None]
    return value / 2.0**table.fraction


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
    covered = span._replace(low=base + (INSIDE - 2) * cell)
    for window in _windows(f, covered, fraction, wanted, span, index_bits):
        coarse = _fitted(f, covered, window, fraction, wanted.degree)
        if coarse is None:
            continue
        coarse.coefficients[0, (coarse.coefficients == 0).all(0)] = 1  # zeros say that a finer level serves a cell
        coarse.coefficients[:, :INSIDE] = 0
        # a coarse cell is reached from its own values and, one ahead, from those of the cell before it
        far = max(_error(f, window, coarse, span, wanted, ahead, INSIDE - ahead) for ahead in (0, 1))
        if far <= wanted.error:
            return Choice((*inner.levels, Level(window, coarse)), max(inner.error, far))
    return None


@functools.lru_cache(maxsize=64)
def periodic(f: Function, bits: int, fraction: int) -> Choice:
    """A table of a function of period 1 for inputs with ``bits`` fraction bits, at least 17: the window holds one period, and wraps.

    So any input is served, however large.
    """
    window = Window(0, bits - 17, 10, 7)
    table = fit(f, window, 2.0**-bits, fraction)
    units = np.linspace(0, 2.0**bits - 1, 1 << 14).astype(np.int64)
    error = max(float(np.abs(values(table, window, units, ahead) - f(units.astype(np.float64) * 2.0**-bits)).max()) for ahead in (0, 1))
    return Choice((Level(window, table),), error)
