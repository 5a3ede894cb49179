"""Replicated sharing in helper form: inputs, products, truncation and reveals.

Notation: ``[x]`` is an evaluator's additive share, ``m - l1`` at P1 and ``-l2`` at P2. E is one 64-bit word.
Every protocol here is semi-honest; its simulator is written down in ``docs/security/rep3.md``.
"""

import hashlib
import math
from collections.abc import Callable, Coroutine
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from moiety import ring
from moiety.errors import InconsistentInput, ProtocolMisuse
from moiety.mpc.party import Key, Kind, Party, ShapeParty
from moiety.mpc.rounds import SILENCE, Role, Round, Spec, Word, Words, exchange
from moiety.mpc.share import Share, broadcast_shapes, dtype_of, reduced, total, wrap

DIGEST_BYTES = 32


class Bilinear(NamedTuple):
    """A product of two arrays and the shape of its result."""

    apply: Callable[[Words, Words], Words]
    shape: Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, ...]]


def _matmul_shape(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    if x[-1] != y[-2]:
        raise ProtocolMisuse(f"inner dimensions differ: {x} @ {y}")
    return (*np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1])


MULTIPLY = Bilinear(np.multiply, broadcast_shapes)
MATMUL = Bilinear(ring.matmul, _matmul_shape)
DOT = Bilinear(lambda x, y: (x * y).sum(-1, dtype=x.dtype), lambda x, y: np.broadcast_shapes(x, y)[:-1])


PIECE = 1 << 20
"""Elements of a product that are made at once where only some of them are wanted."""


