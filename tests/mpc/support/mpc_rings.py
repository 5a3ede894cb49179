"""Every protocol on rings of a few bits, for the views that are counted exactly.

``TINY``: rings of 2 to 5 bits, counted almost whole. ``WIDE``: rings of 6 to 8 bits; beyond ``most`` unknown bits, words with pads of
their own are taken out first.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from mpc_runs import held
from mpc_views import Book, Inputs

from moiety.mpc import matrix, ops, rep3
from moiety.mpc.functions import argmax, bits, clamp, compare, equal, maximum, one_hot, puma, ranges, relu, select, shuffle, table, top
from moiety.mpc.party import Kind, Party
from moiety.mpc.rounds import Role, Scope, Spec, Words
from moiety.mpc.share import Share


class Case(NamedTuple):
    """A protocol, its inputs, the secrets to compare and the most unknown bits to count."""

    op: Callable[..., Any]
    inputs: Inputs
    secrets: Sequence[Any]
    most: int = 18


def one(width: int) -> Inputs:
    return lambda book, secret: [book.share(secret, width)]


def several(width: int) -> Inputs:
    return lambda book, secret: [book.share(value, width) for value in secret]


def row(width: int, length: int) -> Inputs:
    return lambda book, secret: [book.share(secret, width, (length,))]


def seen_row(width: int, length: int) -> Inputs:
    return lambda book, secret: [book.seen(secret, width, (length,))]


def flags(book: Book, secret: Any) -> list[Any]:
    return [book.bit(value) for value in secret]


def flag_and(width: int) -> Inputs:
    return lambda book, secret: [book.bit(secret[0]), *(book.share(value, width) for value in secret[1:])]


def pairs(width: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(1 << width), repeat=2))


def some(width: int, many: int = 1) -> list[Any]:
    """The border values of a ring and random ones, as tuples where there are several secrets."""
    top = 1 << width
    border = [(v,) * many for v in (0, 1, top // 2 - 1, top // 2, top - 1)]
    found = [*border, *map(tuple, np.random.default_rng(width + many).integers(0, top, (3, many)).tolist())]
    return found if many > 1 else [value for (value,) in found]


async def product_and_rescale(party: Party, x: Share, y: Share) -> Share:
    z = await rep3.product(party, x, y)
    return await rep3.rescale(party, z.as_fraction(1), 0)


async def product_and_shift(party: Party, x: Share, y: Share) -> Share:
    return await rep3.product(party, x, y, cut=rep3.Cut(1))


def product_cut(drop: int, width: int, bits: int) -> Callable[..., Any]:
    return lambda party, x, y: rep3.product(party, x, y, cut=rep3.Cut(drop, width, bits))


def raised(bits: int) -> Callable[..., Any]:
    """From additive shares that are a party's own, so that only the raise itself is counted."""
    return lambda party, x: rep3.raised(party, party.additive(x) if party.evaluates else None, x.shape, 0, x.bits, bits)


async def product_dealt_coarsely(party: Party, x: Share, y: Share) -> Share:
    share = rep3.product_share(party, x, y, coarse=1)
    return await rep3.finish(party, rep3.shift_share(party, share, 2, x.bits), x.shape, 0, x.bits, rep3.Cut(2, x.bits - 2, x.bits - 2))


async def gram(party: Party, x: Share) -> Share:
    return await rep3.product(party, x.reshape(x.shape[0], 1, 2), x.reshape(x.shape[0], 2, 1), rep3.MATMUL)


def rescale(drop: int) -> Callable[..., Any]:
    return lambda party, x: rep3.rescale(party, x.as_fraction(drop), 0)


def rescale_wider(drop: int, width: int, bits: int) -> Callable[..., Any]:
    return lambda party, x: rep3.rescale(party, x.as_fraction(drop), 0, width=width, bits=bits)


def rescale_and_square(drop: int) -> Callable[..., Any]:
    return lambda party, x: ops.rescale_and_square(party, x.as_fraction(drop), fraction=0)


def sign(width: int) -> Callable[..., Any]:
    return lambda party, x: compare.sign(party, x, width)


def is_zero(width: int) -> Callable[..., Any]:
    return lambda party, x: equal.is_zero(party, x, width)


