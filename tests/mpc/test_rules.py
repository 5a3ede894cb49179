"""The rules that every protocol must keep, each test named after its rule; ``docs/security/README.md`` lists them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_flips import COPIES, FAR, balance, copies, tiled
from mpc_ops import CASES, TABLES, WINDOW, F
from mpc_pads import Unpadded, check_pads, record
from mpc_runs import held, opened, received, run, shapes, share, share_bits, told_alike

from moiety.errors import ProtocolMisuse
from moiety.mpc import lockstep, matrix, rep3
from moiety.mpc.cost import drive_on_shapes
from moiety.mpc.functions import bits, compare, table, top
from moiety.mpc.party import Kind, Party
from moiety.mpc.rounds import Address, Role, Scope, Spec
from moiety.mpc.share import Share, wrap

every = pytest.mark.parametrize("name", CASES)


@every
@pytest.mark.parametrize("node", [0, 1])
def test_rule_1_every_word_has_a_pad_that_its_receiver_does_not_hold(name, node):
    case = CASES[name]
    checked = check_pads(record(case.op, *case.inputs(1), node=node))
    assert checked > 0 or name in ("input", "reveal")


async def unpadded(party: Party, x: Share):
    await party.swap(party.local(lambda: wrap(party.additive(x), x.bits)), specs=(Spec(x.shape, x.bits),))


async def padded_by_c(party: Party, x: Share):
    pad = party.zero_share(x.shape)
    await party.swap(party.local(lambda: party.additive(x) + pad), specs=(Spec(x.shape, x.bits),))


async def one_pad_for_two(party: Party, x: Share):
    pad = party.draw(Kind.OUT_MASK, x.shape)
    mine = party.local(lambda: party.additive(x) + pad)
    await party.swap(mine, mine, specs=(Spec(x.shape, x.bits),) * 2)


async def pad_of_an_earlier_wave(party: Party, x: Share):
    pad = party.draw(Kind.OUT_MASK, x.shape)
    for _ in range(2):
        await party.swap(party.local(lambda: party.additive(x) + pad), specs=(Spec(x.shape, x.bits),))


@pytest.mark.parametrize("op", [unpadded, padded_by_c, one_pad_for_two, pad_of_an_earlier_wave])
def test_rule_9_the_pad_check_notices(op):
    with pytest.raises(Unpadded):
        check_pads(record(op, share([1, 2, 3])))


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("reveal", "input")])
def test_rule_2_every_transmitted_bit_is_balanced_over_ten_thousand_runs_on_one_input(name, node):
    found = balance(CASES[name].op, tiled(CASES[name].inputs), node)
    assert found.sums > 0
    assert found.worst < FAR


def test_rule_2_every_bit_of_an_input_and_its_digest_is_balanced_over_ten_thousand_runs():
    case = CASES["input"]
    assert balance(copies(case.op), case.inputs(1)).worst < FAR


def test_rule_2_an_opening_sends_nothing_to_compute_parties():
    """What the client receives adds up to its output: under fixed masks and a fixed input it must be the same in every run."""
    found = run(rep3.reveal, *CASES["reveal"].inputs(1))
    assert not any(list(received(found, role)) for role in (Role.P0, Role.P1, Role.P2))


def short_of_its_top(bits):
    async def op(party: Party, x: Share):
        pad = party.draw(Kind.OUT_MASK, x.shape)
        mine = party.local(lambda: party.additive(x) + (pad >> np.uint64(bits)))
        await party.swap(mine, specs=(Spec(x.shape, 64),))

    return op


async def packed_and_stuck(party: Party, x: bits.BitShare):
    """The pad of one element of each copy's seven is always zero."""
    stuck = np.packbits(np.arange(x.octets * 8) % 7 != 3, bitorder="little")
    pad = party.draw(Kind.BIT_PAD, (x.octets,), 8, xor=True)
    await party.swap(party.local(lambda: x.mask ^ (pad & stuck)), specs=(Spec((x.octets,), 8),))


@pytest.mark.parametrize("top", [1, 8])
def test_rule_9_the_flip_test_notices_a_pad_that_is_too_short(top):
    zero = {role: Share((COPIES,), 0, 64, *parts) for role, parts in constant_parts(COPIES).items()}
    assert balance(short_of_its_top(0), [zero]).worst < FAR
    assert balance(short_of_its_top(top), [zero]).worst > FAR


def test_rule_9_the_flip_test_notices_a_packed_bit_without_a_pad():
    flags = lambda seed, grow=1: [share_bits(np.ones((grow, 7)), seed)]  # noqa: E731
    assert balance(packed_and_stuck, tiled(flags)).worst > FAR


def constant_parts(count):
    one = np.full(count, 5, np.uint64)
    return {Role.P0: (None, one + one), Role.P1: (one + one, one), Role.P2: (one + one, one), Role.CLIENT: (None, None)}


