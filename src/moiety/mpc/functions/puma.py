"""The approximations of PUMA (arXiv 2307.12533), for comparison with the tables that moiety uses by default.

The functions that end in ``_float`` are the published formulas in plain numpy; the protocols evaluate the same segments in fixed
point. All truncations are failure-free. Segments are computed for every x: outside its own interval a polynomial may wrap, and is
then multiplied by an exact zero bit. Deviations from the paper: coefficients have 26 fraction bits, powers keep the fraction of x,
and the exponential squares at 28 fraction bits, so that 2^t squarings cost less than the approximation itself.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moiety.mpc.functions import table
from moiety.mpc.functions.argmax import exact_max
from moiety.mpc.functions.bits import BitShare, invert, xor
from moiety.mpc.functions.compare import below, sign
from moiety.mpc.functions.maximum import row_max
from moiety.mpc.functions.select import select, select_shares
from moiety.mpc.party import Party
from moiety.mpc.rep3 import product, rescale, reshare
from moiety.mpc.rounds import Words, together
from moiety.mpc.share import Share

Reals = NDArray[np.float64]

GELU_CUTS = (-4.0, -1.95, 3.0)
GELU_LEFT = {0: -0.5054031199708174, 1: -0.42226581151983866, 2: -0.11807612951181953, 3: -0.011034134030615728}
GELU_MIDDLE = {
    0: 0.008526321541038084,
    1: 0.5,
    2: 0.3603292692789629,
    4: -0.037688200365904236,
    6: 0.0018067462606141187,
}
SILU_CUTS = (-8.0, -4.0, 4.0)
SILU_LEFT = {0: -0.3067541139982155, 1: -0.0819767021525476, 2: -0.0055465625580307}
SILU_MIDDLE = {
    0: 0.0085064025895951,
    1: 0.5,
    2: 0.228143084172827,
    4: -0.011113046708173,
    6: 0.0002743776353465,
}
EXP_CLIP = -14.0
COEFFICIENT_BITS = 26
EXP_BITS = 28
"""Squares of values below 4 then stay below 2^60."""


def polynomial_float(x: Reals, coefficients: dict[int, float]) -> Reals:
    """The sum of ``c * x^k``."""
    return np.asarray(sum(c * x**k for k, c in coefficients.items()))


def _pieces_float(x: Reals, cuts: Sequence[float], left: dict[int, float], middle: dict[int, float]) -> Reals:
    in_left = (x >= cuts[0]) & (x < cuts[1])
    return np.where(x > cuts[2], x, np.where(in_left, polynomial_float(x, left), np.where(x < cuts[0], 0.0, polynomial_float(x, middle))))


def gelu_float(x: Reals) -> Reals:
    """PUMA's GeLU in floating point; at most 0.0199 from ``x Phi(x)``, where x = 3."""
    return _pieces_float(x, GELU_CUTS, GELU_LEFT, GELU_MIDDLE)


def silu_float(x: Reals) -> Reals:
    """PUMA's SiLU in floating point; at most 0.0719 from ``x / (1 + exp(-x))``, where x = 4."""
    return _pieces_float(x, SILU_CUTS, SILU_LEFT, SILU_MIDDLE)


def neg_exp_float(x: Reals, t: int = 8) -> Reals:
    """``(1 + x / 2^t)^(2^t)`` for -14 < x <= 0, else 0."""
    return np.where(x > EXP_CLIP, (1 + np.maximum(x, EXP_CLIP) / 2**t) ** (2**t), 0.0)


def softmax_float(x: Reals, t: int = 8) -> Reals:
    """Softmax over the last axis with :func:`neg_exp_float`."""
    e = neg_exp_float(x - x.max(-1, keepdims=True), t)
    return np.asarray(e / e.sum(-1, keepdims=True))


async def gelu(party: Party, x: Share, bits: int = 64) -> Share:
    """PUMA's GeLU at the fraction of x: three comparisons on ``bits`` bits beside x^2, x^3, x^4, x^6, then one sum of selections.

    Range: |x| < 2^(bits-2) raw units and, between the cuts, fraction <= 26. 8 rounds. Bytes an element: at fraction 14 50 for each of
    the four powers, three thresholds (64 bits: 94.4), 48 for the selections, 44 to mask and rescale. P1, P2 see padded words, P0 nothing.
    """
    return await _pieces(party, x, GELU_CUTS, (GELU_LEFT, GELU_MIDDLE), bits)


async def silu(party: Party, x: Share, bits: int = 64) -> Share:
    """PUMA's SiLU at the fraction of x; as :func:`gelu`, without a cubic term."""
    return await _pieces(party, x, SILU_CUTS, (SILU_LEFT, SILU_MIDDLE), bits)


async def _pieces(party: Party, x: Share, cuts: Sequence[float], parts: tuple[dict[int, float], dict[int, float]], bits: int) -> Share:
    raw = [round(cut * 2**x.fraction) for cut in cuts]
    raw[2] += 1  # x > cut is: not below the next word
    (low, mid, not_high), powers = await together(party, below(party, x, raw, bits), _powers(party, x))
    segments = [polynomial(powers, coefficients) for coefficients in parts]
    segments.append(x.times(1 << COEFFICIENT_BITS, COEFFICIENT_BITS))
    flags = [xor(low, mid), xor(mid, not_high), invert(not_high)]
    return await rescale(party, await _sum_selected(party, flags, segments), x.fraction)


