"""Did any value leave its calibrated range? Counted in secret, so that one bit for a whole run is all that is ever opened."""

from collections.abc import Awaitable

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.bits import BitShare, Planes, octets, size, stacked_planes, to_planes
from moiety.mpc.functions.compare import Subtraction, borrows, sign
from moiety.mpc.functions.select import bit_to_share, bit_to_share_share
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share, wrap


async def out_of_range(party: Party, x: Share, low: int, high: int) -> Share:
    """How many elements of each row (last axis) of x lie outside [low, high) raw units: a share with fraction 0.

    Exact for every x of its ring. In Z_2^64: 4 rounds; 73.5 B an element (in octets of eight elements) for the two borrows and 8 B
    dealt, 16 B for the sum of a row. P1 and P2 see padded bits and a padded word a row, P0 nothing.
    """
    return await reshare(party, await out_of_range_share(party, x, low, high), x.shape[:-1], 0, x.bits)


async def out_of_range_share(party: Party, x: Share, low: int, high: int) -> Words | None:
    """As :func:`out_of_range`, but additive shares: 3 rounds, and several counts may be added up before they are masked afresh.

    With u = x - low = m - l and H = high - low: [u < H] = [m < H] xor [m < l] xor [m - H < l], all without sign; the first bit is
    public to P1 and P2, the others are borrows that share what is dealt about l.
    """
    if not 0 < high - low < 1 << (x.bits - 1):
        raise ProtocolMisuse(f"no range [{low}, {high}) to check in {x!r}")
    found = await _borrows(party, x, np.asarray(low, np.int64).astype(np.uint64), np.uint64(high - low))
    inside = [part if part is None else part[0] ^ part[1] for part in found]
    outside = BitShare(x.shape, None if inside[0] is None else ~inside[0], inside[1])
    share = bit_to_share_share(party, outside, x.bits)
    return None if share is None else np.asarray(share.sum(-1, dtype=np.uint64))


def _borrows(party: Party, x: Share, low: Words, width: np.uint64) -> Awaitable[Planes]:
    """[u < H] by two borrows, for which nothing is held here any more when they are awaited."""
    count = size(x.shape)
    values = extra = None
    if x.masked is not None:
        raised = wrap(x.masked - low, x.bits).ravel()
        values = stacked_planes([raised, raised - width], x.bits)
        extra = np.stack([to_planes((raised < width).astype(np.uint64), 1)[0], np.zeros(octets(count), np.uint8)])
    mask = to_planes(x.mask, x.bits) if party.helps and x.mask is not None else None
    return borrows(party, Subtraction(2, count, x.bits, values, mask), extra=extra)


async def not_zero(party: Party, counts: Share) -> Share:
    """1 where a count (at least 0, below half of its ring) is not 0, else 0: a share with fraction 0.

    4 rounds in Z_2^64; the comparison of :func:`sign` on 64 bits (407 B for up to eight counts) and 24 B a count. P1 and P2 see padded
    bits and words, P0 nothing.
    """
    return await bit_to_share(party, await sign(party, -counts, counts.bits), counts.bits)