addresses = st.builds(
    lambda node, nested, kind, count: Address((node, *nested), kind, count),
    st.integers(0, 2**24 - 1),
    st.lists(st.integers(0, 2**16 - 2), max_size=3),
    st.integers(0, 255),
    st.integers(0, 2**16 - 1),
)


@settings(max_examples=300)
@given(addresses, addresses)
def test_rule_3_the_encoding_of_addresses_is_injective(one, other):
    assert len(one.nonce()) == 12
    assert (one == other) == (one.nonce() == other.nonce())


def test_rule_3_paths_of_different_depth_differ():
    close = [Address(path, 1, 0) for path in ((1,), (1, 0), (1, 0, 0), (1, 0, 0, 0), (0, 1), (0,), (256,), (0, 256))]
    assert len({address.nonce() for address in close}) == len(close)
    for path, kind, count in (((1 << 24,), 1, 0), ((0, 1, 2, 3, 4), 1, 0), ((0, 0xFFFF), 1, 0), ((0,), 256, 0), ((0,), 1, 1 << 16)):
        with pytest.raises(ProtocolMisuse, match="does not fit"):
            Address(path, kind, count).nonce()


@every
def test_rule_4_a_run_draws_exactly_what_its_shapes_announce_and_nothing_twice(name):
    case = CASES[name]
    found = record(case.op, *case.inputs(1))
    announced = shapes(case.op, *case.inputs(1))[1].draws
    for role in (Role.P0, Role.P1, Role.P2):
        seen = [(key, address) for _, key, address, _ in found.draws[role]]
        assert len(set(seen)) == len(seen)
        if name != "input":  # whose masks come from the client's streams
            assert {(a, spec) for _, _, a, spec in found.draws[role]} <= set(announced)
    if name != "input":
        assert {(a, spec) for _, _, a, spec in found.draws[Role.P0]} == set(announced)


def test_rule_4_two_draws_at_one_address_are_refused():
    async def twice(party: Party) -> None:
        for _ in range(2):
            party.scope = Scope((7,))
            party.draw(Kind.OUT_MASK, (3,))

    with pytest.raises(ProtocolMisuse, match="masks would repeat"):
        drive_on_shapes(twice)


def test_rule_5_no_draw_repeats_over_runs_and_ops():
    seen: set[bytes] = set()
    for seed in range(8):
        for node, case in enumerate(CASES.values()):
            found = record(case.op, *case.inputs(1), seed=seed, node=node)
            drawn = {(k, a) for role in (Role.P1, Role.P2) for _, k, a, _ in found.draws[role]}
            for key, address in drawn:
                holder = next(role for role, keys in lockstep.KEYS_OF.items() if key in keys)
                start = lockstep.test_draws(holder, seed).words(key, address, Spec((2,), 64)).tobytes()
                assert start not in seen
                seen.add(start)
    assert len(seen) > 3000


def test_rule_13_a_look_up_has_a_pad_for_every_coefficient_and_a_one_hot_for_its_wire():
    async def two_wires(party: Party, x: Share, y: Share):
        await table.lookup(party, x, WINDOW, [TABLES[2], TABLES[2]])
        await table.lookup(party, y, WINDOW, [TABLES[2]])

    draws = shapes(two_wires, share(np.zeros(5)), share(np.zeros(5)))[1].draws
    assert [spec.shape for address, spec in draws if address.kind == Kind.TABLE_PAD] == [(3, 5)] * 3
    assert [spec.shape for address, spec in draws if address.kind == Kind.ONE_HOT] == [(5, 4)] * 2


@every
def test_rule_17_the_dealer_hears_nothing_but_from_the_client(name):
    case = CASES[name]
    transcript = run(case.op, *case.inputs(1))
    assert all(word.receiver is not Role.P0 for wave in transcript.waves for word in wave)
    assert all(word.sender is not Role.P0 for wave in transcript.waves for word in wave)
    assert all(link[1] is not Role.P0 for wave in shapes(case.op, *case.inputs(1))[1].waves for link in wave.links)


def test_rule_17_what_the_dealer_deals_does_not_depend_on_secrets():
    masks = share([0, 0, 0], seed=4)
    others = share([5, -7, 2**40], seed=4)
    assert np.array_equal(masks[Role.P0].mask, others[Role.P0].mask)
    for case in (CASES["relu"], CASES["lookup"], CASES["argmax"]):
        inputs = [case.inputs(1)[0], share(np.zeros(case.inputs(1)[0][Role.P0].shape), 14, seed=2)]
        dealt = [run(case.op, x).dealt for x in inputs]
        assert all(np.array_equal(a.value, b.value) for a, b in zip(*dealt, strict=True))


