"""Comparison, selection, maxima and range checks against plain numpy, on random, border and full-range values."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mpc_runs import opened, opened_bits, run, share, share_bits

from moiety.errors import PlanError, ProtocolMisuse
from moiety.mpc import ops
from moiety.mpc.functions import argmax, bits, clamp, compare, equal, maximum, ranges, relu, select
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Role

GENERATOR = np.random.default_rng(1)


def borders(width: int) -> list[int]:
    top = 1 << (width - 1)
    near = [v for power in range(width - 1) for v in (1 << power, (1 << power) - 1, -(1 << power), -(1 << power) - 1)]
    return sorted({0, -1, top - 1, -top, *(v for v in near if -top <= v < top)})


@pytest.mark.parametrize("width", range(2, 65))
def test_sign_at_every_width(width):
    top = 1 << (width - 1)
    values = np.array([*borders(width), *GENERATOR.integers(-top, top, 40).tolist()])
    for node in (0, 1):
        found = run(compare.sign, share(values, seed=width), bits=width, node=node)
        assert np.array_equal(opened_bits(found), values < 0)


def masked_by(values, masks):
    """Shares of values whose masks are given; P2's part of them is zero."""
    parts = share(values)
    for role, mask in ((Role.P0, masks), (Role.P1, masks), (Role.P2, 0 * masks)):
        words = mask.astype(np.uint64)
        object.__setattr__(parts[role], "mask", words)
        if role is not Role.P0:
            object.__setattr__(parts[role], "masked", (values + masks).astype(np.int64).view(np.uint64))
    return parts


def test_sign_of_every_value_under_every_mask_of_six_bits():
    values, masks = (grid.ravel() for grid in np.meshgrid(np.arange(-32, 32), np.arange(64)))
    assert np.array_equal(opened_bits(run(compare.sign, masked_by(values, masks), bits=6)), values < 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.integers(0, 2**32))
@example([0, -1, 2**63 - 1, -(2**63)], 0)
def test_sign_of_whole_words(values, seed):
    values = np.array(values)
    assert np.array_equal(opened_bits(run(compare.sign, share(values, seed=seed), bits=64, seed=seed)), values < 0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=20),
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=4),
    st.sampled_from([12, 17, 18, 40]),
)
def test_below_several_thresholds(values, thresholds, width):
    values = np.array(values)
    found = run(compare.below, share(values), thresholds=thresholds, bits=width)
    for place, threshold in enumerate(thresholds):
        assert np.array_equal(opened_bits(found, lambda r, i=place: r[i]), values < threshold)


def test_below_a_threshold_for_each_column():
    values = GENERATOR.integers(-50, 50, (7, 5))
    cuts = GENERATOR.integers(-50, 50, 5)
    found = run(compare.below, share(values), thresholds=[cuts.astype(np.uint64)], bits=9)
    assert np.array_equal(opened_bits(found, lambda r: r[0]), values < cuts)


def test_sign_after_low_bits_are_dropped_errs_only_just_below_zero():
    values = np.concatenate([np.arange(-600, 600), GENERATOR.integers(-(2**19), 2**19 - 16, 500)])
    found = opened_bits(run(lambda party, x: compare.sign(party, x.low_bits(4, 16), 16), share(values)))
    wrong = found != (values < 0)
    assert ((values[wrong] < 0) & (values[wrong] >= -16)).all()


def test_signs_of_several_shapes():
    first, second = GENERATOR.integers(-9, 9, (3, 5)), GENERATOR.integers(-9, 9, (2,))
    found = run(lambda party, x, y: compare.signs(party, [x, y], 6), share(first), share(second, seed=4))
    assert np.array_equal(opened_bits(found, lambda r: r[0]), first < 0)
    assert np.array_equal(opened_bits(found, lambda r: r[1]), second < 0)


def test_comparisons_refuse_widths_beyond_the_ring():
    for width in (1, 65):
        with pytest.raises(ProtocolMisuse, match="cannot compare"):
            run(compare.sign, share([1]), bits=width)


