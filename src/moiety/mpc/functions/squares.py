"""A row's truncated elements and the sum of their squares, in the one round that truncating them takes.

Failure-free truncation (:func:`~moiety.mpc.rep3.wrap_truncate_share`) writes ``x = z / 2^drop`` as ``M - L + b W``: P1 and P2 know M and
the bit b, P0 knows L and W. A bit is its own square, so with ``V = 2 L W - W^2``, which P0 deals as well,

    x^2 = M^2 - 2 M (L - b W) + L^2 - b V = 2 M x - M^2 + L^2 - b V,

and additive shares of x yield those of the sum of squares before x itself has a mask. Our own combination.
"""

import numpy as np

from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare, wrap_truncate_share
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share, wrap


async def rescale_and_square(party: Party, z: Share, fraction: int) -> Share:
    """z (..., n) at fewer fraction bits, and behind every row (last axis) the sum of its squares: (..., n + 1).

    The last element has twice the fraction bits that the share names. Elements are within 1 unit for |z| < 2^62, as by
    :func:`~moiety.mpc.rep3.rescale`; the sum is exact for what they became, in the ring.
    1 round; 16 B and the dropped bits dealt and 16 B exchanged an element, 8 B and 16 B a row: in the ring of 64 bits 8 B an element more
    than both steps, a round less. P1 and P2 see words padded afresh, P0 nothing.
    """
    drop = z.fraction - fraction
    share = wrap_truncate_share(party, z, drop)
    squares = _square_share(party, z, drop, share)
    joined = None if share is None or squares is None else np.concatenate([share, squares], -1)
    return await reshare(party, joined, (*z.shape[:-1], z.shape[-1] + 1), fraction, z.bits)


def _square_share(party: Party, z: Share, drop: int, share: Words | None) -> Words | None:
    """Additive shares (..., 1) of the sum of squares of what ``share`` sums to: 0 rounds, 8 B dealt an element and 8 B a row."""
    bits, row = z.bits, (*z.shape[:-1], 1)

    def split() -> tuple[Words, Words]:
        """P0: L and W."""
        mask, kind = wrap(z.mask, bits), z.mask.dtype.type  # type: ignore[arg-type,union-attr]
        return mask >> kind(drop), (mask >> kind(bits - 1)) << kind(bits - drop)

    def crossed() -> Words:
        low, top = split()
        return wrap((low + low - top) * top, bits)

    def squared() -> Words:
        low, _ = split()
        return wrap((low * low).sum(-1, keepdims=True, dtype=low.dtype), bits)

    cross, square = party.deal(z.shape, crossed, bits), party.deal(row, squared, bits)
    if share is None or cross is None or square is None or z.masked is None:
        return None
    kind = z.masked.dtype.type
    offset = kind(1 << (bits - 2))
    raised = wrap(z.masked + offset, bits)
    known = (raised >> kind(drop)) - (offset >> kind(drop))
    each = kind(2) * known * share - (kind(1) - (raised >> kind(bits - 1))) * cross
    if party.leads:
        each -= known * known
    return wrap(each.sum(-1, keepdims=True, dtype=z.masked.dtype) + square, bits)
