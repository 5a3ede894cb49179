"""The hot kernels of Z_2^64, chosen at run time: native where built, numpy elsewhere, the same words from both.

Arrays are C-contiguous numpy; words are uint64 and arithmetic is mod 2^64. A wrong dtype, shape or range raises
ProtocolMisuse, because it is a programming error of the caller and never a matter of data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from types import FunctionType, ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moiety.errors import ConfigError, ProtocolMisuse
from moiety.ring import _numpy, fixed, prg
from moiety.ring._numpy import PANEL, Octets, Words
from moiety.ring.gpu import Device

try:
    from moiety.ring import _native
except ImportError:  # built without a compiler: the numpy kernels serve everything
    _native = None  # type: ignore[assignment]

ISAS: Final = ("avx512", "avx2", "portable", "numpy")
"""Every implementation, best first; ``numpy`` is always there."""

DEVICE_PRODUCTS: Final = 1 << 22
"""A product of two activations goes to the device from so many multiply-adds on: below, the way there costs more. Not measured on a GPU."""

_LINE: Final = 64
_NO_GAIN: Final = np.empty(0, dtype=np.float32)
_ONE_PAIR: Final = np.zeros((1, 2), dtype=np.int64)
_MULTIPLY: Final = {np.dtype(np.uint64): "multiply", np.dtype(np.int16): "multiply16", np.dtype(np.int32): "multiply32"}
"""The kernel of a product, by what the packed matrix is held as."""


Panels = Words | NDArray[np.int16] | NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A (k, n) matrix for many calls of ``multiply``, made by ``pack``: in panels of 32 columns, the same for every isa, or on a device.

    Panels of ``packed`` may be small signed integers that stand for words: int16 or int32, of which a product reads fewer bytes.
    """

    shape: tuple[int, int]
    panels: Panels
    resident: Any = None
    """The limbs on the device, if one is in use; then ``panels`` is empty."""

    @property
    def nbytes(self) -> int:
        """Bytes held, padding included, wherever they lie."""
        return self.panels.nbytes if self.resident is None else int(self.resident.nbytes)

    def __repr__(self) -> str:
        return f"Packed(shape={self.shape}, nbytes={self.nbytes})"


def matmul(a: Words, b: Words) -> Words:
    """Product (..., m, k) @ (..., k, n) -> (..., m, n), leading dimensions broadcast as in numpy."""
    _words("a", a)
    _words("b", b)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ProtocolMisuse(f"cannot multiply {a.shape} by {b.shape}: need (..., m, k) @ (..., k, n)")
    rows, depth, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    lead, pairs = _stacks(a.shape[:-2], b.shape[:-2])
    if _device is not None and prod(lead) * rows * depth * columns >= DEVICE_PRODUCTS:
        return _device.product(_device.limbs(a), _device.limbs(b))
    out = np.empty((*lead, rows, columns), dtype=np.uint64)
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if b.ndim == 2:  # one right side: all rows form one tall matrix
        height = rows * prod(lead)
        _backend.gemm(a.reshape(1, height, depth), b[None], _ONE_PAIR, out.reshape(1, height, columns))
        return out
    left, right = a.reshape(prod(a.shape[:-2]), rows, depth), b.reshape(prod(b.shape[:-2]), depth, columns)
    _backend.gemm(left, right, pairs, out.reshape(len(pairs), rows, columns))
    return out


