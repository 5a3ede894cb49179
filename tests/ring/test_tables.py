"""Table sums and selector bits against their definitions, for every size and every implementation."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moiety import ring
from moiety.errors import ProtocolMisuse

Words = NDArray[np.uint64]
Octets = NDArray[np.uint8]

each_isa = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def draw(seed: int, rows: int, n: int, tables: int) -> tuple[Octets, Words, Words]:
    rng = np.random.default_rng(seed)
    selectors = rng.integers(0, 256, (rows, 2**n // 8), dtype=np.uint8)
    return selectors, rng.integers(0, 2**n, rows, dtype=np.uint64), rng.integers(0, 2**64, (tables, 2**n), dtype=np.uint64)


def by_definition(selectors: Octets, index: Words, tables: Words) -> list[list[int]]:
    size = tables.shape[1]
    bits = np.unpackbits(selectors, axis=1, bitorder="little").tolist()
    return [
        [sum(cells[(i - j) % size] for j in range(size) if row[j]) % 2**64 for row, i in zip(bits, index.tolist(), strict=True)]
        for cells in tables.tolist()
    ]


@each_isa
@given(n=st.integers(3, 9), rows=st.integers(0, 19), tables=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_sums_follow_the_definition(isa: str, n: int, rows: int, tables: int, seed: int) -> None:
    selectors, index, cells = draw(seed, rows, n, tables)
    sums = ring.table_sums(selectors, index, cells)
    assert sums.shape == (tables, rows)
    assert sums.tolist() == by_definition(selectors, index, cells)


@pytest.mark.parametrize("n", [10, 11, 12, 13])
def test_large_tables_follow_the_definition(isa: str, n: int) -> None:
    selectors, index, cells = draw(n, 9, n, 2)
    index[:2] = 0, 2**n - 1
    assert ring.table_sums(selectors, index, cells).tolist() == by_definition(selectors, index, cells)


@pytest.mark.parametrize("n", range(3, 14))
def test_two_shares_of_a_one_hot_row_pick_one_cell_up_to_sign(isa: str, n: int) -> None:
    first, masks, cells = draw(n, 40, n, 3)
    opened = np.random.default_rng(n).integers(0, 2**n, 40, dtype=np.uint64)
    second = ring.flip(first, masks)
    sigma = np.uint64(2) * ring.picked(first, masks) - np.uint64(1)
    sums = ring.table_sums(first, opened, cells) - ring.table_sums(second, opened, cells)
    assert np.array_equal(sums, sigma * cells[:, (opened - masks) & np.uint64(2**n - 1)])


def test_every_turn_of_every_small_row(isa: str) -> None:
    for n in (3, 4, 6, 7, 8):
        index = np.arange(2**n, dtype=np.uint64)
        selectors, _, cells = draw(n, 2**n, n, 1)
        assert ring.table_sums(selectors, index, cells).tolist() == by_definition(selectors, index, cells)


@each_isa
@given(n=st.integers(3, 13), rows=st.integers(0, 30), seed=st.integers(0, 2**32))
def test_flip_and_picked_touch_one_bit_of_a_row(isa: str, n: int, rows: int, seed: int) -> None:
    selectors, index, _ = draw(seed, rows, n, 1)
    before = selectors.copy()
    flipped = ring.flip(selectors, index)
    bits, changed = (np.unpackbits(x, axis=1, bitorder="little") for x in (selectors, flipped ^ selectors))
    assert np.array_equal(selectors, before)
    assert changed.sum() == rows
    assert changed[np.arange(rows), index.astype(int)].all()
    assert np.array_equal(ring.picked(selectors, index), bits[np.arange(rows), index.astype(int)])


def test_misuse_is_refused() -> None:
    selectors, index, cells = draw(1, 5, 4, 2)
    with pytest.raises(ProtocolMisuse, match="do not fit"):
        ring.table_sums(selectors, index, cells[:, :8])
    with pytest.raises(ProtocolMisuse, match="not below"):
        ring.table_sums(selectors, index + np.uint64(16), cells)
    with pytest.raises(ProtocolMisuse, match="not below"):
        ring.flip(selectors, index + np.uint64(16))
    with pytest.raises(ProtocolMisuse, match=r"within 3\.\.13"):
        ring.picked(np.zeros((5, 3), dtype=np.uint8), index)
    with pytest.raises(ProtocolMisuse, match="uint8"):
        ring.flip(selectors[:4], index)
