"""``min(max(x, low), high)`` for public ends: exact comparisons that share what is dealt, and selections that share their round."""

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.bits import BitShare
from moiety.mpc.functions.compare import below
from moiety.mpc.functions.select import select_shares
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share, dtype_of


async def clamp(party: Party, x: Share, low: int | None, high: int | None, bits: int) -> Share:
    """x held within public ends in raw units, ``low <= high``, one of which may be None. Exact while ``|x - end| < 2^(bits-1)``.

    With a = [x < low] and b = [x < high] it is ``high + b (x - high) - a (x - low)``: where a is one, so is b. Without ``high`` it is
    ``x - a (x - low)``.
    Rounds: those of :func:`~moiety.mpc.functions.compare.below` and 1. Bytes an element: the comparison, 16 dealt for each end and 16
    exchanged. P1 and P2 see padded bits and words, P0 nothing.
    """
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise ProtocolMisuse(f"{x!r} cannot be held between {low} and {high}")
    ends = [end for end in (high, low) if end is not None]
    less = await below(party, x, ends, bits)
    moved = await reshare(party, _moved(party, x, ends, less, low_alone=high is None), x.shape, x.fraction, x.bits)
    return x + moved if high is None else moved.plus_public(_word(x, high))


def _beyond(party: Party, x: Share, end: int, bit: BitShare) -> Words | None:
    """Additive shares of ``[x < end] (x - end)``."""
    return select_shares(party, bit, [x.plus_public(_word(x, -end))], x.bits, want_bit=False).products[0]


def _moved(party: Party, x: Share, ends: list[int], less: list[BitShare], *, low_alone: bool) -> Words | None:
    """Additive shares of ``b (x - high) - a (x - low)``, without what belongs to an end that there is not."""
    total = _beyond(party, x, ends[0], less[0])
    if low_alone:
        return None if total is None else np.negative(total, out=total)
    for end, bit in zip(ends[1:], less[1:], strict=True):
        share = _beyond(party, x, end, bit)
        if total is not None:
            total -= share
    return total


def _word(like: Share, value: int) -> Words:
    return np.asarray(value, np.int64).astype(dtype_of(like.bits))
