"""A secret integer as a secret row that is one at its place: what turns a look-up in a shared table into a product.

With i = m - l, place j of the row is one exactly if l = m - j. P0 deals the row for l; turning it by the public m is local. Dealing the
one-hot of a mask goes back to one-time truth tables.
"""

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.share import Share

MOST_CLASSES = 1 << 20


async def one_hot(party: Party, x: Share, classes: int) -> Share:
    """[x == j] for j = 0 .. classes - 1 along a new last axis, fraction 0; x is an integer (fraction 0).

    With 2^n the first power of two that is not below ``classes``, x is read mod 2^n: a row without a one where that is ``classes`` or more.
    1 round; ``8 * 2^n`` bytes dealt and ``16 * classes`` exchanged an element. P1 and P2 see words padded afresh, P0 nothing.
    """
    if not 1 <= classes <= MOST_CLASSES or x.fraction:
        raise ProtocolMisuse(f"no one-hot of {classes} classes for {x!r}; take an integer share and 1 to {MOST_CLASSES:,} classes")
    width = max(1, (classes - 1).bit_length())
    index, cells = x.low_bits(0, width), np.arange(1 << width)
    dealt = party.deal((*x.shape, cells.size), lambda: (np.asarray(index.mask)[..., None] == cells).astype(np.uint64), x.bits)
    turned = None
    if dealt is not None and index.masked is not None:
        places = (index.masked.astype(np.intp)[..., None] - cells[:classes]) & (cells.size - 1)
        turned = np.take_along_axis(dealt, places, -1)
    return await reshare(party, turned, (*x.shape, classes), 0, x.bits)
