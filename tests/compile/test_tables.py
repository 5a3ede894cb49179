"""The chosen tables keep the error they were measured with: at every input, both carries, both roundings, on both sides of a border."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.compile.tables import Choice, Span, Wanted, choose
from moiety.errors import PlanError
from moiety.mpc.functions import activations
from moiety.mpc.functions.table import values

SMOOTH = (activations.gelu, activations.gelu_tanh, activations.silu, activations.tanh, activations.sigmoid, activations.softplus)
FRACTIONS = (14, 28, 46)
SLACK = 1.05
"""Between two places where an error is measured it may be a little larger."""


def landings(choice: Choice, units: np.ndarray):
    """What a look-up may yield: one result for every combination of the levels' carries and roundings."""
    each = []
    for level in choice.levels:
        drop = level.window.drop
        cases = [(ahead, rounding) for ahead in (0, 1) for rounding in ((0, 1) if drop else (0,))]
        each.append(cases)
    for cases in itertools.product(*each):
        total = None
        for (ahead, rounding), level in zip(cases, choice.levels, strict=True):
            at = units + (rounding << level.window.drop)
            found = values(level.table, level.window, at, ahead)
            if total is None:
                total = found
                continue
            index = (((at - level.window.low) >> level.window.drop) >> level.window.cell_bits) + ahead
            inside = (level.table.coefficients == 0).all(0)[index & ((1 << level.window.index_bits) - 1)]
            total = found + inside * total
        yield total


def inputs(choice: Choice, span: Span, count: int = 40_000) -> np.ndarray:
    """Units all over the span, both ends, the borders of cells and of levels, and their neighbours."""
    low, high = math.ceil(span.low / span.unit), math.floor(span.high / span.unit)
    even = np.linspace(low, high, count)
    dense = np.geomspace(1, high - low + 1, count) + low - 1
    borders = [
        level.window.low + np.arange(1 << level.window.index_bits)[:, None] * level.window.cell + [-1, 0, 1] for level in choice.levels
    ]
    units = np.concatenate([even, dense, *(b.ravel() for b in borders)])
    return np.unique(np.clip(units, low, high).astype(np.int64))


def largest_error(f, choice: Choice, span: Span, wanted: Wanted) -> float:
    units = inputs(choice, span)
    exact = f(units * span.unit)
    scale = 1.0 if wanted.floor is None else np.maximum(np.abs(exact), wanted.floor)
    return max(float((np.abs(found - exact) / scale).max()) for found in landings(choice, units))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SMOOTH), st.floats(-40, 39), st.floats(0.01, 60), st.sampled_from(FRACTIONS), st.sampled_from([8, 11, 14]))
def test_smooth_functions(f, low: float, width: float, fraction: int, digits: int) -> None:
    span, wanted = Span(low, low + width, 2.0**-fraction), Wanted(2.0**-digits)
    choice = choose(f, span, 34, wanted)
    assert choice.error <= wanted.error
    assert largest_error(f, choice, span, wanted) <= SLACK * max(choice.error, wanted.error / 8)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([activations.rsqrt, activations.reciprocal]),
    st.floats(-5, 0),
    st.floats(0.1, 4.0),
    st.sampled_from([2.0**-28, 2.0**-32 / 3, 2.0**-28 / 576]),
)
def test_relative_errors_over_many_decades(f, start: float, decades: float, unit: float) -> None:
    span, wanted = Span(10.0**start, 10.0 ** (start + decades), unit), Wanted(2.0**-12, 0.0)
    if span.low / unit < 2**13:
        return  # its own resolution is too coarse
    choice = choose(f, span, 40, wanted)
    assert choice.error <= wanted.error
    assert largest_error(f, choice, span, wanted) <= SLACK * max(choice.error, wanted.error / 8)


