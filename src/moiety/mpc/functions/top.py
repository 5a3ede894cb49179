"""The k largest of a row and their places, by comparing a shuffled list in the open.

Nobody knows the order of a shuffled list, so what its comparisons say is the ranking of a uniformly random order, whatever the values:
P1 and P2 may see it. Two things have to hold for all values. Equal ones must not show: each carries its place, counted from the end, in
its low bits, so that no two are equal and the first of equal values ranks first. And the bits must be those of an order: values are
lifted from a small ring, which bounds their differences even where they were out of range.

P0 knows the order of the list and so must learn no bit and no position: what P1 and P2 go on with is masked afresh, into slots that
are dealt for by their number.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.compare import opened_signs
from moiety.mpc.functions.maximum import lift_share
from moiety.mpc.functions.shuffle import shuffle
from moiety.mpc.party import Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share

FEW_PAIRS = 2048
"""So many are compared in any level, to save rounds."""
MOST_PAIRS = 1 << 24


async def top(party: Party, x: Share, k: int, bits: int, sizes: Sequence[int] | None = None) -> tuple[Share, Share]:
    """The k largest values along the last axis, largest first, and their places (fraction 0); of equal values the first ranks first.

    Exact for ``-2^(bits-2) <= x < 2^(bits-2)`` raw units. Values come with more fraction bits than x has: the fraction of the result says.
    ``sizes`` of groups, if other than by :func:`levels`. Rounds: 4, and for each level 1 and those of a comparison on ``bits + t + 2``
    bits, with t = :func:`tag_bits`. Bytes: 56 an element of x, a comparison for each compared pair (its last exchange opens the bit),
    16 for each slot, and 32 for each of the k. P1 and P2 see padded words and, as bits, the ranking of a random order; P0 nothing.
    """
    many, tag = x.shape[-1], tag_bits(x.shape[-1])
    if not 1 <= k <= many or bits + tag + 2 > x.bits:
        raise ProtocolMisuse(f"no {k} largest of {many} values of {bits} bits; with their places they take {bits + tag + 2} of {x.bits}")
    tagged = (await lifted(party, x, bits)).times(1 << tag).plus_public(np.arange(many - 1, -1, -1, dtype=np.uint64))
    now = await shuffle(party, tagged)
    for size in levels(many, k) if sizes is None else sizes:
        now = await _level(party, now, size, k, bits + tag + 2)
    tags = await lifted(party, now, tag)
    values = (now.as_fraction(0) - tags).as_fraction(x.fraction + tag)
    return values, (-tags).plus_public(np.asarray(many - 1, np.uint64))


async def lifted(party: Party, x: Share, bits: int) -> Share:
    """x mod 2^bits as an integer (fraction 0): x itself for ``-2^(bits-2) <= x < 2^(bits-2)``, within ``3 * 2^(bits-2)`` for every x.

    1 round, 32 B an element. P1 and P2 see padded words, P0 nothing.
    """
    return await reshare(party, lift_share(party, x.low_bits(0, bits), x.bits), x.shape, 0, x.bits)


def tag_bits(many: int) -> int:
    """Bits that the place of one of many takes up, with room to be lifted out again."""
    return (many - 1).bit_length() + 2


def levels(many: int, k: int) -> list[int]:
    """Sizes of the groups, level by level, within which all pairs are compared until the k largest of one group are left.

    A level may compare half as many pairs as the list was long, so groups grow as the list shrinks; to leave k of each, they are of 3 k at
    least.
    """
    sizes: list[int] = []
    left, pairs = many, max(many // 2, FEW_PAIRS)
    while not sizes or sizes[-1] < left:
        left = left if not sizes else _Groups.of(left, sizes[-1]).slots(k)
        sizes.append(min(left, max(1 + 2 * pairs // left, 3 * k)))
        if left * sizes[-1] // 2 > MOST_PAIRS:
            raise ProtocolMisuse(f"the {k} largest of {many} would take more than {MOST_PAIRS:,} comparisons at once; ask for fewer")
    return sizes


class _Groups(NamedTuple):
    """Neighbours compared with each other: ``larger`` groups of ``width + 1``, then the others of ``width``."""

    number: int
    width: int
    larger: int

    @classmethod
    def of(cls, many: int, size: int) -> "_Groups":
        """As few groups of at most that size as there can be, as equal as they can be."""
        number = -(-many // size)
        return cls(number, *divmod(many, number))

    def slots(self, k: int) -> int:
        """How many are left of all groups together."""
        return self.larger * min(k, self.width + 1) + (self.number - self.larger) * min(k, self.width)

    def pairs(self) -> tuple[Words, Words]:
        """Places of the first and of the second of all pairs."""
        border = self.larger * (self.width + 1)
        parts = [_pairs(0, self.larger, self.width + 1), _pairs(border, self.number - self.larger, self.width)]
        return np.concatenate([one for one, _ in parts]), np.concatenate([two for _, two in parts])

    def slots_of(self, k: int) -> tuple[Words, Words]:
        """For every element the first slot of its group, and how many slots that has."""
        widths = np.repeat([self.width + 1, self.width], [self.larger, self.number - self.larger])
        kept = np.minimum(widths, k)
        return np.repeat(np.cumsum(kept) - kept, widths), np.repeat(kept, widths)


def _pairs(start: int, count: int, width: int) -> tuple[Words, Words]:
    first = start + width * np.arange(count)[:, None]
    one, two = np.triu_indices(width, 1)
    return (first + one).ravel(), (first + two).ravel()


async def _level(party: Party, x: Share, size: int, k: int, bits: int) -> Share:
    """The min(k, n) largest of every group, best first, in slots."""
    groups = _Groups.of(x.shape[-1], size)
    one, two = groups.pairs()
    columns = x.map(lambda part: np.moveaxis(part, -1, 0))
    less = await opened_signs(party, columns.map(lambda part: part[one] - part[two]), bits)
    kept = None if less is None else np.take_along_axis(party.additive(x), _places(groups, k, less, columns.shape), -1)
    return await reshare(party, kept, (*x.shape[:-1], groups.slots(k)), x.fraction, x.bits)


def _places(groups: _Groups, k: int, less: Words, shape: tuple[int, ...]) -> Words:
    """Which elements (n, rows) go into the slots (rows, slots): [first < second] of all pairs says how many of its group beat each."""
    one, two = groups.pairs()
    beaten = np.zeros(shape, np.intp)
    np.add.at(beaten, one, less)
    np.add.at(beaten, two, ~less)
    column = (-1, *(1 for _ in shape[1:]))
    first, kept = (of.reshape(column) for of in groups.slots_of(k))
    slots = np.where(beaten < kept, first + beaten, groups.slots(k))  # the others share one behind the last
    places = np.zeros((groups.slots(k) + 1, *shape[1:]), np.intp)
    np.put_along_axis(places, slots, np.broadcast_to(np.arange(shape[0]).reshape(column), shape), 0)
    return np.moveaxis(places[:-1], 0, -1)
