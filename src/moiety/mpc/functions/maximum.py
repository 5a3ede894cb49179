"""The maximum of every row: approximate in one round a level by dealt tables, or exact by comparisons (:mod:`.argmax`).

A soft maximum does not change when all of a row moves by the same amount, so for it a maximum within one unit is as good as the
true one. Values are cut to a ring of 8 bits; then ``max(a, b) = b + relu(a - b)``, and relu of 8 bits is one look-up in a table that
P0 turns by the mask and deals in shares: a one-time truth table, as in Beaver's commodity model. Lifting the last level back to 64
bits within the same round is our own combination.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.bits import size
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Spec, Words
from moiety.mpc.share import Share, dtype_of, wrap

Places = NDArray[np.intp]
KEPT = 1 << 12
"""Elements up to which the places of a tree are kept for the next one: there they take longer to find than to use."""


async def row_max(party: Party, x: Share, *, step_bits: int, ring_bits: int = 8, valid: NDArray[np.bool_] | None = None) -> Share:
    """Approximate maximum c of every row (last axis): ``|c - max x| < u`` for a unit of ``u = 2^step_bits`` raw units.

    The result has the fraction of x. Where the public ``valid`` is False, a value takes no part. Range: all values that take part
    within [-64 u, 63 u]; every bit of the ring less halves that and the tables. Outside, the result is nonsense without a
    warning, so the bound belongs to the plan.
    Rounds: ceil(log2 of the longest row), at least 1. Bytes for a row of n > 1: ``(n - 2) (2^ring_bits + 2)`` for its tree and
    ``8 * 2^ring_bits + 32`` for the last, lifting level (n = 1: 32). P1 and P2 see padded octets, P0 nothing.
    """
    if not 1 <= ring_bits <= 8:
        raise ProtocolMisuse(f"tables of 2^{ring_bits} cells are not served; take ring_bits up to 8")
    rows = _Rows.of(x.shape, valid)
    now = x.low_bits(step_bits, 8).map(lambda part: part.ravel()[rows.places])
    for stays, left, met, after in _kept_levels(rows.counts.tobytes()) if rows.rank.size <= KEPT else _levels(rows):
        pairs = Spec((left.size,), now.bits)
        gain = await _larger(party, _take(now, left), _take(now, left + 1), ring_bits, pairs)
        now, rows = _put(_take(now, stays), met, gain), after
    found = await _lifted(party, now, rows, ring_bits)
    return found.map(lambda part: (part << np.uint64(step_bits)).reshape(x.shape[:-1])).as_fraction(x.fraction)


class _Rows(NamedTuple):
    """Public: where the elements that take part lie, how many each row has, and each one's row and rank in it."""

    places: Places
    counts: Places
    rank: Places

    @classmethod
    def of(cls, shape: tuple[int, ...], valid: NDArray[np.bool_] | None) -> "_Rows":
        taking = np.broadcast_to(True if valid is None else valid, shape).reshape(-1, shape[-1])
        counts = taking.sum(1)
        if counts.size and counts.min() == 0:
            raise ProtocolMisuse("a row without any valid value has no maximum")
        return cls(np.flatnonzero(taking), counts, _ranks(counts))

    @property
    def longest(self) -> int:
        return int(self.counts.max(initial=0))

    def halve(self) -> tuple[Places, Places]:
        """Which elements stay after this level, and which of them first meet their right neighbour; rows of two wait for the end."""
        rest = np.repeat(self.counts, self.counts)
        stays = (self.rank % 2 == 0) | (rest <= 2)
        meets = (self.rank % 2 == 0) & (self.rank + 1 < rest) & (rest > 2)
        return np.flatnonzero(stays), np.flatnonzero(meets)

    def after(self) -> "_Rows":
        counts = np.where(self.counts > 2, -(-self.counts // 2), self.counts)
        return _Rows(self.places, counts, _ranks(counts))


class _Level(NamedTuple):
    """Of the elements: which stay, which of them meet their right neighbour, where these are among those, and the rows that are left."""

    stays: Places
    left: Places
    met: Places
    after: _Rows


def _levels(rows: _Rows) -> Iterator[_Level]:
    """The levels of the tree, down to rows of one or two."""
    while rows.longest > 2:
        (stays, left), rows = rows.halve(), rows.after()
        yield _Level(stays, left, np.searchsorted(stays, left), rows)


@lru_cache(maxsize=32)
def _kept_levels(counts: bytes) -> tuple[_Level, ...]:
    """As :func:`_levels`, for rows of so many elements (int64): alike in all layers and runs."""
    lengths = np.frombuffer(counts, np.int64)
    return tuple(_levels(_Rows(np.arange(0), lengths, _ranks(lengths))))


def _ranks(counts: Places) -> Places:
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)


def _take(x: Share, places: Places) -> Share:
    return x.map(lambda part: part[places])


def _put(x: Share, places: Places, values: Share) -> Share:
    """Replace some elements of x."""

    def put(part: Words, new: Words) -> Words:
        out = part.copy()
        out[places] = new
        return out

    return x.zip(values, put) if x.masked is not None or x.mask is not None else x


def relu_table(mask: Words, table_bits: int, ring_bits: int) -> Words:
    """P0: rows (N, 2^table_bits) with ``relu(v - mask)`` at place v, signed in table_bits, as elements of the result's ring."""
    turned: Words = _turns(table_bits, ring_bits)[-mask.astype(np.int64) & ((1 << table_bits) - 1)]
    return turned


@lru_cache(maxsize=16)
def _turns(table_bits: int, ring_bits: int) -> Words:
    """Row k of as many as a table has cells: relu at cell v + k. They overlap in memory."""
    cells = np.arange(1 << table_bits)
    positive = np.where(cells < cells.size // 2, cells, 0).astype(dtype_of(ring_bits))
    windows: Words = np.lib.stride_tricks.sliding_window_view(np.concatenate([positive, positive]), cells.size)[:-1]
    return windows


def relu_look_up(party: Party, x: Share, table_bits: int, ring_bits: int) -> Words | None:
    """Additive shares in Z_2^ring_bits of relu(x), x flat and signed in table_bits: 0 rounds, 2^table_bits ring elements dealt each.

    The table is shared by a fresh mask of all its cells, and just one cell is read: at the public masked x.
    """
    shape = (size(x.shape), 1 << table_bits)
    table = party.deal(shape, lambda: relu_table(np.asarray(x.mask), table_bits, ring_bits), ring_bits)
    if table is None or x.masked is None:
        return None
    read: Words = table[np.arange(shape[0]), x.masked.astype(np.int64) & (shape[1] - 1)]
    return read


async def _larger(party: Party, a: Share, b: Share, table_bits: int, spec: Spec) -> Share:
    """max(a, b) in the small ring. P1 and P2 never need their own parts of its mask, so only P0 keeps one."""
    gain = relu_look_up(party, a - b, table_bits, b.bits)
    step = await reshare(party, gain, spec.shape, b.fraction, b.bits)
    out = b + step
    return Share(out.shape, b.fraction, b.bits, _wrapped(out.masked, b.bits), _wrapped(out.mask, b.bits) if party.helps else None)


def _wrapped(part: Words | None, bits: int) -> Words | None:
    return None if part is None else wrap(part, bits)


async def _lifted(party: Party, x: Share, rows: _Rows, table_bits: int) -> Share:
    """The last level: rows of one or two small values -> their maximum in Z_2^64, in units (fraction 0). 1 round."""
    first = np.flatnonzero(rows.rank == 0)
    pairs = np.flatnonzero(rows.counts == 2)
    total = lift_share(party, _take(x, first))
    gain = relu_look_up(party, _take(x, first[pairs] + 1) - _take(x, first[pairs]), table_bits, 64)
    if total is not None and gain is not None:
        total[pairs] += gain
    return await reshare(party, total, (first.size,), 0)


def lift_share(party: Party, x: Share, bits: int = 64) -> Words | None:
    """Additive shares in Z_2^bits of x in Z_2^w, w < bits, for ``-2^(w-2) <= x < 2^(w-2)``: 0 rounds, 16 B dealt an element.

    Raised by 2^(w-2), x is not negative, so ``m - l`` wraps exactly if the top bit of l is set and that of m is not; P0 deals l and
    ``2^w`` times its top bit in the large ring. The raise is subtracted at the end.
    """
    width, offset = x.bits, 1 << (x.bits - 2)
    low = party.deal(x.shape, lambda: np.asarray(x.mask).astype(np.uint64), bits)
    high = party.deal(x.shape, lambda: (np.asarray(x.mask).astype(np.uint64) >> np.uint64(width - 1)) << np.uint64(width), bits)
    if low is None or high is None or x.masked is None:
        return None
    raised = (x.masked.astype(np.uint64) + np.uint64(offset)) & np.uint64((1 << width) - 1)
    share = (np.uint64(1) - (raised >> np.uint64(width - 1))) * high - low
    return share + raised - np.uint64(offset) if party.leads else share
