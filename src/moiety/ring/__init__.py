"""Arithmetic of Z_2^64: fixed-point codec, keyed generator, and the kernels that every protocol runs on.

| file | holds |
| --- | --- |
| ``fixed`` | ``encode``, ``decode``: reals to words and back |
| ``prg`` | ``Prg``, ``derive``: addressed randomness, key derivation |
| ``kernels`` | products, table sums, bit planes, truncation; native when built, numpy otherwise |
| ``points`` | ``point_keys``, ``point_sums``: distributed point functions, summed with tables |
| ``gpu`` | ``Device``: the products on a CUDA device, the same words |
| ``elementwise`` | sums, products and shifts of shares, one pass over memory each |
| ``wire`` | ``to_octets``, ``from_octets``: words of small rings as they travel |
| ``memory`` | ``keep_freed``: buffers that a process keeps for its next arrays |
"""

from moiety.ring._numpy import PANEL
from moiety.ring.elementwise import add, cross_share, round_shift, shift_share, subtract
from moiety.ring.fixed import decode, encode
from moiety.ring.kernels import (
    Packed,
    aligned,
    encode_onto,
    features,
    flip,
    isas,
    matmul,
    multiply,
    pack,
    packed,
    picked,
    planes,
    shift_right,
    table_sums,
    unplanes,
    use,
    use_device,
    wrap_truncate,
)
from moiety.ring.memory import keep_freed
from moiety.ring.points import MOST_WORDS, point_keys, point_sums
from moiety.ring.prg import Prg, derive
from moiety.ring.wire import from_octets, to_octets

__all__ = [
    "MOST_WORDS",
    "PANEL",
    "Packed",
    "Prg",
    "add",
    "aligned",
    "cross_share",
    "decode",
    "derive",
    "encode",
    "encode_onto",
    "features",
    "flip",
    "from_octets",
    "isas",
    "keep_freed",
    "matmul",
    "multiply",
    "pack",
    "packed",
    "picked",
    "planes",
    "point_keys",
    "point_sums",
    "round_shift",
    "shift_right",
    "shift_share",
    "subtract",
    "table_sums",
    "to_octets",
    "unplanes",
    "use",
    "use_device",
    "wrap_truncate",
]