@pytest.mark.parametrize("width", range(2, 65))
def test_equality_with_zero_at_every_width(width):
    top = 1 << (width - 1)
    values = np.array([*borders(width), *GENERATOR.integers(-top, top, 20).tolist(), 0, 0])
    for node in (0, 1):
        found = run(equal.is_zero, share(values, seed=width), bits=width, node=node)
        assert np.array_equal(opened_bits(found), values == 0)


def test_equality_under_every_mask_of_six_bits():
    values, masks = (grid.ravel() for grid in np.meshgrid(np.arange(-32, 32), np.arange(64)))
    assert np.array_equal(opened_bits(run(equal.is_zero, masked_by(values, masks), bits=6)), values == 0)


def test_equality_refuses_widths_beyond_the_ring():
    for width in (1, 65):
        with pytest.raises(ProtocolMisuse, match="cannot compare"):
            run(equal.is_zero, share([1]), bits=width)


def test_moves_by_public_places():
    x = GENERATOR.integers(-99, 99, (4, 5))
    places = np.array([[3, 19], [0, 3]], np.uint64)

    async def moved(party, x, name, words, **params):
        return ops.OPS[name](party, x, words, **params)

    shared = share(x, 2)
    assert np.array_equal(opened(run(moved, shared, name="gather", words=places)), x.ravel()[places])
    assert np.array_equal(opened(run(moved, shared, name="row", words=np.asarray(2, np.uint64))), x[2])
    piled = np.zeros(3, np.int64)
    np.add.at(piled, x % 3, x)
    assert np.array_equal(opened(run(moved, shared, name="pile", words=(x % 3).astype(np.uint64), shape=(3,))), piled)
    for name, words, further in (
        ("gather", np.array([20], np.uint64), {}),
        ("row", np.asarray(4, np.uint64), {}),
        ("row", np.array([1], np.uint64), {}),
        ("pile", np.full((4, 5), 3, np.uint64), {"shape": (3,)}),
        ("pile", np.zeros(5, np.uint64), {"shape": (3,)}),
    ):
        with pytest.raises(PlanError, match="compile the model again"):
            run(moved, shared, name=name, words=words, **further)


def test_comparisons_as_numbers():
    values = GENERATOR.integers(-3, 3, (4, 5))
    assert np.array_equal(opened(run(ops.is_negative, share(values, 2), bits=9)), values < 0)
    assert np.array_equal(opened(run(ops.is_zero, share(values, 2), bits=9)), values == 0)


@pytest.mark.parametrize("many", [1, 2, 3, 4])
def test_conjunctions_of_all_combinations(many):
    table = np.array(list(itertools.product((0, 1), repeat=many)))
    columns = [share_bits(table[:, i], seed=i) for i in range(many)]
    for node in (0, 1):
        found = run(lambda party, *b: bits.and_all(party, b), *columns, node=node)
        assert np.array_equal(opened_bits(found), table.all(1))
    inverted = run(lambda party, *b: bits.and_all(party, [bits.invert(x) for x in b]), *columns)
    assert np.array_equal(opened_bits(inverted), ~table.any(1))


def test_exclusive_or_and_refusals():
    a, b = GENERATOR.integers(0, 2, (2, 21))

    async def both(party, x, y):
        return bits.xor(x, bits.invert(y))

    assert np.array_equal(opened_bits(run(both, share_bits(a), share_bits(b, 3))), a == b)
    with pytest.raises(ProtocolMisuse, match="groups of equally many"):
        run(lambda party, *x: bits.and_all(party, x), *[share_bits(a)] * 5)
    with pytest.raises(ProtocolMisuse, match="differ in shape"):
        bits.xor(bits.BitShare((2,)), bits.BitShare((3,)))
    for refused in (bool, len, iter, int):
        with pytest.raises((ProtocolMisuse, TypeError)):
            refused(bits.BitShare((2,)))


