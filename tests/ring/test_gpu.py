"""Products on a device give the processor's words: on the processor's own doubles everywhere, on a GPU where there is one."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from moiety import ring
from moiety.errors import ConfigError, ProtocolMisuse
from moiety.ring import gpu

torch = pytest.importorskip("torch")
Words = NDArray[np.uint64]


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here: the arithmetic is tested on the processor's doubles only")
    monkeypatch.setattr("moiety.ring.kernels.DEVICE_PRODUCTS", 0)
    ring.use_device(request.param)
    yield request.param
    ring.use_device(None)


def words(seed: int, *shape: int) -> Words:
    return np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (33, 1023, 17), (3, 1024, 8), (2, 1025, 9), (4, 3000, 5), (3, 0, 4), (0, 5, 4)])
def test_packed_products(device: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b, before = words(1, m, k), words(2, k, n), words(3, m, n)
    packed = ring.pack(b)
    assert np.array_equal(ring.multiply(a, packed), a @ b)
    assert np.array_equal(ring.multiply(a, packed, before.copy(), sign=-1), before - a @ b)
    assert np.array_equal(ring.multiply(a.reshape(m, 1, k), packed).reshape(m, n), a @ b)
    assert ring.features()["multiply"] == device


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3, 4, 5), (5, 6)), ((4, 5), (2, 3, 5, 6)), ((2, 1, 4, 1500), (3, 1500, 2)), ((2, 0), (0, 3))]
)
def test_stacks(device: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = words(4, *left), words(5, *right)
    assert np.array_equal(ring.matmul(a, b), a @ b)


@pytest.mark.parametrize(
    "extreme", [0, 1, 2**21 - 1, 2**21, 2**43, 2**43 - 2**21, 2**63 - 1, 2**63, 2**64 - 1, 0x200000_200000_80000 & (2**64 - 1)]
)
def test_extreme_limbs(device: str, extreme: int) -> None:
    """Sums of 1,024 products of the largest limbs are still exact doubles."""
    a = np.full((3, 1024), extreme, np.uint64)
    assert np.array_equal(ring.matmul(a, a.T.copy()), a @ a.T)


def test_limbs_add_up_and_are_balanced() -> None:
    x = np.concatenate([words(6, 10_000), np.array([0, 2**21, 2**43, 2**63, 2**64 - 1, 2**22 - 1], np.uint64)]).reshape(-1, 1)
    limbs = gpu.Device("cpu").limbs(x)
    assert float(limbs.abs().max()) <= 2**21
    low, middle, high = limbs.to(torch.int64).numpy().view(np.uint64)
    assert np.array_equal(low + (middle << np.uint64(22)) + (high << np.uint64(44)), x)


def test_a_sum_of_one_more_place_would_not_be_exact() -> None:
    """The depth is as large as it may be: the largest sums lie at 2^53, beyond which odd numbers are lost."""
    assert 2 * gpu.DEPTH * 2**42 == 2**53


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no device 'cuda:99' here"):
        ring.use_device("cuda:99")
    assert ring.features()["multiply"] == ring.features()["isa"]


def test_what_was_packed_on_a_device_needs_it() -> None:
    ring.use_device("cpu")
    packed = ring.pack(words(7, 4, 4))
    ring.use_device(None)
    assert packed.nbytes == 3 * 4 * 4 * 8
    with pytest.raises(ProtocolMisuse, match="not in use"):
        ring.multiply(words(8, 2, 4), packed)
