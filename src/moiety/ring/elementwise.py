"""Element-wise work on shares, one pass over memory each: what a protocol does to its words between two messages.

Words are uint64, ``bits`` (1 to 64) name the ring Z_2^bits, and operands broadcast as in numpy. Every function returns a fresh array.
"""

from typing import Final

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.ring import _numpy, kernels
from moiety.ring._numpy import Words

_WORD: Final = np.dtype(np.uint64)


def add(a: Words, b: Words, bits: int) -> Words:
    """``a + b`` mod 2^bits."""
    return _pass("combine", (a, b), False, _ring(bits))


def subtract(a: Words, b: Words, bits: int) -> Words:
    """``a - b`` mod 2^bits."""
    return _pass("combine", (a, b), True, _ring(bits))


def cross_share(x: tuple[Words, Words], y: tuple[Words, Words], dealt: Words, up: int, lead: bool) -> Words:
    """One evaluator's additive share of ``x y`` mod 2^64, from its parts (masked, mask) of x and y and its share of the product of the
    whole masks, which was ``dealt`` in units of 2^up.

    ``mx (my - ly) - lx my + 2^up dealt`` at the lead, ``-mx ly - lx my + 2^up dealt`` at the other.
    """
    return _pass("cross_share", (*x, *y, dealt), _shift(up), lead)


def shift_share(words: Words, by: int, bits: int, lead: bool) -> Words:
    """An additive share mod 2^bits, shifted by 0..63 bits, so that the two of them sum to the shifted secret or 1 more, or lost a wrap:
    ``x >> by`` at the lead, ``-(-x >> by)`` at the other."""
    return _pass("shift_share", (words,), _shift(by), _ring(bits), lead)


def round_shift(words: Words, by: int, bits: int) -> Words:
    """Words mod 2^bits to the nearest multiple of 2^by (0..63), in units of it: ``((x + 2^(by - 1)) mod 2^bits) >> by``."""
    return _pass("round_shift", (words,), _shift(by), _ring(bits))


def _pass(name: str, operands: tuple[Words, ...], *rest: int) -> Words:
    """Run a kernel over operands of one shape; where shapes differ, which is rare, the numpy one, which broadcasts."""
    backend, shape = kernels.backend(), operands[0].shape
    for each in operands:
        if each.dtype != _WORD:
            raise ProtocolMisuse(f"{name} takes uint64 words, not {each.dtype}")
        if each.shape != shape:
            backend, shape = _numpy, np.broadcast_shapes(*[each.shape for each in operands])
        if not each.flags.c_contiguous:
            operands = tuple([np.ascontiguousarray(each) for each in operands])
    out = np.empty(shape, _WORD)
    getattr(backend, name)(*operands, *rest, out)
    return out


def _ring(bits: int) -> int:
    if not 1 <= bits <= 64:
        raise ProtocolMisuse(f"a ring has 1..64 bits, not {bits}")
    return bits


def _shift(by: int) -> int:
    if not 0 <= by < 64:
        raise ProtocolMisuse(f"words are shifted by 0..63 bits, not {by}")
    return by
