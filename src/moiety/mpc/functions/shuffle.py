"""A list in an order that nobody knows.

P1 and P0 know a permutation a, P2 and P0 know b; the list is permuted by a, then by b. P1 sends a(m) under a pad; P0 deals what turns
this into b(a(x)) under a new mask. Shuffling by two permutations, each known to a part of the parties, is the resharing-based shuffle of
Laur, Willemson and Zhang (ISC 2011); that one dealer knows all masks, and so two messages do, is our own combination.
"""

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.party import Kind, Party
from moiety.mpc.rounds import Role, Spec, Words
from moiety.mpc.share import Share, wrap


async def shuffle(party: Party, x: Share) -> Share:
    """Every row (last axis) of x in a uniformly random order of its own, unknown to P1, P2 and everybody outside. P0 knows it.

    2 rounds, 3 E an element: P1 to P2, P0 to P2, then P2 to P1. P1 and P2 see words padded afresh, P0 nothing.
    """
    spec = Spec(x.shape, x.bits)
    first, second = (party.permutation(holder, x.shape) for holder in (Role.P1, Role.P2))
    pad = party.draw_for(Role.P1, Kind.SHUFFLE_PAD, x.shape, x.bits)
    rest = party.deal(x.shape, lambda: -_in_order(_in_order(x.mask, first) + pad, second), x.bits, to=Role.P2)
    hidden = await party.tell(Role.P1, _in_order(x.masked, first) + pad if party.leads else None, spec)
    mask = party.draw_for(Role.P2, Kind.SHUFFLE_PAD, x.shape, x.bits)
    made = _in_order(hidden, second) + rest + mask if party.role is Role.P2 else None
    masked = await party.tell(Role.P2, made, spec)
    return Share(x.shape, x.fraction, x.bits, masked, _mask(party, rest, mask, x.bits))


def _in_order(part: Words | None, order: Words | None) -> Words:
    if part is None or order is None:
        raise ProtocolMisuse("this role holds neither the list nor the order that were to be joined")
    return np.take_along_axis(part, order, -1)


def _mask(party: Party, rest: Words | None, mask: Words | None, bits: int) -> Words | None:
    """P1's share of what was dealt, negated, is its part of the new mask; P2's part is the draw."""
    if rest is None or party.role is Role.P2:
        return mask
    return wrap(-rest if mask is None else mask - rest, bits)
