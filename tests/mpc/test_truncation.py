"""Rule 10: the error laws of both truncations, with masks that fill the ring, at the magnitudes where they matter."""

import numpy as np
import pytest
from mpc_runs import opened, run, share

from moiety.mpc import lockstep, ops, rep3
from moiety.mpc.party import Party
from moiety.mpc.rounds import Role, Words
from moiety.mpc.share import Share

DROP = 20
COUNT = 40_000


async def shifted(party: Party, x: Share, y: Share, drop: int = DROP) -> Share:
    """A product truncated in its own round."""
    additive = rep3.product_share(party, x, y)
    return await rep3.reshare(party, rep3.shift_share(party, additive, drop), x.shape, 0)


async def wrapped(party: Party, z: Share, drop: int = DROP) -> Share:
    return await rep3.reshare(party, rep3.wrap_truncate_share(party, z, drop), z.shape, 0)


def is_near(found: Words, z: Words, drop: int = DROP) -> np.ndarray:
    """Whether a result is less than one unit from z / 2^drop, by exact integers: the floor or the ceiling."""
    off = found - (z >> drop)
    return (off == 0) | ((off == 1) & (z & ((1 << drop) - 1) != 0))


def errors(found: Words, z: Words, drop: int = DROP) -> np.ndarray:
    """Distance from z / 2^drop in units of the result."""
    whole = z >> drop
    return (found - whole).astype(np.float64) - (z - (whole << drop)) / 2.0**drop


def product_of(value: int, seed: int = 0) -> tuple[dict[Role, Share], dict[Role, Share], Words]:
    """Factors of about the value: 2^29 times something that differs in every element."""
    right = np.abs(value) // 2**29 * np.sign(value) + np.random.default_rng(seed).integers(-1000, 1000, COUNT)
    left = np.full(COUNT, 2**29)
    return share(left, seed=seed + 1), share(right, seed=seed + 2), left * right


