"""Did any value leave its calibrated range? Counted in secret, so that one bit for a whole run is all that is ever opened."""

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.bits import BitShare, Planes, octets, size, stacked_planes, to_planes
from moiety.mpc.functions.compare import Subtraction, borrows, sign
from moiety.mpc.functions.select import bit_to_share, bit_to_share_share
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share, dtype_of, wrap

COUNT_BITS = 40
"""Of the ring in which elements are counted: no plan has 2^39 of them."""


class Ends(NamedTuple):
    """A range [low, high) in raw units, compared in units of 2^drop."""

    low: int
    high: int
    drop: int = 0


async def out_of_range(party: Party, x: Share, low: int, high: int, *, drop: int = 0, bits: int | None = None) -> Share:
    """How many elements of each row (last axis) of x lie outside [low, high) raw units: a share in Z_2^COUNT_BITS.

    With ``drop``, x is compared in units of 2^drop: nothing inside is counted, nothing ``2^(drop + 1)`` or more outside is missed.
    The comparison reads ``bits`` bits above those, all of the ring if not given. It is exact for every x that ends nearer than
    ``2^(drop + bits) - |end|`` to zero; in the whole ring, for every x. Rounds: those of a comparison, and 1. Bytes an element: two borrows
    of that width (64 bits: 73.5), 5 dealt, and 10 for the sum of a row. P1 and P2 see padded bits and a padded word a row, P0 nothing.
    """
    return await reshare(party, await out_of_range_share(party, x, low, high, drop, bits), x.shape[:-1], 0, COUNT_BITS)


async def out_of_range_share(party: Party, x: Share, low: int, high: int, drop: int = 0, bits: int | None = None) -> Words | None:
    """As :func:`out_of_range`, but additive shares: several counts may be added up before they are masked afresh."""
    raised, width = _above_low(x, Ends(low, high, drop), x.bits - drop if bits is None else bits)
    return await _count(party, raised, width)


async def all_out_of_range(party: Party, xs: Sequence[Share], ends: Sequence[Ends], bits: int) -> Share:
    """How many elements of each row of all ``xs`` together lie outside the ranges of theirs, each read as by :func:`out_of_range`.

    All have the same rows. Rounds and bytes as there for rows of all elements: one comparison of many costs less work than many.
    """
    raised, widths = zip(*(_above_low(x, end, bits) for x, end in zip(xs, ends, strict=True)), strict=True)
    lengths = [x.shape[-1] for x in xs]
    masked, mask = ([part for part in parts if part is not None] for parts in zip(*((x.masked, x.mask) for x in raised), strict=True))
    joined = Share(
        (*xs[0].shape[:-1], sum(lengths)),
        0,
        bits,
        np.concatenate(masked, -1) if masked else None,
        np.concatenate(mask, -1) if mask else None,
    )
    count = await _count(party, joined, np.repeat(np.array(widths, np.uint64), lengths))
    return await reshare(party, count, joined.shape[:-1], 0, COUNT_BITS)


def _above_low(x: Share, ends: Ends, bits: int) -> tuple[Share, np.uint64]:
    """``x - low`` in the units and the ring of the comparison, and how many of these units the range has: local."""
    low, high, drop = ends
    if not (drop >= 0 and 0 < bits <= x.bits - drop):
        raise ProtocolMisuse(f"{x!r} has no {bits} bits above its lowest {drop}")
    low, high = low >> drop, high if not drop else ((high - 1) >> drop) + 2  # what is cut may come out one too high
    if not 0 < high - low < 1 << (bits - 1):
        raise ProtocolMisuse(f"no range [{low}, {high}) to check in a ring of {bits} bits")
    x = x.low_bits(drop, bits)
    start = np.asarray(low, np.int64).astype(dtype_of(bits))
    return replace(x, masked=None if x.masked is None else wrap(x.masked - start, bits)), np.uint64(high - low)


async def _count(party: Party, x: Share, width: Words | np.uint64) -> Words | None:
    """Additive shares of how many elements u of each row are not below H, their width: one for all, or one for each of a row.

    With u = m - l: [u < H] = [m < H] xor [m < l] xor [m - H < l], all without sign; the first bit is public to P1 and P2, the others are
    borrows that share what is dealt about l.
    """
    found = await _borrows(party, x, width)
    inside = [part if part is None else part[0] ^ part[1] for part in found]
    outside = BitShare(x.shape, None if inside[0] is None else ~inside[0], inside[1])
    share = bit_to_share_share(party, outside, COUNT_BITS)
    return None if share is None else np.asarray(share.sum(-1, dtype=np.uint64))


def _borrows(party: Party, x: Share, width: Words | np.uint64) -> Awaitable[Planes]:
    """[u < H] by two borrows, for which nothing is held here any more when they are awaited."""
    count = size(x.shape)
    values = extra = None
    if x.masked is not None:
        raised = x.masked.astype(np.uint64, copy=False)
        values = stacked_planes([raised, raised - width], x.bits)
        extra = np.stack([to_planes((raised < width).astype(np.uint64), 1)[0], np.zeros(octets(count), np.uint8)])
    mask = to_planes(x.mask, x.bits) if party.helps and x.mask is not None else None
    return borrows(party, Subtraction(2, count, x.bits, values, mask), extra=extra)


async def not_zero(party: Party, counts: Share) -> Share:
    """1 where a count (at least 0, below half of its ring) is not 0, else 0: a share with fraction 0 in Z_2^64.

    Rounds: those of a comparison on the bits of the ring, and 1. Bytes: the comparison of :func:`sign` (in octets of eight counts), and
    three words a count. P1 and P2 see padded bits and words, P0 nothing.
    """
    return await bit_to_share(party, await sign(party, -counts, counts.bits))