async def _powers(party: Party, x: Share) -> dict[int, Share]:
    """Powers 1, 2, 3, 4, 6 at the fraction of x: three products in a row, each with an exact truncation. 6 rounds."""
    second = await times(party, x, x)
    third, fourth = await together(party, times(party, x, second), times(party, second, second))
    return {1: x, 2: second, 3: third, 4: fourth, 6: await times(party, third, third)}


async def times(party: Party, x: Share, y: Share) -> Share:
    """Product at the fraction of x, truncated without failures. 2 rounds, 48 B an element and one for each octet of bits dropped."""
    return await rescale(party, await product(party, x, y), x.fraction)


def polynomial(powers: dict[int, Share], coefficients: dict[int, float]) -> Share:
    """Local: a polynomial with public coefficients, at COEFFICIENT_BITS more fraction bits."""
    words = {k: round(c * 2**COEFFICIENT_BITS) for k, c in coefficients.items()}
    terms = [powers[k].times(word, COEFFICIENT_BITS) for k, word in words.items() if k]
    total = sum(terms[1:], start=terms[0])
    return total.plus_public(np.asarray(words[0] << powers[1].fraction, np.int64).astype(np.uint64))


async def _sum_selected(party: Party, flags: Sequence[BitShare], values: Sequence[Share]) -> Share:
    """Sum of ``flag * value`` over all pairs, masked afresh once. 1 round."""
    bits = values[0].bits
    products = [select_shares(party, flag, [value], bits).products[0] for flag, value in zip(flags, values, strict=True)]
    held: list[Words] = [p for p in products if p is not None]
    total = np.stack(held).sum(0, dtype=np.uint64) if held else None
    return await reshare(party, total, values[0].shape, values[0].fraction, bits)


async def neg_exp(party: Party, x: Share, t: int = 8, bits: int = 64) -> Share:
    """``(1 + x / 2^t)^(2^t)`` where x > -14, else 0, at the fraction of x. Range: -2^(bits-2) raw units to ln 4; fraction + t <= 28, else
    1 round and 32 B more.

    2 t + 1 rounds; bytes an element: the comparison (64 bits: 50.9), 52 for each of the t squarings, 34 for the selection (at fraction 14).
    P1, P2 see padded words, P0 nothing.
    """
    clip = np.asarray(round(EXP_CLIP * 2**x.fraction) + 1, np.int64).astype(np.uint64)
    outside, power = await together(party, sign(party, x.plus_public(-clip), bits), _limit_power(party, x, t))
    return await select(party, invert(outside), power)


async def _limit_power(party: Party, x: Share, t: int) -> Share:
    """Division by 2^t is a change of the fraction, so it loses nothing; the last squaring returns to the fraction of x."""
    power = await rescale(party, x.as_fraction(x.fraction + t), EXP_BITS)
    power = power.plus_public(np.asarray(1 << EXP_BITS, np.uint64))
    for _ in range(t - 1):
        power = await times(party, power, power)
    return await rescale(party, await product(party, power, power), x.fraction)


RECIPROCAL_INDEX = 13
RECIPROCAL_CELL = 10
RECIPROCAL_FRACTION = 36


def reciprocal_table(longest: int, fraction: int) -> tuple[table.Window, table.Table]:
    """1/s for 1/2 <= s < 2^k, the first power of two above 1.5 times the longest row.

    Fitted in floating point, so it is made once and travels as integers: two processors might round it differently.
    """
    reach = max(6, (longest + longest // 2).bit_length())
    width = fraction + reach - RECIPROCAL_INDEX  # of a cell
    window = table.Window(low=0, drop=max(0, width - RECIPROCAL_CELL), cell_bits=min(width, RECIPROCAL_CELL), index_bits=RECIPROCAL_INDEX)
    return window, table.fit(lambda s: 1 / np.maximum(s, 0.25), window, 2.0**-fraction, RECIPROCAL_FRACTION)


async def softmax(
    party: Party,
    x: Share,
    inverse: tuple[table.Window, table.Table],
    t: int = 8,
    bits: int = 64,
    *,
    max_step_bits: int | None = None,
) -> Share:
    """Softmax over the last axis with :func:`neg_exp` and one reciprocal (by :func:`reciprocal_table`) a row, at the fraction of x.

    The maximum is exact, by comparisons on ``bits`` bits, or within 2^max_step_bits raw units, at most 1/4, by :func:`row_max`. Rounds:
    those of the maximum, of neg_exp, 2 for the reciprocal, and 2. The reciprocal is within 6e-5 for rows of up to 340 elements; that
    error grows eightfold with every doubling of the row. P1 and P2 see padded words, P0 nothing.
    """
    top = await (exact_max(party, x, bits) if max_step_bits is None else row_max(party, x, step_bits=max_step_bits))
    e = await neg_exp(party, x - _last_axis(top), t, bits)
    window, reciprocals = inverse
    [scale] = await table.lookup(party, e.sum(-1), window, [reciprocals])
    return await rescale(party, await product(party, e, _last_axis(scale)), x.fraction)


def _last_axis(x: Share) -> Share:
    return x.map(lambda part: part[..., None])
