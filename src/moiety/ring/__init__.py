"""Arithmetic of Z_2^64: fixed-point codec, keyed generator, and the kernels that every protocol runs on.

| file | holds |
| --- | --- |
| ``fixed`` | ``encode``, ``decode``: reals to words and back |
| ``prg`` | ``Prg``, ``derive``: addressed randomness, key derivation |
| ``kernels`` | products, table sums, bit planes, truncation; native when built, numpy otherwise |
| ``gpu`` | ``Device``: the products on a CUDA device, the same words |
| ``memory`` | ``keep_freed``: buffers that a process keeps for its next arrays |
"""

from moiety.ring._numpy import PANEL
from moiety.ring.fixed import decode, encode
from moiety.ring.kernels import (
    Packed,
    features,
    flip,
    isas,
    matmul,
    multiply,
    pack,
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
from moiety.ring.prg import Prg, derive

__all__ = [
    "PANEL",
    "Packed",
    "Prg",
    "decode",
    "derive",
    "encode",
    "features",
    "flip",
    "isas",
    "keep_freed",
    "matmul",
    "multiply",
    "pack",
    "picked",
    "planes",
    "shift_right",
    "table_sums",
    "unplanes",
    "use",
    "use_device",
    "wrap_truncate",
]
