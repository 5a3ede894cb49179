"""PUMA's inverse square root (arXiv 2307.12533, in the form of its reference code): one polynomial serves every positive x.

With e such that ``2^(e-1) <= x < 2^e`` raw units, ``u = x / 2^(e+1)`` lies in [1/4, 1/2). There a polynomial of degree four is
``1 / sqrt(u)`` but for 8.2e-5 of it, and in units ``1 / sqrt(x) = 2^(-(e+1)/2) / sqrt(u)``. The exponent stays secret: the flags
[x < 2^j] for all j come from one comparison with many thresholds, and what depends on e, the factor that normalises and the factor
that compensates, is a public constant for each e chosen by them. Since the flags are monotone, choosing is a local sum:
``f(e) = f(high) + sum over j of [x < 2^j] (f(j) - f(j+1))``.

Deviations from the paper: no prefix-or over the bits of x and no bit-wise separation of even and odd exponents to find their parity
in secret. A constant for each exponent holds the factor sqrt(2) of every other one. Coefficients have 26 fraction bits, u has 28.
"""

from collections.abc import Callable, Sequence
from math import isqrt

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.compare import below
from moiety.mpc.functions.puma import Reals, polynomial, polynomial_float, times
from moiety.mpc.functions.select import bit_to_share_share
from moiety.mpc.party import Party
from moiety.mpc.rep3 import product, rescale, reshare
from moiety.mpc.rounds import Words, together
from moiety.mpc.share import Share

ROOT = {0: 4.14285016, 1: -15.47994394, 2: 38.4714796, 3: -49.86605845, 4: 26.02942339}
ROOT_QUADRATIC = {0: 3.1855, 1: -5.9417, 2: 4.7979}
"""The reference code's form of low accuracy, 5.0e-3 of the value; here for comparison only."""
U_BITS = 28
ROOT_BITS = 20
"""Fraction bits of ``1 / sqrt(u)`` before its compensation: 2^-21 of it is far below the error of the polynomial."""
RESULT_BITS = 60
"""log2 of the largest raw result, so that it can be truncated."""


def rsqrt_float(x: Reals, coefficients: dict[int, float] = ROOT) -> Reals:
    """PUMA's ``1 / sqrt(x)`` of positive x in floating point; at most 8.2e-5 of the value off."""
    half, exponent = np.frexp(x)
    return np.asarray(polynomial_float(half / 2, coefficients) * 2.0 ** (-(exponent + 1) / 2))


def root_fraction(fraction: int, low: int) -> int:
    """Fraction bits of :func:`rsqrt` for inputs from 2^low raw units on, at this fraction: what its largest value has room for."""
    return RESULT_BITS + (low - fraction) // 2


async def rsqrt(party: Party, x: Share, low: int, high: int) -> Share:
    """``1 / sqrt(x)`` for 2^low <= x < 2^high raw units, 0 <= low <= high - 2 <= 59, at :func:`root_fraction` fraction bits.

    Relative error: 8.2e-5 of the polynomial, and in fixed point below ``2^-19 + 2^((high - low - 80) / 2)``.
    Values from 0 to 2^low are taken for numbers of that size; beyond 2^high the result is meaningless.

    Rounds: the comparison on high + 1 bits (3 from 17 on), 1 to choose the two factors, 8 to normalise, evaluate and compensate.
    Bytes an element: the comparison with high - low - 1 thresholds, 8 dealt for each of them, 32 for the factors, 259 for the rest; 1
    round and 26 B less for high <= 27. P1 and P2 see padded bits and words, P0 nothing.
    """
    if not 0 <= low <= high - 2 <= 59:
        raise ProtocolMisuse(f"no inverse root of values from 2^{low} to 2^{high} raw units; take 0 <= low <= high - 2 <= 59")
    lift = 2 * (root_fraction(x.fraction, low) - ROOT_BITS)
    scale, root = await _of_exponent(party, x, low, high, [lambda e: 1 << (high - e), lambda e: _rounded_root(lift + x.fraction - e - 1)])
    u = (await product(party, x, scale)).as_fraction(high + 1)
    u = await rescale(party, u, U_BITS)
    second = await times(party, u, u)
    third, fourth = await together(party, times(party, u, second), times(party, second, second))
    inverse = await rescale(party, polynomial({1: u, 2: second, 3: third, 4: fourth}, ROOT), ROOT_BITS)
    return await product(party, inverse, root.as_fraction(lift // 2))


async def _of_exponent(party: Party, x: Share, low: int, high: int, functions: Sequence[Callable[[int], int]]) -> list[Share]:
    """Each f(e), with fraction 0, at the secret e with 2^(e-1) <= x < 2^e, low < e <= high: one comparison and 1 round."""
    flags = await below(party, x, [1 << j for j in range(low + 1, high)], high + 1)
    shares = [bit_to_share_share(party, flag) for flag in flags]
    held = np.stack([share for share in shares if share is not None]) if party.evaluates else None
    sums = None if held is None else np.stack([_chosen(party, held, f, low, high) for f in functions])
    out = await reshare(party, sums, (len(functions), *x.shape), 0)
    return [out.map(lambda part, i=i: part[i]) for i in range(len(functions))]  # type: ignore[misc]


def _chosen(party: Party, flags: Words, f: Callable[[int], int], low: int, high: int) -> Words:
    """Additive shares of f(e) from those of all flags [x < 2^j], low < j < high."""
    steps = np.array([f(j) - f(j + 1) for j in range(low + 1, high)], np.int64).astype(np.uint64)
    total: Words = np.tensordot(steps, flags, 1)
    return total + np.uint64(f(high)) if party.leads else total


def _rounded_root(power: int) -> int:
    """``2^(power / 2)`` to the nearest integer, the same on every processor."""
    return (isqrt(1 << (power + 2)) + 1) // 2
