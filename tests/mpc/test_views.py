"""Rules 8 and 9: what P1 and P2 receive has exactly the same distribution for all secrets; spoilt protocols fail the same check.

All assignments of the draws that the observed party does not hold are enumerated, with its own draws fixed to several random values,
in rings of a few bits. See ``support/mpc_views.py``. Nodes 0 and 1 differ in who of P1 and P2 receives each dealt value.
"""

import itertools

import numpy as np
import pytest
from mpc_views import Flaw, alike, views

from moiety.mpc import rep3
from moiety.mpc.functions import bits, compare, maximum, select, table
from moiety.mpc.party import Kind, Party
from moiety.mpc.rounds import Role, Scope, Spec, Words
from moiety.mpc.share import Share, wrap

sides = pytest.mark.parametrize(("observer", "node"), [(Role.P1, 0), (Role.P1, 1), (Role.P2, 0), (Role.P2, 1)])
QUIET = [(Role.P1, 0), (Role.P2, 1)]
"""Who draws the first dealt value itself, and so receives the other one."""


def one(width):
    return lambda book, secret: [book.share(secret, width)]


def two(width):
    return lambda book, secret: [book.share(value, width) for value in secret]


def pairs(width):
    return list(itertools.product(range(1 << width), repeat=2))


def check(op, inputs, secrets, observer, node, seeds=(0, 1, 2), **options):
    for own_seed in seeds:
        assert alike(views(op, inputs, secrets, observer, node=node, own_seed=own_seed, **options))


async def product_and_rescale(party: Party, x: Share, y: Share) -> Share:
    z = await rep3.product(party, x, y)
    return await rep3.rescale(party, z.as_fraction(1), 0)


async def product_and_shift(party: Party, x: Share, y: Share) -> Share:
    shifted = rep3.shift_share(party, rep3.product_share(party, x, y), 1, x.bits)
    return await rep3.reshare(party, shifted, x.shape, 0, x.bits)


@sides
def test_rule_8_product(observer, node):
    check(rep3.product, two(3), pairs(3), observer, node)


@pytest.mark.parametrize(("observer", "node"), QUIET)
def test_rule_8_product_in_a_wider_ring(observer, node):
    secrets = np.random.default_rng(4).integers(0, 64, (16, 2)).tolist()
    check(rep3.product, two(6), [(0, 0), *secrets], observer, node, seeds=(0,))


@sides
def test_rule_8_product_with_one_round_truncation(observer, node):
    check(product_and_shift, two(3), pairs(3), observer, node)


@sides
def test_rule_8_rescale(observer, node):
    check(lambda party, x: rep3.rescale(party, x.as_fraction(2), 0), one(4), range(16), observer, node)
    check(lambda party, x: rep3.rescale(party, x.as_fraction(3), 0), one(6), range(64), observer, node, seeds=(0,))


@sides
def test_rule_8_product_then_rescale(observer, node):
    check(product_and_rescale, two(3), pairs(3), observer, node, seeds=(0,))


@sides
@pytest.mark.parametrize("width", [2, 3, 4])
def test_rule_8_comparison(observer, node, width):
    check(lambda party, x: compare.sign(party, x, width), one(width), range(1 << width), observer, node)


@pytest.mark.parametrize(("observer", "node"), QUIET)
@pytest.mark.parametrize("width", [6, 7])
def test_rule_8_comparison_of_two_levels(observer, node, width):
    check(lambda party, x: compare.sign(party, x, width), one(width), range(1 << width), observer, node, seeds=(0,))


@pytest.mark.parametrize(("observer", "node"), QUIET)
def test_rule_8_comparison_of_eight_bits(observer, node):
    secrets = [0, 1, 2, 15, 16, 77, 127, 128, 129, 200, 254, 255]
    check(lambda party, x: compare.sign(party, x, 8), one(8), secrets, observer, node, seeds=(0,))


@sides
@pytest.mark.parametrize("width", [4, 5])
def test_rule_8_comparison_of_two_levels_in_a_binary_tree(observer, node, width, monkeypatch):
    monkeypatch.setattr(compare, "RADIX", 2)
    check(lambda party, x: compare.sign(party, x, width), one(width), range(1 << width), observer, node, seeds=(0,))


@sides
def test_rule_8_two_thresholds_share_what_is_dealt(observer, node):
    check(lambda party, x: compare.below(party, x, [0, 3], 3), one(3), range(8), observer, node)


@sides
def test_rule_8_conjunction(observer, node):
    secrets = list(itertools.product((0, 1), repeat=3))
    check(lambda party, *b: bits.and_all(party, b), lambda book, s: [book.bit(v) for v in s], secrets, observer, node)


@sides
def test_rule_8_bit_to_share(observer, node):
    check(lambda party, b: select.bit_to_share(party, b, 5), lambda book, s: [book.bit(s)], (0, 1), observer, node)


@sides
def test_rule_8_select(observer, node):
    secrets = list(itertools.product((0, 1), range(16)))
    check(select.select, lambda book, s: [book.bit(s[0]), book.share(s[1], 4)], secrets, observer, node)


async def comparison_and_select(party: Party, x: Share) -> Share:
    return await select.select(party, bits.invert(await compare.sign(party, x, 3)), x)


@sides
def test_rule_8_relu(observer, node):
    check(comparison_and_select, one(3), range(8), observer, node, seeds=(0,))


@sides
def test_rule_8_a_level_of_the_row_maximum(observer, node):
    check(lambda p, a, b: maximum._larger(p, a, b, 2, Spec(a.shape, 2)), two(2), pairs(2), observer, node)


