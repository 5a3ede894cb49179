"""Exact comparison: the sign of a secret, by the borrow of ``m - l`` in a radix-4 tree.

P1 and P2 know m, P0 knows l. At bit i the subtraction generates a borrow, ``g = not m and l``, or passes one on, ``p = not (m xor l)``;
four neighbours make one node (G, P). In the lowest level m is public to P1 and P2, so G and P are sums of dealt products of up to
four mask bits with public coefficients. Higher levels combine four masked nodes. Every masked G and P has a pad of its own for each
element, threshold and node; only what P0 deals about l itself is shared by several thresholds on one wire.

The tree is the well-known carry-lookahead; evaluating it with multi-input gates on masked bits follows ABY2.0 (USENIX Security 2021);
that one dealer knows all masks, and so a level costs one round, is our own combination.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.bits import (
    BitShare,
    Outputs,
    Planes,
    join,
    octets,
    open_shares,
    pieces,
    polynomial_shares,
    remask,
    size,
    stack,
    stacked_planes,
    to_planes,
)
from moiety.mpc.party import Kind, Party
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share

RADIX = 4


async def sign(party: Party, x: Share, bits: int) -> BitShare:
    """The secret bit [x < 0], exact for ``-2^(bits-1) <= x < 2^(bits-1)`` raw units; bits 2 to 64.

    Rounds: 1 for bits <= 5, 2 for bits <= 17, else 3. Bits an element (in octets of eight elements), for example 16: 68 dealt and 16
    exchanged; 64: 329 dealt and 78 exchanged; all widths in ``docs/security/compare.md``. P1 and P2 see padded bits, P0 nothing.
    """
    return (await below(party, x, [0], bits))[0]


async def signs(party: Party, xs: Sequence[Share], bits: int) -> list[BitShare]:
    """[x < 0] for several secrets in the same rounds; each is padded to whole octets. Costs as :func:`sign`."""
    padded = [8 * octets(size(x.shape)) for x in xs]
    flat = [x.map(lambda part, n=n: np.pad(part.ravel(), (0, n - part.size))) for x, n in zip(xs, padded, strict=True)]  # type: ignore[misc]
    out = await sign(party, _concatenate(flat), bits)
    ends = np.cumsum([octets(size(x.shape)) for x in xs]).tolist()
    rows = [slice(end - octets(size(x.shape)), end) for x, end in zip(xs, ends, strict=True)]
    parts = [Planes(out.masked, out.mask).at(row) for row in rows]
    return [BitShare(x.shape, part.masked, part.mask) for x, part in zip(xs, parts, strict=True)]


async def opened_signs(party: Party, x: Share, bits: int) -> Words | None:
    """[x < 0], opened to P1 and P2 (to nobody else): a boolean array at those, None elsewhere. Range, rounds and bytes as :func:`sign`.

    Only for a shuffled x, see :mod:`.top`: the bits are what the parties learn.
    """
    planes = await borrows(party, _difference(party, x, [0], bits), top=bits - 1, opened=True)
    return None if planes.masked is None else BitShare(x.shape).unpacked(planes.masked[0], 8).astype(bool)


async def below(party: Party, x: Share, thresholds: Sequence[int | Words], bits: int) -> list[BitShare]:
    """[x < t] for public thresholds t (raw units; integers or arrays that broadcast), exact while |x - t| < 2^(bits-1).

    All thresholds share what is dealt about the mask of x; rounds as :func:`sign`.
    """
    out = await borrows(party, _difference(party, x, thresholds, bits), top=bits - 1)
    return [BitShare(x.shape, part.masked, part.mask) for part in (out.at(i) for i in range(len(thresholds)))]


def _difference(party: Party, x: Share, thresholds: Sequence[int | Words], bits: int) -> "Subtraction":
    if not 2 <= bits <= x.bits:
        raise ProtocolMisuse(f"cannot compare on {bits} bits in a ring of {x.bits}; take 2 to {x.bits}")
    values = None if x.masked is None else stacked_planes((_minus(x.masked, t) for t in thresholds), bits)
    mask = to_planes(x.mask, bits) if party.helps and x.mask is not None else None
    return Subtraction(len(thresholds), size(x.shape), bits - 1, values, mask)


def _minus(masked: Words, threshold: int | Words) -> Words:
    words = np.asarray(threshold, np.int64).astype(np.uint64) if isinstance(threshold, int) else threshold
    return masked.astype(np.uint64, copy=False) - words


def _concatenate(xs: Sequence[Share]) -> Share:
    masked = [x.masked for x in xs if x.masked is not None]
    mask = [x.mask for x in xs if x.mask is not None]
    shape = (sum(size(x.shape) for x in xs),)
    return Share(shape, 0, xs[0].bits, np.concatenate(masked) if masked else None, np.concatenate(mask) if mask else None)


class Subtraction(NamedTuple):
    """Which borrows are wanted: of the low ``carries`` bits of ``values - mask``, for every threshold and element.

    Words are held as their bit planes, of which a comparison needs few: a fraction of the words' own size.
    """

    thresholds: int
    elements: int
    carries: int
    values: Words | None  # at P1 and P2: bits of the masked words, (thresholds, bits, octets)
    mask: Words | None  # at P0: bits of the mask, the same for all thresholds, (bits, octets)

    @property
    def octets(self) -> int:
        return octets(self.elements)

    def batches(self) -> list[tuple[int, int, int]]:
        """(first bit, bits a group, groups) of the batches of equal groups: the full ones, then what is left."""
        groups, rest = divmod(self.carries, RADIX)
        return [b for b in ((0, RADIX, groups), (RADIX * groups, rest, 1)) if b[1] and b[2]]

    def value_planes(self, first: int, width: int) -> Words:
        """P1, P2: bits of the masked words, (thresholds, width, octets)."""
        if self.values is None:
            raise ProtocolMisuse("only evaluators hold masked values")
        return self.values[:, first : first + width]

    def mask_planes(self, first: int, width: int) -> Words:
        """P0: bits of the mask, (width, octets)."""
        if self.mask is None:
            raise ProtocolMisuse("only the dealer holds the mask")
        return self.mask[first : first + width]

    def without_bits(self) -> "Subtraction":
        """Its sizes alone: from the second level on nobody reads the words."""
        return self._replace(values=None, mask=None)


async def borrows(party: Party, task: Subtraction, *, top: int | None = None, extra: Words | None = None, opened: bool = False) -> Planes:
    """Masked bits (thresholds, octets): the borrow, xor the bits ``top`` of value and mask, xor ``extra``, which P1 and P2 know.

    With ``top = carries`` that is the sign of the difference. ``opened``: the bits themselves, known to P1 and P2, by the last level's
    message. Rounds and bytes as :func:`sign` and :func:`below` say.
    """
    nodes = sum(count for _, _, count in task.batches())
    shares = _lowest(party, task)
    last = _top_share(party, task, top)
    if party.leads and extra is not None:
        last = extra if last is None else last ^ extra
    task, shares = task.without_bits(), _finish(shares, last, nodes)
    spoken = open_shares if opened and nodes == 1 else remask
    level = await spoken(party, shares, (task.thresholds, 2 * nodes - 1, task.octets))
    del shares
    while nodes > 1:
        spoken = open_shares if opened and nodes <= RADIX else remask
        level, nodes = await _combine(party, level, nodes, task, last, spoken)
    return level.at(slice(None), 0)


def _finish(shares: Words | None, last: Words | None, nodes: int) -> Words | None:
    """At the root, add what turns the borrow into the wanted bit before the exchange, so that it costs nothing."""
    return shares if nodes > 1 or shares is None or last is None else shares ^ last[:, None]


def _top_share(party: Party, task: Subtraction, top: int | None) -> Words | None:
    if top is None:
        return None
    dealt = party.deal((task.octets,), lambda: task.mask_planes(top, 1)[0], 8, kind=Kind.BIT_PAD, xor=True)
    if dealt is None or task.values is None:
        return None
    return task.value_planes(top, 1)[:, 0] ^ dealt if party.leads else np.broadcast_to(dealt, (task.thresholds, task.octets))


def _lowest(party: Party, task: Subtraction) -> Words | None:
    """Xor shares (thresholds, 2 n - 1, octets) of G of all n groups of bits, then of P of all but the lowest."""
    found = group_shares(party, task)
    return None if found is None else np.concatenate([found[0], found[1][:, 1:]], 1)


def group_shares(party: Party, task: Subtraction) -> tuple[Words, Words] | None:
    """Xor shares of G and of P of all n groups of bits, each (thresholds, n, octets): 0 rounds, 15 bits dealt for four."""
    out = []
    for first, width, count in task.batches():
        shape = ((1 << width) - 1, count, task.octets)

        def make(first: int = first, width: int = width, count: int = count) -> Words:
            bits = task.mask_planes(first, width * count).reshape(count, width, task.octets)
            return _all_products(bits.transpose(1, 0, 2))[1:]

        dealt = party.deal(shape, make, 8, kind=Kind.BIT_PAD, xor=True)
        if dealt is not None and task.values is not None:
            planes = task.value_planes(first, width * count).reshape(task.thresholds, count, width, task.octets)
            out.append(_group_shares(planes.transpose(2, 0, 1, 3), dealt, party.leads))
    if not out:
        return None
    generate, passing = (np.concatenate([pair[i] for pair in out], 1) for i in (0, 1))
    return generate, passing


def _all_products(planes: Words) -> Words:
    """Products of every subset of the k planes, by bit mask; place 0 is all ones."""
    out = np.full((1 << len(planes), *planes.shape[1:]), 0xFF, np.uint8)
    for i, plane in enumerate(planes):
        out[1 << i : 2 << i] = out[: 1 << i] & plane
    return out


def _group_shares(planes: Words, dealt: Words, lead: bool) -> tuple[Words, Words]:
    """Shares of (G, P) of groups of k bits from the bits of m (k, ..., octets) and shares of all products of mask bits.

    A piece at a time: all products of the bits of m take 2^k / k times their room.
    """
    generate, passing = np.zeros_like(planes[0], order="C"), np.zeros_like(planes[0], order="C")
    for piece in pieces(planes.shape[-1]):
        _add_group_shares(~planes[piece], dealt[piece], generate[piece], passing[piece], lead)
    return generate, passing


def _add_group_shares(inverted: Words, dealt: Words, generate: Words, passing: Words, lead: bool) -> None:
    """Add shares of G and P to zeros, from the inverted bits of m.

    P is the product of ``not m_i xor l_i``; G is the sum over j of ``not m_j and l_j`` and all ``not m_i xor l_i`` above j.
    """
    public, everything = _all_products(inverted), (1 << len(inverted)) - 1
    for masks, share in enumerate(dealt, 1):
        lowest = masks & -masks
        rest = everything & ~masks
        passing ^= public[rest] & share
        generate ^= public[lowest | (rest & ~(lowest - 1))] & share
    if lead:
        passing ^= public[everything]


class _Batch(NamedTuple):
    """Equal nodes of an upper level: nodes ``first .. first + nodes - 1`` of ``width`` children each."""

    first: int
    nodes: int
    width: int

    def children(self, level: Planes, below: int) -> Planes:
        """The variables g_0 .. g_k-1, p_0 .. p_k-1 of all nodes, stacked; p_0 is left out in the lowest node, which has none."""
        start, stop = RADIX * self.first, RADIX * (self.first + self.nodes - 1) + 1
        generate = [level.at(slice(None), slice(start + j, stop + j, RADIX)) for j in range(self.width)]
        least = 1 if self.first == 0 else 0
        passing = [level.at(slice(None), slice(below - 1 + start + j, below - 1 + stop + j, RADIX)) for j in range(least, self.width)]
        return stack([*generate, *passing])

    def outputs(self) -> Outputs:
        """G = sum over j of g_j p_j+1 .. p_k-1, and P = p_0 .. p_k-1 except in the lowest node."""
        place = self.width - (self.first == 0)  # of p_0
        generate = tuple((j, *range(place + j + 1, place + self.width)) for j in range(self.width))
        return (generate, (tuple(range(place, place + self.width)),))[: 1 if self.first == 0 else 2]


def _batches(nodes: int) -> list[_Batch]:
    full, rest = divmod(nodes, RADIX)
    batches = [_Batch(0, 1, min(nodes, RADIX)), _Batch(1, full - 1, RADIX), _Batch(full, 1, rest)]
    return [b for b in batches[: 1 if nodes <= RADIX else 3] if b.nodes > 0 and b.width > 1]


async def _combine(
    party: Party, level: Planes, nodes: int, task: Subtraction, last: Words | None, spoken: Callable[..., Awaitable[Planes]]
) -> tuple[Planes, int]:
    """One level of the tree: four nodes become one; a single node left over is passed on as it is. 1 round."""
    batches, parts = _batches(nodes), []
    for batch in batches:
        inner = (task.thresholds, batch.nodes, task.octets)
        parts.append(polynomial_shares(party, batch.children(level, nodes), inner, batch.outputs()))
    held = [part for part in parts if part is not None]
    shares = np.concatenate([p[0] for p in held] + [p[1] for p in held[1:]], 1) if held else None
    made, total = sum(batch.nodes for batch in batches), -(-nodes // RADIX)
    fresh = await spoken(party, _finish(shares, last, total), (task.thresholds, 2 * made - 1, task.octets))
    if made < total:
        every = slice(None)
        kept_g, kept_p = level.at(every, slice(nodes - 1, nodes)), level.at(every, slice(2 * nodes - 2, 2 * nodes - 1))
        fresh = join([fresh.at(every, slice(0, made)), kept_g, fresh.at(every, slice(made, None)), kept_p], 1)
    return fresh, total
