"""Sharing, input, products and reveals against plain integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_runs import opened, run, share

from moiety.errors import InconsistentInput, ProtocolMisuse
from moiety.mpc import lockstep, moves, ops, rep3
from moiety.mpc.party import Key, Party
from moiety.mpc.rounds import Role, Round, Word, exchange
from moiety.mpc.share import Share

word = st.integers(-(2**63), 2**63 - 1)
GENERATOR = np.random.default_rng(0)


def whole(*shape):
    return GENERATOR.integers(-(2**63), 2**63, shape)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(word, word), min_size=1, max_size=9), st.integers(0, 1))
def test_products_are_exact_in_the_ring(pairs, node):
    x, y = np.array(pairs).T
    with np.errstate(over="ignore"):
        assert np.array_equal(opened(run(rep3.product, share(x, 3), share(y, 4, seed=1), node=node)), x * y)


@pytest.mark.parametrize(("left", "right"), [((3, 4), (4, 5)), ((2, 1, 4), (4, 2)), ((2, 3, 4), (2, 4, 3)), ((2, 1, 3, 4), (5, 4, 1))])
def test_matrix_products_are_exact_in_the_ring(left, right):
    x, y = whole(*left), whole(*right)
    found = run(lambda party, a, b: rep3.product(party, a, b, rep3.MATMUL), share(x), share(y, seed=3))
    assert np.array_equal(opened(found), x @ y)
    with pytest.raises(ProtocolMisuse, match="inner dimensions"):
        run(lambda party, a, b: rep3.product(party, a, b, rep3.MATMUL), share(x), share(whole(7, 2)))


def test_matrix_products_at_public_places():
    x, y, places = whole(2, 3, 4), whole(4, 5), np.array([[0, 29], [7, 7]], np.uint64)
    found = run(lambda party, a, b: ops.matmul(party, a, b, places), share(x), share(y, seed=3))
    assert np.array_equal(opened(found), (x @ y).ravel()[places])
    assert {word.spec.shape for word in (*found.waves[0], *found.dealt)} == {(2, 2)}
    with pytest.raises(ProtocolMisuse, match="a place lies outside"):
        run(lambda party, a, b: ops.matmul(party, a, b, places + np.uint64(1)), share(x), share(y))


@pytest.mark.parametrize(("x", "y"), [((2, 3, 4), (4, 5)), ((3, 1, 4, 6), (2, 6, 5)), ((7, 2), (1, 2, 9)), ((1, 4), (4, 30))])
def test_places_are_found_a_piece_at_a_time(monkeypatch, x, y):
    left, right = whole(*x), whole(*y)
    product = left @ right
    monkeypatch.setattr(rep3, "PIECE", 12)
    made = []
    monkeypatch.setattr(rep3.ring, "matmul", lambda a, b: (made.append(a.shape[-2] * b.shape[-1]), a @ b)[1])
    for count in (0, 1, 40):
        places = GENERATOR.integers(0, product.size, count, np.uint64)
        assert np.array_equal(rep3.matmul_at(places).apply(left, right), product.ravel()[places])
    assert max(made) <= max(12, y[-1])


def test_dot_products():
    x, y = whole(5, 6), whole(5, 6)
    assert np.array_equal(opened(run(lambda party, a, b: rep3.product(party, a, b, rep3.DOT), share(x), share(y))), (x * y).sum(-1))


def test_linear_maps_are_local():
    x, y = whole(4, 3), whole(4, 3)

    async def local(party, a, b):
        return (a + b - (-a)).times(5).sum(0, keepdims=True).reshape(3).plus_public(np.arange(3).astype(np.uint64))

    found = run(local, share(x), share(y))
    assert np.array_equal(opened(found), ((2 * x + y) * 5).sum(0) + np.arange(3))
    assert not found.waves
    assert not found.dealt


def test_public_constants_take_part_in_products():
    x = whole(3)

    async def scaled(party, a):
        constant = moves.zeros_like(party, a, shape=(3,), fraction=0).plus_public(np.arange(3).astype(np.uint64))
        return await rep3.product(party, a, constant)

    assert np.array_equal(opened(run(scaled, share(x))), x * np.arange(3))


@pytest.mark.parametrize("bits", [8, 64])
def test_input_and_reveal_give_the_client_its_words_back(bits):
    values = GENERATOR.integers(0, 2**bits - 1, (3, 5), np.uint64).astype(np.uint8 if bits == 8 else np.uint64)

    async def echo(party):
        given_ = values if party.role is Role.CLIENT else None
        return await rep3.reveal(party, await rep3.share_input(party, given_, values.shape, 4, bits))

    found = run(echo)
    assert np.array_equal(found.results[Role.CLIENT], values)
    assert [found.results[role] for role in (Role.P0, Role.P1, Role.P2)] == [None] * 3


def test_input_masks_are_shared_as_they_should_be():
    async def given_(party):
        return await rep3.share_input(party, np.arange(5, dtype=np.uint64) if party.role is Role.CLIENT else None, (5,), 0)

    assert np.array_equal(opened(run(given_)), np.arange(5))


def test_rule_15_a_client_that_sends_different_words_is_refused():
    async def client(party: Party) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("moiety.mpc.rep3.exchange", two_faced)
            await rep3.share_input(party, np.zeros(4, np.uint64), (4,), 0)

    def two_faced(said: Round):
        first, second = said.send
        return exchange(Round((first, Word(*second[:3], second.value + np.uint64(1)))))

    async def honest(party: Party) -> Share:
        return await rep3.share_input(party, None, (4,), 0)

    with pytest.raises(InconsistentInput):
        lockstep.run({Role.P0: honest, Role.P1: honest, Role.P2: honest, Role.CLIENT: client})


def test_rule_14_opening_sends_two_words_of_which_the_first_is_uniform():
    x = np.zeros(2000, int)
    found = run(rep3.reveal, share(x))
    [wave] = found.waves
    assert [(w.sender, w.receiver) for w in wave] == [(Role.P1, Role.CLIENT), (Role.P2, Role.CLIENT)]
    first, second = (w.value for w in wave)
    assert not (first + second).any()
    assert len(np.unique(first)) == 2000
    assert abs((first >> np.uint64(63)).mean() - 0.5) < 0.06


def test_rule_14_additive_shares_are_freshened_by_key_c_before_an_outsider_sees_them():
    async def zeros(party: Party):
        return party.zero_share((50,))

    found = run(zeros).results
    assert not (found[Role.P1] + found[Role.P2]).any()
    assert found[Role.P0] is None
    assert found[Role.CLIENT] is None
    assert len(np.unique(found[Role.P1])) == 50
    assert Key.C not in lockstep.KEYS_OF[Role.P0]


def test_rule_11_a_value_whose_mask_was_cut_cannot_be_opened():
    async def cut(party: Party, x: Share):
        return await rep3.reveal(party, x.low_bits(3, 32))

    with pytest.raises(ProtocolMisuse, match="cut locally"):
        run(cut, share(whole(3)))


def test_low_bits_floor_or_one_more():
    values = GENERATOR.integers(-(2**20), 2**20, 5000)
    found = run(lambda party, x: _done(x.low_bits(7, 16)), share(values, 10))
    cut = opened(found)
    assert set((cut - (values >> 7)).tolist()) == {0, 1}
    assert found.results[Role.P1].fraction == 3


async def _done(x):
    return x


def test_rings_and_fractions_are_not_mixed():
    a, b = Share((2,), 3), Share((2,), 4)
    with pytest.raises(ProtocolMisuse, match="differ in ring or fraction"):
        a + b
    with pytest.raises(ProtocolMisuse, match="different rings"):
        rep3.product_share(Party(Role.P1, lockstep.test_draws(Role.P1), None), Share((1,)), Share((1,), bits=8))