@pytest.mark.parametrize("width", [8, 20, 64])
def test_bit_as_a_number(width):
    flags = GENERATOR.integers(0, 2, (3, 7))
    assert np.array_equal(opened(run(select.bit_to_share, share_bits(flags), bits=width)) & 1, flags)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.integers(0, 2**20))
def test_select_and_choose_are_exact_on_all_words(values, seed):
    values = np.array(values)
    generator = np.random.default_rng(seed)
    flags, other = generator.integers(0, 2, values.size), generator.integers(-(2**63), 2**63, values.size)
    x, y, b = share(values, 3, seed=seed), share(other, 3, seed=seed + 1), share_bits(flags, seed)
    assert np.array_equal(opened(run(select.select, b, x)), flags * values)
    assert np.array_equal(opened(run(select.choose, b, x, y)), np.where(flags, values, other))


def test_select_broadcasts_a_bit_over_rows():
    flags, values = GENERATOR.integers(0, 2, (5, 1)), GENERATOR.integers(-9, 9, (5, 3))
    assert np.array_equal(opened(run(select.select, share_bits(flags), share(values))), flags * values)


@pytest.mark.parametrize("width", [8, 16, 24, 64])
def test_relu(width):
    values = np.array(borders(width))
    found = run(relu.relu, share(values, 5), bits=width)
    assert np.array_equal(opened(found), np.maximum(values, 0))
    assert found.results[Role.P1].fraction == 5


@pytest.mark.parametrize(("low", "high"), [(-5, 9), (3, 3), (-60, None), (None, 17)])
def test_clamp(low, high):
    values = np.arange(-64, 64)
    for seed in (0, 1):
        found = run(clamp.clamp, share(values, 5, seed=seed), low=low, high=high, bits=9, node=seed)
        assert np.array_equal(opened(found), np.clip(values, low, high))
    assert found.results[Role.P1].fraction == 5


@pytest.mark.parametrize(("low", "high"), [(None, None), (2, 1)])
def test_a_clamp_needs_ends_in_order(low, high):
    with pytest.raises(ProtocolMisuse, match="cannot be held"):
        run(clamp.clamp, share([1]), low=low, high=high, bits=9)


@pytest.mark.parametrize("width", [8, 16])
def test_rule_12_lift_on_its_whole_range(width):
    values = np.arange(-(1 << (width - 2)), 1 << (width - 2))

    async def lifted(party, x):
        return await reshare(party, maximum.lift_share(party, x), x.shape, 0)

    for seed in range(4):
        assert np.array_equal(opened(run(lifted, share(values, bits=width, seed=seed))), values)
    beyond = np.array([3 << (width - 3)] * 100)
    assert (opened(run(lifted, share(beyond, bits=width))) != beyond).any()


@pytest.mark.parametrize("ring_bits", [5, 6, 8])
@pytest.mark.parametrize("shape", [(4, 1), (3, 2), (5, 3), (2, 3, 8), (3, 13), (2, 64), (7,)])
def test_row_maximum_is_within_one_unit(shape, ring_bits):
    units, step = 1 << (ring_bits - 2), 9
    values = GENERATOR.integers(-units << step, ((units - 1) << step) + 1, shape)
    values.ravel()[0] = -units << step
    values.ravel()[-1] = (units - 1) << step
    valid = GENERATOR.integers(0, 2, shape).astype(bool)
    valid[..., 0] = True
    for taking in (None, valid):
        found = run(maximum.row_max, share(values, 11, seed=2), step_bits=step, ring_bits=ring_bits, valid=taking)
        expected = np.where(True if taking is None else taking, values, -(2**60)).max(-1)
        assert (np.abs(opened(found) - expected) < 1 << step).all()
        assert found.results[Role.P1].fraction == 11


