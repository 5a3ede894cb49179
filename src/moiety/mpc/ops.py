"""The operations a plan may name. One table, one calling convention: ``op(party, *inputs, **params)``.

Plain functions are local; coroutines talk. Inputs are shares, packed weights or public integer arrays, in the order of the
plan's node. Parameters are integers, strings, booleans or tuples of integers, so that a plan is data.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from moiety.errors import PlanError
from moiety.mpc import matrix, moves, rep3
from moiety.mpc.functions import argmax as argmax_
from moiety.mpc.functions import clamp as clamp_
from moiety.mpc.functions import convolve, equal, maximum, puma, puma_root, ranges, squares
from moiety.mpc.functions import factor as factor_
from moiety.mpc.functions import one_hot as one_hot_
from moiety.mpc.functions import points as points_
from moiety.mpc.functions import relu as relu_
from moiety.mpc.functions import top as top_
from moiety.mpc.functions.bits import size
from moiety.mpc.functions.compare import sign
from moiety.mpc.functions.select import bit_to_share
from moiety.mpc.functions.table import Table, Window, lookup
from moiety.mpc.party import Party
from moiety.mpc.rounds import Words, together
from moiety.mpc.share import Share, extended

Op = Callable[..., Any]
Shape = tuple[int, ...]
OPS: dict[str, Op] = {}


def op(f: Op) -> Op:
    """Register an operation under its function name."""
    OPS[f.__name__] = f
    return f


@op
def add(party: Party, x: Share, y: Share) -> Share:
    """Sum of two secrets at one fraction, in the smaller of their rings."""
    bits = min(x.bits, y.bits)
    return x.narrowed(bits) + y.narrowed(bits)


@op
def subtract(party: Party, x: Share, y: Share) -> Share:
    """Difference of two secrets at one fraction, in the smaller of their rings."""
    bits = min(x.bits, y.bits)
    return x.narrowed(bits) - y.narrowed(bits)


@op
def negate(party: Party, x: Share) -> Share:
    """The negative, exactly."""
    return -x


@op
def add_public(party: Party, x: Share, words: Words) -> Share:
    """Add public ring elements at x's fraction."""
    return x.plus_public(words)


@op
def multiply_public(party: Party, x: Share, words: Words, *, fraction: int) -> Share:
    """Multiply by public integers that stand for ``words / 2^fraction``; exact."""
    return x.times(words, fraction)


@op
def scale(party: Party, x: Share, *, factor: int, fraction: int = 0) -> Share:
    """Multiply by one public integer that stands for ``factor / 2^fraction``; exact."""
    return x.times(factor, fraction)


@op
def as_fraction(party: Party, x: Share, *, fraction: int) -> Share:
    """The same words read at another fraction."""
    return x.as_fraction(fraction)


for move in (
    moves.reshape,
    moves.permute,
    moves.expand,
    moves.cut,
    moves.take,
    moves.pad,
    moves.gather,
    moves.row,
    moves.pile,
    moves.running_total,
    moves.concat,
    moves.zeros_like,
):
    op(move)


@op
def total(party: Party, x: Share, *, axes: tuple[int, ...], keepdims: bool) -> Share:
    """Sum over axes."""
    return x.sum(axes, keepdims=keepdims)


@op
async def multiply(party: Party, x: Share, y: Share, *, drop: int = 0, width: int = 0, bits: int = 64) -> Share:
    """Element by element. ``drop`` > 0 truncates: without failure into a ring of ``width`` bits, which is raised to one of ``bits``;
    with ``width`` 0 in the same round, within the plan's failure budget. See :class:`~moiety.mpc.rep3.Cut`."""
    return await rep3.product(party, x, y, cut=rep3.Cut(drop, width, bits))


@op
async def matmul(party: Party, x: Share, y: Share, *places: Words, drop: int = 0, width: int = 0, bits: int = 64) -> Share:
    """Matrix product over the last two axes, leading ones broadcast; parameters as in :func:`multiply`.

    With public ``places`` only these elements of the flattened result, in their shape: no others are dealt, exchanged or held.
    """
    of = rep3.matmul_at(*places) if places else rep3.MATMUL
    return await rep3.product(party, x, y, of, cut=rep3.Cut(drop, width, bits))


@op
async def linear(
    party: Party, x: Share, w: matrix.Weight | matrix.Held | matrix.Streamed, *bias: Share, drop: int = 0, width: int = 0, bits: int = 64
) -> Share:
    """``x @ w + bias`` with packed weights; parameters as in :func:`multiply`."""
    return await matrix.linear(party, x, w, *bias, cut=rep3.Cut(drop, width, bits))


