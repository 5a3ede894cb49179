"""Words of a small ring as octets on a wire, and back: only those octets travel that the ring fills.

An array of n words of w octets is written by columns, the widest machine integers first: of 7 octets first n times the lowest four, then
two, then one. Each column is one pass over memory.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Octets = NDArray[np.uint8]


def to_octets(words: Words, width: int) -> Octets:
    """The low ``width`` octets (1 to 8) of every word, in ``width * words.size`` octets; what lies above is left out."""
    out = np.empty(width * words.size, np.uint8)
    for at, size in _columns(width):
        column = out[at * words.size : (at + size) * words.size].view(f"<u{size}")
        np.copyto(column, (words >> np.uint64(8 * at)).ravel() if at else words.ravel(), casting="unsafe")
    return out


def from_octets(octets: Octets, width: int) -> Words:
    """Flat words from what :func:`to_octets` made of them."""
    count = octets.size // width
    out = np.zeros(count, "<u8")
    for at, size in _columns(width):
        column = f"<u{size}"
        out.view(column)[at // size :: 8 // size] = octets[at * count : (at + size) * count].view(column)
    return out


def _columns(width: int) -> Iterator[tuple[int, int]]:
    """(first octet, octets) of every column."""
    at = 0
    for size in (8, 4, 2, 1):
        if width - at >= size:
            yield at, size
            at += size