@pytest.mark.parametrize("node", [0, 1], ids=["dealt to P2", "dealt to P1"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("power", [59, 57])
def test_rule_10_one_round_truncation_fails_at_the_predicted_rate(power, sign, node):
    x, y, z = product_of(sign * 2**power)
    found = opened(run(shifted, x, y, node=node))
    error, gross = errors(found, z), ~is_near(found, z)
    expected = COUNT * 2.0 ** (power - 64)
    assert abs(gross.sum() - expected) < 5 * expected**0.5
    assert (np.abs(np.abs(error[gross]) - 2.0 ** (64 - DROP)) <= 1).all()


@pytest.mark.parametrize("node", [0, 1])
def test_rule_10_one_round_truncation_of_ordinary_values_has_no_bias(node):
    x, y, z = product_of(2**40)
    found = opened(run(shifted, x, y, node=node))
    assert is_near(found, z).all()
    assert abs(errors(found, z).mean()) < 0.02


def test_rule_9_a_dealt_share_added_after_the_shift_breaks_the_law():
    async def late(party: Party, x: Share, y: Share) -> Share:
        cross = party.deal(x.shape, lambda: (x.mask * y.mask) >> np.uint64(DROP))
        share_ = None
        if party.evaluates:
            share_ = rep3.shift_share(party, x.masked * party.additive(y) - x.mask * y.masked, DROP) + cross
        return await rep3.reshare(party, share_, x.shape, 0)

    x, y, z = product_of(2**40)
    assert is_near(opened(run(late, x, y)), z).mean() < 0.9


def test_masks_that_do_not_fill_the_ring_would_hide_the_failures():
    """Why the masks of these tests are drawn over the whole ring: fixed or short ones never straddle the cut."""

    async def bare(party: Party, z: Share) -> Share:
        mine = party.additive(z) if party.evaluates else None
        return await rep3.reshare(party, rep3.shift_share(party, mine, DROP), z.shape, 0)

    z = np.full(COUNT, 2**59)
    one, two = (lockstep.share_out(z.view(np.uint64), seed=9)[role].mask >> np.uint64(8) for role in (Role.P1, Role.P2))
    m = z.view(np.uint64) + one + two
    narrow = {
        Role.P0: Share(z.shape, mask=one + two),
        Role.P1: Share(z.shape, masked=m, mask=one),
        Role.P2: Share(z.shape, masked=m, mask=two),
        Role.CLIENT: Share(z.shape),
    }
    assert is_near(opened(run(bare, narrow)), z).all()
    assert not is_near(opened(run(bare, share(z))), z).all()


def at(values: Words, masks: Words) -> dict[Role, Share]:
    """Values under given masks."""
    one = np.random.default_rng(3).integers(0, 2**64, values.shape, np.uint64)
    masked = values.astype(np.int64).view(np.uint64) + masks
    return {
        Role.P0: Share(values.shape, mask=masks),
        Role.P1: Share(values.shape, masked=masked, mask=one),
        Role.P2: Share(values.shape, masked=masked, mask=masks - one),
        Role.CLIENT: Share(values.shape),
    }


WORST = np.array([0, 1, 2, 2**62, 2**63 - 2, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1], np.uint64)


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("drop", [1, 13, 20, 40, 62])
@pytest.mark.parametrize("z", [-(2**62), 2**62 - 1, -1, 0, 1, 2**59, -(2**59)])
def test_rule_10_exact_wrap_truncation_holds_to_its_borders(z, drop, node):
    masks = np.concatenate([WORST, np.random.default_rng(1).integers(0, 2**64, 5000, np.uint64)])
    values = np.full(masks.shape, z)
    found = opened(run(wrapped, at(values, masks), drop=drop, node=node))
    assert is_near(found, values, drop).all()


def test_rule_10_exact_wrap_truncation_on_random_values_of_every_size():
    generator = np.random.default_rng(2)
    values = generator.integers(-(2**62), 2**62, COUNT) >> generator.integers(0, 62, COUNT)
    assert is_near(opened(run(wrapped, share(values))), values).all()


@pytest.mark.parametrize("z", [-(2**62) - 1, 2**62 + 1])
def test_rule_10_exact_wrap_truncation_fails_grossly_one_step_beyond(z):
    values = np.full(WORST.shape, z)
    assert np.abs(errors(opened(run(wrapped, at(values, WORST))), values)).max() > 2**40


@pytest.mark.parametrize("sign", [1, -1])
def test_rule_10_exact_wrap_truncation_fails_beyond_at_the_predicted_rate(sign):
    beyond = 2**59
    values = np.full(COUNT, sign * (2**62 + beyond))
    gross = ~is_near(opened(run(wrapped, share(values))), values)
    expected = COUNT * 2 * beyond / 2**64
    assert abs(gross.sum() - expected) < 5 * expected**0.5


def test_rescale_up_is_exact_and_to_the_same_fraction_is_free():
    values = np.arange(-50, 50)
    found = run(rep3.rescale, share(values, 3), fraction=10)
    assert np.array_equal(opened(found), values << 7)
    assert not run(rep3.rescale, share(values, 3), fraction=3).waves


@pytest.mark.parametrize("bits", [8, 20])
def test_truncation_in_small_rings(bits):
    top = 1 << (bits - 2)
    values = np.repeat(np.arange(-top, top, max(1, top >> 6)), 50)
    found = run(rep3.rescale, share(values, 5, bits=bits), fraction=2)
    assert is_near(opened(found), values, 3).all()


async def cut(party: Party, x: Share, y: Share, width: int, bits: int) -> Share:
    return await rep3.product(party, x, y, cut=rep3.Cut(DROP, width, bits))


def signed(words: Words, bits: int) -> Words:
    """Ring elements as the integers next to zero."""
    return (words << np.uint64(64 - bits)).view(np.int64) >> (64 - bits)


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize(("width", "bits"), [(16, 16), (16, 24), (24, 64), (44, 64), (40, 48)])
def test_rule_10_a_cut_product_holds_to_its_borders(width, bits, node):
    top = 1 << (width - 2)
    ends = np.array([-top, -top + 1, -1, 0, 1, top - 2, top - 1]) << DROP
    z = np.concatenate([np.repeat(ends, 2000), np.random.default_rng(3).integers(-top << DROP, top << DROP, COUNT)])
    found = signed(
        lockstep.opened(run(cut, share(z, seed=1), share(np.ones_like(z), seed=2), width=width, bits=bits, node=node).results), bits
    )
    assert (np.abs(errors(found, z)) <= 1 + 2.0**-9).all()
    assert abs(errors(found, z)[-COUNT:].mean()) < 0.02


@pytest.mark.parametrize("beyond", [1, -1])
def test_rule_10_a_cut_product_that_is_raised_fails_grossly_beyond(beyond):
    width, bits = 20, 40
    z = np.full(COUNT, (beyond << (width - 1)) << DROP)
    found = signed(lockstep.opened(run(cut, share(z, seed=1), share(np.ones_like(z), seed=2), width=width, bits=bits).results), bits)
    assert np.abs(errors(found, z)).max() > 2 ** (width - 1)


def test_a_product_whose_dealt_part_is_coarser_than_its_result_breaks_the_law(monkeypatch):
    monkeypatch.setattr(rep3, "GUARD", -4)
    z = np.random.default_rng(3).integers(-(2**40), 2**40, COUNT)
    found = signed(lockstep.opened(run(cut, share(z, seed=1), share(np.ones_like(z), seed=2), width=30, bits=30).results), 30)
    assert np.abs(errors(found, z)).max() > 4


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize(("width", "bits"), [(44, 64), (20, 40), (20, 64), (44, 24), (16, 16), (5, 8)])
def test_rescale_into_another_ring_holds_to_its_borders(width, bits, node):
    top = 1 << (min(width, bits) - 2)
    z = np.concatenate([np.repeat([-top << DROP, 0, (top << DROP) - 1], 2000), np.random.default_rng(3).integers(-top, top, COUNT) << DROP])
    found = signed(lockstep.opened(run(rep3.rescale, share(z, DROP), fraction=0, width=width, bits=bits, node=node).results), bits)
    assert (np.abs(errors(found, z)) <= 1).all()


@pytest.mark.parametrize("bits", [8, 40, 64])
def test_rows_are_truncated_and_squared_in_one_round(bits):
    drop, top = bits // 4, 1 << (bits - 2)
    values = np.random.default_rng(bits).integers(-top, top, (300, 4)).astype(np.int64)
    values[0] = (-top, top - 1, 0, -1)
    found = run(ops.rescale_and_square, share(values, drop, bits=bits), fraction=0)
    words = opened(found).reshape(300, 5)
    assert is_near(words[:, :4], values, drop).all()
    off = (words[:, :4].astype(np.uint64) ** 2).sum(1, dtype=np.uint64) - words[:, 4].astype(np.uint64)
    assert not (off & np.uint64(2**bits - 1)).any(), "the squares of exactly these"
    assert len(found.waves) == 1
