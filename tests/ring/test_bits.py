"""Bit planes, shifts and truncation against Python integers, for every implementation."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moiety import ring
from moiety.errors import ProtocolMisuse

each_isa = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
word = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**61, 2**62, 2**63 - 1, 2**63, 3 * 2**62, 2**64 - 1])


@each_isa
@given(values=st.lists(word, max_size=140), width=st.integers(1, 64))
def test_planes_hold_the_bits_in_order_and_pad_with_zeros(isa: str, values: list[int], width: int) -> None:
    planes = ring.planes(np.array(values, dtype=np.uint64), width)
    assert planes.shape == (width, -(-len(values) // 64))
    for w in range(width):
        plane = sum(int(x) << (64 * j) for j, x in enumerate(planes[w]))
        assert plane == sum(((value >> w) & 1) << i for i, value in enumerate(values))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 511, 512, 513, 1100])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 33, 64])
def test_unplanes_inverts_planes(isa: str, count: int, width: int) -> None:
    values = np.random.default_rng(count).integers(0, 2**64, count, dtype=np.uint64)
    kept = values & np.uint64(2**width - 1)
    assert np.array_equal(ring.unplanes(ring.planes(values, width), count), kept)


def test_unplanes_ignores_the_padding(isa: str) -> None:
    planes = np.full((5, 2), 2**64 - 1, dtype=np.uint64)
    assert ring.unplanes(planes, 70).tolist() == [31] * 70


def test_planes_flatten_any_shape(isa: str) -> None:
    values = np.arange(200, dtype=np.uint64).reshape(10, 20)
    assert np.array_equal(ring.planes(values, 8), ring.planes(values.reshape(-1), 8))


@each_isa
@given(values=st.lists(word, max_size=20), bits=st.integers(0, 63))
def test_shift_right_is_logical(isa: str, values: list[int], bits: int) -> None:
    assert ring.shift_right(np.array(values, dtype=np.uint64), bits).tolist() == [value >> bits for value in values]


@each_isa
@given(rows=st.lists(st.tuples(word, word, word), max_size=20), bits=st.integers(0, 62), lead=st.booleans())
def test_wrap_truncate_follows_the_definition(isa: str, rows: list[tuple[int, int, int]], bits: int, lead: bool) -> None:
    masked, low, wrap = np.array(rows, dtype=np.uint64).reshape(len(rows), 3).T
    expected = []
    for m, dealt_low, dealt_wrap in rows:
        t = (m + 2**62) % 2**64
        share = (1 - (t >> 63)) * dealt_wrap - dealt_low + lead * ((t >> bits) - (2**62 >> bits))
        expected.append(share % 2**64)
    assert ring.wrap_truncate(masked, low, wrap, bits, lead).tolist() == expected


@pytest.mark.parametrize("bits", [1, 14, 30])
def test_two_shares_of_a_truncation_are_exact_to_one_unit(isa: str, bits: int) -> None:
    rng = np.random.default_rng(bits)
    secret = rng.integers(-(2**62) + 1, 2**62, (50, 40), dtype=np.int64).view(np.uint64)
    mask, low, wrap = (rng.integers(0, 2**64, secret.shape, dtype=np.uint64) for _ in range(3))
    other_low = (mask >> np.uint64(bits)) - low
    other_wrap = ((mask >> np.uint64(63)) << np.uint64(64 - bits)) - wrap
    shares = (
        ring.wrap_truncate(secret + mask, low, wrap, bits, True),
        ring.wrap_truncate(secret + mask, other_low, other_wrap, bits, False),
    )
    error = (shares[0] + shares[1]).view(np.int64) - (secret.view(np.int64) >> bits)
    assert set(np.unique(error).tolist()) <= {0, 1}


def test_misuse_is_refused() -> None:
    values = np.zeros(70, dtype=np.uint64)
    with pytest.raises(ProtocolMisuse, match="width"):
        ring.planes(values, 65)
    with pytest.raises(ProtocolMisuse, match="do not hold"):
        ring.unplanes(np.zeros((65, 2), dtype=np.uint64), 70)
    with pytest.raises(ProtocolMisuse, match="do not hold"):
        ring.unplanes(np.zeros((3, 2), dtype=np.uint64), 60)
    with pytest.raises(ProtocolMisuse, match="bits"):
        ring.shift_right(values, 64)
    with pytest.raises(ProtocolMisuse, match="shapes"):
        ring.wrap_truncate(values, values, values[:3], 5, True)
    with pytest.raises(ProtocolMisuse, match="bits"):
        ring.wrap_truncate(values, values, values, 63, True)
