"""Words of a small ring as octets on a wire, and back: only those octets travel that the ring fills.

An array of n words of w octets is written by columns, the widest machine integers first: of 7 octets first n times the lowest four, then
two, then one.
"""

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.ring import kernels
from moiety.ring._numpy import Octets, Words


def to_octets(words: Words, bits: int) -> Octets:
    """Words mod 2^bits (1 to 64 bits), in ``ceil(bits / 8)`` octets each; what lies above is left out."""
    out = np.empty(_width(bits) * words.size, np.uint8)
    kernels.backend().to_octets(words if words.flags.c_contiguous else np.ascontiguousarray(words), bits, out)
    return out


def from_octets(octets: Octets, bits: int) -> Words:
    """Flat words from what :func:`to_octets` made of them: contiguous octets, from any address on."""
    width = _width(bits)
    if octets.size % width:
        raise ProtocolMisuse(f"{octets.size} octets are no words of {width}")
    out = np.empty(octets.size // width, np.uint64)
    kernels.backend().from_octets(octets, bits, out)
    return out


def _width(bits: int) -> int:
    if not 1 <= bits <= 64:
        raise ProtocolMisuse(f"a ring has 1..64 bits, not {bits}")
    return -(-bits // 8)
