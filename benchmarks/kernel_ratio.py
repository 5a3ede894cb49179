"""Ring products against torch's int64 products, on one thread, as ratios: fails when the compiler has spoiled the kernel.

    python benchmarks/kernel_ratio.py

Absolute rates say more about the machine than about the code, so the two sides take turns and the median of each counts.
GCC 12 once lost a quarter of the speed without a warning (see CMakeLists.txt); a ratio below the floor is such a loss.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from moiety import ring

FLOOR = 1.6
TURNS = 9


def seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def compare(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    ours(), theirs()
    turns = [(seconds(ours), seconds(theirs)) for _ in range(TURNS)]
    return median(turn[0] for turn in turns), median(turn[1] for turn in turns)


def words(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 2**64, shape, dtype=np.uint64)


def whole(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.view(np.int64))


def gemm(rows: int, depth: int, columns: int) -> tuple[float, float]:
    """Median seconds of ours, the right side packed, and of torch."""
    a, b, out = words(rows, depth), words(depth, columns), np.empty((rows, columns), dtype=np.uint64)
    packed, left, right = ring.pack(b), whole(a), whole(b)
    if not np.array_equal(ring.multiply(a, packed), (left @ right).numpy().view(np.uint64)):
        sys.exit("kernel_ratio: the products differ")
    return compare(lambda: ring.multiply(a, packed, out), lambda: left @ right)


def matvec(depth: int, columns: int) -> tuple[float, float]:
    """Median seconds of ours and of torch in its fastest form, which has one output's weights side by side."""
    a, b, out = words(depth), words(depth, columns), np.empty(columns, dtype=np.uint64)
    packed, left, right = ring.pack(b), whole(a), whole(np.ascontiguousarray(b.T))
    if not np.array_equal(ring.multiply(a, packed), torch.mv(right, left).numpy().view(np.uint64)):
        sys.exit("kernel_ratio: the products differ")
    return compare(lambda: ring.multiply(a, packed, out), lambda: torch.mv(right, left))


def product_limit() -> Callable[[int], None]:
    """The loop of ``product_limit.cpp``, built with the machine's compiler: 96 products a turn."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "limit.so")
        source = Path(__file__).with_name("product_limit.cpp")
        subprocess.run(["c++", "-O2", "-mavx512dq", "-shared", "-fPIC", source, "-o", library], check=True)
        loop = ctypes.CDLL(str(library)).products
    loop.argtypes, loop.restype = [ctypes.c_longlong], None
    return loop


def share_of_limit(rows: int, depth: int, columns: int) -> tuple[float, float]:
    """Multiply-adds a second of the packed product, and of the machine's 64-bit multiplier alone."""
    a, packed, out = words(rows, depth), ring.pack(words(depth, columns)), np.empty((rows, columns), dtype=np.uint64)
    loop, turns, done = product_limit(), 400_000, rows * depth * columns
    ours, limit = compare(lambda: ring.multiply(a, packed, out), lambda: loop(turns))
    return done / ours, 96 * turns / limit


def main() -> int:
    if ring.features()["isa"] != "avx512":
        print(f"kernel_ratio: skipped, the kernels here are {ring.features()['isa']}, and the floor is for AVX-512")
        return 0
    torch.set_num_threads(1)
    ours, theirs = gemm(128, 768, 768)
    ratio = theirs / ours
    print(f"GEMM 128x768x768: {ratio:.2f}x torch int64 ({128 * 768 * 768 / ours / 1e9:.1f} G multiply-adds a second)")
    rate, limit = share_of_limit(128, 768, 768)
    print(f"  {rate / limit:.0%} of this machine's 64-bit multiplier ({limit / 1e9:.1f} G products a second from registers)")
    ours, theirs = matvec(4096, 4096)
    print(f"matvec 1x4096x4096: {theirs / ours:.2f}x torch int64 ({8 * 4096 * 4096 / ours / 1e9:.1f} GB of weights a second)")
    if ratio < FLOOR:
        print(f"kernel_ratio: the GEMM is below {FLOOR}x; look at the compiler flags of native/avx512.cpp", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
