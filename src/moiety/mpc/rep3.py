"""Replicated sharing in helper form: inputs, products, truncation and reveals.

Notation: ``[x]`` is an evaluator's additive share, ``m - l1`` at P1 and ``-l2`` at P2. E is one 64-bit word.
Every protocol here is semi-honest; its simulator is written down in ``docs/security/rep3.md``.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moiety import ring
from moiety.errors import InconsistentInput, ProtocolMisuse
from moiety.mpc.party import Key, Kind, Party, ShapeParty
from moiety.mpc.rounds import SILENCE, Role, Round, Spec, Word, Words, exchange
from moiety.mpc.share import Share, dtype_of, wrap

DIGEST_BYTES = 32


class Bilinear(NamedTuple):
    """A product of two arrays and the shape of its result."""

    apply: Callable[[Words, Words], Words]
    shape: Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, ...]]


def _matmul_shape(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    if x[-1] != y[-2]:
        raise ProtocolMisuse(f"inner dimensions differ: {x} @ {y}")
    return (*np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1])


MULTIPLY = Bilinear(np.multiply, np.broadcast_shapes)
MATMUL = Bilinear(ring.matmul, _matmul_shape)
DOT = Bilinear(lambda x, y: (x * y).sum(-1, dtype=x.dtype), lambda x, y: np.broadcast_shapes(x, y)[:-1])


class PackedProduct(NamedTuple):
    """A product with a packed weight and the shape of its result. ``add(x, w, out, sign)`` adds ``sign * (x . w)`` to ``out``."""

    add: Callable[[Words, ring.Packed, Words, int], object]
    shape: Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, ...]]


def _dense_shape(x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, ...]:
    if x[-1] != w[0]:
        raise ProtocolMisuse(f"a value of shape {x} does not fit a weight of shape {w}")
    return (*x[:-1], w[1])


DENSE = PackedProduct(lambda x, w, out, sign: ring.multiply(x, w, out, sign=sign), _dense_shape)


class Weight(NamedTuple):
    """A matrix shared once and packed for many products. Parts as in :class:`Share`; evaluators also keep ``[w]`` packed."""

    shape: tuple[int, ...]
    fraction: int
    masked: ring.Packed | None = None
    additive: ring.Packed | None = None
    mask: ring.Packed | None = None


def pack(party: Party, w: Share) -> Weight:
    """Pack a shared (in, out) matrix: P0 packs the mask; P1 and P2 pack ``m`` and ``[w]``. Local."""
    if party.evaluates:
        if w.masked is None:
            raise ProtocolMisuse(f"{w!r} has no masked part at {party.role.name}")
        return Weight(w.shape, w.fraction, ring.pack(w.masked), ring.pack(party.additive(w)))
    return Weight(w.shape, w.fraction, mask=ring.pack(w.mask) if party.helps and w.mask is not None else None)


async def reshare(party: Party, additive: Words | None, shape: tuple[int, ...], fraction: int, bits: int = 64) -> Share:
    """Additive shares of P1, P2 -> a masked share under a fresh mask. 1 round, 2 E an element."""
    mask = party.draw(Kind.OUT_MASK, shape, bits)
    mine = None if additive is None or mask is None else wrap(additive + mask, bits)
    del additive  # not held while the other evaluator is awaited
    words = await party.swap(mine, specs=(Spec(shape, bits),))
    masked = wrap(mine + words[0], bits) if words and mine is not None else None
    return Share(shape, fraction, bits, masked, mask)


def product_share(party: Party, x: Share, y: Share, op: Bilinear = MULTIPLY) -> Words | None:
    """Additive shares of ``op(x, y)``: 0 rounds, 1 E dealt an output element (protocol 3.1 before its exchange).

    P0 deals ``g = op(lx, ly)``; then ``a = op(mx, [y]) - op(lx_i, my) + g_i`` sums to ``op(x, y)``.
    """
    if x.bits != y.bits:
        raise ProtocolMisuse(f"{x!r} and {y!r} live in different rings")
    cross = party.deal(op.shape(x.shape, y.shape), lambda: op.apply(x.mask, y.mask), x.bits)  # type: ignore[arg-type]
    if cross is None or not party.evaluates:
        return None
    out = op.apply(x.masked, party.additive(y))  # type: ignore[arg-type]
    out -= op.apply(x.mask, y.masked)  # type: ignore[arg-type]
    out += cross
    return out


async def product(party: Party, x: Share, y: Share, op: Bilinear = MULTIPLY, bias: Share | None = None, *, drop: int = 0) -> Share:
    """Exact ``op(x, y) + bias`` at the sum of the fractions. 1 round, 3 E an output element, whatever the inner dimension.

    ``drop`` > 0 also removes that many fraction bits, in the same round, at the risk of :func:`shift_share`.
    """
    fraction = x.fraction + y.fraction

    def share() -> Words | None:
        return shift_share(party, _plus(party, product_share(party, x, y, op), bias, fraction), drop, x.bits)

    return await reshare(party, share(), op.shape(x.shape, y.shape), fraction - drop, x.bits)


def linear_share(party: Party, x: Share, w: Weight, op: PackedProduct = DENSE) -> Words | None:
    """Additive shares of ``x . w`` with packed weights: two GEMMs at P1 and P2, one at P0; 1 E dealt an output element."""
    shape = op.shape(x.shape, w.shape)

    def cross() -> Words:
        out = np.zeros(shape, np.uint64)
        op.add(x.mask, w.mask, out, 1)  # type: ignore[arg-type]
        return out

    dealt = party.deal(shape, cross)
    if dealt is None or not party.evaluates:
        return None
    out = dealt.copy()
    op.add(x.masked, w.additive, out, 1)  # type: ignore[arg-type]
    op.add(x.mask, w.masked, out, -1)  # type: ignore[arg-type]
    return out


async def linear(party: Party, x: Share, w: Weight, bias: Share | None = None, *, op: PackedProduct = DENSE, drop: int = 0) -> Share:
    """``x . w + bias`` at the sum of the fractions. 1 round, 3 E an output element; ``drop`` as in :func:`product`."""
    fraction = x.fraction + w.fraction

    def share() -> Words | None:
        return shift_share(party, _plus(party, linear_share(party, x, w, op), bias, fraction), drop)

    return await reshare(party, share(), op.shape(x.shape, w.shape), fraction - drop)


def _plus(party: Party, share: Words | None, bias: Share | None, fraction: int) -> Words | None:
    """Additive shares of a product of that fraction and of its bias together, in the place of the product's."""
    if bias is None:
        return share
    if bias.fraction != fraction:
        raise ProtocolMisuse(f"{bias!r} does not have the {fraction} fraction bits of the product")
    if share is not None:
        share += party.additive(bias)
    return share


