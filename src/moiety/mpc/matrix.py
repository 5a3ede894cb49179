"""Products of a shared value with a matrix of the model owner: shared and packed, known to P1, or streamed in blocks.

Notation as in :mod:`~moiety.mpc.rep3`; what each party sees is written down in ``docs/security/rep3.md``.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.mpc.party import Party
from moiety.mpc.rep3 import WHOLE, Cut, deal_cross, finish, plus, shift_share
from moiety.mpc.rounds import Role, Words
from moiety.mpc.share import Share


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
    """A matrix shared once and packed for many products. Parts as in :class:`Share`."""

    shape: tuple[int, ...]
    fraction: int
    masked: ring.Packed | None = None
    mask: ring.Packed | None = None


class Held(NamedTuple):
    """A matrix W that P1 knows. ``part`` is W itself at P1, as signed integers of ``octets``; W + r at P2; and r at P0.

    r is uniform, one for each sharing of W, and known to P0 and P1 alone: two matrices under one r would give P2 their difference.
    """

    shape: tuple[int, ...]
    fraction: int
    octets: int
    part: ring.Packed | None = None


class Block(NamedTuple):
    """A part of a shared matrix: which rows and columns of it, and its parts as in :class:`Weight`.

    Of a matrix that P1 knows, ``mask`` is r at P0, and ``masked`` what P1 and P2 have, as in :class:`Held`.
    """

    rows: slice
    columns: slice
    masked: ring.Packed | None
    mask: ring.Packed | None


class Streamed(NamedTuple):
    """A matrix that is nowhere held as a whole: ``blocks`` yields its parts, once, while a product uses them.

    ``octets``: of its integers where P1 knows it, as in :class:`Held`; 0 where it is shared.
    """

    shape: tuple[int, ...]
    fraction: int
    blocks: Callable[[], Iterator[Block]]
    octets: int = 0


def pack(party: Party, w: Share) -> Weight:
    """Pack the parts of a shared (in, out) matrix. Local."""
    if party.evaluates and w.masked is None:
        raise ProtocolMisuse(f"{w!r} has no masked part at {party.role.name}")
    masked, mask = (None if part is None else ring.pack(part) for part in (w.masked, w.mask))
    return Weight(w.shape, w.fraction, masked, mask)


def linear_share(party: Party, x: Share, w: Weight | Streamed, op: PackedProduct = DENSE, *, coarse: int = 0) -> Words | None:
    """Additive shares of ``x . w`` with packed weights: two GEMMs at P1 and P2, one at P0; one word dealt an output element.

    As :func:`product_share` with the operands' parts the other way about, ``[x] . mw - mx . lw_i + g_i``: an additive share of the
    small operand is made instead of one of the weights.
    """
    shape = op.shape(x.shape, w.shape)

    def cross() -> Words:
        out = np.zeros(shape, np.uint64)
        _accumulate(op, w, out, masked=None, mask=(x.mask, 1))  # type: ignore[arg-type]
        return out

    dealt = deal_cross(party, shape, cross, x.bits, coarse)
    if dealt is None or not party.evaluates:
        return None
    out = dealt.copy()
    _accumulate(op, w, out, masked=party.additive(x), mask=(x.masked, -1))  # type: ignore[arg-type]
    return out


def _accumulate(op: PackedProduct, w: Weight | Streamed, out: Words, *, masked: Words | None, mask: tuple[Words, int]) -> None:
    """Add ``masked . w.masked`` and ``sign * mask . w.mask`` to ``out``, block by block where the weight comes so."""
    if isinstance(w, Weight):
        op.add(mask[0], w.mask, out, mask[1])  # type: ignore[arg-type]
        if masked is not None:
            op.add(masked, w.masked, out, 1)  # type: ignore[arg-type]
        return
    if op is not DENSE:
        raise ProtocolMisuse("only linear layers take weights that are streamed")
    for rows, columns, masked_block, mask_block in w.blocks():
        part = np.zeros(out[..., columns].shape, np.uint64)
        ring.multiply(mask[0][..., rows], mask_block, part, sign=mask[1])  # type: ignore[arg-type]
        if masked is not None:
            ring.multiply(masked[..., rows], masked_block, part)  # type: ignore[arg-type]
        out[..., columns] += part


def held_share(party: Party, x: Share, w: Held | Streamed, *, coarse: int = 0) -> Words | None:
    """Additive shares of ``x . w`` where P1 knows w: one GEMM at each party; one word dealt an input and an output element.

    P0 deals the mask l of x anew: it draws t with P2 and tells P1 ``l - t``. Then ``x w = (m - (l - t)) w - t (w + r) + t r``, of which
    P1 computes the first term, P2 the second, and P0 deals the third: what is dealt goes to P1, in one frame.
    """
    shape = DENSE.shape(x.shape, w.shape)
    mine = party.deal(x.shape, lambda: x.mask, x.bits, to=Role.P1)  # type: ignore[return-value,arg-type]
    # P0's t follows from what it told P1.
    dealt = deal_cross(party, shape, lambda: _add_held(x.mask - mine, w, np.zeros(shape, np.uint64)), x.bits, coarse, Role.P1)  # type: ignore[operator]
    if dealt is None or mine is None or not party.evaluates:
        return None
    out = dealt.copy()
    return _add_held(x.masked - mine, w, out) if party.leads else _add_held(mine, w, out, -1)


def _add_held(x: Words, w: Held | Streamed, out: Words, sign: int = 1) -> Words:
    """Add ``sign * (x . w)`` to ``out``, by this party's part of w, block by block where it comes so."""
    if isinstance(w, Held):
        return ring.multiply(x, w.part, out, sign=sign)  # type: ignore[arg-type]
    for rows, columns, masked, mask in w.blocks():
        part = np.zeros(out[..., columns].shape, np.uint64)
        out[..., columns] += ring.multiply(x[..., rows], mask if masked is None else masked, part, sign=sign)  # type: ignore[arg-type]
    return out


async def linear(
    party: Party, x: Share, w: Weight | Held | Streamed, bias: Share | None = None, *, op: PackedProduct = DENSE, cut: Cut = WHOLE
) -> Share:
    """``x . w + bias`` at the sum of the fractions, less what ``cut`` drops; rounds and bytes as :func:`product`, but that a
    :class:`Held` matrix takes one dealt word an input element more."""
    fraction, bits = x.fraction + w.fraction, cut.ring_of(x)

    def share() -> Words | None:
        small = x.narrowed(bits)
        if isinstance(w, Held) or (isinstance(w, Streamed) and w.octets):
            found = held_share(party, small, w, coarse=cut.coarse)
        else:
            found = linear_share(party, small, w, op, coarse=cut.coarse)
        return shift_share(party, plus(party, found, bias, fraction), cut.drop, bits)

    return await finish(party, share(), op.shape(x.shape, w.shape), fraction - cut.drop, bits, cut)