def matmul_at(places: Words) -> Bilinear:
    """A matrix product of which only public places are wanted: these elements of the flattened result, in the shape of ``places``."""
    flat = places.ravel()
    order = None if bool((flat[1:] >= flat[:-1]).all()) else np.argsort(flat, kind="stable")

    def shape(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        whole = _matmul_shape(x, y)
        if places.size and int(places.max()) >= math.prod(whole):
            raise ProtocolMisuse(f"a place lies outside {whole}, the product of {x} and {y}")
        return places.shape

    def apply(x: Words, y: Words) -> Words:
        if order is None:
            return _products_at(x, y, flat).reshape(places.shape)
        out = np.empty(flat.shape, x.dtype)
        out[order] = _products_at(x, y, flat[order])
        return out.reshape(places.shape)

    return Bilinear(apply, shape)


def _products_at(x: Words, y: Words, places: Words) -> Words:
    """Elements of the flattened ``x @ y``, in ascending places. No more than a piece of the product is ever there, none without a place."""
    shape = _matmul_shape(x.shape, y.shape)
    axis = next((i for i, length in enumerate(shape[:-1]) if length > 1), None)
    if axis is None or math.prod(shape) <= PIECE:
        return ring.matmul(x, y).ravel()[places]
    each = math.prod(shape[axis + 1 :])
    step, found = max(1, PIECE // each), [np.empty(0, x.dtype)]
    for start in range(0, shape[axis], step):
        low, high = np.searchsorted(places, np.array([start, start + step], np.uint64) * np.uint64(each))
        if low < high:
            left = _along(x, axis - len(shape), start, step)
            right = y if axis == len(shape) - 2 else _along(y, axis - len(shape), start, step)
            found.append(_products_at(left, right, places[low:high] - np.uint64(start * each)))
    return np.concatenate(found)


def _along(x: Words, axis: int, start: int, step: int) -> Words:
    """A part of x along an axis, counted from the last; all of it where that is broadcast."""
    if x.ndim < -axis or x.shape[axis] == 1:
        return x
    index: Any = (..., slice(start, start + step), *[slice(None)] * (-axis - 1))
    part: Words = x[index]
    return part


async def reshare(party: Party, additive: Words | None, shape: tuple[int, ...], fraction: int, bits: int = 64) -> Share:
    """Additive shares of P1, P2 -> a masked share under a fresh mask. 1 round, 2 E an element."""
    mask = party.draw(Kind.OUT_MASK, shape, bits)
    mine = None if additive is None or mask is None else total(additive, mask, bits)
    del additive  # not held while the other evaluator is awaited
    words = await party.swap(mine, specs=(Spec(shape, bits),))
    masked = total(mine, words[0], bits) if words and mine is not None else None
    return Share(shape, fraction, bits, masked, mask)


class Cut(NamedTuple):
    """How many low bits a product loses before it is masked afresh, and the rings in which that happens.

    With ``width`` the truncation never fails for ``-2^(width-2) <= z / 2^drop < 2^(width-2)``: the product is computed in
    Z_2^(width + drop), each evaluator shifts its share, and what is left lies in Z_2^width, which is the result's ring, or is raised to
    that of ``bits``. Without, it is the one-round truncation of :func:`shift_share` in the operands' own ring, within a failure budget.
    """

    drop: int = 0
    width: int = 0
    bits: int = 64

    def ring_of(self, *operands: Share) -> int:
        """Bits of the ring in which the product of these is computed. Raises ProtocolMisuse when they do not have them."""
        if not (0 <= self.drop < 64 and 0 <= self.width <= 64 and 1 <= self.bits <= 64):
            raise ProtocolMisuse(f"{self} names no ring")
        bits = min(self.width + self.drop if self.width else self.bits, *(x.bits for x in operands))
        if self.width and bits < self.width + self.drop:
            raise ProtocolMisuse(f"a product in a ring of {self.width + self.drop} bits cannot take {operands!r}")
        return bits

    @property
    def coarse(self) -> int:
        """Low bits of what P0 deals that only the rounding would see."""
        return max(0, self.drop - GUARD) if self.width else 0


WHOLE = Cut()
GUARD = 8
"""Bits below the result's unit that P0's dealt products keep: their rounding is at most 2^-9 of a unit."""


def product_share(party: Party, x: Share, y: Share, op: Bilinear = MULTIPLY, *, coarse: int = 0) -> Words | None:
    """Additive shares of ``op(x, y)``: 0 rounds, one word dealt an output element (protocol 3.1 before its exchange).

    P0 deals ``g = op(lx, ly)``; then ``a = op(mx, [y]) - op(lx_i, my) + g_i`` sums to ``op(x, y)``. Of g the ``coarse`` lowest bits may be
    left out: the sum is then off by at most half of 2^coarse.
    """
    if x.bits != y.bits:
        raise ProtocolMisuse(f"{x!r} and {y!r} live in different rings")
    shape = op.shape(x.shape, y.shape)
    dealt = _deal_units(party, shape, lambda: op.apply(x.mask, y.mask), x.bits, coarse)  # type: ignore[arg-type]
    if dealt is None or not party.evaluates:
        return None
    mine, theirs = _parts(party, x), _parts(party, y)
    if op is MULTIPLY and dealt.dtype == np.uint64:
        return ring.cross_share(mine, theirs, dealt, coarse, party.leads)
    out = op.apply(mine[0], party.additive(y))
    out -= op.apply(mine[1], theirs[0])
    out += dealt << dealt.dtype.type(coarse)
    return out


def _parts(party: Party, x: Share) -> tuple[Words, Words]:
    if x.masked is None or x.mask is None:
        raise ProtocolMisuse(f"{x!r} lacks a part at {party.role.name}; it was cut locally and can only be compared or looked up")
    return x.masked, x.mask


def deal_cross(
    party: Party, shape: tuple[int, ...], make: Callable[[], Words], bits: int, coarse: int, to: Role | None = None
) -> Words | None:
    """P0 deals ``make()``, rounded to a multiple of 2^coarse: ``bits - coarse`` bits an element travel."""
    dealt = _deal_units(party, shape, make, bits, coarse, to)
    return dealt if dealt is None or not coarse else dealt << np.uint64(coarse)


def _deal_units(
    party: Party, shape: tuple[int, ...], make: Callable[[], Words], bits: int, coarse: int, to: Role | None = None
) -> Words | None:
    """As :func:`deal_cross`, in units of 2^coarse."""
    if not coarse:
        return party.deal(shape, make, bits, to=to)
    shorter = dtype_of(bits - coarse)
    dealt = party.deal(shape, lambda: ring.round_shift(make(), coarse, bits).astype(shorter, copy=False), bits - coarse, to=to)
    return None if dealt is None else dealt.astype(np.uint64, copy=False)


async def product(party: Party, x: Share, y: Share, op: Bilinear = MULTIPLY, bias: Share | None = None, *, cut: Cut = WHOLE) -> Share:
    """``op(x, y) + bias`` at the sum of the fractions, less what ``cut`` drops. 1 round, 3 words an output element, whatever the inner
    dimension; see :func:`finish` for what a cut costs."""
    fraction, bits = x.fraction + y.fraction, cut.ring_of(x, y)

    def share() -> Words | None:
        found = product_share(party, x.unreduced(bits), y.unreduced(bits), op, coarse=cut.coarse)
        return shift_share(party, plus(party, found, bias, fraction), cut.drop, bits)

    return await finish(party, share(), op.shape(x.shape, y.shape), fraction - cut.drop, bits, cut)


def finish(party: Party, left: Words | None, shape: tuple[int, ...], fraction: int, bits: int, cut: Cut) -> Coroutine[Round, Any, Share]:
    """Additive shares of what ``cut`` leaves of a product in Z_2^bits -> a masked share in the ring that it asks for.

    1 round; with a width below that ring's 2. The words exchanged have the bits of the result's ring: ``width`` in the first round, what
    is missing in the second.
    """
    if not cut.width or cut.bits <= cut.width:
        return reshare(party, left, shape, fraction, cut.width or bits)
    return raised(party, left, shape, fraction, cut.width, cut.bits)


async def raised(party: Party, additive: Words | None, shape: tuple[int, ...], fraction: int, width: int, bits: int) -> Share:
    """Additive shares in Z_2^width of ``-2^(width-2) <= x < 2^(width-2)`` -> a masked share in Z_2^bits. 2 rounds.

    A small ring's mask is kept as the low bits of the large one's. With ``u = x + 2^(width-2)`` not negative,
    ``u = m - l1 - l2 + 2^width k`` as integers, where k counts the carry of l1 + l2, and the wrap of m - l, which is
    ``(1 - top bit of m) * top bit of l``. P0 deals k for either top bit of m, in the ``bits - width`` bits that are missing, and k is
    masked afresh. Bits an element: ``2 (bits - width)`` dealt, ``2 bits`` exchanged. P1 and P2 see padded words, P0 nothing.
    """
    one, two = (None if part is None else part.astype(np.uint64, copy=False) for part in party.draw_each(Kind.OUT_MASK, shape, width))
    own = one if two is None else two if one is None else one + two
    mine = None if additive is None or own is None else total(additive, own, width).astype(dtype_of(width), copy=False)
    del additive
    words = await party.swap(mine, specs=(Spec(shape, width),))
    extra, offset, by = bits - width, np.uint64(1 << (width - 2)), np.uint64(width)
    carry = party.deal(shape, lambda: _bit(own, width, extra), extra)  # type: ignore[arg-type]
    turn = party.deal(shape, lambda: _bit(own, width, extra) + _bit(own, width - 1, extra), extra)  # type: ignore[arg-type]
    lifted = wraps = None
    if words and mine is not None:
        lifted = np.asarray(np.add(mine, words[0], dtype=np.uint64))
        lifted = reduced(np.add(lifted, offset, out=lifted), width)
        wraps = carry if carry is None or turn is None else np.where(lifted >= np.uint64(1 << (width - 1)), carry, turn)
    high = await reshare(party, wraps, shape, 0, extra)
    masked = None if lifted is None or high.masked is None else _joined(np.subtract(lifted, offset, out=lifted), high.masked, by, bits)
    mask = None if own is None or high.mask is None else _joined(own, high.mask, by, bits)
    return Share(shape, fraction, bits, masked, mask)


def _joined(low: Words, high: Words, by: np.uint64, bits: int) -> Words:
    """``low + 2^by high`` in Z_2^bits."""
    out = np.asarray(np.left_shift(high, by, dtype=np.uint64))
    return reduced(np.add(out, low, out=out), bits)


def _bit(words: Words, place: int, bits: int) -> Words:
    """One bit of every word as an element of Z_2^bits."""
    return (words.astype(np.uint64, copy=False) >> np.uint64(place) & np.uint64(1)).astype(dtype_of(bits), copy=False)


def plus(party: Party, share: Words | None, bias: Share | None, fraction: int) -> Words | None:
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

    P0 deals ``L = l >> drop`` and ``w = 2^(64-drop) * top bit of l``, of which only ``drop`` bits travel; with m' = m + 2^62 the wrap of
    ``m' - l`` is ``(1 - top bit of m') * w``, so nothing has to be guessed.
    """
    bits = z.bits
    low = party.deal(z.shape, lambda: wrap(z.mask, bits) >> z.mask.dtype.type(drop), bits)  # type: ignore[arg-type,union-attr]
    top = party.deal(z.shape, lambda: _bit(z.mask, bits - 1, drop), drop)  # type: ignore[arg-type]
    if low is None or top is None or not party.evaluates or z.masked is None:
        return None
    top = top.astype(z.masked.dtype) << z.masked.dtype.type(bits - drop)
    if bits == 64:
        return ring.wrap_truncate(z.masked, low, top, drop, party.leads)
    one = z.masked.dtype.type(1)
    offset = z.masked.dtype.type(1 << (bits - 2))
    raised = wrap(z.masked + offset, bits)
    share = (one - (raised >> z.masked.dtype.type(bits - 1))) * top - low
    lead = (raised >> z.masked.dtype.type(drop)) - (offset >> z.masked.dtype.type(drop))
    return wrap(share + lead if party.leads else share, bits)


def lift_share(party: Party, x: Share, bits: int) -> Words | None:
    """Additive shares in Z_2^bits of x in Z_2^w for ``-2^(w-2) <= x < 2^(w-2)``: 0 rounds, ``bits`` and ``bits - w`` bits dealt.

    As in :func:`wrap_truncate_share`, with l itself dealt in the large ring. Where that is no wider, x need not be bounded.
    """
    width, extra = x.bits, max(0, bits - x.bits)
    low = party.deal(x.shape, lambda: wrap(x.mask, min(width, bits)).astype(dtype_of(bits)), bits)  # type: ignore[arg-type]
    top = party.deal(x.shape, lambda: _bit(x.mask, width - 1, extra), extra) if extra else None  # type: ignore[arg-type]
    if low is None or not party.evaluates or x.masked is None:
        return None
    if top is None:
        return wrap(x.masked.astype(dtype_of(bits)) - low if party.leads else -low, bits)
    offset = np.uint64(1 << (width - 2))
    lifted = wrap(x.masked.astype(np.uint64) + offset, width)
    share = (np.uint64(1) - _bit(lifted, width - 1, 64)) * (top.astype(np.uint64) << np.uint64(width)) - low
    return wrap(share + lifted - offset if party.leads else share, bits).astype(dtype_of(bits))


async def rescale(party: Party, z: Share, fraction: int, *, width: int = 0, bits: int = 64) -> Share:
    """Failure-free truncation to fewer fraction bits: within 1 unit for |z| < 2^62. 1 round.

    With ``width``, for ``-2^(width-2) <= z / 2^drop < 2^(width-2)``, whatever the ring of z, the result lies in Z_2^bits. Bits an element:
    ``bits`` and what ``bits`` has more than ``width`` dealt, ``2 bits`` exchanged; ``width`` is 64 less the bits that are dropped if not
    given.
    """
    drop = z.fraction - fraction
    if drop == 0:
        return z
    if drop < 0:
        return z.times(1 << -drop).as_fraction(fraction)
    if not width:
        return await reshare(party, wrap_truncate_share(party, z, drop), z.shape, fraction, z.bits)
    if not 1 < width <= z.bits - drop or not 1 <= bits <= 64:
        raise ProtocolMisuse(f"{z!r} has no {width} bits above its lowest {drop} to be held in a ring of {bits}")
    return await reshare(party, lift_share(party, z.low_bits(drop, width), bits), z.shape, fraction, bits)


def shift_share(party: Party, additive: Words | None, drop: int, bits: int = 64) -> Words | None:
    """One-round truncation of additive shares: each shifts its own. Grossly wrong with probability |z| / 2^bits an element.

    Only within a plan's failure budget; the share that is shifted must contain a dealt (uniform) term.
    """
    if additive is None or drop == 0:
        return additive
    words = additive.astype(np.uint64, copy=False)
    return ring.shift_share(words, drop, bits, party.leads).astype(additive.dtype, copy=False)


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
        m = total(value + masks[Key.D], masks[Key.E], bits)
        await exchange(Round(tuple(w._replace(value=m) for w in sends)))
    elif party.evaluates:
        [masked] = await exchange(Round((), tuple(w for w in sends if w.receiver is party.role)))
    else:
        await exchange(SILENCE)
    await _agree(party, masked, digest)
    mask = None if party.role is Role.CLIENT else reduce(lambda one, two: total(one, two, bits), masks.values())
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
