"""A cost is the protocol run on shapes: it must agree with real runs in every wave, and with the closed forms in the docstrings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_ops import CASES, F
from mpc_runs import links_by_wave, run, shapes, share, share_bits

from moiety.errors import ProtocolMisuse
from moiety.mpc import ops, rep3
from moiety.mpc.cost import drive_on_shapes
from moiety.mpc.functions import argmax, bits, compare, equal, maximum, puma, puma_root, ranges, relu, select, table
from moiety.mpc.party import Kind, Party
from moiety.mpc.rounds import Scope
from moiety.mpc.share import Share


def both(op, *inputs, node=0, **options):
    """Costs on shapes, checked against a real run wave by wave."""
    transcript = run(op, *inputs, node=node, **options)
    result, costs = shapes(op, *inputs, node=node, **options)
    assert [dict(wave.links) for wave in costs.waves] == [dict(links) for links in links_by_wave(transcript)]
    assert costs.rounds == sum(1 for wave in transcript.waves if wave)
    for role_result in transcript.results.values():
        if hasattr(result, "shape") and hasattr(role_result, "shape"):
            assert role_result.shape == result.shape
    return costs


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("node", [0, 1])
def test_counted_bytes_and_rounds_agree_with_shapes_in_every_wave(name, node):
    case = CASES[name]
    both(case.op, *case.inputs(3), node=node)


dims = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@settings(max_examples=25, deadline=None)
@given(dims, st.integers(2, 64), st.integers(1, 3), st.integers(0, 1))
def test_comparison_costs_on_random_shapes(shape, width, thresholds, node):
    cuts = list(range(-thresholds + 1, 1))
    costs = both(lambda party, x: compare.below(party, x, cuts, width), share(np.zeros(shape, int)), node=node)
    dealt, online = comparison_bits(width - 1, thresholds)
    assert costs.total_bytes == bits.octets(int(np.prod(shape))) * (dealt + 1 + online)
    assert costs.rounds == (1 if width <= 5 else 2 if width <= 17 else 3)


def comparison_bits(carries, thresholds):
    """Dealt and exchanged bits an element of a borrow over ``carries`` bits: the closed form in docs/security/compare.md."""
    groups = -(-carries // 4)
    dealt = (carries // 4) * 15 + (2 ** (carries % 4) - 1)
    online = 2 * thresholds * (2 * groups - 1)
    nodes = groups
    while nodes > 1:
        for first in range(0, nodes, 4):
            k = min(4, nodes - first)
            if k == 1:
                continue
            dealt += thresholds * {2: 1, 3: 5, 4: 15}[k] if first == 0 else thresholds * {2: 2, 3: 8, 4: 22}[k]
            online += 2 * thresholds * (1 if first == 0 else 2)
        nodes = -(-nodes // 4)
    return dealt, online


@settings(max_examples=20, deadline=None)
@given(dims, dims, st.integers(0, 1))
def test_product_select_and_rescale_costs_on_random_shapes(shape, other, node):
    x, y = share(np.ones(shape, int), F), share(np.ones(shape, int), F)
    size = int(np.prod(shape))
    assert both(rep3.product, x, y, node=node).total_bytes == 24 * size
    assert both(lambda party, z: rep3.rescale(party, z, 3), x, node=node).total_bytes == (24 + 2) * size  # 11 bits: 2 octets
    assert both(select.select, share_bits(np.ones(shape)), x, node=node).total_bytes == 32 * size
    rows, inner = share(np.ones((*other, 3), int), F), share(np.ones((3, 2), int), F)
    assert both(lambda party, a, b: rep3.product(party, a, b, rep3.MATMUL), rows, inner).total_bytes == 24 * 2 * int(np.prod(other))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(7, 8), st.integers(0, 1))
def test_row_maximum_costs_on_random_shapes(rows, length, ring_bits, node):
    costs = both(maximum.row_max, share(np.zeros((rows, length), int), F), node=node, step_bits=8, ring_bits=ring_bits)
    tree = (length - 2) * (2**ring_bits + 2) + 8 * 2**ring_bits + 32 if length > 1 else 32
    assert costs.total_bytes == rows * tree
    assert costs.rounds == max(1, (length - 1).bit_length())


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.sampled_from([4, 12, 20]))
def test_argmax_costs_on_random_shapes(rows, length, width):
    costs = both(argmax.argmax, share(np.zeros((rows, length), int)), bits=width)
    levels, left = 0, length
    while left > 1:
        levels += (1 if width <= 5 else 2 if width <= 17 else 3) + (1 if left == 2 else 2)
        left = -(-left // 4)
    assert costs.rounds == levels


def test_closed_forms_of_the_docstrings():
    many = share(np.zeros(800, int), F)
    per_element = {
        (5, 1): 2.25, (8, 2): 4.0, (16, 2): 10.5, (17, 2): 11.5, (24, 3): 16.375, (32, 3): 23.625, (64, 3): 50.875,
    }  # fmt: skip
    for (width, rounds), cost in per_element.items():
        costs = shapes(compare.sign, many, bits=width)[1]
        assert (costs.total_bytes / 800, costs.rounds) == (cost, rounds)
    for (width, rounds), cost in {(4, 1): 17 / 8, (16, 2): 81 / 8, (64, 3): 337 / 8}.items():
        assert cost_of(equal.is_zero, many, bits=width) == (cost, rounds)
    assert cost_of(relu.relu, many, bits=16) == (42.5, 3)
    assert cost_of(relu.relu, many, bits=64) == (82.875, 4)
    assert cost_of(select.bit_to_share, share_bits(np.zeros(800))) == (24, 1)
    assert cost_of(lambda party, *b: bits.and_all(party, b), *[share_bits(np.zeros(800))] * 3) == (4 / 8 + 2 / 8, 1)
    assert cost_of(lambda party, *b: bits.and_all(party, b), *[share_bits(np.zeros(800))] * 4) == (11 / 8 + 2 / 8, 1)
    counted = shapes(ranges.out_of_range, share(np.zeros((2, 400), int)), low=0, high=5)[1]
    assert (counted.total_bytes, counted.rounds) == (800 * (73.5 + 5) + 2 * 10, 4)
    flagged = shapes(ranges.not_zero, share([1]))[1]
    assert (flagged.total_bytes, flagged.rounds) == (329 + 78 + 24, 4)
    assert cost_of(puma.gelu, many) == (4 * 50 + 94.375 + 48 + 44, 8)
    assert cost_of(puma.silu, many) == (4 * 50 + 94.375 + 48 + 44, 8)
    assert cost_of(puma.neg_exp, many, t=5) == (50.875 + 5 * (24 + 28) + 34, 11)
    for low, high, rest in ((3, 24, (233, 8)), (3, 40, (259, 9))):
        thresholds = shapes(compare.below, many, thresholds=[1] * (high - low - 1), bits=high + 1)[1]
        expected = thresholds.total_bytes / 800 + 8 * (high - low - 1) + 32 + rest[0], thresholds.rounds + rest[1]
        assert cost_of(puma_root.rsqrt, many, low=low, high=high) == expected


def cost_of(op, *inputs, **options):
    costs = shapes(op, *inputs, **options)[1]
    return costs.total_bytes / 800, costs.rounds


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("index_bits", [3, 8])
@pytest.mark.parametrize("count", [1, 2])
def test_table_costs(degree, index_bits, count):
    window = table.Window(low=0, drop=0, cell_bits=4, index_bits=index_bits)
    held = table.Table(np.zeros((degree + 1, 1 << index_bits), np.uint64), 0)
    costs = both(lambda party, x: table.lookup(party, x, window, [held] * count), share(np.zeros(6, int)))
    assert costs.total_bytes == 6 * (2**index_bits // 8 + 8 * (degree + 1) + count * (8 + 16 * (degree + 1) + 16))
    assert costs.rounds == 2


@pytest.mark.parametrize("degree", [1, 2])
def test_looked_up_factor_costs(degree):
    async def both_rounds(party, x, y):
        words = np.zeros((degree + 1, 8), np.uint64)
        found = await ops.table_factor(party, x, words, windows=(0, 0, 4, 3), fraction=0)
        return await ops.multiply_factor(party, found, y)

    costs = both(both_rounds, share(np.zeros((6, 1), int)), share(np.zeros((6, 5), int)))
    assert costs.total_bytes == 6 * (1 + 8 * (degree + 1) + 16 * (degree + 1) + 8) + 30 * (8 * (degree + 2) + 16)
    assert costs.rounds == 2


def test_argmax_over_a_vocabulary_takes_40_rounds():
    costs = shapes(argmax.argmax, Share((49_152,)), bits=20)[1]
    assert costs.rounds == 40
    assert costs.total_bytes < 3.6e6


def test_two_draws_at_one_address_are_refused():
    async def twice(party: Party) -> None:
        for _ in range(2):
            party.scope = Scope((7,))
            party.draw(Kind.OUT_MASK, (3,))

    with pytest.raises(ProtocolMisuse, match="masks would repeat"):
        drive_on_shapes(twice)
