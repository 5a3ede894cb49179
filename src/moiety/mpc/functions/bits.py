"""Secret bits and what can be computed on many of them in one round.

A secret bit is ``masked xor mask of P1 xor mask of P2``: P1 and P2 hold the masked bit and their own part of the mask, P0 holds the
whole mask. Bits are packed eight elements to an octet, so everything here is a bitwise operation on arrays. A sum of products of
secret bits is, with the public masked bits as coefficients, a sum of products of mask bits: P0 knows those and deals xor shares of
them (multi-input gates of ABY2.0, over Z_2).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.mpc.party import Kind, Party
from moiety.mpc.rounds import Spec, Words
from moiety.mpc.share import Opaque, dtype_of

Term = tuple[int, ...]
Outputs = tuple[tuple[Term, ...], ...]
PIECE_OCTETS = 1 << 14
"""Octets of a plane that are computed at a time, so that products on the way stay in a cache."""
MOST_FACTORS = 4
"""Products of more bits would double the dealt bits with every further factor."""


def octets(count: int) -> int:
    """Octets that hold ``count`` packed bits."""
    return -(-count // 8)


def pieces(count: int) -> Iterator[tuple[Any, ...]]:
    """Places of the last axis, some at a time: what is computed on the way to a result then takes little room, and stays near."""
    for start in range(0, count, PIECE_OCTETS):
        yield (..., slice(start, start + PIECE_OCTETS))


def size(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape."""
    return math.prod(shape)


@dataclass(frozen=True, slots=True)
class BitShare(Opaque):
    """A party's part of a tensor of secret bits; parts are flat packed octets, None where this role holds none."""

    shape: tuple[int, ...]
    masked: Words | None = None
    mask: Words | None = None

    @property
    def octets(self) -> int:
        return octets(size(self.shape))

    def reshape(self, *shape: int) -> "BitShare":
        if size(shape) != size(self.shape):
            raise ProtocolMisuse(f"{self!r} cannot take the shape {shape}")
        return BitShare(shape, self.masked, self.mask)

    def unpacked(self, part: Words, bits: int = 64) -> Words:
        """The bits of ``masked`` or ``mask`` as ring elements 0 and 1."""
        flat = np.unpackbits(part, bitorder="little", count=size(self.shape))
        return flat.astype(dtype_of(bits)).reshape(self.shape)

    def __repr__(self) -> str:
        return f"<BitShare {self.shape}>"


class Planes(NamedTuple):
    """Stacked packed bits (..., octets) of one role, parts as in :class:`BitShare`."""

    masked: Words | None
    mask: Words | None

    def at(self, *index: int | slice) -> "Planes":
        """Both parts indexed alike."""
        return Planes(None if self.masked is None else self.masked[index], None if self.mask is None else self.mask[index])


def stack(planes: Sequence[Planes]) -> Planes:
    """Both parts stacked along a new first axis."""
    masked = [p.masked for p in planes if p.masked is not None]
    mask = [p.mask for p in planes if p.mask is not None]
    return Planes(np.stack(masked) if masked else None, np.stack(mask) if mask else None)


def join(planes: Sequence[Planes], axis: int) -> Planes:
    """Both parts concatenated."""
    masked = [p.masked for p in planes if p.masked is not None]
    mask = [p.mask for p in planes if p.mask is not None]
    return Planes(np.concatenate(masked, axis) if masked else None, np.concatenate(mask, axis) if mask else None)


def to_planes(words: Words, width: int) -> Words:
    """Bit planes of ring elements, read as a flat list: octets (width, ceil(N / 8)), bit e of octet j is that of element 8 j + e."""
    wide = ring.planes(words.astype(np.uint64, copy=False).ravel(), width)
    return np.ascontiguousarray(wide.astype("<u8", copy=False).view(np.uint8)[:, : octets(words.size)])


def stacked_planes(rows: Iterable[Words], width: int) -> Words:
    """Bit planes of several arrays of ring elements (rows, width, octets); each array is asked for when the one before is done."""
    return np.stack([to_planes(row, width) for row in rows])


def xor(a: BitShare, b: BitShare) -> BitShare:
    """Exclusive or: local."""
    if a.shape != b.shape:
        raise ProtocolMisuse(f"{a!r} and {b!r} differ in shape")
    masked = None if a.masked is None or b.masked is None else a.masked ^ b.masked
    return BitShare(a.shape, masked, None if a.mask is None or b.mask is None else a.mask ^ b.mask)


def invert(a: BitShare) -> BitShare:
    """Logical not: local, only the masked part changes."""
    return BitShare(a.shape, None if a.masked is None else ~a.masked, a.mask)


async def remask(party: Party, shares: Words | None, shape: tuple[int, ...]) -> Planes:
    """Xor shares of P1 and P2 -> masked bits under fresh pads, one for each bit. 1 round, 2 bits a bit."""
    pad = party.draw(Kind.BIT_PAD, shape, 8, xor=True)
    mine = None if shares is None or pad is None else shares ^ pad
    words = await party.swap(mine, specs=(Spec(shape, 8),))
    return Planes(mine ^ words[0] if words and mine is not None else None, pad)