@op
async def convolution(
    party: Party,
    x: Share,
    w: matrix.Weight | Share,
    *bias: Share,
    kernel: Shape,
    stride: Shape,
    dilation: Shape,
    drop: int = 0,
    width: int = 0,
    bits: int = 64,
) -> Share:
    """x (N, C, ...), padded, by a packed weight (C * places, out), or in groups by one (out, C / groups, places ...).

    ``drop``, ``width`` and ``bits`` as in :func:`multiply`.
    """
    return await convolve.convolution(party, x, w, convolve.Windows(kernel, stride, dilation), *bias, cut=rep3.Cut(drop, width, bits))


@op
async def rescale(party: Party, x: Share, *, fraction: int, width: int = 0, bits: int = 64) -> Share:
    """Failure-free truncation to ``fraction`` bits; what is left fits ``width`` bits if those are given, and the result ``bits``."""
    return await rep3.rescale(party, x, fraction, width=width, bits=bits)


@op
async def rescale_and_square(party: Party, x: Share, *, fraction: int) -> Share:
    """Failure-free truncation, and behind every row the sum of its squares, at twice ``fraction``. 1 round."""
    return await squares.rescale_and_square(party, x, fraction)


@op
async def sum_of_squares(party: Party, x: Share) -> Share:
    """Over the last axis, kept as 1; exact at twice the fraction. 1 round, 3 E a row."""
    share = rep3.product_share(party, x, x, rep3.DOT)
    row = (*x.shape[:-1], 1)
    return await rep3.reshare(party, None if share is None else share.reshape(row), row, 2 * x.fraction, x.bits)


@op
async def spread(party: Party, x: Share) -> Share:
    """``n sum x^2 - (sum x)^2 = n^2 var(x)`` over the last axis, kept as 1; exact at twice the fraction. 1 round, 4 E a row."""
    mean = x.sum(-1)
    squares = rep3.product_share(party, x, x, rep3.DOT)
    square = rep3.product_share(party, mean, mean)
    row = (*x.shape[:-1], 1)
    share = None if squares is None or square is None else (squares * np.uint64(x.shape[-1]) - square).reshape(row)
    return await rep3.reshare(party, share, row, 2 * x.fraction, x.bits)


@op
async def table(
    party: Party, x: Share, *levels: Words, windows: tuple[int, ...], fraction: int, bits: int = 64, points: bool = False
) -> Share:
    """A function by tables of coefficients (degree + 1, cells), finest level first; ``windows`` has four integers a level.

    One level: 2 rounds. With more, a range too wide for uniform cells is served without a comparison: a coarser level is zero in
    its first cells, and its ``inside`` table is one exactly there. Finer levels cover those cells with room to spare, and what
    they yield elsewhere is multiplied by zero: ``value = coarse + inside * finer``, one more round a level. The result's ring has ``bits``.
    By ``points`` (:mod:`~moiety.mpc.functions.points`) all look-ups together take 1 round instead of 2.
    """
    spans = [Window(*windows[4 * i : 4 * i + 4]) for i in range(len(levels))]
    for span, words in zip(spans, levels, strict=True):
        _check_span(span, words)
    asked = [[Table(words, fraction)] if i == 0 else [Table(words, fraction), _inside(words)] for i, words in enumerate(levels)]
    look = points_.lookup if points else lookup
    found = await together(party, *(look(party, x, window, tables, bits) for window, tables in zip(spans, asked, strict=True)))
    value: Share = found[0][0]
    for coarse, inside in found[1:]:
        value = coarse + await rep3.product(party, inside, value)
    return value


@op
async def table_factor(party: Party, x: Share, words: Words, *, windows: tuple[int, ...], fraction: int, bits: int = 64) -> Share:
    """A look-up of one level that one product is to take as a factor. 1 round; see :mod:`~moiety.mpc.functions.factor`."""
    span = Window(*windows)
    _check_span(span, words)
    return await factor_.lookup_factor(party, x, span, Table(words, fraction), bits)


@op
async def multiply_factor(party: Party, factor: Share, y: Share, *bias: Share, drop: int = 0, width: int = 0, bits: int = 64) -> Share:
    """y times what was looked up, plus a bias; parameters as in :func:`multiply`. 1 round."""
    return await factor_.multiply_factor(party, factor, y, *bias, cut=rep3.Cut(drop, width, bits))


def _check_span(span: Window, words: Words) -> None:
    fits = 3 <= span.index_bits <= 13 and span.drop >= 0 and span.cell_bits >= 0 and sum(span[1:]) <= 64
    if not fits or words.ndim != 2 or words.shape != (len(words), 1 << span.index_bits) or not len(words):
        raise PlanError(f"coefficients of shape {words.shape} do not fit {span}; compile the model again")


def _inside(coefficients: Words) -> Table:
    """One in the cells that the coarse level leaves to the finer ones."""
    inside = np.zeros_like(coefficients)
    inside[0] = (coefficients == 0).all(0)
    return Table(inside, 0)