def test_row_maximum_of_whole_units_is_exact_and_its_error_reaches_almost_one():
    values = GENERATOR.integers(-64, 64, (200, 5)) << 6
    values[values == 64 << 6] = 0
    error = opened(run(maximum.row_max, share(values), step_bits=6)) - values.max(-1)
    assert not error.any()
    ragged = GENERATOR.integers(-(64 << 6), 63 << 6, (4000, 3))
    error = opened(run(maximum.row_max, share(ragged), step_bits=6)) - ragged.max(-1)
    assert error.min() < -32
    assert error.max() > 32
    assert np.abs(error).max() <= 63


def test_row_maximum_treats_causal_rows_and_needs_a_value_in_each():
    values = GENERATOR.integers(-60 << 8, 60 << 8, (3, 9, 9))
    causal = np.tril(np.ones((9, 9), bool))
    found = opened(run(maximum.row_max, share(values), step_bits=8, valid=causal))
    assert (np.abs(found - np.where(causal, values, -(2**40)).max(-1)) < 1 << 8).all()
    with pytest.raises(ProtocolMisuse, match="without any valid value"):
        run(maximum.row_max, share(values), step_bits=8, valid=np.zeros(9, bool))
    with pytest.raises(ProtocolMisuse, match="not served"):
        run(maximum.row_max, share(values), step_bits=8, ring_bits=9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**20), st.sampled_from([2, 1000]))
def test_argmax_takes_the_first_of_equals(many, rows, seed, spread):
    values = np.random.default_rng(seed).integers(-spread, spread, (rows, many))
    x = share(values, 3, seed=seed)
    found = run(argmax.argmax, x, bits=13, node=seed % 2)
    assert np.array_equal(opened(found), values.argmax(-1))
    assert found.results[Role.P1].fraction == 0
    assert np.array_equal(opened(run(argmax.exact_max, x, bits=13)), values.max(-1))


def test_argmax_at_the_border_of_its_range_and_of_a_vector():
    values = np.array([-(2**62), 2**62 - 1, 2**62 - 1, -(2**62), 0])
    assert opened(run(argmax.argmax, share(values), bits=64)) == 1
    assert opened(run(argmax.exact_max, share(values), bits=64)) == 2**62 - 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
    st.integers(-(2**62), 2**62 - 1),
    st.integers(1, 2**62),
)
def test_out_of_range_is_exact_on_all_words(values, low, width):
    values = np.array([*values, low, low - 1, low + width - 1, min(low + width, 2**63 - 1), 2**63 - 1, -(2**63), low + (1 << 62)])
    outside = (values < low) | (values > low + width - 1)
    found = run(ranges.out_of_range, share([values, values[::-1]], seed=width % 97), low=low, high=low + width)
    assert opened(found).tolist() == [outside.sum()] * 2


def test_out_of_range_sees_what_wraps_around_the_ring():
    low, high = -(2**21), 2**21
    values = np.array([low + 2**63, high - 1 - 2**63, 2**63 - 1, -(2**63), low, high - 1, 0])
    assert opened(run(ranges.out_of_range, share([values]), low=low, high=high)).tolist() == [4]
    with pytest.raises(ProtocolMisuse, match="no range"):
        run(ranges.out_of_range, share(values), low=3, high=3)


def test_checks_done_together_count_what_each_would():
    xs = [np.array([[-5, -4, 0], [8, 9, 2**58]]), np.array(4), np.array([-33 - 2**5, -32, 31, 2**58])]
    ends = [ranges.Ends(-4, 9), ranges.Ends(5, 6), ranges.Ends(-32, 32, 4)]
    lows, highs, drops = zip(*ends, strict=True)
    found = run(ops.all_out_of_range, *map(share, xs), lows=lows, highs=highs, drops=drops, bits=60)
    assert opened(found).tolist() == [3 + 1 + 2]


@pytest.mark.parametrize("counts", [[0], [1], [0, 0, 0], [0, 7, 2**40], [2**62]])
def test_a_flag_says_whether_a_count_is_not_zero(counts):
    assert opened(run(ranges.not_zero, share(counts))).tolist() == [int(count > 0) for count in counts]
    assert opened(run(ops.any_flag, *[share([count]) for count in counts])).tolist() == [int(sum(counts) > 0)]