async def open_shares(party: Party, shares: Words | None, shape: tuple[int, ...]) -> Planes:
    """Xor shares of P1 and P2 -> the bits themselves, for P1 and P2 to know. 1 round, 2 bits a bit.

    An opening: only for bits whose distribution depends on no secret. What one receives is the bit xor what one sends. P0 learns nothing.
    """
    words = await party.swap(shares, specs=(Spec(shape, 8),))
    return Planes(shares ^ words[0] if words and shares is not None else None, None)


def polynomial_shares(party: Party, planes: Planes, shape: tuple[int, ...], outputs: Outputs) -> Words | None:
    """Xor shares (outputs, *shape) of sums of products of the planes (V, *shape): 0 rounds.

    Each output is a sum of terms, each term a product of planes. P0 deals one bit for every distinct product of two or more masks.
    """
    recipe = _recipe(outputs)
    products = recipe.products

    def make() -> Words:
        if planes.mask is None:
            raise ProtocolMisuse("only the dealer multiplies masks")
        return np.stack([np.bitwise_and.reduce(planes.mask[list(product)], 0) for product in products])

    dealt = party.deal((len(products), *shape), make, 8, kind=Kind.BIT_PAD, xor=True) if products else None
    if planes.masked is None or planes.mask is None:
        return None
    out = np.zeros((len(outputs), *shape), np.uint8)
    for piece in pieces(shape[-1]):
        known = _Known(planes.masked[piece])
        own: dict[Term, Words] = {(i,): mask for i, mask in enumerate(planes.mask[piece])}
        if dealt is not None:
            own.update(zip(products, dealt[piece], strict=True))
        for total, (public, mixed) in zip(out[piece], recipe.sums, strict=True):
            if party.leads:
                total ^= known.total(public)
            for masks, factors in mixed:
                total ^= known.total(factors) & own[masks]
    return out


class _Recipe(NamedTuple):
    """How an evaluator's share is made: one for all elements and runs."""

    products: tuple[Term, ...]
    """The dealt products of two or more masks, in order."""
    sums: tuple[tuple[tuple[Term, ...], tuple[tuple[Term, tuple[Term, ...]], ...]], ...]
    """Of each output: the terms as products of public bits, for the one who leads; then every product of masks with the products of
    public bits that multiply it, () where that is 1."""


@lru_cache(maxsize=256)
def _recipe(outputs: Outputs) -> _Recipe:
    """A product of bits is the sum, over all subsets of its factors, of the masks of these and the public bits of the others."""
    sums = []
    for terms in outputs:
        mixed: dict[Term, list[Term]] = {}
        for term in terms:
            for masks in _subsets(term, 1):
                mixed.setdefault(masks, []).append(tuple(i for i in term if i not in masks))
        sums.append((terms, tuple((masks, tuple(factors)) for masks, factors in mixed.items())))
    products = sorted({masks for _, mixed in sums for masks, _ in mixed if len(masks) > 1})
    return _Recipe(tuple(products), tuple(sums))


class _Known:
    """Products of public masked bits, each computed once."""

    def __init__(self, masked: Words) -> None:
        self._products: dict[Term, Words] = {(): np.uint8(0xFF), **{(i,): plane for i, plane in enumerate(masked)}}  # type: ignore[dict-item]

    def __call__(self, factors: Term) -> Words:
        if factors not in self._products:
            self._products[factors] = self(factors[:-1]) & self._products[factors[-1:]]
        return self._products[factors]

    def total(self, terms: tuple[Term, ...]) -> Words:
        """The sum of several products."""
        return reduce(np.bitwise_xor, [self(term) for term in terms])


def _subsets(term: Term, least: int) -> Iterator[Term]:
    for count in range(least, len(term) + 1):
        yield from combinations(term, count)


async def and_each(party: Party, factors: Sequence[Sequence[BitShare]]) -> list[BitShare]:
    """The conjunction of every group of k <= 4 bits, all groups alike in k and shape, in one round.

    Bits a group and element: ``2^k - k - 1`` dealt, 2 exchanged (packed in octets); nothing at all for k = 1. No party learns anything.
    """
    many, shape = len(factors[0]), factors[0][0].shape
    if not 1 <= many <= MOST_FACTORS or any(len(group) != many or any(b.shape != shape for b in group) for group in factors):
        raise ProtocolMisuse(f"and_each takes groups of equally many (1 to {MOST_FACTORS}) bits of one shape")
    if many == 1:
        return [group[0] for group in factors]
    planes = stack([stack([Planes(group[i].masked, group[i].mask) for group in factors]) for i in range(many)])
    inner = (len(factors), octets(size(shape)))
    shares = polynomial_shares(party, planes, inner, ((tuple(range(many)),),))
    out = await remask(party, shares, (1, *inner))
    rows = [out.at(0, i) for i in range(len(factors))]
    return [BitShare(shape, row.masked, row.mask) for row in rows]


async def and_all(party: Party, bits: Sequence[BitShare]) -> BitShare:
    """The conjunction of up to 4 bits: 1 round; costs as :func:`and_each`."""
    return (await and_each(party, [bits]))[0]