async def two_levels(party: Party, a: Share, b: Share, c: Share) -> Share:
    top = await maximum._larger(party, a, b, 2, Spec(a.shape, 2))
    return await maximum._larger(party, top, c, 2, Spec(a.shape, 2))


@sides
def test_rule_8_two_levels_of_the_row_maximum(observer, node):
    secrets = list(itertools.product(range(4), repeat=3))
    check(two_levels, two(2), secrets[::5], observer, node, seeds=(0,))


async def lift(party: Party, x: Share) -> Share:
    return await rep3.reshare(party, maximum.lift_share(party, x, 5), x.shape, 0, 5)


@sides
def test_rule_8_lift(observer, node):
    check(lift, one(3), range(8), observer, node)


COEFFICIENTS = np.random.default_rng(0).integers(0, 16, (2, 8)).astype(np.uint64)


async def linear_table(party: Party, x: Share) -> list[Words | None]:
    """Up to the additive shares of the result; masking those is :func:`rep3.reshare`, which the constant table includes."""
    return await table.lookup_shares(party, x, table.Window(0, 0, 1, 3), [table.Table(COEFFICIENTS, 0)])


async def constant_table(party: Party, x: Share) -> list[Share]:
    return await table.lookup(party, x, table.Window(0, 0, 0, 3), [table.Table(COEFFICIENTS[:1], 0)])


@pytest.mark.parametrize(("observer", "node"), QUIET)
def test_rule_8_linear_table(observer, node):
    check(linear_table, one(4), range(16), observer, node, seeds=(0,))


@sides
def test_rule_8_constant_table(observer, node):
    check(constant_table, one(3), range(8), observer, node, seeds=(0,))


async def two_one_hots(party: Party, x: Share, y: Share) -> None:
    """The first message of two look-ups, at two plan nodes that both deal it to P2."""
    for wire, node in ((x, 0), (y, 3)):
        party.scope = Scope((node,))
        split = table._Split.of(wire, table.Window(0, 0, 0, 3))
        party.deal((x.shape[0], 1), split.one_hot, 8, kind=Kind.ONE_HOT, xor=True)


WIRES = [(0, 0), (3, 5), (5, 0)]


def test_rule_13_one_hots_of_two_wires():
    found = views(two_one_hots, two(3), WIRES, Role.P2, most=22, flaw=Flaw(enumerate=lambda a: a.kind == Kind.ONE_HOT))
    assert alike(found)


# Negative twins: the same check must notice every one of these.


def same_at(kind, at=0):
    """All draws of a kind come from one address."""
    return Flaw(move=lambda a: a._replace(path=(0,), serial=at) if a.kind == kind else a)


def repeat_first(kind, pieces):
    """Draws of a kind with this many pieces an element have only their first piece fresh."""
    return Flaw(spoil=lambda a, v: np.repeat(v[:1], len(v), 0) if a.kind == kind and len(v) == pieces else v)


@pytest.mark.parametrize("observer", [Role.P1, Role.P2])
def test_rule_9_an_unmasked_value_is_noticed(observer):
    async def bare(party: Party, x: Share, y: Share) -> None:
        mine = rep3.product_share(party, x, y)
        await party.swap(None if mine is None else wrap(mine, x.bits), specs=(Spec(x.shape, x.bits),))

    assert not alike(views(bare, two(3), pairs(3), observer))


@pytest.mark.parametrize("observer", [Role.P1, Role.P2])
def test_rule_9_a_pad_from_a_key_of_the_receiver_is_noticed(observer):
    async def padded_from_c(party: Party, x: Share, y: Share) -> None:
        mine, pad = rep3.product_share(party, x, y), party.zero_share(x.shape, x.bits)
        await party.swap(None if mine is None else wrap(mine + pad, x.bits), specs=(Spec(x.shape, x.bits),))

    assert not alike(views(padded_from_c, two(3), pairs(3), observer))


@pytest.mark.parametrize("observer", [Role.P1, Role.P2])
def test_rule_9_one_mask_for_two_outputs_is_noticed(observer):
    async def twice(party: Party, x: Share) -> None:
        for _ in range(2):
            await rep3.reshare(party, None if x.mask is None or x.masked is None else party.additive(x), x.shape, 0, x.bits)
            x = x + x

    assert alike(views(twice, one(4), range(16), observer))
    assert not alike(views(twice, one(4), range(16), observer, flaw=same_at(Kind.OUT_MASK)))


@pytest.mark.parametrize(("observer", "node"), QUIET)
def test_rule_13_one_pad_for_two_coefficients_is_noticed(observer, node):
    found = views(linear_table, one(4), (0, 9), observer, node=node, flaw=repeat_first(Kind.TABLE_PAD, 2))
    assert not alike(found)


@sides
def test_rule_9_one_bit_pad_for_two_thresholds_is_noticed(observer, node):
    op = lambda party, x: compare.below(party, x, [0, 3], 3)  # noqa: E731
    assert not alike(views(op, one(3), range(8), observer, node=node, flaw=repeat_first(Kind.BIT_PAD, 2)))


def test_rule_13_one_hot_mask_of_two_wires_is_noticed():
    flaw = Flaw(move=same_at(Kind.ONE_HOT).move, enumerate=lambda a: a.kind == Kind.ONE_HOT)
    assert not alike(views(two_one_hots, two(3), WIRES, Role.P2, flaw=flaw))


@sides
def test_rule_9_a_pad_of_fewer_bits_than_its_ring_is_noticed(observer, node):
    narrow = Flaw(spoil=lambda a, v: v & np.uint64(3) if a.kind == Kind.OUT_MASK else v)
    assert not alike(views(rep3.product, two(3), pairs(3), observer, node=node, flaw=narrow))