def wrap_truncate_share(party: Party, z: Share, drop: int) -> Words | None:
    """Additive shares of ``z / 2^drop`` within 1 unit, never grossly wrong for -2^62 <= z < 2^62: 0 rounds, 2 E dealt (3.2).

    P0 deals ``L = l >> drop`` and ``w = 2^(64-drop) * top bit of l``; with m' = m + 2^62 the wrap of ``m' - l`` is
    ``(1 - top bit of m') * w``, so nothing has to be guessed.
    """
    bits = z.bits
    low = party.deal(z.shape, lambda: wrap(z.mask, bits) >> z.mask.dtype.type(drop), bits)  # type: ignore[arg-type,union-attr]
    top = party.deal(z.shape, lambda: (wrap(z.mask, bits) >> z.mask.dtype.type(bits - 1)) << z.mask.dtype.type(bits - drop), bits)  # type: ignore[arg-type,union-attr]
    if low is None or top is None or not party.evaluates or z.masked is None:
        return None
    if bits == 64:
        return ring.wrap_truncate(z.masked, low, top, drop, party.leads)
    one = z.masked.dtype.type(1)
    offset = z.masked.dtype.type(1 << (bits - 2))
    raised = wrap(z.masked + offset, bits)
    share = (one - (raised >> z.masked.dtype.type(bits - 1))) * top - low
    lead = (raised >> z.masked.dtype.type(drop)) - (offset >> z.masked.dtype.type(drop))
    return wrap(share + lead if party.leads else share, bits)


