"""Keep freed memory for the next array of its size.

glibc hands every block above 32 MiB back to the system when it is freed; the next one then costs a page fault for each 4 KiB, which
halves the speed of the generator. A compute party allocates and frees arrays of the same sizes all the time, in several threads.
"""

import ctypes
import sys
from typing import Final

KEPT: Final = 1 << 30
"""Bytes: blocks up to this size come from the heap, and as much may lie free at its end."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h


def keep_freed(most: int = KEPT) -> bool:
    """Let this process keep what it frees, in one heap for all threads. False where the C library cannot; then nothing changes.

    ``most``: the largest block that is kept, and how much in all. For the start of a process: threads that have allocated before keep
    their own heaps.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library than glibc
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_THRESHOLD, most), mallopt(_TRIM_THRESHOLD, most)])
