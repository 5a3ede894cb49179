"""Ring products are exact for every implementation, every edge of the tiles, every way to broadcast."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.ring import _numpy

Words = NDArray[np.uint64]

sizes = st.integers(0, 40) | st.sampled_from([63, 64, 65, 96, 97])
each_isa = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def words(seed: int, *shape: int) -> Words:
    return np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)


def by_integers(a: Words, b: Words) -> list[list[int]]:
    return [[sum(x * y for x, y in zip(row, column, strict=True)) % 2**64 for column in b.T.tolist()] for row in a.tolist()]


@each_isa
@given(m=st.integers(0, 14), k=st.integers(0, 9), n=sizes, seed=st.integers(0, 2**32))
def test_products_agree_with_python_integers(isa: str, m: int, k: int, n: int, seed: int) -> None:
    a, b = words(seed, m, k), words(seed + 1, k, n)
    expected = np.array(by_integers(a, b), dtype=np.uint64).reshape(m, n)
    assert np.array_equal(ring.matmul(a, b), expected)
    assert np.array_equal(ring.multiply(a, ring.pack(b)), expected)


@pytest.mark.parametrize("m", [1, 2, 6, 7, 8, 12, 13, 23, 24, 25, 193])
@pytest.mark.parametrize(("k", "n"), [(64, 33), (65, 8), (769, 31), (1540, 40), (300, 70)])
def test_blocks_and_their_edges_agree_with_numpy(isa: str, m: int, k: int, n: int) -> None:
    a, b = words(m, m, k), words(k, k, n)
    assert np.array_equal(ring.matmul(a, b), a @ b)
    assert np.array_equal(ring.multiply(a, ring.pack(b)), a @ b)


@pytest.mark.parametrize("m", [1, 5, 8, 40])
def test_few_rows_by_a_right_side_too_large_for_the_cache(isa: str, m: int) -> None:
    a, b = words(1, m, 150), words(2, 150, 333)
    assert np.array_equal(ring.matmul(a, b), a @ b)


@pytest.mark.parametrize("extreme", [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_products_of_extreme_words(isa: str, extreme: int) -> None:
    a, b = np.full((9, 70), extreme, dtype=np.uint64), np.full((70, 41), extreme, dtype=np.uint64)
    assert (ring.matmul(a, b) == np.uint64(70 * extreme * extreme % 2**64)).all()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((9, 37, 64), (9, 64, 37)),
        ((3, 3, 7, 16), (3, 1, 16, 9)),
        ((2, 1, 1, 5), (3, 5, 4)),
        ((4, 6, 5), (5, 4)),
        ((6, 5), (2, 5, 4)),
        ((0, 6, 5), (1, 5, 4)),
        ((2, 6, 0), (2, 0, 4)),
        ((2, 3, 6, 5), (5, 0)),
    ],
)
def test_stacks_broadcast_as_in_numpy(isa: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = words(3, *left), words(4, *right)
    product = ring.matmul(a, b)
    assert product.dtype == np.uint64
    assert np.array_equal(product, np.matmul(a, b))


@each_isa
@given(m=st.integers(1, 14), k=st.integers(1, 80), n=sizes, sign=st.sampled_from([1, -1]))
def test_multiply_adds_to_or_takes_from_what_is_there(isa: str, m: int, k: int, n: int, sign: int) -> None:
    a, b, out = words(m, m, k), words(k, k, n), words(n, m, n)
    expected = out + a @ b if sign == 1 else out - a @ b
    assert ring.multiply(a, ring.pack(b), out, sign=sign) is out
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("kind", [np.int16, np.int32])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 70, 33), (7, 65, 64), (13, 769, 31), (194, 40, 40)])
def test_small_integers_stand_for_words(isa: str, kind: type[np.int16 | np.int32], m: int, k: int, n: int) -> None:
    most = np.iinfo(kind)
    a, out, b = words(1, m, k), words(2, m, n), np.random.default_rng(3).integers(most.min, most.max, (k, n), kind, endpoint=True)
    b[0, :2] = most.min, most.max
    panels = ring.pack(b.astype(np.int64).view(np.uint64)).panels.view(np.int64).astype(kind)
    found = ring.multiply(a, ring.packed((k, n), panels), out.copy(), sign=-1)
    assert np.array_equal(found, out - a @ b.astype(np.int64).view(np.uint64))


def test_multiply_keeps_leading_dimensions(isa: str) -> None:
    a, b = words(1, 2, 3, 10), words(2, 10, 35)
    assert np.array_equal(ring.multiply(a, ring.pack(b)), a @ b)
    assert np.array_equal(ring.multiply(a[0, 0], ring.pack(b)), a[0, 0] @ b)


def test_a_packed_matrix_serves_every_implementation() -> None:
    a, b = words(1, 9, 50), words(2, 50, 77)
    for packer in ring.isas():
        with ring.use(packer):
            packed = ring.pack(b)
        assert packed.shape == (50, 77)
        assert packed.nbytes == 3 * 50 * 32 * 8
        for isa in ring.isas():
            with ring.use(isa):
                assert np.array_equal(ring.multiply(a, packed), a @ b)


def test_views_and_read_only_arrays_are_taken(isa: str) -> None:
    a, b = words(1, 20, 30).T, words(2, 60, 20)[::2].T
    a.flags.writeable = False
    assert np.array_equal(ring.matmul(a, b), a @ b)
    assert np.array_equal(ring.multiply(a, ring.pack(b)), a @ b)


def test_threads_do_not_share_their_buffers(isa: str) -> None:
    a, b = words(1, 48, 900), words(2, 900, 64)
    expected, wrong = a @ b, []

    def work(shift: int) -> None:
        for _ in range(5):
            product = ring.matmul(a + np.uint64(shift), b)
            if not np.array_equal(product - np.uint64(shift) * b.sum(axis=0), expected):
                wrong.append(shift)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_fallback_is_exact_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_numpy.sys.modules, "torch", raising=False)
    a, b = words(1, 33, 4500), words(2, 4500, 5)
    a[:16], b[:, :3] = 2**63 + 2**21, 2**64 - 2**21
    with ring.use("numpy"):
        assert np.array_equal(ring.matmul(a, b), a @ b)


def test_misuse_is_refused() -> None:
    a, b = words(1, 4, 5), words(2, 5, 6)
    packed = ring.pack(b)
    with pytest.raises(ProtocolMisuse, match="cannot multiply"):
        ring.matmul(a, a)
    with pytest.raises(ProtocolMisuse, match="broadcast"):
        ring.matmul(words(1, 2, 4, 5), words(1, 3, 5, 6))
    with pytest.raises(ProtocolMisuse, match="uint64"):
        ring.matmul(a.view(np.int64), b)  # type: ignore[arg-type]
    with pytest.raises(ProtocolMisuse, match="sign"):
        ring.multiply(a, packed, sign=2)
    with pytest.raises(ProtocolMisuse, match="out must be"):
        ring.multiply(a, packed, words(1, 6, 4).T)
    with pytest.raises(ProtocolMisuse, match="packed"):
        ring.multiply(b, packed)
    with pytest.raises(ProtocolMisuse, match="matrix"):
        ring.pack(words(1, 5))


def test_use_refuses_what_is_not_there_and_restores() -> None:
    before = ring.features()["isa"]
    with pytest.raises(ProtocolMisuse, match="no 'quantum' kernels"), ring.use("quantum"):
        pass
    with ring.use("numpy"):
        assert ring.features()["matmul"] == "numpy"
    assert ring.features()["isa"] == before == ring.isas()[0]
