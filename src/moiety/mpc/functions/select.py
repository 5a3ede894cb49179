"""A secret bit used as a number: conversion, selection and choice, without a branch.

With ``b = mb xor r``, mb public to P1 and P2 and r known to P0: ``b = mb + (1 - 2 mb) r``, so one dealt word turns a bit into additive
shares, and a second one, ``r l_v``, multiplies it with a masked value. The identity is folklore; dealing both words in advance
follows ABY2.0 (USENIX Security 2021).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.bits import BitShare
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share, wrap


class Selected(NamedTuple):
    """Additive shares of a bit and of its product with each of some values; None where this role has none."""

    bit: Words | None
    products: list[Words | None]


def select_shares(party: Party, bit: BitShare, xs: Sequence[Share], bits: int = 64, *, want_bit: bool = True) -> Selected:
    """Additive shares of ``bit`` and of ``bit * x`` for each x; the bit's shape must broadcast to that of x. 0 rounds.

    Bytes an element: 8 dealt for the bit, 8 dealt for each x. Nobody learns anything: dealt shares are uniform. Without ``want_bit``
    the bit's own share is not computed.
    """
    if any(x.bits != bits for x in xs):
        raise ProtocolMisuse(f"select in a ring of {bits} bits takes values of that ring")
    mask = bit.unpacked(bit.mask, bits) if party.helps and bit.mask is not None else None
    flag = party.deal(bit.shape, lambda: np.asarray(mask), bits)
    crosses = [party.deal(np.broadcast_shapes(bit.shape, x.shape), lambda x=x: wrap(mask * x.mask, bits), bits) for x in xs]  # type: ignore[misc]
    if not party.evaluates or bit.masked is None or flag is None:
        return Selected(None, [None] * len(xs))
    known = bit.unpacked(bit.masked, bits)
    share = None
    if want_bit:
        share = _turned(flag.copy(), known)
        if party.leads:
            share += known
        share = wrap(share, bits)
    products = [_selected(party, x, known, flag, cross) for x, cross in zip(xs, crosses, strict=True)]
    return Selected(share, [wrap(p, bits) for p in products])


def _turned(words: Words, known: Words) -> Words:
    """``(1 - 2 mb) words`` in the place of the words."""
    flip = known.dtype.type(1) - known
    flip -= known
    words *= flip
    return words


def _selected(party: Party, x: Share, known: Words, flag: Words, cross: Words | None) -> Words:
    """``mb [x] + (1 - 2 mb) (mx flag - cross)``: an evaluator's share of the bit times x."""
    out: Words = x.masked * flag
    out -= cross
    out = _turned(out, known)
    own = party.additive(x)
    out += np.multiply(own, known, out=own) if own.shape == known.shape else own * known
    return out


def bit_to_share_share(party: Party, bit: BitShare, bits: int = 64) -> Words | None:
    """Additive shares of the bit as a ring element (fraction 0): 0 rounds, 8 B dealt an element."""
    return select_shares(party, bit, [], bits).bit


async def bit_to_share(party: Party, bit: BitShare, bits: int = 64) -> Share:
    """The bit as a share with fraction 0: 1 round; 8 B dealt and 16 B exchanged an element. P1, P2 see words padded afresh."""
    return await reshare(party, bit_to_share_share(party, bit, bits), bit.shape, 0, bits)


async def select(party: Party, bit: BitShare, x: Share) -> Share:
    """``bit * x``: x where the bit is 1, else 0, exactly (whatever x is). 1 round; 16 B dealt and 16 B exchanged an element."""
    shape = np.broadcast_shapes(bit.shape, x.shape)
    share = select_shares(party, bit, [x], x.bits, want_bit=False).products
    return await reshare(party, share.pop(), shape, x.fraction, x.bits)


async def choose(party: Party, bit: BitShare, x: Share, y: Share) -> Share:
    """Of two values, x where the bit is 1 and y where it is 0. 1 round; costs as :func:`select`."""
    return y + await select(party, bit, x - y)
