"""``min(max(x, low), high)`` for public ends: exact comparisons that share what is dealt, and selections that share their round."""

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.compare import below
from moiety.mpc.functions.select import select_shares
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share, dtype_of


async def clamp(party: Party, x: Share, low: int | None, high: int | None, bits: int) -> Share:
    """x held within public ends in raw units, ``low <= high``, one of which may be None. Exact while ``|x - end| < 2^(bits-1)``.

    With a = [x < low] and b = [x < high] it is ``high + b (x - high) + a (low - x)``: where a is one, so is b. Without ``high`` it is
    ``x + a (low - x)``.
    Rounds: those of :func:`~moiety.mpc.functions.compare.below` and 1. Bytes an element: the comparison, 16 dealt for each end and 16
    exchanged. P1 and P2 see padded bits and words, P0 nothing.
    """
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise ProtocolMisuse(f"{x!r} cannot be held between {low} and {high}")
    gains = []
    if high is not None:
        gains.append((high, x.plus_public(_word(x, -high))))
    if low is not None:
        gains.append((low, (-x).plus_public(_word(x, low))))
    less = await below(party, x, [end for end, _ in gains], bits)
    shares = [select_shares(party, bit, [gain], x.bits).products[0] for bit, (_, gain) in zip(less, gains, strict=True)]
    total: Words | None = sum(share for share in shares if share is not None) if party.evaluates else None  # type: ignore[assignment]
    moved = await reshare(party, total, x.shape, x.fraction, x.bits)
    return x + moved if high is None else moved.plus_public(_word(x, high))


def _word(like: Share, value: int) -> Words:
    return np.asarray(value, np.int64).astype(dtype_of(like.bits))