async def rescale(party: Party, z: Share, fraction: int) -> Share:
    """Failure-free truncation to fewer fraction bits: within 1 unit for |z| < 2^62. 1 round, 4 E an element."""
    drop = z.fraction - fraction
    if drop == 0:
        return z
    if drop < 0:
        return z.times(1 << -drop).as_fraction(fraction)
    return await reshare(party, wrap_truncate_share(party, z, drop), z.shape, fraction, z.bits)


def shift_share(party: Party, additive: Words | None, drop: int, bits: int = 64) -> Words | None:
    """One-round truncation of additive shares: each shifts its own. Grossly wrong with probability |z| / 2^bits an element.

    Only within a plan's failure budget; the share that is shifted must contain a dealt (uniform) term.
    """
    if additive is None or drop == 0:
        return additive
    by = additive.dtype.type(drop)
    shifted: Words = wrap(additive if party.leads else -additive, bits) >> by
    return shifted if party.leads else wrap(-shifted, bits)


async def share_input(party: Party, value: Words | None, shape: tuple[int, ...], fraction: int, bits: int = 64) -> Share:
    """The client's words become a share: it sends ``m = x + l1 + l2`` to P1 and P2; masks come from streams D and E.

    P1 and P2 compare a digest of m before anything else happens, so a client cannot make them disagree. 2 rounds, 2 E + 64 B.
    """
    address, spec = party.scope.address(Kind.INPUT_MASK), Spec(shape, bits)
    sends = tuple(Word(Role.CLIENT, r, spec) for r in (Role.P1, Role.P2))
    digest = Spec((DIGEST_BYTES,), 8)
    if isinstance(party, ShapeParty):
        await exchange(Round(sends))
        await party.swap(specs=(digest,))
        return Share(shape, fraction, bits)
    masks = {key: party._own(key, address, spec) for key, who in _INPUT_KEYS.items() if party.role in who}
    masked = None
    if party.role is Role.CLIENT:
        if value is None or value.shape != shape:
            raise ProtocolMisuse(f"the client must give words of shape {shape}")
        m = wrap(value + masks[Key.D] + masks[Key.E], bits)
        await exchange(Round(tuple(w._replace(value=m) for w in sends)))
    elif party.evaluates:
        [masked] = await exchange(Round((), tuple(w for w in sends if w.receiver is party.role)))
    else:
        await exchange(SILENCE)
    await _agree(party, masked, digest)
    mask = None if party.role is Role.CLIENT else wrap(np.asarray(sum(masks.values()), dtype_of(bits)), bits)
    return Share(shape, fraction, bits, masked, mask)


_INPUT_KEYS = {Key.D: (Role.P0, Role.P1, Role.CLIENT), Key.E: (Role.P0, Role.P2, Role.CLIENT)}


async def _agree(party: Party, masked: Words | None, spec: Spec) -> None:
    mine = None if masked is None else np.frombuffer(hashlib.sha256(np.ascontiguousarray(masked).data).digest(), np.uint8)
    words = await party.swap(mine, specs=(spec,))
    if words and mine is not None and not np.array_equal(mine, words[0]):
        raise InconsistentInput("P1 and P2 received different words for the same input; the run ends before any output")


async def reveal(party: Party, x: Share) -> Words | None:
    """Open to the client only: P1 sends ``m - l1``, P2 sends ``-l2``. 1 round, 2 E an element; None for all others."""
    sends = {r: Word(r, Role.CLIENT, Spec(x.shape, x.bits)) for r in (Role.P1, Role.P2)}
    if isinstance(party, ShapeParty):
        await exchange(Round(tuple(sends.values())))
        return None
    if party.evaluates:
        await exchange(Round((sends[party.role]._replace(value=wrap(party.additive(x), x.bits)),)))
        return None
    if party.role is Role.CLIENT:
        left, right = await exchange(Round((), tuple(sends.values())))
        return wrap(np.add(left, right), x.bits)
    await exchange(SILENCE)
    return None
