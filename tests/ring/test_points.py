"""Point functions against their definition, at all places, for every implementation."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from moiety import ring
from moiety.errors import ProtocolMisuse


class Made:
    """Random functions with their keys: ``values (P, N)`` at ``place``."""

    def __init__(self, index_bits: int, parts: int, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng((index_bits, parts, seed))
        self.size = 1 << index_bits
        self.key = rng.integers(0, 256, 16, np.uint8)
        self.roots = tuple(rng.integers(0, 2**64, (count, 2), np.uint64) for _ in range(2))
        self.place, self.index = (rng.integers(0, self.size, count, np.uint64) for _ in range(2))
        self.low, self.local = (rng.integers(0, 2**64, count, np.uint64) for _ in range(2))
        self.values = np.stack([self.low ** np.uint64(k) for k in range(parts)])
        self.corrections = ring.point_keys(self.key, self.roots, self.place, self.values, index_bits)

    def sums(self, holder: int, tables: np.ndarray) -> np.ndarray:
        return ring.point_sums(self.key, self.roots[holder], self.corrections, self.index, self.local, tables, lead=holder == 0)


def value_at(made: Made, holder: int, row: int, place: int) -> list[int]:
    """One holder's value at one place, down its way in the tree, in Python's integers: the construction as it is written."""
    cipher = Cipher(AES(made.key.tobytes()), ECB())

    def hashed(block: int) -> int:
        return int.from_bytes(cipher.encryptor().update(block.to_bytes(16, "little")), "little") ^ block

    number = [int.from_bytes(made.roots[holder][row].tobytes(), "little")] + [
        int.from_bytes(step.tobytes(), "little") for step in made.corrections[0][row]
    ]
    seed, control = number[0] & ~7, holder
    for level, step in enumerate(number[1:]):
        side = place >> (len(number) - 1 - level) & 1
        child = hashed(seed ^ side)
        if control:
            child ^= step & ~7 | step >> side & 1
        seed, control = child & ~7, child & 1
    out = []
    for part, last in enumerate(made.corrections[1][row].tolist()):
        word = (hashed(seed ^ 2 + part) >> 64 * (place & 1)) + control * last[place & 1]
        out.append((-word if holder else word) % 2**64)
    return out


@pytest.mark.parametrize("index_bits", [2, 3, 5])
def test_values_at_all_places(index_bits: int) -> None:
    made = Made(index_bits, 2, 3)
    for row in range(3):
        for place in range(made.size):
            one, two = (value_at(made, holder, row, place) for holder in range(2))
            found = [(a + b) % 2**64 for a, b in zip(one, two, strict=True)]
            assert found == (made.values[:, row].tolist() if place == made.place[row] else [0, 0])


def test_sums_are_those_of_the_values_at_all_places(isa: str) -> None:
    made = Made(4, 3, 3)
    tables = np.random.default_rng(1).integers(0, 2**64, (2, 3, made.size), np.uint64)
    for holder in range(2):
        wanted = [[0] * 3 for _ in tables]
        for row in range(3):
            index, local = int(made.index[row]), int(made.local[row])
            for place in range(made.size):
                v = value_at(made, holder, row, place)
                powers = v[0], local * v[0] - v[1], local**2 * v[0] - 2 * local * v[1] + v[2]
                for t, table in enumerate(tables.tolist()):
                    wanted[t][row] += sum(table[k][(index - place) % made.size] * power for k, power in enumerate(powers))
        assert made.sums(holder, tables).tolist() == [[total % 2**64 for total in row] for row in wanted]


@pytest.mark.parametrize("index_bits", range(2, 14))
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_shares_add_up_to_the_cell_and_are_the_same_everywhere(index_bits: int, parts: int) -> None:
    made = Made(index_bits, parts, 37)
    tables = np.random.default_rng(2).integers(0, 2**64, (2, parts, made.size), np.uint64)
    cells = tables[:, :, (made.index - made.place) & np.uint64(made.size - 1)]
    wanted = sum(cells[:, k] * (made.local - made.low) ** np.uint64(k) for k in range(parts))
    found = {}
    for isa in ring.isas():
        with ring.use(isa):
            found[isa] = [made.sums(holder, tables) for holder in range(2)]
    for isa, (one, two) in found.items():
        assert np.array_equal(one + two, wanted), isa
        assert np.array_equal(one, found["numpy"][0]), isa


def test_another_key_or_root_gives_nothing() -> None:
    made, tables = Made(6, 1, 5), np.ones((1, 1, 64), np.uint64)
    right = made.sums(0, tables) + made.sums(1, tables)
    assert np.array_equal(right[0], made.values[0])
    made.key = made.key ^ np.uint8(1)
    assert not np.any(made.sums(0, tables) + made.sums(1, tables) == right)


def test_misuse_is_refused() -> None:
    made, tables = Made(4, 2, 5), np.zeros((1, 2, 16), np.uint64)
    with pytest.raises(ProtocolMisuse, match="do not fit"):
        made.sums(0, tables[:, :, :8])
    with pytest.raises(ProtocolMisuse, match="do not fit"):
        made.sums(0, tables[:, :1])
    with pytest.raises(ProtocolMisuse, match="up to 6 words"):
        Made(4, 7, 5)
    with pytest.raises(ProtocolMisuse, match="16 octets"):
        ring.point_keys(made.key[:8], made.roots, made.place, made.values, 4)
    made.index = made.index + np.uint64(16)
    with pytest.raises(ProtocolMisuse, match="not below"):
        made.sums(0, tables)
