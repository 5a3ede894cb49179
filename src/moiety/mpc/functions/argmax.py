"""Exact maximum and its place by a tournament in groups of four; nothing is revealed, not even to the evaluators.

In a group all pairs are compared at once. Candidate j wins if it beats every earlier one strictly and no later one beats it, so of
equal values the first wins. A level takes the rounds of a comparison, one for the conjunctions and one to select.
Tournaments over all pairs of small groups are textbook; the round count comes from the dealt products.
"""

from itertools import combinations

import numpy as np

from moiety.mpc.functions.bits import BitShare, and_each, invert
from moiety.mpc.functions.compare import signs
from moiety.mpc.functions.select import select_shares
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share

GROUP = 4


async def argmax(party: Party, x: Share, bits: int) -> Share:
    """Index of the first largest value along the last axis, a share with fraction 0 and the shape without that axis.

    Exact while the difference of any two values is within [-2^(bits-1), 2^(bits-1)) raw units. A level turns n candidates into
    ceil(n / 4), in the rounds of a comparison and 1 for n = 2, else 2: bits 18 to 64 and 49,152 candidates take 40 rounds.
    Bytes for each full group: six comparisons, three conjunctions of 3 bits (2.25 B), and 104 to 112 for the selection.
    P1 and P2 see padded bits and words, P0 nothing.
    """
    value, index, many = x, None, x.shape[-1]
    while many > 1:
        value, index = await _level(party, value, index, bits, want=(many > GROUP, True))
        many = -(-many // GROUP)
    return _first(index) if index is not None else _zeros(_first(x))


async def exact_max(party: Party, x: Share, bits: int) -> Share:
    """The largest value along the last axis, exactly; range and rounds as :func:`argmax`. P1 and P2 see padded words, P0 nothing."""
    while x.shape[-1] > 1:
        x, _ = await _level(party, x, None, bits, want=(True, False))
    return _first(x)


def _first(x: Share) -> Share:
    return x.map(lambda part: part[..., 0])


def _zeros(x: Share) -> Share:
    return x.map(np.zeros_like).as_fraction(0)


async def _level(party: Party, value: Share, index: Share | None, bits: int, want: tuple[bool, bool]) -> tuple[Share, Share | None]:
    """One level for all rows: the winners of all groups, followed by a candidate left over. ``want``: value, index."""
    many = value.shape[-1]
    width = min(GROUP, many)
    full, groups = many - (many % width == 1), -(-many // width) - (many % width == 1)
    places = np.minimum(np.arange(groups * width), full - 1).reshape(groups, width)  # a short group repeats its last candidate
    candidates = [_at(value, places[:, j]) for j in range(width)]
    wins = await _winners(party, candidates, bits)
    carried = [candidates] if want[0] else []
    if index is not None and want[1]:
        carried.append([_at(index, places[:, j]) for j in range(width)])
    shares, flags = _selections(party, wins, carried, value.bits)
    if index is None and want[1]:
        shares.append(_public_places(party, flags, places))
    return await _collect(party, value, index, shares, want, (full, many))


async def _winners(party: Party, candidates: list[Share], bits: int) -> list[BitShare]:
    """For j = 1 .. width - 1 the bit that candidate j wins; if none is set, candidate 0 does."""
    pairs = list(combinations(range(len(candidates)), 2))
    less = dict(zip(pairs, await signs(party, [candidates[i] - candidates[j] for i, j in pairs], bits), strict=True))
    factors = []
    for j in range(1, len(candidates)):
        beats = [less[i, j] for i in range(j)]
        factors.append(beats + [invert(less[j, k]) for k in range(j + 1, len(candidates))])
    return await and_each(party, factors)


def _selections(party: Party, wins: list[BitShare], carried: list[list[Share]], bits: int) -> tuple[list[Words | None], list[Words | None]]:
    """Additive shares of the winner in every carried list, and of the winning bits."""
    totals = [party.local(lambda c=c: party.additive(c[0])) for c in carried]  # type: ignore[misc]
    flags = []
    for j, win in enumerate(wins, 1):
        flag, gains = select_shares(party, win, [c[j] - c[0] for c in carried], bits)
        totals = [None if t is None or g is None else t + g for t, g in zip(totals, gains, strict=True)]
        flags.append(flag)
    return totals, flags


def _public_places(party: Party, flags: list[Words | None], places: Words) -> Words | None:
    """Additive shares of the winner's place where the candidates' places are still public (the first level)."""
    total: Words | None = None
    for j, flag in enumerate(flags, 1):
        if flag is not None:
            gain = flag * (places[:, j] - places[:, 0]).astype(np.uint64)
            total = gain if total is None else total + gain
    return total + places[:, 0].astype(np.uint64) if party.leads and total is not None else total


async def _collect(
    party: Party, value: Share, index: Share | None, shares: list[Words | None], want: tuple[bool, bool], counts: tuple[int, int]
) -> tuple[Share, Share | None]:
    """Mask the winners afresh, in one round for values and places, and append the candidate that had no group."""
    full, many = counts
    shape = (*value.shape[:-1], -(-full // min(GROUP, many)))
    held = [s for s in shares if s is not None]
    out = await reshare(party, np.stack(held) if held else None, (len(shares), *shape), 0, value.bits)
    rows = [out.map(lambda part, i=i: part[i]) for i in range(len(shares))]  # type: ignore[misc]
    winners = rows[0].as_fraction(value.fraction) if want[0] else value
    places = rows[-1] if want[1] else None
    if full == many:
        return winners, places
    left = np.arange(full, many)
    if places is not None:
        old = _at(index, left) if index is not None else _constant(places, left)
        places = _append(places, old)
    return _append(winners, _at(value, left)), places


def _at(x: Share, places: Words) -> Share:
    return x.map(lambda part: part[..., places])


def _constant(like: Share, places: Words) -> Share:
    """Public places in the form of a share: masked = value, masks zero."""
    shape = (*like.shape[:-1], places.size)
    masked = None if like.masked is None else np.broadcast_to(places.astype(np.uint64), shape)
    return Share(shape, 0, like.bits, masked, None if like.mask is None else np.zeros(shape, np.uint64))


def _append(x: Share, y: Share) -> Share:
    if x.masked is None and x.mask is None:
        return Share((*x.shape[:-1], x.shape[-1] + y.shape[-1]), x.fraction, x.bits)
    return Share.zip(x, y.as_fraction(x.fraction), lambda a, b: np.concatenate([a, b], -1))
