"""Table look-ups against the tables read in the clear: all cells, both carries, and the error of fitted functions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_runs import opened, run, share
from scipy.special import erf

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions import factor, table
from moiety.mpc.rounds import Role
from moiety.mpc.share import Share

F = 14


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def under(values, masks):
    """Values under given masks, split at random."""
    one = np.random.default_rng(1).integers(0, 2**64, values.shape, np.uint64)
    masked = values.view(np.uint64) + masks
    return {
        Role.P0: Share(values.shape, F, mask=masks),
        Role.P1: Share(values.shape, F, masked=masked, mask=one),
        Role.P2: Share(values.shape, F, masked=masked, mask=masks - one),
        Role.CLIENT: Share(values.shape, F),
    }


def read(held, window, values, masks):
    """What the look-up must give exactly: the cell and the local coordinate as the masks cut them."""
    masked = values.view(np.uint64) - np.uint64(window.low % 2**64) + masks
    cell, drop = np.uint64(window.cell_bits), np.uint64(window.drop)
    high = ((masked >> drop >> cell) - (masks >> drop >> cell)) & np.uint64((1 << window.index_bits) - 1)
    low = (np.uint64(1) << cell) - np.uint64(1)
    local = (masked >> drop & low) - (masks >> drop & low)
    out = np.zeros_like(masked)
    for coefficients in held.coefficients[::-1]:
        out = out * local + coefficients[high.astype(int)]
    return out.view(np.int64)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("index_bits", [3, 6])
def test_all_cells_and_both_carries_are_exact(degree, node, index_bits):
    window = table.Window(low=-(3 << 9), drop=3, cell_bits=6, index_bits=index_bits)
    held = table.Table(np.random.default_rng(degree).integers(0, 2**64, (degree + 1, 1 << index_bits), np.uint64), 5)
    inside = np.array([0, 1, window.cell // 2, window.cell - 1])
    values = (window.low + np.arange((1 << index_bits) - 1)[:, None] * window.cell + inside).ravel()
    low = np.array([0, 7, 8, window.cell - 1, 2**64 - window.cell, 2**64 - 1], np.uint64)
    values, masks = (grid.ravel() for grid in np.meshgrid(values, low))
    masks = masks + np.random.default_rng(9).integers(0, 2**50, masks.shape, np.uint64) * np.uint64(window.cell)
    found = run(lambda party, x: table.lookup(party, x, window, [held]), under(values, masks), node=node)
    assert np.array_equal(opened(found, lambda r: r[0]), read(held, window, values, masks))
    assert found.results[Role.P0][0].fraction == 5


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("node", [0, 1])
def test_a_looked_up_factor_is_exact_for_all_cells_and_both_carries(degree, node):
    window = table.Window(low=-(3 << 9), drop=3, cell_bits=6, index_bits=3)
    held = table.Table(np.random.default_rng(degree).integers(0, 2**64, (degree + 1, 8), np.uint64), 5)
    values = np.repeat(np.arange(window.low, window.high, 97), 8)
    masks = np.random.default_rng(9).integers(0, 2**64, values.shape, np.uint64)
    times = np.random.default_rng(8).integers(-(2**62), 2**62, (3, len(values)))

    async def both(party, x, y):
        found = await factor.lookup_factor(party, x, window, held, 64)
        return await factor.multiply_factor(party, found, y)

    found = run(both, under(values, masks), share(times, 2), node=node)
    assert np.array_equal(opened(found), read(held, window, values, masks) * times)
    assert found.results[Role.P0].fraction == 7


def test_a_looked_up_factor_that_does_not_fit() -> None:
    with pytest.raises(ProtocolMisuse, match="no look-up that"):
        run(factor.multiply_factor, share(np.zeros((2, 2, 3), int)), share(np.zeros(1, int)))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 8), st.integers(0, 8), st.integers(0, 4), st.integers(0, 2), st.integers(0, 2**30))
def test_random_windows_are_exact(index_bits, cell_bits, drop, degree, seed):
    generator = np.random.default_rng(seed)
    window = table.Window(int(generator.integers(-(2**40), 2**40)), drop, cell_bits, index_bits)
    values = generator.integers(window.low, window.high, 50)
    masks = generator.integers(0, 2**64, 50, np.uint64)
    many = [table.Table(generator.integers(0, 2**64, (degree + 1, 1 << index_bits), np.uint64), 5) for _ in range(3)]
    found = run(lambda party, x: table.lookup(party, x, window, many), under(values, masks), node=seed % 2)
    for place, held in enumerate(many):
        assert np.array_equal(opened(found, lambda r, i=place: r[i]), read(held, window, values, masks))


@pytest.mark.parametrize(
    ("degree", "index_bits", "bound"),
    [(2, 8, 3e-4), (2, 7, 7e-4), (1, 10, 3.5e-4), (1, 9, 1e-3)],
)
def test_fitted_gelu_is_as_near_as_promised(degree, index_bits, bound):
    window = table.Window(low=-(16 << F), drop=2, cell_bits=F - 2 + 5 - index_bits, index_bits=index_bits)
    held = table.fit(gelu, window, 2.0**-F, 30, degree)
    values = np.random.default_rng(0).integers(window.low, window.high, 20_000)
    found = run(lambda party, x: table.lookup(party, x, window, [held]), share(values, F))
    step = window.cell * 2.0**-F
    law = (2 * step) ** 3 * 1.6 / 192 if degree == 2 else (2 * step) ** 2 * 0.8 / 16
    error = np.abs(opened(found, lambda r: r[0]) / 2**30 - gelu(values / 2**F)).max()
    assert error < bound
    assert error < law + 2.0 ** -(F - 3)


def test_fit_refuses_what_it_cannot_hold():
    window = table.Window(0, 0, 4, 3)
    with pytest.raises(ProtocolMisuse, match="not finite"), np.errstate(all="ignore"):
        table.fit(lambda x: 1 / np.zeros_like(x), window, 1.0, 10)
    with pytest.raises(ProtocolMisuse, match="do not fit"):
        table.fit(lambda x: x + 1e10, window, 1.0, 40)