def larger(width: int) -> Callable[..., Any]:
    return lambda party, a, b: maximum._larger(party, a, b, width, Spec(a.shape, a.bits))


async def two_levels(party: Party, a: Share, b: Share, c: Share) -> Share:
    return await larger(2)(party, await larger(2)(party, a, b), c)


def lift(width: int) -> Callable[..., Any]:
    async def op(party: Party, x: Share) -> Share:
        return await rep3.reshare(party, maximum.lift_share(party, x, width), x.shape, 0, width)

    return op


def by_held(width: int) -> Inputs:
    """A row of two numbers, and a matrix (2, 1) that P1 knows: a fixed one, or the secret's further numbers where P2 looks."""

    def inputs(book: Book, secret: Any) -> list[Any]:
        matrix = secret[2:] if len(secret) > 2 and book.observer is Role.P2 else (3, 2)
        return [book.share(secret[:2], width, (2,)), held(np.reshape(matrix, (2, 1)), bits=width)]

    return inputs


def linear_cut(drop: int, width: int) -> Callable[..., Any]:
    return lambda party, x, w: matrix.linear(party, x, w, cut=rep3.Cut(drop, width, width))


HELD = [(0, 0, 0, 0), (1, 3, 2, 1), (3, 0, 1, 3), (2, 2, 3, 2)]


COEFFICIENTS = np.random.default_rng(0).integers(0, 16, (3, 8)).astype(np.uint64)


def look_up(degree: int, drop: int, cell_bits: int, count: int = 1) -> Callable[..., Any]:
    """Up to the additive shares of the result for one table; masking those is :func:`rep3.reshare`, which several include."""
    found = table.Table(COEFFICIENTS[: degree + 1], 0)
    window = table.Window(0, drop, cell_bits, 3)

    async def shares(party: Party, x: Share) -> list[Words | None]:
        return await table.lookup_shares(party, x, window, [found], x.bits)

    return shares if count == 1 else lambda party, x: table.lookup(party, x, window, [found] * (count - 1))


def factor(degree: int, cell_bits: int) -> Callable[..., Any]:
    """A look-up and the product with it."""
    window = table.Window(0, 0, cell_bits, 3)
    params = {"windows": tuple(window), "fraction": 0}

    async def op(party: Party, x: Share, y: Share) -> Share:
        found = await ops.table_factor(party, x, COEFFICIENTS[: degree + 1], bits=y.bits, **params)
        return await ops.multiply_factor(party, found, y, bits=y.bits)

    return op


async def two_one_hots(party: Party, x: Share, y: Share) -> None:
    """The first message of two look-ups, at two plan nodes that both deal it to P2."""
    for wire, node in ((x, 0), (y, 3)):
        party.scope = Scope((node,))
        split = table.Split.of(wire, table.Window(0, 0, 0, 3), wire.bits)
        party.deal((x.shape[0], 1), split.one_hot, 8, kind=Kind.ONE_HOT, xor=True)


WIRES = [(0, 0), (3, 5), (5, 0)]


