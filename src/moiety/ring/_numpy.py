"""The kernels in plain numpy: the reference for the native ones and the fallback where they are not built.

The functions fill arrays that their callers in this room have allocated and checked; ``_native`` has the same signatures.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moiety.ring.fixed import HEADROOM, reals

Words = NDArray[np.uint64]
Octets = NDArray[np.uint8]

PANEL: Final = 32
"""Columns of one packed panel; a packed (k, n) matrix is a (ceil(n / 32), k, 32) array, padded with zeros."""

_LIMB: Final = 22
_EXACT_DEPTH: Final = 2048
_SMALL: Final = 1 << 15
_ROWS_AT_ONCE: Final = 1 << 20


def gemm(a: Words, b: Words, pairs: NDArray[np.int64], out: Words) -> None:
    """Set out[i] = a[pairs[i, 0]] @ b[pairs[i, 1]] for stacks of matrices (A, m, k), (B, k, n) and (C, m, n)."""
    for place, (left, right) in enumerate(pairs):
        out[place] = _product(a[left], b[right])


def pack(b: Words, panels: Words) -> None:
    """Copy (k, n) into zero-padded panels (ceil(n / 32), k, 32)."""
    panels[...] = 0
    for place, panel in enumerate(panels):
        columns = b[:, PANEL * place : PANEL * (place + 1)]
        panel[:, : columns.shape[1]] = columns


def multiply(a: Words, panels: Words, out: Words, negate: bool) -> None:
    """Add a (m, k) @ the packed matrix to out (m, n), or subtract it."""
    count, depth, width = panels.shape
    whole = panels.transpose(1, 0, 2).reshape(depth, count * width)[:, : out.shape[1]]
    product = _product(a, whole)
    if negate:
        np.subtract(out, product, out=out)
    else:
        np.add(out, product, out=out)


def multiply16(a: Words, panels: NDArray[Any], out: Words, negate: bool) -> None:
    """As ``multiply``, of small signed integers: panel by panel, so that few of them are made words at once."""
    for place in range(len(panels)):
        columns = slice(PANEL * place, PANEL * (place + 1))
        part = np.ascontiguousarray(out[:, columns])
        multiply(a, panels[place : place + 1].astype(np.int64).view(np.uint64), part, negate)
        out[:, columns] = part


multiply32 = multiply16


def table_sums(selectors: Octets, index: Words, tables: Words, out: Words) -> None:
    """Set out[k, i] = sum of tables[k][(index[i] - j) mod size] over the set bits j of row i."""
    size = tables.shape[1]
    cells = np.arange(size, dtype=np.uint64)
    mask = np.uint64(size - 1)
    mirrored = np.ascontiguousarray(tables[:, (size - cells) & mask].T)
    chunk = max(1, _ROWS_AT_ONCE // size)
    for start in range(0, index.size, chunk):
        rows = slice(start, start + chunk)
        bits = np.unpackbits(selectors[rows], axis=1, bitorder="little")
        turned = (index[rows, None] + cells) & mask
        rotated = np.take_along_axis(bits, turned.astype(np.int64), axis=1).astype(np.uint64)
        out[:, rows] = _product(rotated, mirrored).T


def flip(selectors: Octets, index: Words, out: Octets) -> None:
    """Copy the rows and xor bit index[i] of row i."""
    out[...] = selectors
    rows = np.arange(index.size)
    out[rows, (index >> np.uint64(3)).astype(np.int64)] ^= np.left_shift(1, index & np.uint64(7)).astype(np.uint8)


def picked(selectors: Octets, index: Words, out: Words) -> None:
    """Set out[i] = bit index[i] of row i."""
    held = selectors[np.arange(index.size), (index >> np.uint64(3)).astype(np.int64)]
    out[...] = (held.astype(np.uint64) >> (index & np.uint64(7))) & np.uint64(1)


def planes(words: Words, out: Words) -> None:
    """Pack bit w of every word into out[w], 64 elements to a word."""
    padded = np.zeros(64 * out.shape[1], dtype=np.uint64)
    padded[: words.size] = words
    for place in range(out.shape[0]):
        bits = ((padded >> np.uint64(place)) & np.uint64(1)).astype(np.uint8)
        out[place] = np.packbits(bits, bitorder="little").view(np.uint64)


def unplanes(bits: Words, out: Words) -> None:
    """Gather bit i of every plane into out[i]."""
    out[...] = 0
    for place, plane in enumerate(bits):
        column = np.unpackbits(plane.view(np.uint8), bitorder="little", count=out.size)
        out |= column.astype(np.uint64) << np.uint64(place)


def shift_right(words: Words, bits: int, out: Words) -> None:
    """Shift flat words right by bits, logically."""
    np.right_shift(words, np.uint64(bits), out=out)


def wrap_truncate(masked: Words, low: Words, wrap: Words, bits: int, lead: bool, out: Words) -> None:
    """One party's share of the exact-wrap truncation, over flat arrays."""
    lifted = masked + np.uint64(1 << 62)
    out[...] = (np.uint64(1) - (lifted >> np.uint64(63))) * wrap - low
    if lead:
        out += (lifted >> np.uint64(bits)) - np.uint64((1 << 62) >> bits)


def combine(a: Words, b: Words, subtract: bool, bits: int, out: Words) -> None:
    """Set out to the sum or the difference mod 2^bits."""
    (np.subtract if subtract else np.add)(a, b, out=out)
    _reduce(out, bits)