@op
async def row_max(party: Party, x: Share, *valid: Words, step_bits: int, ring_bits: int) -> Share:
    """Maximum over the last axis (kept as 1) within one unit of 2^step_bits; only public ``valid`` places count."""
    places = valid[0].astype(bool) if valid else None
    found = await maximum.row_max(party, x, step_bits=step_bits, ring_bits=ring_bits, valid=places)
    return found.reshape(*x.shape[:-1], 1)


@op
async def relu(party: Party, x: Share, *, bits: int, ring: int = 64) -> Share:
    """max(x, 0), exact for |x| < 2^(bits - 1) raw units; in a ring of at most ``ring`` bits."""
    return await relu_.relu(party, x.narrowed(min(ring, x.bits)), bits)


@op
async def clamp(party: Party, x: Share, *, bits: int, low: int | None = None, high: int | None = None, ring: int = 64) -> Share:
    """x between public ends, exact while x lies within 2^(bits - 1) raw units of both; in a ring of at most ``ring`` bits."""
    return await clamp_.clamp(party, x.narrowed(min(ring, x.bits)), low, high, bits)


@op
async def is_negative(party: Party, x: Share, *, bits: int) -> Share:
    """1 where x < 0, else 0 (fraction 0), exact for |x| < 2^(bits - 1) raw units. A comparison and 1 round."""
    return await bit_to_share(party, await sign(party, x, bits))


@op
async def is_zero(party: Party, x: Share, *, bits: int) -> Share:
    """1 where x = 0, else 0 (fraction 0), exact for |x| < 2^(bits - 1) raw units. An equality and 1 round."""
    return await bit_to_share(party, await equal.is_zero(party, x, bits))


@op
async def largest(party: Party, x: Share, *, bits: int) -> Share:
    """The largest value along the last axis, exact while any two differ by less than 2^(bits - 1) raw units."""
    return await argmax_.exact_max(party, x, bits)


@op
async def argmax(party: Party, x: Share, *, bits: int) -> Share:
    """Index of the first largest value along the last axis; nothing is revealed."""
    return await argmax_.argmax(party, x, bits)


@op
async def top(party: Party, x: Share, *, k: int, bits: int) -> Share:
    """The k largest along the last axis and their places, stacked on a new first axis; values have more fraction bits than x.

    P1 and P2 learn the ranking of a shuffled list, which says nothing about its values.
    """
    values, places = await top_.top(party, x, k, bits)
    if values.masked is None and values.mask is None:
        return Share((2, *values.shape), values.fraction, x.bits)
    return values.zip(places.as_fraction(values.fraction), lambda a, b: np.stack([a, b]))


@op
async def one_hot(party: Party, x: Share, *, classes: int) -> Share:
    """[x == j] for every class j along a new last axis."""
    return await one_hot_.one_hot(party, x, classes)


@op
async def puma_gelu(party: Party, x: Share) -> Share:
    """PUMA's published GeLU."""
    return await puma.gelu(party, x)


@op
async def puma_silu(party: Party, x: Share) -> Share:
    """PUMA's published SiLU."""
    return await puma.silu(party, x)


@op
async def puma_neg_exp(party: Party, x: Share, *, t: int) -> Share:
    """PUMA's published exponential of values that are not positive: ``(1 + x / 2^t)^(2^t)`` above -14, else 0."""
    return await puma.neg_exp(party, x, t)


@op
async def puma_rsqrt(party: Party, x: Share, *, low: int, high: int) -> Share:
    """PUMA's published inverse square root of values from 2^low to 2^high raw units."""
    return await puma_root.rsqrt(party, x, low, high)


@op
async def out_of_range(party: Party, x: Share, *, low: int, high: int, drop: int = 0, bits: int = 64) -> Share:
    """How many elements lie outside [low, high) raw units; with ``drop``, of those within 2^(drop + 1) of an end perhaps none."""
    return await ranges.out_of_range(party, x.reshape(1, size(x.shape)), low, high, drop=drop, bits=bits)


@op
async def all_out_of_range(
    party: Party, *xs: Share, lows: tuple[int, ...], highs: tuple[int, ...], drops: tuple[int, ...], bits: int
) -> Share:
    """How many elements of all of these lie outside the range of theirs, as :func:`out_of_range`."""
    ends = [ranges.Ends(*end) for end in zip(lows, highs, drops, strict=True)]
    return await ranges.all_out_of_range(party, [x.reshape(1, size(x.shape)) for x in xs], ends, bits)


@op
async def any_flag(party: Party, *counts: Share) -> Share:
    """One bit: whether any count is not zero."""
    total = counts[0]
    for count in counts[1:]:
        total = total + count
    return await ranges.not_zero(party, total)


@op
async def reveal(party: Party, x: Share, *awaited: Share, bits: int = 64) -> Words | None:
    """Open x to the client alone, once ``awaited`` has been computed too; as 64-bit words, if -2^(bits-1) <= x < 2^(bits-1) raw units."""
    opened = x.narrowed(min(bits, x.bits))
    return extended(await rep3.reveal(party, opened), opened.bits)