TINY = {
    "product": Case(rep3.product, several(3), pairs(3)),
    "linear_held": Case(matrix.linear, by_held(2), HELD),
    "linear_held_cut": Case(linear_cut(1, 2), by_held(3), HELD, 20),
    "product_and_shift": Case(product_and_shift, several(3), pairs(3)),
    "product_cut": Case(product_cut(1, 2, 2), several(3), pairs(3)),
    "product_cut_and_raised": Case(product_cut(1, 2, 3), several(3), pairs(3)[::9], 21),
    "product_dealt_coarsely": Case(product_dealt_coarsely, several(3), pairs(3)),
    "raised": Case(raised(4), one(3), range(8), 20),
    "rescale": Case(rescale(2), one(4), range(16)),
    "rescale_wider": Case(rescale_wider(1, 3, 4), one(4), range(16)),
    "rescale_into_a_smaller_ring": Case(rescale_wider(2, 3, 2), one(5), range(32)),
    "product_and_rescale": Case(product_and_rescale, several(3), pairs(3)[::9], 21),
    "rescale_and_square": Case(rescale_and_square(1), row(3, 1), range(8)),
    **{f"sign{width}": Case(sign(width), one(width), range(1 << width)) for width in (2, 3, 4)},
    "below": Case(lambda party, x: compare.below(party, x, [0, 3], 3), one(3), range(8)),
    **{f"is_zero{width}": Case(is_zero(width), one(width), range(1 << width)) for width in (2, 3, 4)},
    "and_all": Case(lambda party, *b: bits.and_all(party, b), flags, list(itertools.product((0, 1), repeat=3))),
    "bit_to_share": Case(lambda party, b: select.bit_to_share(party, b, 5), flags, [(0,), (1,)]),
    "select": Case(select.select, flag_and(4), list(itertools.product((0, 1), range(16)))),
    "relu": Case(lambda party, x: relu.relu(party, x, 3), one(3), range(8), 21),
    "larger": Case(larger(2), several(2), pairs(2)),
    "two_levels": Case(two_levels, several(2), list(itertools.product(range(4), repeat=3))[::13], 21),
    "lift": Case(lift(5), one(3), range(8)),
    "argmax": Case(lambda party, x: argmax.argmax(party, x, 3), row(3, 4), [(0, 1, 0, 1), (3, 2, 3, 3), (0, 7, 6, 1), (1, 0, 0, 0)], 17),
    "linear_table": Case(look_up(1, 0, 1), one(4), (0, 9), 21),
    "constant_table": Case(look_up(0, 0, 0, 2), one(3), range(8)),
    "constant_factor": Case(factor(0, 0), several(3), pairs(3)[::9], 21),
}


async def levels(party: Party, x: Share) -> Share:
    coarse = np.where(np.arange(8) < 2, np.uint64(0), COEFFICIENTS[:2])
    return await ops.table(party, x, COEFFICIENTS[:2], coarse, windows=(0, 0, 1, 3, 0, 1, 2, 3), fraction=0)


def both_out_of_range(party: Party, x: Share, y: Share) -> Any:
    return ranges.all_out_of_range(party, (x.reshape(-1, 1), y.reshape(-1, 1)), (ranges.Ends(-4, 9), ranges.Ends(-12, 9, 1)), 5)


async def selections(party: Party, *given: Any) -> Share:
    return await puma._sum_selected(party, given[:2], given[2:])


TERNARY = list(itertools.product((0, 3, 62), repeat=3))
CHOSEN = [(0, 1, 5, 9), (1, 0, 5, 9), (1, 1, 63, 0), (0, 0, 0, 33)]


def ranking(*sizes: int) -> Callable[..., Any]:
    """The part of :func:`top.top` whose bits are opened, for values that are bounded and distinct."""

    async def op(party: Party, x: Share) -> None:
        x = await shuffle.shuffle(party, x)
        for size in sizes:
            x = await top._level(party, x, size, 1, x.bits)

    return op


WRAPPING = [(0, 0, 0), (1, 0, 1), (0, 171, 342), (0, 342, 171), (255, 256, 1), (511, 0, 0)]
"""Of 9 bits: ties, and values whose differences wrap into a circle."""
DISTINCT = [(0, 1, 2), (2, 1, 0), (15, 0, 3), (-3 % 16, 1, -2 % 16), (1, 3, 0)]

