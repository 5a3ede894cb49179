"""A look-up as a factor: what its value multiplies need not wait until that value has a mask of its own.

After its first round a look-up (:mod:`.table`) is ``f(x) = sum_j s_j w_j``. There ``w_j = sigma c_j`` is a share under the pad of what was
exchanged, and P0 knows ``s_j = sigma ll^j`` whole: a share whose masked part is zero. A product with y is one of three factors, of which
only two have a public part. With ``s = -k``, ``w = W - n`` and ``y = m - l``

    f(x) y = sum_j W_j k_j l + m (sum_j k_j n_j - sum_j W_j k_j) - (sum_j k_j n_j) l,

where W and m are public to P1 and P2, and P0 deals what consists of masks. So a look-up and a product take two rounds instead of three.
A product of several factors by dealt products of their masks is ABY2.0's (USENIX Security 2021); that one with a look-up is our own.
"""

import math
from typing import Any

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.table import Table, Window, begin
from moiety.mpc.party import Party
from moiety.mpc.rep3 import WHOLE, Cut, deal_cross, finish, plus, shift_share
from moiety.mpc.rounds import Spec, Words
from moiety.mpc.share import Share, wrap


async def lookup_factor(party: Party, x: Share, window: Window, table: Table, bits: int) -> Share:
    """``w`` and ``s`` of a look-up at the secret x, (2, degree + 1, *x.shape) in Z_2^bits, for :func:`multiply_factor` alone. 1 round.

    Bytes an element, for words of B bytes: ``2^n / 8`` and ``B (d + 1)`` dealt, ``2 B (d + 1)`` exchanged. P1 and P2 see words padded
    afresh, P0 nothing.
    """
    degree, count = len(table.coefficients) - 1, math.prod(x.shape)
    [said], [pad], powers, signed = begin(party, x, window, [table], bits)
    theirs = await party.swap(said, specs=(Spec((degree + 1, count), bits),))
    shape = (2, degree + 1, *x.shape)
    masked = mask = None
    if theirs and said is not None:
        opened = wrap(said + theirs[0], bits)
        masked = np.stack([opened, np.zeros_like(opened)]).reshape(shape)
    known = signed if party.helps else powers
    if pad is not None:
        mask = np.stack([pad, wrap(-np.stack(known), bits)]).reshape(shape)  # type: ignore[arg-type]
    return Share(shape, table.fraction, bits, masked, mask)


async def multiply_factor(party: Party, factor: Share, y: Share, bias: Share | None = None, *, cut: Cut = WHOLE) -> Share:
    """``f(x) y + bias``, where x broadcasts to the shape of y, at the sum of their fractions less what ``cut`` drops. 1 round.

    Bytes for words of B bytes: ``B (d + 2)`` dealt and ``2 B`` exchanged an element of y, ``B`` dealt an element of x; what ``cut`` adds
    is as for :func:`~moiety.mpc.rep3.product`. P1 and P2 see words padded afresh, P0 nothing.
    """
    if factor.shape[:1] != (2,) or len(factor.shape) < 2 or np.broadcast_shapes(factor.shape[2:], y.shape) != y.shape:
        raise ProtocolMisuse(f"{factor!r} is no look-up that {y!r} could be multiplied by")
    fraction, bits = factor.fraction + y.fraction, cut.ring_of(factor, y)
    share = plus(party, _product_share(party, factor.narrowed(bits), y.narrowed(bits), cut.coarse), bias, fraction)
    return await finish(party, shift_share(party, share, cut.drop, bits), y.shape, fraction - cut.drop, bits, cut)


def _product_share(party: Party, factor: Share, y: Share, coarse: int) -> Words | None:
    """Additive shares of the product: 0 rounds."""
    bits, terms, shape = y.bits, factor.shape[1], factor.shape[2:]
    held: Any = (None, None) if factor.mask is None else factor.mask
    pads, known = held

    def paired() -> Words:
        """P0: sum_j k_j n_j."""
        return _inner(pads, known)

    crossed = [party.deal(y.shape, lambda j=j: wrap(known[j] * y.mask, bits), bits) for j in range(terms)]  # type: ignore[misc]
    pair = party.deal(shape, lambda: wrap(paired(), bits), bits)
    last = deal_cross(party, y.shape, lambda: -paired() * y.mask, bits, coarse)
    if factor.masked is None or known is None or y.masked is None or pair is None or last is None:
        return None
    opened = factor.masked[0]
    out: Words = last + y.masked * (pair - _inner(opened, known))
    for word, cross in zip(opened, crossed, strict=True):
        out += word * cross
    return out


def _inner(a: Words, b: Words) -> Words:
    """The sum of products over the first axis."""
    return np.asarray((a * b).sum(0, dtype=a.dtype))