def pack(b: Words) -> Packed:
    """Lay out a (k, n) matrix once, so that ``multiply`` can stream it many times (weights, stationary operands)."""
    _words("b", b)
    if b.ndim != 2:
        raise ProtocolMisuse(f"pack takes a matrix, not shape {b.shape}")
    depth, columns = b.shape
    if _device is not None:
        return Packed((depth, columns), np.empty(0, np.uint64), _device.limbs(b))
    panels = aligned((-(-columns // PANEL), depth, PANEL))
    _backend.pack(np.ascontiguousarray(b), panels)
    return Packed((depth, columns), panels)


def packed(shape: tuple[int, int], panels: Panels) -> Packed:
    """A (k, n) matrix of which the panels (ceil(n / 32), k, 32) are there already; what the last panel has beyond n does not matter.

    They hold words, or small integers as int16 or int32."""
    if panels.dtype not in _MULTIPLY:
        raise ProtocolMisuse(f"panels must hold uint64 words, int16 or int32, not {panels.dtype}")
    depth, columns = shape
    if panels.shape != (-(-columns // PANEL), depth, PANEL) or not panels.flags.c_contiguous:
        raise ProtocolMisuse(f"panels {panels.shape} are not those of a matrix {shape}")
    if _device is None:
        return Packed(shape, panels)
    words = panels.transpose(1, 0, 2).reshape(depth, -1)[:, :columns].astype(np.int64).view(np.uint64)
    return Packed(shape, np.empty(0, np.uint64), _device.limbs(words))


def multiply(a: Words, packed: Packed, out: Words | None = None, *, sign: int = 1) -> Words:
    """Add sign * (a @ b) to ``out`` for a (..., k) and packed b (k, n); returns it, (..., n), fresh zeros when None.

    ``out`` is changed in place, must be C-contiguous and must not overlap ``a``; ``sign`` is 1 or -1.
    """
    _words("a", a)
    depth, columns = packed.shape
    if a.ndim < 1 or a.shape[-1] != depth:
        raise ProtocolMisuse(f"cannot multiply {a.shape} by packed {packed.shape}")
    if sign not in (1, -1):
        raise ProtocolMisuse(f"sign must be 1 or -1, not {sign}")
    shape = (*a.shape[:-1], columns)
    if out is None:
        out = np.zeros(shape, dtype=np.uint64)
    elif out.dtype != np.uint64 or out.shape != shape or not (out.flags.c_contiguous and out.flags.writeable):
        raise ProtocolMisuse(f"out must be writeable C-contiguous uint64 {shape}, not {out.dtype} {out.shape}")
    if out.size:
        height = out.size // columns
        flat = np.ascontiguousarray(a).reshape(height, depth)
        if packed.resident is not None:
            return _add_resident(flat, packed, out, sign)
        getattr(_backend, _MULTIPLY[packed.panels.dtype])(flat, packed.panels, out.reshape(height, columns), sign < 0)
    return out


def _add_resident(rows: Words, packed: Packed, out: Words, sign: int) -> Words:
    if _device is None:
        raise ProtocolMisuse(f"{packed!r} lies on a device that is not in use any more")
    found = _device.product(_device.limbs(rows), packed.resident).reshape(out.shape)
    return np.add(out, found, out=out) if sign > 0 else np.subtract(out, found, out=out)


def encode_onto(values: NDArray[Any], fraction: int, also: Words, out: Words, *, gain: NDArray[np.float32] | None = None) -> None:
    """Add ``also`` and ``encode(gain[:, None] * values, fraction)`` to ``out``, in one pass over memory: how weights meet their masks.

    ``values`` (rows, columns), with any strides; uint16 stands for the bits of bfloat16, for which numpy has no type. ``also`` and
    ``out`` are C-contiguous uint64 of one shape (rows, at least as many columns), further columns stay as they are. Raises InputError
    as ``encode``; ``out`` is then of no use.
    """
    _words("also", also)
    _words("out", out)
    if values.ndim != 2 or also.shape != out.shape or out.ndim != 2 or out.shape[0] != values.shape[0] or out.shape[1] < values.shape[1]:
        raise ProtocolMisuse(f"values {values.shape} do not fit words {also.shape} and {out.shape}")
    if not (also.flags.c_contiguous and out.flags.c_contiguous and out.flags.writeable):
        raise ProtocolMisuse("words to encode onto must be C-contiguous and writeable")
    _bits(fraction, most=fixed.HEADROOM)
    factors = _NO_GAIN if gain is None else np.ascontiguousarray(gain, np.float32)
    if gain is not None and factors.shape != values.shape[:1]:
        raise ProtocolMisuse(f"a gain {factors.shape} does not fit the rows of values {values.shape}")
    add = {"uint16": _backend.encode16, "float32": _backend.encode32, "float64": _backend.encode64}.get(values.dtype.name)
    if add is None:  # integers, half precision: rare
        encoded = fixed.encode(values if gain is None else values * factors[:, None].astype(np.float64), fraction)
        out[:, : values.shape[1]] += also[:, : values.shape[1]] + encoded
    elif add(values, factors, fraction, also, out):
        reals = fixed.reals(values)
        fixed.encode(reals if gain is None else reals * factors[:, None], fraction)  # says what is wrong


def table_sums(selectors: Octets, index: Words, tables: Words) -> Words:
    """Windowed sums of table cells: sums[k, i] = sum_j tables[k][(index[i] - j) mod 2^n] * bit_j(selectors[i]).

    selectors uint8 (N, 2^n / 8), bits little-endian; index uint64 (N,) below 2^n; tables uint64 (K, 2^n), n within
    3..13; returns uint64 (K, N). Time and addresses do not depend on the selectors.
    """
    _selection(selectors, index)
    _words("tables", tables)
    if tables.ndim != 2 or tables.shape[1] != 8 * selectors.shape[1]:
        raise ProtocolMisuse(f"tables {tables.shape} do not fit selectors of {8 * selectors.shape[1]} bits")
    sums = np.empty((tables.shape[0], index.size), dtype=np.uint64)
    rows, places = np.ascontiguousarray(selectors), np.ascontiguousarray(index)
    _backend.table_sums(rows, places, np.ascontiguousarray(tables), sums)
    return sums


def flip(selectors: Octets, index: Words) -> Octets:
    """A copy of selectors uint8 (N, 2^n / 8) with bit index[i] of row i flipped; index uint64 (N,) below 2^n."""
    _selection(selectors, index)
    out = np.empty(selectors.shape, dtype=np.uint8)
    _backend.flip(np.ascontiguousarray(selectors), np.ascontiguousarray(index), out)
    return out


def picked(selectors: Octets, index: Words) -> Words:
    """Bit index[i] of row i of selectors uint8 (N, 2^n / 8), as uint64 (N,) of zeros and ones."""
    _selection(selectors, index)
    out = np.empty(index.size, dtype=np.uint64)
    _backend.picked(np.ascontiguousarray(selectors), np.ascontiguousarray(index), out)
    return out


def planes(words: Words, width: int) -> Words:
    """The low ``width`` bit planes of words uint64 (any shape, N elements): uint64 (width, ceil(N / 64)).

    Bit e of word j in plane w is bit w of element 64 j + e; the last word is padded with zeros. width is 1..64.
    """
    _words("words", words)
    if not 1 <= width <= 64:
        raise ProtocolMisuse(f"width must be within 1..64, not {width}")
    out = np.empty((width, -(-words.size // 64)), dtype=np.uint64)
    _backend.planes(np.ascontiguousarray(words).reshape(-1), out)
    return out


def unplanes(planes: Words, count: int) -> Words:
    """Words uint64 (count,) from planes uint64 (P, ceil(count / 64)), P up to 64; the inverse of ``planes``."""
    _words("planes", planes)
    if planes.ndim != 2 or planes.shape[0] > 64 or planes.shape[1] != -(-count // 64) or count < 0:
        raise ProtocolMisuse(f"planes {planes.shape} do not hold {count} words of at most 64 bits")
    out = np.empty(count, dtype=np.uint64)
    _backend.unplanes(np.ascontiguousarray(planes), out)
    return out


def shift_right(words: Words, bits: int) -> Words:
    """Logical shift of words uint64 (any shape) by 0..63 bits, into a fresh array of the same shape."""
    _words("words", words)
    _bits(bits)
    out = np.empty(words.shape, dtype=np.uint64)
    _backend.shift_right(np.ascontiguousarray(words).reshape(-1), bits, out.reshape(-1))
    return out


def wrap_truncate(masked: Words, dealt_low: Words, dealt_wrap: Words, bits: int, lead: bool) -> Words:
    """One evaluator's additive share of the exact-wrap truncation by 0..62 bits; three uint64 arrays of one shape.

    With t = masked + 2^62 and c = (1 - (t >> 63)) * dealt_wrap: the lead evaluator gets
    (t >> bits) - dealt_low + c - (2^62 >> bits), the other one gets c - dealt_low.
    """
    for name, array in (("masked", masked), ("dealt_low", dealt_low), ("dealt_wrap", dealt_wrap)):
        _words(name, array)
    if not masked.shape == dealt_low.shape == dealt_wrap.shape:
        raise ProtocolMisuse(f"shapes differ: {masked.shape}, {dealt_low.shape}, {dealt_wrap.shape}")
    _bits(bits, most=62)
    out = np.empty(masked.shape, dtype=np.uint64)
    flat = [np.ascontiguousarray(array).reshape(-1) for array in (masked, dealt_low, dealt_wrap)]
    _backend.wrap_truncate(flat[0], flat[1], flat[2], bits, lead, out.reshape(-1))
    return out


def isas() -> tuple[str, ...]:
    """The implementations that this build and processor can run, best first."""
    native = _native.available() if _native is not None else []
    return tuple(isa for isa in ISAS if isa in native or isa == "numpy")


def features() -> dict[str, str]:
    """Which implementation serves each kernel now, and which form of the generator: for reports, not for decisions."""
    names = ("matmul", "multiply", "table_sums", "flip", "picked", "planes", "unplanes", "shift_right", "wrap_truncate", "elementwise")
    products = {} if _device is None else dict.fromkeys(("matmul", "multiply"), _device.name)
    points = _isa if _backend.has_aes() else "openssl"
    return {"isa": _isa} | dict.fromkeys(names, _isa) | products | {"points": points, "prg": prg.BACKEND}


def backend() -> ModuleType:
    """The module that serves kernels now: the native one, or the numpy one with the same functions."""
    return _backend


def use_device(name: str | None) -> None:
    """Run this process's products on ``"cuda"`` (or ``"cuda:1"``) from now on, with the same words; None: on the processor again.

    All other kernels stay on the processor. What was packed before stays where it is. Raises ConfigError if there is no such device.
    """
    global _device
    _device = None if name is None else Device(name)


@contextmanager
def use(isa: str) -> Iterator[None]:
    """Serve every kernel of the process from ``isa`` within a ``with`` block; for tests and measurements.

    Raises ProtocolMisuse when this build or processor does not have it.
    """
    before = _isa
    _select(isa)
    try:
        yield
    finally:
        _select(before)


def _refuse_older() -> None:
    """Kernels of another version of this source would fail, or mean something else, in the middle of a run."""
    ours = [name for name, f in vars(_numpy).items() if isinstance(f, FunctionType) and f.__module__ == _numpy.__name__]
    lacking = [] if _native is None else [name for name in ours if name[0] != "_" and not hasattr(_native, name)]
    if lacking:
        names = ", ".join(lacking)
        raise ConfigError(f"the compiled kernels are older than this source and lack {names}; run 'make setup' or install moiety again")


def _select(isa: str) -> None:
    global _isa, _backend
    if isa not in isas():
        raise ProtocolMisuse(f"no {isa!r} kernels here; this build and processor have {', '.join(isas())}")
    if isa != "numpy" and _native is not None:
        _native.select(isa)
    _backend = _numpy if isa == "numpy" else _native
    _isa = isa


def _words(name: str, array: NDArray[Any]) -> None:
    if array.dtype != np.uint64:
        raise ProtocolMisuse(f"{name} must hold uint64 words, not {array.dtype}")


def _bits(bits: int, most: int = 63) -> None:
    if not 0 <= bits <= most:
        raise ProtocolMisuse(f"bits must be within 0..{most}, not {bits}")


def _selection(selectors: Octets, index: Words) -> None:
    _words("index", index)
    if selectors.dtype != np.uint8 or selectors.ndim != 2 or index.shape != selectors.shape[:1]:
        raise ProtocolMisuse(f"need uint8 (N, bytes) and (N,): got {selectors.dtype} {selectors.shape}, {index.shape}")
    octets = selectors.shape[1]
    if octets not in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        raise ProtocolMisuse(f"a row of selectors has 2^n bits with n within 3..13, not {8 * octets} bits")
    if index.size and int(index.max()) >= 8 * octets:
        raise ProtocolMisuse(f"an index is not below the {8 * octets} bits of a row")


@lru_cache(maxsize=256)
def _stacks(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """The broadcast leading shape, and for each matrix of it the places of its two sides in the flattened stacks."""
    try:
        lead = np.broadcast_shapes(a, b)
    except ValueError:
        raise ProtocolMisuse(f"leading dimensions {a} and {b} do not broadcast") from None
    places = [np.broadcast_to(np.arange(prod(own), dtype=np.int64).reshape(own), lead).reshape(-1) for own in (a, b)]
    pairs = np.stack(places, axis=1)
    pairs.flags.writeable = False
    return lead, pairs


def aligned(shape: tuple[int, ...]) -> Words:
    """An uninitialised array of words that starts on a cache line."""
    size = prod(shape)
    raw = np.empty(size + _LINE // 8, dtype=np.uint64)
    start = (-raw.ctypes.data % _LINE) // 8
    return raw[start : start + size].reshape(shape)


_device: Device | None = None
_isa = "numpy"
_backend: ModuleType = _numpy
_refuse_older()
_select(isas()[0])
