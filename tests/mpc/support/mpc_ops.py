"""One small case of every protocol, for the tests that must hold for all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from mpc_runs import held, share, share_bits

from moiety.mpc import matrix, ops, rep3
from moiety.mpc.functions import (
    argmax,
    bits,
    clamp,
    compare,
    convolve,
    equal,
    maximum,
    one_hot,
    points,
    puma,
    puma_root,
    ranges,
    relu,
    select,
    shuffle,
    table,
    top,
)
from moiety.mpc.party import Party
from moiety.mpc.rounds import Role
from moiety.mpc.share import Share

F = 14
WINDOW = table.Window(low=-(4 << F), drop=2, cell_bits=F - 4, index_bits=5)
TABLES = {
    degree: table.Table(np.random.default_rng(degree).integers(-(2**20), 2**20, (degree + 1, 32)).view(np.uint64), 10)
    for degree in (0, 1, 2)
}


class Case(NamedTuple):
    """A protocol with inputs for a seed: the same shapes for every seed, other secrets and other masks; ``grow`` lengthens them."""

    op: Callable[..., Any]
    inputs: Callable[..., tuple[Any, ...]]


async def _linear(party: Party, x: Share, w: Share) -> Share:
    return await matrix.linear(party, x, matrix.pack(party, w) if party.role is not None else matrix.Weight(w.shape, w.fraction))


async def _matmul(party: Party, x: Share, y: Share) -> Share:
    return await rep3.product(party, x, y, rep3.MATMUL)


async def _matmul_at(party: Party, x: Share, y: Share) -> Share:
    """Below the diagonals of a stack, cut."""
    below = np.broadcast_to(np.tri(x.shape[1], y.shape[1]), (x.shape[0], x.shape[1], y.shape[1]))
    return await ops.matmul(party, x, y, np.flatnonzero(below).astype(np.uint64), drop=F, width=50)


async def _shifted(party: Party, x: Share, y: Share) -> Share:
    share_ = rep3.product_share(party, x, y)
    return await rep3.reshare(party, rep3.shift_share(party, share_, F), x.shape, F)


async def _linear_with_bias(party: Party, x: Share, w: Share, bias: Share) -> Share:
    packed = matrix.pack(party, w) if party.role is not None else matrix.Weight(w.shape, w.fraction)
    return await matrix.linear(party, x, packed, bias.as_fraction(2 * F), cut=rep3.Cut(F))


async def _linear_cut(party: Party, x: Share, w: Share) -> Share:
    packed = matrix.pack(party, w) if party.role is not None else matrix.Weight(w.shape, w.fraction)
    return await matrix.linear(party, x, packed, cut=rep3.Cut(F, 50, 64))


def _held(seed: int, grow: int = 1) -> tuple[Any, ...]:
    return *_reals(3, 4)(seed, grow), held(_integers(seed + 9, (4, 5), 3, 1), F, seed=seed + 2)


async def _convolution(party: Party, x: Share, w: Share) -> Share:
    packed = matrix.pack(party, w) if party.role is not None else matrix.Weight(w.shape, w.fraction)
    return await convolve.convolution(party, x, packed, convolve.Windows((2,), (1,), (2,)))


async def _convolution_in_groups(party: Party, x: Share, w: Share, bias: Share) -> Share:
    return await convolve.convolution(party, x, w, convolve.Windows((2,), (2,), (1,)), bias.as_fraction(2 * F), cut=rep3.Cut(F))


async def _wide_table(party: Party, x: Share) -> Share:
    fine, coarse = TABLES[2].coefficients, np.where(np.arange(32) < 4, np.uint64(0), TABLES[2].coefficients)
    windows = (*WINDOW, *WINDOW._replace(cell_bits=F - 2))
    return await ops.table(party, x, fine, coarse, windows=windows, fraction=10)


async def _all_out_of_range(party: Party, *xs: Share) -> Share:
    return await ranges.all_out_of_range(party, xs, (ranges.Ends(-100, 1 << F), ranges.Ends(-4, 300, 4)), 40)


async def _looked_up_factor(party: Party, x: Share, y: Share) -> Share:
    """Of a row; y in a smaller ring than it, and cut."""
    found = await ops.table_factor(party, x, TABLES[1].coefficients, windows=WINDOW, fraction=10, bits=48)
    return await ops.multiply_factor(party, found, y.narrowed(44), drop=F, width=20, bits=30)


async def _wide_points(party: Party, x: Share) -> Share:
    fine, coarse = TABLES[2].coefficients, np.where(np.arange(32) < 4, np.uint64(0), TABLES[2].coefficients)
    windows = (*WINDOW, *WINDOW._replace(cell_bits=F - 2))
    return await ops.table(party, x, fine, coarse, windows=windows, fraction=10, bits=40, points=True)


async def _lookup(party: Party, x: Share) -> list[Share]:
    return await table.lookup(party, x, WINDOW, [TABLES[2], TABLES[2]])


async def _lookup_linear(party: Party, x: Share) -> list[Share]:
    return await table.lookup(party, x, WINDOW, [TABLES[1]])


async def _input(party: Party, x: Share) -> Share:
    value = np.broadcast_to(np.arange(x.shape[-1], dtype=np.uint64), x.shape) if party.role is Role.CLIENT else None
    return await rep3.share_input(party, value, x.shape, F)


def _reals(*shape: int, bound: float = 3.5) -> Callable[..., tuple[Any, ...]]:
    return lambda seed, grow=1: (share(_integers(seed, shape, bound, grow), F, seed=seed + 1),)


def _integers(seed: int, shape: tuple[int, ...], bound: float, grow: int) -> Any:
    top = int(bound * 2**F)
    return np.random.default_rng(seed).integers(-top, top, (shape[0] * grow, *shape[1:]))


def _positives(*shape: int) -> Callable[..., tuple[Any, ...]]:
    return lambda seed, grow=1: (share(np.abs(_integers(seed, shape, 3.5, grow)) + 2, F, seed=seed + 1),)


def _two(first: tuple[int, ...], second: tuple[int, ...], *, alike: bool = True) -> Callable[..., tuple[Any, ...]]:
    def inputs(seed: int, grow: int = 1) -> tuple[Any, ...]:
        x, y = _integers(seed, first, 3, grow), _integers(seed + 9, second, 3, grow if alike else 1)
        return share(x, F, seed=seed + 1), share(y, F, seed=seed + 2)

    return inputs


def _flags(*shapes: tuple[int, ...]) -> Callable[..., tuple[Any, ...]]:
    def one(shape: tuple[int, ...], seed: int, grow: int) -> Any:
        return share_bits(np.random.default_rng(seed).integers(0, 2, (shape[0] * grow, *shape[1:])), seed + 20)

    return lambda seed, grow=1: tuple(one(shape, seed + i, grow) for i, shape in enumerate(shapes))


def _both(*inputs: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    return lambda seed, grow=1: tuple(x for part in inputs for x in part(seed, grow))


def _counts(seed: int, grow: int = 1) -> tuple[Any, ...]:
    return (share([seed % 2, 0, 3 * (seed % 2)] * grow, seed=seed + 1),)


CASES = {
    "product": Case(rep3.product, _two((5, 3), (5, 3))),
    "matmul": Case(_matmul, _two((3, 4), (4, 5), alike=False)),
    "matmul_at": Case(_matmul_at, _two((2, 3, 4), (4, 5), alike=False)),
    "linear": Case(_linear, _two((3, 4), (4, 5), alike=False)),
    "linear_held": Case(matrix.linear, _held),
    "linear_held_cut_and_raised": Case(lambda party, x, w: matrix.linear(party, x, w, cut=rep3.Cut(F, 50, 64)), _held),
    "linear_with_bias": Case(_linear_with_bias, _both(_two((3, 4), (4, 5), alike=False), lambda seed, grow=1: _reals(5)(seed))),
    "convolution": Case(_convolution, _two((2, 3, 5), (6, 4), alike=False)),
    "convolution_in_groups": Case(
        _convolution_in_groups, _both(_two((2, 4, 6), (4, 2, 2), alike=False), lambda seed, grow=1: _reals(4)(seed))
    ),
    "product_drop": Case(lambda party, x, y: rep3.product(party, x, y, cut=rep3.Cut(F)), _two((5, 3), (5, 3))),
    "product_cut": Case(lambda party, x, y: rep3.product(party, x, y, cut=rep3.Cut(F, 24, 24)), _two((5, 3), (5, 3))),
    "product_cut_and_raised": Case(lambda party, x, y: rep3.product(party, x, y, cut=rep3.Cut(F, 24, 40)), _two((5, 3), (5, 3))),
    "linear_cut_and_raised": Case(_linear_cut, _two((3, 4), (4, 5), alike=False)),
    "product_in_a_small_ring": Case(lambda party, x, y: rep3.product(party, x, y, cut=rep3.Cut(bits=40)), _two((5, 3), (5, 3))),
    "rescale_wider": Case(lambda party, z: rep3.rescale(party, z, 4, width=21, bits=40), _reals(5, 3)),
    "rescale_into_a_smaller_ring": Case(lambda party, z: rep3.rescale(party, z, 4, width=40, bits=24), _reals(5, 3)),
    "spread": Case(ops.spread, _reals(5, 3)),
    "wide_table": Case(_wide_table, _reals(9)),
    "shifted": Case(_shifted, _two((5, 3), (5, 3))),
    "rescale": Case(lambda party, z: rep3.rescale(party, z, 4), _reals(5, 3)),
    "rescale_and_square": Case(lambda party, z: ops.rescale_and_square(party, z, fraction=4), _reals(5, 3)),
    "reveal": Case(lambda party, x: ops.reveal(party, x, bits=24), _reals(5, 3)),
    "input": Case(_input, _reals(5, 3)),
    "lookup": Case(_lookup, _reals(9)),
    "lookup_in_another_ring": Case(lambda party, x: table.lookup(party, x.narrowed(24), WINDOW, [TABLES[2]], 40), _reals(9)),
    "points": Case(lambda party, x: points.lookup(party, x, WINDOW, [TABLES[1]] * 2, 40), _reals(9)),
    "wide_points": Case(_wide_points, _reals(9)),
    "looked_up_factor": Case(_looked_up_factor, _two((4, 1), (4, 3))),
    "lookup_linear": Case(_lookup_linear, _reals(9)),
    "sign16": Case(lambda party, x: compare.sign(party, x.low_bits(4, 16), 16), _reals(21)),
    "sign64": Case(lambda party, x: compare.sign(party, x, 64), _reals(21)),
    "below": Case(lambda party, x: compare.below(party, x, [-5, 0, 77], 18), _reals(21)),
    "signs": Case(lambda party, x, y: compare.signs(party, [x, y], 18), _two((7,), (2, 5))),
    "is_zero4": Case(lambda party, x: equal.is_zero(party, x, 4), _reals(21)),
    "is_zero20": Case(lambda party, x: equal.is_zero(party, x, 20), _reals(21)),
    "is_zero64": Case(lambda party, x: equal.is_zero(party, x, 64), _reals(21)),
    "is_negative_as_a_number": Case(lambda party, x: ops.is_negative(party, x, bits=18), _reals(21)),
    "is_zero_as_a_number": Case(lambda party, x: ops.is_zero(party, x, bits=18), _reals(21)),
    "and_all": Case(lambda party, *b: bits.and_all(party, b), _flags((21,), (21,), (21,), (21,))),
    "bit_to_share": Case(select.bit_to_share, _flags((21,))),
    "select": Case(select.select, _both(_flags((5, 1)), _reals(5, 3))),
    "choose": Case(select.choose, _both(_flags((5, 3)), _two((5, 3), (5, 3)))),
    "relu": Case(lambda party, x: relu.relu(party, x, 18), _reals(21)),
    "clamp": Case(lambda party, x: clamp.clamp(party, x, -(1 << F), 2 << F, 18), _reals(21)),
    "clamp_below": Case(lambda party, x: clamp.clamp(party, x, 1 << F, None, 18), _reals(21)),
    "row_max": Case(lambda party, x: maximum.row_max(party, x, step_bits=F - 4), _reals(3, 7)),
    "argmax": Case(lambda party, x: argmax.argmax(party, x, 20), _reals(2, 19)),
    "shuffle": Case(shuffle.shuffle, _reals(3, 4)),
    "top": Case(lambda party, x: top.top(party, x, 2, 18, sizes=(4, 4)), _reals(2, 7)),
    "one_hot": Case(lambda party, x: one_hot.one_hot(party, x.as_fraction(0), 6), _reals(5)),
    "exact_max": Case(lambda party, x: argmax.exact_max(party, x, 20), _reals(2, 6)),
    "out_of_range": Case(lambda party, x: ranges.out_of_range(party, x, -100, 1 << F), _reals(3, 7)),
    "all_out_of_range": Case(_all_out_of_range, _two((3, 7), (3, 2))),
    "any_flag": Case(ops.any_flag, _both(_counts, _counts)),
    "puma_gelu": Case(puma.gelu, _reals(9)),
    "puma_silu": Case(puma.silu, _reals(9)),
    "puma_rsqrt": Case(lambda party, x: puma_root.rsqrt(party, x, 1, F + 2), _positives(9)),
    "puma_exp": Case(lambda party, x: puma.neg_exp(party, -x, 3), _reals(9)),
    "puma_softmax": Case(lambda party, x: puma.softmax(party, x, puma.reciprocal_table(5, F), 3, max_step_bits=F - 4), _reals(2, 5)),
}
