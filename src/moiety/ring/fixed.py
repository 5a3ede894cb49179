"""Fixed point: real numbers as words of Z_2^64 with ``fraction`` fractional bits, in two's complement."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moiety.errors import InputError, ProtocolMisuse

HEADROOM = 62
"""A value must stay below 2^(HEADROOM - fraction); the truncation protocols need the two bits above."""


def encode(values: ArrayLike, fraction: int) -> NDArray[np.uint64]:
    """Words for real ``values``, rounded to the nearest multiple of 2^-fraction (ties to even).

    Takes any shape of float, integer or bool and returns uint64 of the same shape; integers are encoded exactly.
    Raises InputError, which counts the bad values and never shows one, when a value is NaN, infinite, or has
    magnitude 2^(62 - fraction) or more; ProtocolMisuse when ``fraction`` is not within 0..62.
    """
    _check_fraction(fraction)
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "fiub":
        raise InputError(f"values of dtype {numbers.dtype} cannot be encoded; pass floats, integers or booleans")
    if numbers.dtype.kind == "f":
        return _encode_floats(numbers.astype(np.float64), fraction)
    return _encode_integers(numbers, fraction)


def reals(values: NDArray[Any]) -> NDArray[Any]:
    """The values themselves; of uint16, the numbers whose bfloat16 they are."""
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32) if values.dtype == np.uint16 else values


def decode(words: NDArray[np.uint64], fraction: int) -> NDArray[np.float64]:
    """Real numbers, float64 of the same shape, for two's complement ``words`` (uint64) with ``fraction`` bits.

    Words above 2^53 in magnitude round to the nearest float64. Raises ProtocolMisuse when ``words`` is not uint64 or
    ``fraction`` is not within 0..62.
    """
    _check_fraction(fraction)
    if words.dtype != np.uint64:
        raise ProtocolMisuse(f"decode takes uint64 words, not {words.dtype}")
    signed = np.ascontiguousarray(words).view(np.int64).reshape(words.shape)
    return np.asarray(np.ldexp(signed.astype(np.float64), -fraction))


def _check_fraction(fraction: int) -> None:
    if not 0 <= fraction <= HEADROOM:
        raise ProtocolMisuse(f"fraction must be within 0..{HEADROOM}, not {fraction}")


def _encode_floats(numbers: NDArray[np.float64], fraction: int) -> NDArray[np.uint64]:
    finite = np.isfinite(numbers)
    inside = np.abs(numbers) < 2.0 ** (HEADROOM - fraction)
    if not inside.all():
        _refuse(int(np.sum(~finite)), int(np.sum(finite & ~inside)), numbers.size, fraction)
    scaled = np.asarray(np.rint(np.ldexp(numbers, fraction)))
    return scaled.astype(np.int64).view(np.uint64)


def _encode_integers(numbers: NDArray[np.generic], fraction: int) -> NDArray[np.uint64]:
    limit = 1 << (HEADROOM - fraction)
    whole = numbers.astype(np.uint64 if numbers.dtype.kind == "u" else np.int64)
    outside = whole >= limit if whole.dtype == np.uint64 else (whole >= limit) | (whole <= -limit)
    if np.any(outside):
        _refuse(0, int(np.sum(outside)), numbers.size, fraction)
    return np.asarray(whole.astype(np.uint64) << np.uint64(fraction))


def _refuse(strange: int, large: int, total: int, fraction: int) -> None:
    raise InputError(
        f"{strange} of {total} values are NaN or infinite and {large} have magnitude 2^{HEADROOM - fraction} or more, "
        f"which {fraction} fractional bits cannot hold; clean or rescale the input, or use fewer fractional bits"
    )