def masks_of_the_winner():
    """What a dealer would do that is told which place of a list won."""
    told = []

    async def op(party: Party, x: Share) -> None:
        less = await compare.opened_signs(party, x.map(lambda part: part[..., :1] - part[..., 1:]), 40)
        told.extend([] if less is None else [int(less.sum())])
        await party.swap(party.local(lambda: np.zeros(1, np.uint64)), specs=(Spec((1,), 64),))
        party.deal((1,), lambda: x.mask[0, told[:1]])

    return op


def said_by_the_dealer(op, *inputs):
    found = record(op, *inputs)
    return found.draws[Role.P0], [(word.receiver, word.value.tobytes()) for word in found.transcript.dealt]


def test_rule_18_the_dealer_who_knows_the_order_says_the_same_whoever_wins():
    rows = [[9, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7], [3, 3, 3, 3, 3, 3, 3]]
    for name in ("shuffle", "top"):
        said = [said_by_the_dealer(CASES[name].op, share([row, row[::-1]], F, seed=5)) for row in rows]
        assert said[0] == said[1] == said[2]
    told = [said_by_the_dealer(masks_of_the_winner(), share([row], F, seed=5)) for row in ([9, 2, 3], [1, 2, 3])]
    assert told[0] != told[1]


def test_rule_18_what_the_dealer_deals_for_is_numbered_by_slots():
    """After the comparisons nothing is as long as the list any more."""
    drawn = shapes(top.top, share(np.zeros((2, 30)), F), k=3, bits=18)[1].draws
    last = max(i for i, (address, _) in enumerate(drawn) if address.kind == Kind.BIT_PAD)
    assert {spec.shape for _, spec in drawn[last + 1 :]} == {(2, 3)}


@every
def test_rule_14_only_the_order_of_a_shuffled_list_is_opened_to_evaluators(name):
    assert bool(record(CASES[name].op, *CASES[name].inputs(1)).opened) == (name == "top")


@every
def test_rule_19_only_keys_of_point_functions_are_told_both_evaluators(name):
    found = run(CASES[name].op, *CASES[name].inputs(1))
    told = [word.spec.shape for word in found.dealt if id(word.value) in told_alike(found)]
    assert bool(told) == (name in ("points", "wide_points"))
    drawn = [(a, spec) for a, spec in shapes(CASES[name].op, *CASES[name].inputs(1))[1].draws if a.kind == Kind.POINT_KEY]
    assert len(told) == 6 * len(drawn), "the key of a look-up, and two kinds of corrections, to either"


@every
def test_rule_22_frames_have_the_same_number_sizes_and_order_for_all_secrets(name):
    case = CASES[name]

    def outline(inputs):
        found = run(case.op, *inputs)
        spoken = [[(w.sender, w.receiver, w.spec) for w in wave] for wave in found.waves]
        return spoken, [(w.receiver, w.spec) for w in found.dealt], found.dealt_by

    first = outline(case.inputs(1))
    for seed in (2, 3):
        assert outline(case.inputs(seed)) == first
    for extreme in (0, 1, -1, 2**63 - 1, -(2**63)):
        assert outline([filled(x, extreme) for x in case.inputs(1)]) == first


def filled(parts, value):
    shape = parts[Role.CLIENT].shape
    if isinstance(parts[Role.CLIENT], bits.BitShare):
        return share_bits(np.full(shape, value & 1))
    if isinstance(parts[Role.CLIENT], matrix.Held):
        return held(np.full(shape, np.clip(value, -(2**15), 2**15 - 1)), parts[Role.CLIENT].fraction, np.int16)
    return share(np.full(shape, value), parts[Role.CLIENT].fraction)


def test_rule_23_a_share_outlives_the_keys_of_the_run_that_made_it():
    x = share([3, 4, 5])
    first = run(rep3.product, x, x, seed=1)
    kept = {role: first.results[role] for role in Role}
    assert np.array_equal(opened(run(rep3.product, kept, x, seed=2)), np.array([27, 64, 125]))


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_share_has_no_truth_value_length_index_or_iterator(shape):
    for secret in (Share(shape), share(np.ones(shape))[Role.P1], bits.BitShare(shape)):
        with pytest.raises(ProtocolMisuse):
            bool(secret)
        with pytest.raises(ProtocolMisuse):
            len(secret)
        with pytest.raises(ProtocolMisuse):
            iter(secret)
        with pytest.raises(ProtocolMisuse):
            [1, 2][secret]


def test_nothing_secret_is_printed():
    x = share([123456789])
    held = [x[Role.P0], x[Role.P1], share_bits([1])[Role.P1], lockstep.test_draws(Role.P0)]
    for part in held:
        text = repr(part)
        assert len(text) < 60
        assert not any(str(word) in text for word in (123456789, int(x[Role.P1].mask[0]), int(x[Role.P1].masked[0])))
