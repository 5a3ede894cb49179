"""Sums, products and shifts of shares, and words as octets, against Python integers, for every implementation."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moiety import ring
from moiety.errors import ConfigError, ProtocolMisuse
from moiety.ring import kernels

SIZES = (0, 1, 7, 8, 9, 63, 65, 2047, 2048, 2049, 5000)
each_isa = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
word = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
bits_of = st.integers(1, 64)


def drawn(count: int, *seeds: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64) for seed in seeds]


@each_isa
@given(rows=st.lists(st.tuples(word, word), max_size=20), bits=bits_of)
def test_sums_and_differences_are_reduced(isa: str, rows: list[tuple[int, int]], bits: int) -> None:
    a, b = np.array(rows, dtype=np.uint64).reshape(len(rows), 2).T
    assert ring.add(a, b, bits).tolist() == [(x + y) % 2**bits for x, y in rows]
    assert ring.subtract(a, b, bits).tolist() == [(x - y) % 2**bits for x, y in rows]


@each_isa
@given(rows=st.lists(st.tuples(*[word] * 5), max_size=20), up=st.integers(0, 63), lead=st.booleans())
def test_a_share_of_a_product_follows_the_definition(isa: str, rows: list[tuple[int, ...]], up: int, lead: bool) -> None:
    mx, lx, my, ly, dealt = np.array(rows, dtype=np.uint64).reshape(len(rows), 5).T
    expected = [(a * (lead * c - d) - b * c + (g << up)) % 2**64 for a, b, c, d, g in rows]
    assert ring.cross_share((mx, lx), (my, ly), dealt, up, lead).tolist() == expected


@each_isa
@given(values=st.lists(word, max_size=20), by=st.integers(0, 63), bits=bits_of)
def test_shifts_round_as_they_say(isa: str, values: list[int], by: int, bits: int) -> None:
    words, size = np.array(values, dtype=np.uint64), 2**bits
    assert ring.shift_share(words, by, bits, True).tolist() == [value % size >> by for value in values]
    assert ring.shift_share(words, by, bits, False).tolist() == [-(-value % size >> by) % size for value in values]
    assert ring.round_shift(words, by, bits).tolist() == [(value + (2**by >> 1)) % 2**64 % size >> by for value in values]


@pytest.mark.parametrize("count", SIZES)
def test_every_size_gives_the_words_of_numpy(isa: str, count: int) -> None:
    a, b, c, d, e = drawn(count, 1, 2, 3, 4, 5)
    calls: list[Callable[[], np.ndarray]] = [
        lambda: ring.add(a, b, 50),
        lambda: ring.subtract(a, b, 64),
        lambda: ring.cross_share((a, b), (c, d), e, 10, True),
        lambda: ring.cross_share((a, b), (c, d), e, 10, False),
        lambda: ring.shift_share(a, 18, 50, True),
        lambda: ring.shift_share(a, 18, 50, False),
        lambda: ring.round_shift(a, 10, 50),
    ]
    found = [call() for call in calls]
    with ring.use("numpy"):
        assert all(np.array_equal(one, call()) for one, call in zip(found, calls, strict=True))


@pytest.mark.parametrize("bits", [*range(1, 65, 7), 16, 24, 32, 40, 48, 56, 63])
@pytest.mark.parametrize("count", SIZES)
def test_octets_hold_the_low_bits_by_columns(isa: str, count: int, bits: int) -> None:
    [words], width = drawn(count, bits), -(-bits // 8)
    octets, kept, columns, at = ring.to_octets(words, bits), words & np.uint64(2**bits - 1), [], 0
    for size in (8, 4, 2, 1):
        if width - at >= size:
            columns.append((kept >> np.uint64(8 * at)).astype(f"<u{size}").tobytes())
            at += size
    assert octets.tobytes() == b"".join(columns)
    shifted = np.concatenate([np.zeros(3, np.uint8), octets])[3:]  # a segment of a frame begins anywhere
    assert np.array_equal(ring.from_octets(shifted, bits), kept)


def test_operands_broadcast_and_may_be_strided(isa: str) -> None:
    a, b = (part.reshape(30, 20) for part in drawn(600, 1, 2))
    assert np.array_equal(ring.add(a, b.reshape(20, 30).T, 40), (a + b.reshape(20, 30).T) & np.uint64(2**40 - 1))
    row, scalar = b[:1], np.array(3, np.uint64)
    assert np.array_equal(ring.subtract(a, row, 64), a - row)
    assert np.array_equal(ring.cross_share((a, a), (row, row), scalar, 2, True), a * (row - row) - a * row + np.uint64(12))
    assert ring.add(scalar, scalar, 2).shape == ()


def test_misuse_is_refused() -> None:
    words = np.zeros(4, np.uint64)
    with pytest.raises(ProtocolMisuse, match=r"1\.\.64 bits"):
        ring.add(words, words, 65)
    with pytest.raises(ProtocolMisuse, match=r"1\.\.64 bits"):
        ring.to_octets(words, 0)
    with pytest.raises(ProtocolMisuse, match=r"0\.\.63"):
        ring.shift_share(words, 64, 64, True)
    with pytest.raises(ProtocolMisuse, match="uint64"):
        ring.add(words, words.astype(np.int64), 64)
    with pytest.raises(ProtocolMisuse, match="no words of 5"):
        ring.from_octets(np.zeros(9, np.uint8), 40)


@pytest.mark.skipif(ring.isas() == ("numpy",), reason="no kernels were compiled")
def test_kernels_of_an_older_source_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built = vars(kernels._native)
    monkeypatch.setattr(kernels, "_native", SimpleNamespace(**{name: f for name, f in built.items() if name != "to_octets"}))
    with pytest.raises(ConfigError, match="older than this source and lack to_octets"):
        kernels._refuse_older()