WIDE = {
    "linear_held": Case(matrix.linear, by_held(6), some(6, 2)),
    "linear_held_cut": Case(linear_cut(2, 4), by_held(6), some(6, 2)),
    "product": Case(rep3.product, several(6), some(6, 2)),
    "product8": Case(rep3.product, several(8), some(8, 2)),
    "product_and_shift": Case(product_and_shift, several(6), some(6, 2)),
    "product_and_rescale": Case(product_and_rescale, several(6), some(6, 2)),
    "product_cut": Case(product_cut(2, 4, 4), several(6), some(6, 2)),
    "product_cut_and_raised": Case(product_cut(2, 4, 7), several(6), some(6, 2), 14),
    "product_dealt_coarsely": Case(product_dealt_coarsely, several(6), some(6, 2)),
    "raised": Case(raised(7), one(5), range(32), 14),
    "rescale_wider": Case(rescale_wider(2, 4, 7), one(6), range(64), 13),
    "gram": Case(gram, row(6, 2), some(6, 2)),
    "sum_of_squares": Case(ops.sum_of_squares, row(6, 2), some(6, 2)),
    "spread": Case(ops.spread, row(6, 2), some(6, 2)),
    "rescale": Case(rescale(3), one(6), range(64), 12),
    "rescale_and_square": Case(rescale_and_square(3), row(6, 2), some(6, 2)),
    "rescale8": Case(rescale(3), one(8), some(8)),
    "sign6": Case(sign(6), one(6), range(0, 64, 3)),
    "sign8": Case(sign(8), one(8), some(8)[1:6], 20),
    "is_zero6": Case(is_zero(6), one(6), range(0, 64, 3)),
    "is_zero8": Case(is_zero(8), one(8), some(8)[:5], 20),
    "below": Case(lambda party, x: compare.below(party, x, [-5, 0, 9], 6), one(6), some(6)),
    "and_all": Case(lambda party, *b: bits.and_all(party, b), flags, list(itertools.product((0, 1), repeat=4)), 16),
    "and_each": Case(lambda party, a, b, c: bits.and_each(party, [[a, b], [b, c]]), flags, list(itertools.product((0, 1), repeat=3))),
    "bit_to_share": Case(lambda party, b: select.bit_to_share(party, b, 8), flags, [(0,), (1,)]),
    "select": Case(select.select, flag_and(6), [(b, x) for b in (0, 1) for x in some(6)[:4]]),
    "choose": Case(select.choose, flag_and(6), [(b, *x) for b in (0, 1) for x in some(6, 2)[4:]], 13),
    "relu": Case(lambda party, x: relu.relu(party, x, 6), one(6), some(6)),
    "clamp": Case(lambda party, x: clamp.clamp(party, x, -7, 12, 6), one(6), some(6)),
    "larger": Case(larger(6), several(6), some(6, 2), 12),
    "lift": Case(lift(7), one(6), range(64), 13),
    "constant_table": Case(look_up(0, 3, 0, 2), one(6), some(6)),
    "linear_table": Case(look_up(1, 1, 2), one(6), some(6)),
    "quadratic_table": Case(look_up(2, 1, 2), one(6), some(6)),
    "quadratic_table_masked_afresh": Case(look_up(2, 1, 2, 2), one(6), some(6)[::2], 16),
    "two_tables": Case(look_up(1, 1, 2, 3), one(6), some(6)[::2]),
    "linear_factor": Case(factor(1, 2), several(6), some(6, 2)[::2], 18),
    "levels": Case(levels, one(6), some(6)[::2], 16),
    "argmax": Case(lambda party, x: argmax.argmax(party, x, 6), row(6, 3), TERNARY[::9]),
    "exact_max": Case(lambda party, x: argmax.exact_max(party, x, 6), row(6, 3), TERNARY[1::9]),
    "out_of_range": Case(lambda party, x: ranges.out_of_range(party, x, -9, 20), row(6, 1), some(6)),
    "all_out_of_range": Case(both_out_of_range, several(6), some(6, 2), 13),
    "shuffle": Case(shuffle.shuffle, row(6, 2), some(6, 2)),
    "shuffle_of_three": Case(shuffle.shuffle, row(4, 3), some(4, 3), 15),
    "top": Case(lambda party, x: top.top(party, x, 1, 2), row(7, 2), some(7, 2)[2:6], 15),
    "top_two": Case(lambda party, x: top.top(party, x, 2, 2), row(7, 2), [(0, 0), (0, 127), (1, 0)], 15),
    "top_of_three": Case(lambda party, x: top.top(party, x, 1, 2), seen_row(9, 3), WRAPPING, 3),
    "top_two_of_three": Case(lambda party, x: top.top(party, x, 2, 2), seen_row(9, 3), WRAPPING, 3),
    "ranking_of_three": Case(ranking(3), row(4, 3), DISTINCT, 16),
    "ranking_in_two_levels": Case(ranking(2, 2), row(4, 3), DISTINCT, 16),
    "one_hot": Case(lambda party, x: one_hot.one_hot(party, x, 5), one(6), some(6)),
    "not_zero": Case(ranges.not_zero, one(6), range(32), 15),
    "selections": Case(selections, lambda book, s: [*flags(book, s[:2]), *(book.share(v, 6) for v in s[2:])], CHOSEN, 14),
}
