"""The fixed-point codec: exact where it can be, rounded to nearest elsewhere, and silent about values it refuses."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moiety import ring
from moiety.errors import InputError, ProtocolMisuse


@given(value=st.floats(-(2.0**61), 2.0**61), fraction=st.integers(0, 62))
def test_encode_rounds_to_nearest(value: float, fraction: int) -> None:
    assume(abs(value) < 2.0 ** (62 - fraction))
    words = ring.encode(value, fraction)
    assert words.shape == ()
    assert words.dtype == np.uint64
    assert int(words) == round(Fraction(value) * 2**fraction) % 2**64


@given(value=st.integers(-(2**62) + 1, 2**62 - 1), fraction=st.integers(0, 62))
def test_integers_are_encoded_exactly(value: int, fraction: int) -> None:
    assume(abs(value) < 2 ** (62 - fraction))
    assert int(ring.encode(np.array([value]), fraction)[0]) == (value << fraction) % 2**64


@given(values=st.lists(st.floats(-1000, 1000, width=32), max_size=20))
def test_decode_inverts_encode_to_half_a_unit(values: list[float]) -> None:
    back = ring.decode(ring.encode(values, 20), 20)
    assert back.dtype == np.float64
    assert (np.abs(back - np.array(values)) <= 2.0**-21).all()


def test_shapes_and_types_are_kept() -> None:
    for dtype in (np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_):
        words = ring.encode(np.ones((2, 3), dtype=dtype), 10)
        assert words.shape == (2, 3)
        assert (words == 1024).all()
    assert ring.decode(ring.encode(np.ones((3, 4)).T, 5).T, 5).shape == (3, 4)
    assert ring.encode([], 5).shape == (0,)


@pytest.mark.parametrize(("value", "fraction"), [(2.0**48, 14), (-(2.0**48), 14), (1.0, 62), (2**48, 14), (-(2**48), 14), (2**63, 0)])
def test_values_without_headroom_are_refused(value: float, fraction: int) -> None:
    with pytest.raises(InputError, match=r"0 of 2 values are NaN or infinite and 1 have magnitude"):
        ring.encode(np.array([0, value]), fraction)


def test_a_refusal_counts_and_never_shows_values() -> None:
    with pytest.raises(InputError) as refusal:
        ring.encode([np.nan, np.inf, -np.inf, 123456789.0, 0.5], 40)
    assert "3 of 5 values are NaN or infinite and 1 have magnitude 2^22 or more" in str(refusal.value)
    assert "123456789" not in str(refusal.value)


def test_other_types_are_refused() -> None:
    with pytest.raises(InputError, match="complex"):
        ring.encode(np.ones(2, dtype=complex), 5)
    with pytest.raises(InputError, match="floats"):
        ring.encode(np.array(["a"]), 5)
    with pytest.raises(ProtocolMisuse, match="fraction"):
        ring.encode([1.0], 63)
    with pytest.raises(ProtocolMisuse, match="uint64"):
        ring.decode(np.zeros(2, dtype=np.int64), 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("isa", ring.isas())
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 40), (70, 32)])
@pytest.mark.parametrize("gained", [False, True])
def test_words_are_added_to_masks_in_every_layout(isa: str, dtype: object, shape: tuple[int, int], gained: bool) -> None:
    generator = np.random.default_rng(3)
    values = (generator.normal(size=shape[::-1]) * 100).astype(np.float32 if dtype == "bfloat16" else dtype)  # type: ignore[call-overload]
    if dtype == "bfloat16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    also, out = generator.integers(0, 2**64, (2, shape[0], shape[1] + 3), np.uint64)
    gain = generator.normal(size=shape[0]).astype(np.float32) if gained else None
    for held in (values.T, np.ascontiguousarray(values.T)):
        reals = (held.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else held
        exact = np.float64 if reals.dtype.kind == "i" or reals.dtype == np.float16 else reals.dtype
        expected = out.copy()
        words = ring.encode(reals if gain is None else reals.astype(exact) * gain[:, None].astype(exact), 13)
        expected[:, : shape[1]] += also[:, : shape[1]] + words
        found = out.copy()
        with ring.use(isa):
            ring.encode_onto(held, 13, also, found, gain=gain)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("isa", ring.isas())
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**46, -(2.0**46)])
def test_what_does_not_fit_is_not_added_to_masks(isa: str, value: float) -> None:
    words = np.zeros((3, 9), np.uint64)
    for dtype in (np.float32, np.float64):
        values = np.zeros((3, 9), dtype)
        values[2, 8] = value
        with ring.use(isa), pytest.raises(InputError, match="of 27 values"):
            ring.encode_onto(values, 16, words, words.copy())
