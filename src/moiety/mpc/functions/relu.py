"""``max(x, 0)``: an exact comparison and a selection."""

from moiety.mpc.functions.bits import invert
from moiety.mpc.functions.compare import sign
from moiety.mpc.functions.select import select
from moiety.mpc.party import Party
from moiety.mpc.share import Share


async def relu(party: Party, x: Share, bits: int) -> Share:
    """``max(x, 0)``, exact for |x| < 2^(bits-1) raw units; take ``bits`` from the range of x.

    Rounds: those of :func:`~moiety.mpc.functions.compare.sign` and 1 (for bits 16: 3, for 64: 4). Bytes an element: the comparison and 32
    (16: 42.5, 64: 82.9). P1 and P2 see padded bits and words, P0 nothing.
    """
    return await select(party, invert(await sign(party, x, bits)), x)
