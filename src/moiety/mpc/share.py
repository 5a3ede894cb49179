"""One party's part of a secret, and what it can do with it alone.

Helper form of 2-of-3 replicated sharing: ``x = m - l1 - l2 (mod 2^bits)``. P1 and P2 hold the masked value ``m``; P1 also holds
``l1``, P2 also ``l2``; P0 holds ``l = l1 + l2``. So every role's part is a pair (masked, mask) in which P0 lacks the first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn

import numpy as np

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.mpc.rounds import Words


def dtype_of(bits: int) -> Any:
    """Storage of a ring: octets in uint8, everything else in uint64."""
    return np.uint8 if bits == 8 else np.uint64


_LOW: Final = tuple([np.uint64((1 << bits) - 1) for bits in range(64)])
"""By width, the words whose low bits are set."""


def wrap(words: Words, bits: int) -> Words:
    """Reduce to the ring Z_2^bits; free for the machine's own widths."""
    return words if bits in (8, 64) else words & _LOW[bits]


def reduced(words: Words, bits: int) -> Words:
    """64-bit words, reduced to Z_2^bits in place."""
    return words if bits == 64 else np.bitwise_and(words, _LOW[bits], out=words)


ONE_PASS: Final = 2048
"""Elements from which one native pass takes less than numpy's two, which need fewer checks."""


def total(a: Words, b: Words, bits: int) -> Words:
    """``a + b`` in Z_2^bits; of many elements reduced in the same pass over memory."""
    return ring.add(a, b, bits) if a.size >= ONE_PASS and bits != 8 else wrap(np.add(a, b), bits)


def difference(a: Words, b: Words, bits: int) -> Words:
    """``a - b`` in Z_2^bits; of many elements reduced in the same pass over memory."""
    return ring.subtract(a, b, bits) if a.size >= ONE_PASS and bits != 8 else wrap(np.subtract(a, b), bits)


def extended(words: Words | None, bits: int) -> Words | None:
    """Elements of Z_2^bits as signed integers in 64-bit words."""
    if words is None or bits == 64:
        return words
    up = np.uint64(64 - bits)
    return ((words.astype(np.uint64) << up).view(np.int64) >> np.int64(up)).view(np.uint64)


broadcast_shapes = lru_cache(maxsize=1024)(np.broadcast_shapes)
"""As numpy's, which takes longer than adding up the arrays of a small operation; a plan has few shapes."""


class Opaque:
    """A secret on which nobody can branch by accident: it has no truth value, index, length or iterator."""

    __slots__ = ()

    def _refuse(self) -> NoReturn:
        raise ProtocolMisuse("a secret has no truth value, length, index or iterator; use a protocol (compare, select) instead")

    def __bool__(self) -> bool:
        self._refuse()

    def __index__(self) -> int:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def __iter__(self) -> NoReturn:
        self._refuse()


