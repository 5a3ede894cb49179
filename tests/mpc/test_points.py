"""Look-ups by point functions: the integers of the one-hot form in half its rounds, and keys that tell nothing of the mask."""

import itertools

import numpy as np
import pytest
from mpc_ops import TABLES, WINDOW, F
from mpc_runs import opened, run, shapes, share

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.mpc import ops
from moiety.mpc.functions import points, table
from moiety.ring import points as functions


@pytest.mark.parametrize(("degree", "bits"), [(0, 64), (1, 40), (2, 64), (2, 24)])
def test_every_cell_gives_what_the_one_hot_form_gives(degree, bits):
    values = np.arange(WINDOW.low, WINDOW.high, WINDOW.cell // 3)
    tables = [TABLES[degree], TABLES[degree]._replace(coefficients=TABLES[degree].coefficients[:, ::-1])]
    by_points, by_one_hot = (
        run(lambda party, x, form=form: form.lookup(party, x, WINDOW, tables, bits), share(values, F)) for form in (points, table)
    )
    assert (len(by_points.waves), len(by_one_hot.waves)) == (1, 2)
    for i in range(2):
        assert np.array_equal(*(opened(found, lambda r, i=i: r[i]) for found in (by_points, by_one_hot)))


def test_several_levels_in_one_round_less():
    async def both(party, x):
        fine, coarse = TABLES[2].coefficients, np.where(np.arange(32) < 4, np.uint64(0), TABLES[2].coefficients)
        given = {"windows": (*WINDOW, *WINDOW._replace(cell_bits=F - 2)), "fraction": 10}
        return [await ops.table(party, x, fine, coarse, **given, points=form) for form in (False, True)]

    found = run(both, share(np.arange(WINDOW.low, WINDOW.high, 999), F))
    assert np.array_equal(*(opened(found, lambda r, i=i: r[i]) for i in range(2)))
    assert len(found.waves) == 3 + 2


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2])
def test_costs(degree, count):
    costs = shapes(points.lookup, share(np.zeros(6), F), window=WINDOW, tables=[TABLES[degree]] * count, bits=40)[1]
    assert costs.rounds == 1
    assert costs.total_bytes == 32 + 6 * (2 * (16 * 4 + 2 * 5 * (degree + 1)) + count * 2 * 5)


def test_what_does_not_fit_is_refused():
    x = share([1], F)
    with pytest.raises(ProtocolMisuse, match="one degree"):
        run(points.lookup, x, window=WINDOW, tables=[TABLES[1], TABLES[2]])
    with pytest.raises(ProtocolMisuse, match="below 6"):
        shapes(points.lookup, x, window=WINDOW, tables=[table.Table(np.zeros((7, 32), np.uint64), 0)])
    with pytest.raises(ProtocolMisuse, match="does not hold"):
        run(points.lookup, x, window=WINDOW._replace(drop=60), tables=[TABLES[1]])


CHILD_BITS, WORD_BITS = 3, 2
"""Lowest bits that are enumerated, of the block of a child (its control bit is one of them; all others are its seed's) and of a word."""


class RandomFunction:
    """In the place of H: anything at the observer's nodes, and at the other's every assignment of fresh digits, one a row.

    Both holders' nodes are asked in turn. Seeds that meet by chance, which a random function would tell, are what is left to AES.
    """

    def __init__(self, observer, stuck):
        self.observer, self.stuck, self.asked, self.digits = observer, stuck, 0, 0

    def __call__(self, blocks):
        self.asked += 1
        children = len(blocks) == 2  # (2, rows, 2), else (rows, words, 2)
        if self.asked % 2 == 1 - self.observer:
            shape = (2, 1, 2) if children else (1, *blocks.shape[1:])
            own = np.random.default_rng(self.asked).integers(0, 2**64, shape, np.uint64)
            return np.broadcast_to(own, blocks.shape).copy()
        out = np.zeros_like(blocks)
        for place in (
            [(side, slice(None), 0) for side in range(2)] if children else [(slice(None), *p) for p in np.ndindex(blocks.shape[1:])]
        ):
            out[place] = self._fresh(len(out[place]), CHILD_BITS if children else WORD_BITS)
        if self.stuck and children:
            out[1, :, 0] &= ~np.uint64(1)
        return out

    def _fresh(self, rows, bits):
        digits = np.arange(rows, dtype=np.uint64) >> np.uint64(self.digits) & np.uint64((1 << bits) - 1)
        self.digits += bits
        return digits


def keys_seen(monkeypatch, observer, index_bits, parts, place, values, stuck=False):
    """What an evaluator receives as numbers, over all assignments of what it does not know; and its bits that are not enumerated."""
    unknown = (index_bits - 1) * 2 * CHILD_BITS + 2 * parts * WORD_BITS
    function = RandomFunction(observer, stuck)
    monkeypatch.setattr(functions, "_Hash", lambda key: function)
    rows = 1 << unknown
    roots = tuple(np.zeros((rows, 2), np.uint64) for _ in range(2))
    given = (np.full(rows, place, np.uint64), np.tile(np.array(values, np.uint64)[:, None], rows))
    steps, last = ring.point_keys(np.zeros(16, np.uint8), roots, *given, index_bits)
    assert function.digits == unknown
    pieces = [*np.moveaxis(steps[:, :, 0], 0, -1), *(last & np.uint64((1 << WORD_BITS) - 1)).reshape(rows, -1).T]
    rest = np.unique(np.concatenate([steps[:, :, 0] >> np.uint64(CHILD_BITS), steps[:, :, 1]], 1), axis=0)
    codes = np.zeros(rows, np.uint64)
    for piece, bits in zip(pieces, [CHILD_BITS] * (index_bits - 1) + [WORD_BITS] * 2 * parts, strict=True):
        codes = codes << np.uint64(bits) | piece & np.uint64((1 << bits) - 1)
    return codes.astype(np.int64), rest


@pytest.mark.parametrize("observer", [0, 1])
@pytest.mark.parametrize(("index_bits", "parts"), [(2, 2), (3, 1)])
def test_rule_19_what_an_evaluator_is_told_does_not_depend_on_place_or_value(monkeypatch, observer, index_bits, parts):
    """With a random function for H, all assignments of what the evaluator does not know give every key equally often."""
    for place, value in itertools.product(range(1 << index_bits), (0, 3)):
        codes, rest = keys_seen(monkeypatch, observer, index_bits, parts, place, [1, value][:parts])
        often = np.bincount(codes)
        assert len(often) == 1 << (index_bits - 1) * CHILD_BITS + 2 * parts * WORD_BITS
        assert np.all(often == often[0])
        assert len(rest) == 1, "bits that are not enumerated are the observer's own"


def test_rule_9_a_control_bit_that_is_not_random_tells_the_place(monkeypatch):
    seen = [keys_seen(monkeypatch, 0, 2, 1, place, [1], stuck=True)[0] for place in (0, 3)]
    assert not np.array_equal(*map(np.bincount, seen))