@pytest.mark.parametrize(("high", "levels"), [(3.0, 1), (1e3, 2), (1e5, 3), (1e7, 4)])
def test_levels_follow_the_dynamic_range(high: float, levels: int) -> None:
    span, wanted = Span(0.01, high, 2.0**-34), Wanted(2.0**-12, 0.0)
    choice = choose(activations.rsqrt, span, 40, wanted)
    assert len(choice.levels) == levels
    assert largest_error(activations.rsqrt, choice, span, wanted) <= SLACK * choice.error


@settings(max_examples=20, deadline=None)
@given(st.floats(-20, -0.1), st.floats(0.05, 4))
def test_exponential_with_a_floor(low: float, high: float) -> None:
    span, wanted = Span(low, high, 2.0**-28), Wanted(2.0**-11, math.exp(-high))
    choice = choose(activations.exp, span, 32, wanted)
    assert largest_error(activations.exp, choice, span, wanted) <= SLACK * wanted.error


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(8, 40), st.integers(4, 13), st.integers(6, 13))
def test_windows_cover_their_span_with_a_cell_to_spare(low: float, width: float, fraction: int, index_bits: int, cell_bits: int) -> None:
    span = Span(low, low + width, 2.0**-fraction)
    window = span.window(index_bits, cell_bits)
    assert window.low + window.cell <= math.ceil(span.low / span.unit)
    assert window.high >= math.ceil(span.high / span.unit) + (window.cell if index_bits > 4 else 0)
    assert window.cell_bits <= cell_bits
    if window.cell > 1:  # and no wider than powers of two allow
        assert ((1 << index_bits) - 3) * window.cell // 2 < math.ceil(span.high / span.unit) - math.floor(span.low / span.unit)


@pytest.mark.parametrize(
    ("f", "span", "fraction", "wanted"),
    [
        (activations.tanh, Span(-4, 4, 2.0**-28), 10, Wanted(2.0**-12)),  # finer than the result's
        (activations.exp, Span(0, 36, 2.0**-28), 32, Wanted(2.0**-11, 1.0)),  # beyond the ring
        (activations.rsqrt, Span(1e-9, 1e9, 2.0**-40), 40, Wanted(2.0**-12, 0.0)),  # more levels than there are
        (activations.tanh, Span(-1, 1, 2.0**-62), 32, Wanted(2.0**-11)),  # an input beyond the ring
        (activations.tanh, Span(1, 1, 2.0**-14), 32, Wanted(2.0**-11)),  # nothing to look up
    ],
)
def test_impossible_requests_are_refused(f, span: Span, fraction: int, wanted: Wanted) -> None:
    with pytest.raises(PlanError, match=f.__name__):
        choose(f, span, fraction, wanted)


def test_no_smaller_table_would_do() -> None:
    """The search skips sizes that the error law rules out; here all are tried."""
    for f, reach in itertools.product(SMOOTH, (1.0, 6.0, 20.0)):
        span, wanted = Span(-reach, reach, 2.0**-28), Wanted(2.0**-11)
        [level] = choose(f, span, 32, wanted).levels
        smaller = [choose(f, span, 32, Wanted(wanted.error * scale)).levels[0].window.index_bits for scale in (1.0, 8.5)]
        assert smaller[0] == level.window.index_bits
        assert smaller[1] <= max(4, level.window.index_bits - 1)


def test_lines_need_fewer_fraction_bits_and_more_cells() -> None:
    span = Span(0.02, 0.4, 2.0**-30)
    line = choose(activations.rsqrt, span, 20, Wanted(2.0**-13, 0.0, degree=1))
    [level] = line.levels
    assert level.table.coefficients.shape == (2, 1 << level.window.index_bits)
    units = np.linspace(0.02 / span.unit, 0.4 / span.unit, 5001).astype(np.int64)
    exact = activations.rsqrt(units * span.unit)
    assert all(np.abs(found / exact - 1).max() < SLACK * 2.0**-13 for found in landings(line, units))
    [quadratic] = choose(activations.rsqrt, span, 32, Wanted(2.0**-13, 0.0)).levels
    assert quadratic.window.index_bits < level.window.index_bits