@dataclass(frozen=True, slots=True)
class Share(Opaque):
    """A party's part of a fixed-point tensor: ``value = (masked - all masks) / 2^fraction``.

    A part that this role does not hold is None; with neither (the client, or a run on shapes) only the shape is known.
    """

    shape: tuple[int, ...]
    fraction: int = 0
    bits: int = 64
    masked: Words | None = None
    mask: Words | None = None

    def map(self, f: Callable[[Words], Words]) -> "Share":
        """Apply a linear or structural map to every part held: local, no round."""
        held = self.masked if self.masked is not None else self.mask
        if held is None:  # a zero-stride stand-in tells the shape without memory
            return Share(f(np.broadcast_to(np.uint8(0), self.shape)).shape, self.fraction, self.bits)
        masked = None if self.masked is None else f(self.masked)
        mask = None if self.mask is None else f(self.mask)
        shape = masked.shape if masked is not None else mask.shape  # type: ignore[union-attr]
        return Share(shape, self.fraction, self.bits, masked, mask)

    def zip(self, other: "Share", f: Callable[[Words, Words], Words]) -> "Share":
        """Combine with another share of the same ring and fraction by a linear map: local, no round."""
        if self.bits != other.bits or self.fraction != other.fraction:
            raise ProtocolMisuse(f"{self!r} and {other!r} differ in ring or fraction; rescale one of them first")
        masked = None if self.masked is None or other.masked is None else f(self.masked, other.masked)
        mask = None if self.mask is None or other.mask is None else f(self.mask, other.mask)
        if masked is not None or mask is not None:
            shape = masked.shape if masked is not None else mask.shape  # type: ignore[union-attr]
        else:
            shape = broadcast_shapes(self.shape, other.shape)
        return Share(shape, self.fraction, self.bits, masked, mask)

    def __add__(self, other: "Share") -> "Share":
        return self.zip(other, np.add)

    def __sub__(self, other: "Share") -> "Share":
        return self.zip(other, np.subtract)

    def __neg__(self) -> "Share":
        return self.map(np.negative)

    def times(self, factor: Words | int, fraction: int = 0) -> "Share":
        """Multiply by public integers that stand for ``factor / 2^fraction``; exact, the fractions add up."""
        words = np.asarray(factor, dtype=np.int64).astype(dtype_of(self.bits)) if isinstance(factor, int) else factor
        if self.masked is None and self.mask is None:
            return Share(broadcast_shapes(self.shape, np.shape(words)), self.fraction + fraction, self.bits)
        return self.map(lambda part: part * words).as_fraction(self.fraction + fraction)

    def plus_public(self, words: Words) -> "Share":
        """Add public ring elements: only the masked part changes."""
        shape = broadcast_shapes(self.shape, words.shape)
        masked = None if self.masked is None else self.masked + words
        mask = self.mask if self.mask is None or self.mask.shape == shape else np.broadcast_to(self.mask, shape)
        return Share(shape, self.fraction, self.bits, masked, mask)

    def sum(self, axis: int | tuple[int, ...], *, keepdims: bool = False) -> "Share":
        dtype = dtype_of(self.bits)
        if self.masked is None and self.mask is None:  # on shapes, without adding anything up
            axes = {a % len(self.shape) for a in ((axis,) if isinstance(axis, int) else axis)}
            shape = tuple(1 if a in axes else n for a, n in enumerate(self.shape) if keepdims or a not in axes)
            return Share(shape, self.fraction, self.bits)
        return self.map(lambda part: part.sum(axis=axis, keepdims=keepdims, dtype=dtype))

    def reshape(self, *shape: int) -> "Share":
        return self.map(lambda part: part.reshape(shape))

    def as_fraction(self, fraction: int) -> "Share":
        """The same ring elements read with another fraction (a public power-of-two factor)."""
        return Share(self.shape, fraction, self.bits, self.masked, self.mask)

    def narrowed(self, bits: int) -> "Share":
        """x in the ring Z_2^bits, at most as wide as its own: local, since reduction is a homomorphism."""
        if bits == self.bits:
            return self
        if not bits < self.bits:
            raise ProtocolMisuse(f"{self!r} cannot be read in a ring of {bits} bits; widen it by a protocol")
        masked, mask = (None if part is None else wrap(part.astype(dtype_of(bits), copy=False), bits) for part in (self.masked, self.mask))
        return Share(self.shape, self.fraction, bits, masked, mask)

    def unreduced(self, bits: int) -> "Share":
        """As :meth:`narrowed`, but with what lies above the ring left in the words: for sums and products that are reduced themselves
        before anything of them leaves this party."""
        alike = bits <= self.bits and dtype_of(bits) is dtype_of(self.bits)
        return Share(self.shape, self.fraction, bits, self.masked, self.mask) if alike else self.narrowed(bits)

    def low_bits(self, drop: int, bits: int) -> "Share":
        """``floor(x / 2^drop) + {0, 1}`` in the ring Z_2^bits: local, since reduction is a homomorphism (rounding of the mask)."""
        dtype = dtype_of(bits)

        def cut(part: Words) -> Words:
            return wrap((part >> part.dtype.type(drop)).astype(dtype, copy=False), bits)

        # P1 and P2 shift what is public to them; only P0 knows the whole mask, so theirs stays unused from here on.
        masked = None if self.masked is None else cut(self.masked)
        mask = None if self.mask is None or self.masked is not None else cut(self.mask)
        return Share(self.shape, self.fraction - drop, bits, masked, mask)

    def __repr__(self) -> str:
        ring = "" if self.bits == 64 else f" ring=2^{self.bits}"
        return f"<Share rep3 f={self.fraction}{ring} {self.shape}>"