def cross_share(mx: Words, lx: Words, my: Words, ly: Words, dealt: Words, up: int, lead: bool, out: Words) -> None:
    """One evaluator's share of a product, of the parts of its operands."""
    np.multiply(mx, my - ly if lead else -ly, out=out)
    out -= lx * my
    out += dealt << np.uint64(up)


def shift_share(words: Words, by: int, bits: int, lead: bool, out: Words) -> None:
    """Shift an additive share mod 2^bits: down at the lead, up at the other evaluator."""
    np.copyto(out, words) if lead else np.negative(words, out=out)
    _reduce(out, bits)
    out >>= np.uint64(by)
    if not lead:
        np.negative(out, out=out)
        _reduce(out, bits)


def round_shift(words: Words, by: int, bits: int, out: Words) -> None:
    """Round to a multiple of 2^by mod 2^bits, in units of it."""
    np.add(words, np.uint64((1 << by) >> 1), out=out)
    _reduce(out, bits)
    out >>= np.uint64(by)


def _reduce(words: Words, bits: int) -> None:
    if bits < 64:
        words &= np.uint64((1 << bits) - 1)


def to_octets(words: Words, bits: int, out: Octets) -> None:
    """Write words mod 2^bits by columns, the widest first."""
    kept, count = words.reshape(-1) & np.uint64((1 << bits) - 1), words.size
    for at, size in _columns(-(-bits // 8)):
        column = out[at * count : (at + size) * count].view(f"<u{size}")
        np.copyto(column, kept >> np.uint64(8 * at), casting="unsafe")


def from_octets(octets: Octets, bits: int, out: Words) -> None:
    """The inverse of ``to_octets``."""
    out[...] = 0
    for at, size in _columns(-(-bits // 8)):
        column = octets[at * out.size : (at + size) * out.size].view(f"<u{size}")
        out |= column.astype(np.uint64) << np.uint64(8 * at)


def _columns(width: int) -> Iterator[tuple[int, int]]:
    """(first octet, octets) of every column of words of so many octets."""
    at = 0
    for size in (8, 4, 2, 1):
        if width - at >= size:
            yield at, size
            at += size


def _product(a: Words, b: Words) -> Words:
    """Product (m, k) @ (k, n) by the fastest exact means at hand."""
    if a.shape[0] * b.size <= _SMALL:
        return np.asarray(a @ b)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "from_numpy") and a.flags.writeable and b.flags.writeable:
        product = torch.matmul(torch.from_numpy(a.view(np.int64)), torch.from_numpy(b.view(np.int64)))
        return np.asarray(product.numpy()).view(np.uint64)
    out = np.zeros((a.shape[0], b.shape[1]), dtype=np.uint64)
    for start in range(0, a.shape[1], _EXACT_DEPTH):
        depth = slice(start, start + _EXACT_DEPTH)
        _add_by_limbs(_limbs(a[:, depth]), _limbs(b[depth]), out)
    return out


def _limbs(words: Words) -> list[NDArray[np.float64]]:
    """Three balanced 22-bit digits as float64: |digit| <= 2^21, so 2048 products still add up exactly in 53 bits."""
    rest = words.view(np.int64) if words.flags.c_contiguous else np.ascontiguousarray(words).view(np.int64)
    digits = []
    half = 1 << (_LIMB - 1)
    for _ in range(3):
        digit = ((rest + half) & ((1 << _LIMB) - 1)) - half
        digits.append(digit.astype(np.float64))
        rest = (rest - digit) >> _LIMB
    return digits


def _add_by_limbs(left: list[NDArray[np.float64]], right: list[NDArray[np.float64]], out: Words) -> None:
    for i in range(3):
        for j in range(3 - i):
            part = (left[i] @ right[j]).astype(np.int64).view(np.uint64)
            out += part << np.uint64(_LIMB * (i + j))


def encode16(values: NDArray[np.uint16], gain: NDArray[np.float32], fraction: int, also: Words, out: Words) -> int:
    """As ``encode32``, of the bits of bfloat16."""
    return encode32(reals(values), gain, fraction, also, out)


def encode32(values: NDArray[np.float32], gain: NDArray[np.float32], fraction: int, also: Words, out: Words) -> int:
    """Add ``also`` and the words of ``gain * values`` (rows, columns) to out (as many columns at least); returns how many do not fit.

    An empty gain is one.
    """
    return _encode(values * gain[:, None] if gain.size else values, fraction, also, out)


def encode64(values: NDArray[np.float64], gain: NDArray[np.float32], fraction: int, also: Words, out: Words) -> int:
    """As ``encode32``."""
    return _encode(values * gain[:, None].astype(np.float64) if gain.size else values, fraction, also, out)


def _encode(values: NDArray[Any], fraction: int, also: Words, out: Words) -> int:
    columns = values.shape[1]
    fits = np.abs(values) < 2.0 ** (HEADROOM - fraction)
    words = np.rint(np.ldexp(np.where(fits, values, 0.0).astype(np.float64), fraction)).astype(np.int64).view(np.uint64)
    out[:, :columns] += also[:, :columns] + words
    return int(values.size - np.sum(fits))


def has_aes() -> bool:
    """Whether ``point_sums`` is among these kernels: without the processor's AES it is done in :mod:`moiety.ring.points`."""
    return False
