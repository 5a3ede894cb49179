"""Rule 9: spoilt protocols must fail the exact comparison of views that the sound ones pass (``test_views.py``)."""

import numpy as np
import pytest
from mpc_reduce import Draw, Shifted, effects, eliminate
from mpc_rings import TINY, WIDE, WIRES, one, pairs, several, some, two_one_hots
from mpc_runs import received, run, share
from mpc_views import Flaw, alike, views

from moiety.mpc import lockstep, rep3
from moiety.mpc.functions import compare
from moiety.mpc.party import Key, Kind, Party
from moiety.mpc.rounds import Address, Role, Spec
from moiety.mpc.share import Share, wrap

sides = pytest.mark.parametrize(("observer", "node"), [(Role.P1, 0), (Role.P1, 1), (Role.P2, 0), (Role.P2, 1)])
either = pytest.mark.parametrize("observer", [Role.P1, Role.P2])


def same_at(kind, at=0):
    """All draws of a kind come from one address."""
    return Flaw(move=lambda a: a._replace(path=(0,), serial=at) if a.kind == kind else a)


def repeat_first(kind, pieces):
    """Draws of a kind with this many pieces an element have only their first piece fresh."""
    return Flaw(spoil=lambda a, v: np.repeat(v[:1], len(v), 0) if a.kind == kind and len(v) == pieces else v)


@either
def test_rule_9_an_unmasked_value_is_noticed(observer):
    async def bare(party: Party, x: Share, y: Share) -> None:
        mine = rep3.product_share(party, x, y)
        await party.swap(None if mine is None else wrap(mine, x.bits), specs=(Spec(x.shape, x.bits),))

    assert not alike(views(bare, several(3), pairs(3), observer))


@either
def test_rule_9_a_pad_from_a_key_of_the_receiver_is_noticed(observer):
    async def padded_from_c(party: Party, x: Share, y: Share) -> None:
        mine, pad = rep3.product_share(party, x, y), party.zero_share(x.shape, x.bits)
        await party.swap(None if mine is None else wrap(mine + pad, x.bits), specs=(Spec(x.shape, x.bits),))

    assert not alike(views(padded_from_c, several(3), pairs(3), observer))


@either
def test_rule_9_one_mask_for_two_outputs_is_noticed(observer):
    async def twice(party: Party, x: Share) -> None:
        for _ in range(2):
            await rep3.reshare(party, None if x.mask is None or x.masked is None else party.additive(x), x.shape, 0, x.bits)
            x = x + x

    assert alike(views(twice, one(4), range(16), observer))
    assert not alike(views(twice, one(4), range(16), observer, flaw=same_at(Kind.OUT_MASK)))


@pytest.mark.parametrize(("observer", "node"), [(Role.P1, 0), (Role.P2, 1)])
def test_rule_13_one_pad_for_two_coefficients_is_noticed(observer, node):
    for width, case in ((4, TINY["linear_table"]), (6, WIDE["linear_table"])):
        found = views(case.op, one(width), (0, 9), observer, node=node, flaw=repeat_first(Kind.TABLE_PAD, 2), most=20)
        assert not alike(found)


@sides
def test_rule_9_one_bit_pad_for_two_thresholds_is_noticed(observer, node):
    op = lambda party, x: compare.below(party, x, [0, 3], 3)  # noqa: E731
    assert not alike(views(op, one(3), range(8), observer, node=node, flaw=repeat_first(Kind.BIT_PAD, 2)))


def test_rule_13_one_hot_mask_of_two_wires_is_noticed():
    assert not alike(views(two_one_hots, several(3), WIRES, Role.P2, flaw=same_at(Kind.ONE_HOT)))


@sides
def test_rule_9_a_pad_of_fewer_bits_than_its_ring_is_noticed(observer, node):
    for width, secrets in ((3, pairs(3)), (5, some(5, 2)[:3])):
        half = np.uint64((1 << width) // 2 - 1)
        narrow = Flaw(spoil=lambda a, v, half=half: v & half if a.kind == Kind.OUT_MASK else v)
        assert not alike(views(rep3.product, several(width), secrets, observer, node=node, flaw=narrow, most=20))


@either
def test_rule_9_ties_in_a_shuffled_list_are_noticed(observer):
    case = WIDE["ranking_of_three"]
    assert not alike(views(case.op, case.inputs, [(0, 1, 2), (1, 1, 0)], observer, most=16))


@either
def test_rule_9_values_whose_differences_wrap_are_noticed(observer):
    """So top lifts what it compares from a small ring: -8 < -3 < 4, but 4 < -8 where the difference wraps."""
    case = WIDE["ranking_of_three"]
    assert not alike(views(case.op, case.inputs, [(0, 1, 2), (8, 13, 4)], observer, most=16))


@either
def test_rule_9_an_order_that_the_observer_knows_is_noticed(observer):
    case = WIDE["ranking_of_three"]
    known = Flaw(spoil=lambda a, v: np.repeat(v[:, :1], v.shape[1], 1) if a.kind == Kind.PERMUTATION else v)
    assert not alike(views(case.op, case.inputs, case.secrets, observer, flaw=known, most=16))


def at_full_width(op, observer, spoil=lambda words: words):
    """Which of the words that ``op`` sends the observer have no pad to themselves, on 64-bit rings."""
    inputs, unknown = share([3, -4, 5]), UNKNOWN[observer]
    draws = [Draw(unknown, Address((0,), Kind.OUT_MASK, serial), Spec((3,), 64), 2) for serial in range(2)]

    class Spoilt(Shifted):
        def words(self, key, address, spec):
            return spoil(super().words(key, address, spec))

    def receive(shift):
        found = run(op, inputs, draws=lambda role: Spoilt(lockstep.test_draws(role), shift))
        return list(received(found, observer))

    _, gone = eliminate(effects(receive, draws), 1 << len(draws))
    return set(range(len(receive(None)))) - gone


UNKNOWN = {Role.P1: Key.B, Role.P2: Key.A}


def sends_under(pads):
    """Two words under the pads of these numbers."""

    async def op(party: Party, x: Share) -> None:
        drawn = [party.draw(Kind.OUT_MASK, x.shape) for _ in range(2)]
        mine = [party.local(lambda pad=drawn[pad]: party.additive(x) + pad) for pad in pads]
        await party.swap(*mine, specs=(Spec(x.shape, 64),) * 2)

    return op


@either
def test_rule_9_words_under_one_pad_or_a_short_pad_are_not_taken_out(observer):
    assert not at_full_width(sends_under([0, 1]), observer)
    assert at_full_width(sends_under([0, 0]), observer) == {0, 1}
    assert at_full_width(sends_under([0, 1]), observer, lambda words: words >> np.uint64(1)) == {0, 1}
    assert at_full_width(sends_under([0, 1]), observer, lambda words: words | np.uint64(1)) == {0, 1}
