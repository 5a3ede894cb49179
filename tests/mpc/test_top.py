"""Shuffles, the k largest and one-hots against plain numpy, and what they cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_runs import opened, run, shapes, share

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions import argmax, compare, one_hot, shuffle, top
from moiety.mpc.rounds import Role
from moiety.mpc.share import Share


def test_a_shuffled_row_has_the_same_elements_in_another_order():
    x = np.random.default_rng(0).integers(-(2**40), 2**40, (4, 100))
    found = [opened(run(shuffle.shuffle, share(x), seed=seed)) for seed in (0, 1)]
    for shuffled in found:
        assert np.array_equal(np.sort(shuffled, -1), np.sort(x, -1))
        assert (shuffled != x).mean() > 0.9
    assert (found[0] != found[1]).mean() > 0.9
    orders = [np.argsort(row)[np.argsort(np.argsort(old))] for row, old in zip(found[0], x, strict=True)]
    assert len({tuple(order) for order in orders}) == 4, "every row has an order of its own"


def test_all_orders_are_equally_likely():
    """Of three elements in 6,000 rows; chi-square with 5 degrees of freedom is below 30.9 but once in 100,000 times."""
    shuffled = opened(run(shuffle.shuffle, share(np.tile([0, 1, 2], (6000, 1)))))
    counts = np.unique(shuffled @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 30.9


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(2, 20), st.data())
def test_the_k_largest_in_order_of_value_then_of_place(rows, many, width, data):
    k, seed = data.draw(st.integers(1, many)), data.draw(st.integers(0, 99))
    edge = 1 << (width - 2)
    x = np.random.default_rng(seed).integers(-edge, edge, (rows, many))
    sizes = data.draw(st.sampled_from([None, (2 * k, many), (3 * k, 2 * k, many)]))
    found = run(lambda party, x: top.top(party, x, k, width, sizes=sizes), share(x, 4, seed=seed), seed=seed)
    order = np.argsort(-x, axis=-1, kind="stable")[:, :k]
    assert np.array_equal(opened(found, lambda pair: pair[1]), order)
    values, fraction = opened(found, lambda pair: pair[0]), found.results[Role.P1][0].fraction
    assert np.array_equal(values, np.take_along_axis(x, order, -1) << (fraction - 4))


def test_values_out_of_range_are_compared_all_the_same():
    """Wrong, but places of the row, and without an error that would tell."""
    x = np.array([[2**40, -(2**62), 5, 2**17, -1, 3]])
    places = opened(run(lambda party, x: top.top(party, x, 3, 18), share(x)), lambda pair: pair[1])
    assert len(set(places[0])) == 3
    assert ((places >= 0) & (places < 6)).all()


def test_the_lift_bounds_what_is_compared_for_all_values_and_masks():
    """For w = 6: all residues and all masks; also those that no value in range has."""
    masked, mask = (part.ravel().astype(np.uint64) for part in np.meshgrid(np.arange(64), np.arange(64)))
    nothing = np.zeros_like(mask)
    parts = {Role.P0: (None, mask), Role.P1: (masked, mask), Role.P2: (masked, nothing), Role.CLIENT: (None, None)}
    x = {role: Share(mask.shape, 0, 64, *part) for role, part in parts.items()}
    lifted = opened(run(lambda party, x: top.lifted(party, x, 6), x))
    assert np.abs(lifted).max() < 3 << 4


@pytest.mark.parametrize(("many", "k"), [(1, 1), (10, 3), (1000, 1), (1000, 5), (49_152, 1), (49_152, 5)])
def test_costs_of_the_k_largest(many, k):
    width = 22 + top.tag_bits(many) + 2
    pairs, slots, left = 0, 0, many
    for size in top.levels(many, k):
        groups = [len(group) for group in np.array_split(np.arange(left), -(-left // size))]
        pairs += sum(n * (n - 1) // 2 for n in groups)
        left = sum(min(k, n) for n in groups)
        slots += left
    costs = shapes(lambda party, x: top.top(party, x, k, 22), Share((many,)))[1]
    compared = shapes(compare.sign, Share((8,)), bits=width)[1].total_bytes * pairs / 8
    assert abs(costs.total_bytes - (56 * many + compared + 16 * slots + 32 * k)) < 64 * 8 * len(top.levels(many, k))
    assert costs.rounds == 4 + len(top.levels(many, k)) * (1 + (0 if many == 1 else 3 if width > 17 else 2)) + (many == 1) * 3


def test_figures_of_the_security_page():
    def figures(op, many, **options):
        costs = shapes(op, Share((many,)), **options)[1]
        return costs.rounds, round(costs.total_bytes / 1e6, 1)

    assert [figures(top.top, 49_152, k=k, bits=22) for k in (1, 5)] == [(24, 6.8), (28, 20.4)]
    assert [figures(top.top, 1000, k=k, bits=22) for k in (1, 5)] == [(16, 0.2), (20, 0.4)]
    assert figures(argmax.argmax, 49_152, bits=22) == (40, 3.0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-70, 70), min_size=1, max_size=6), st.integers(1, 33))
def test_one_hot(values, classes):
    found = opened(run(one_hot.one_hot, share(values), classes=classes))
    cells = 1 << max(1, (classes - 1).bit_length())
    assert np.array_equal(found, np.array(values)[:, None] % cells == np.arange(classes))
    costs = shapes(one_hot.one_hot, share(values), classes=classes)[1]
    assert (costs.total_bytes, costs.rounds) == (len(values) * (8 * cells + 16 * classes), 1)


def test_refusals():
    x = Share((2, 9), 3)
    for k, bits in ((0, 20), (10, 20), (1, 60)):
        with pytest.raises(ProtocolMisuse, match="largest of 9"):
            shapes(top.top, x, k=k, bits=bits)
    with pytest.raises(ProtocolMisuse, match="comparisons at once"):
        shapes(top.top, Share((1 << 20,)), k=100, bits=20)
    for classes, fraction in ((0, 0), (1 << 21, 0), (5, 3)):
        with pytest.raises(ProtocolMisuse, match="no one-hot"):
            shapes(one_hot.one_hot, Share((2,), fraction), classes=classes)
