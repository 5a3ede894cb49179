"""Compiling without the search for garbage.

A capture and its plans are hundreds of thousands of small objects. Whenever some thousands are new, Python looks through all that is there,
PyTorch's own included, for cycles that nobody refers to: of compiling a decoder that was a fifth of the processor's time.
Almost everything is freed by its count of references all the same; what is left over is found afterwards.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No search while the ``with`` block runs, or the function that this decorates; it is the process's, so in no thread. May be nested."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
