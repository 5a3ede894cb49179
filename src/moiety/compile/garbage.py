"""Compiling, and sharing what was compiled, without the search for garbage.

A capture and its plans are hundreds of thousands of small objects. Whenever some thousands are new, Python looks through all that is there,
PyTorch's own included, for cycles that nobody refers to: of compiling a decoder that was a fifth of the processor's time.
The first search behind that takes a quarter of a second, which the sharing of weights would wait for.
Almost everything is freed by its count of references all the same; what is left over is found afterwards.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Pause:
    """How many blocks run now, in whatever threads, and whether the search was on before the first of them."""

    def __init__(self) -> None:
        self._lock, self._within, self._before = threading.Lock(), 0, False

    def enter(self) -> None:
        with self._lock:
            if not self._within:
                self._before = gc.isenabled()
                gc.disable()
            self._within += 1

    def leave(self) -> None:
        with self._lock:
            self._within -= 1
            if not self._within and self._before:
                gc.enable()


_pause = _Pause()


@contextmanager
def uncollected() -> Iterator[None]:
    """No search while the ``with`` block runs, or the function that this decorates; it is the process's, so in no thread. May be nested."""
    _pause.enter()
    try:
        yield
    finally:
        _pause.leave()
