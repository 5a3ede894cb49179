"""Distributed point functions: a function that is zero but at one place, as two short keys that tell nothing of place or value.

The construction of Boyle, Gilboa and Ishai (CCS 2016, figure 1) for values in Z_2^64^P, on all 2^n places at once. A tree of depth n - 1
whose nodes are a seed and a control bit; either key grows it from its own root. Correction words make the two trees agree beside the way
to the place, where equal values cancel. Each node of the last level stands for two places (early termination, section 3.2.3).

A node's blocks are ``H(seed xor i)``, ``H(x) = AES(x) xor x`` under a public key of the caller's: i = 0 and 1 for its children, 2 + p for
word p of its two places. The three lowest bits of a seed are zero, so these inputs never meet; the lowest bit of a child's block is its
control bit. Blocks are pairs of little-endian words.

The sums run natively where the processor has AES, else here, by the ciphers of ``cryptography``: the same words.
"""

from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from moiety.errors import ProtocolMisuse
from moiety.ring import kernels
from moiety.ring._numpy import Octets, Words

MOST_WORDS: Final = 6
"""Words that a place may hold: so many inputs of H are left beside those of the children."""

_ONE: Final = np.uint64(1)
_SEED: Final = ~np.uint64(7)
_SPARE: Final = ~np.uint64(6)
_PLACES_AT_ONCE: Final = 1 << 18


class _Hash:
    """``AES(x) xor x`` of blocks (..., 2) under one key."""

    def __init__(self, key: Octets) -> None:
        self._cipher = Cipher(AES(key.tobytes()), ECB()).encryptor()

    def __call__(self, blocks: Words) -> Words:
        found = np.frombuffer(self._cipher.update(blocks.tobytes()), "<u8").reshape(blocks.shape)
        return found ^ blocks


def point_keys(key: Octets, roots: tuple[Words, Words], place: Words, values: Words, index_bits: int) -> tuple[Words, Words]:
    """What the holders of either root need in common: N functions that are ``values[:, i]`` at ``place[i]``, below 2^index_bits.

    key: 16 octets of AES; roots: two random (N, 2); place (N,); values (P, N), P up to 6. Returns the corrections of the tree
    (N, index_bits - 1, 2) and of the words at its leaves (N, P, 2).
    """
    _check(key, (*roots, place[:, None], values.T), len(place), len(values), index_bits)
    if place.size and int(place.max()) >> index_bits:
        raise ProtocolMisuse(f"a place is not below 2^{index_bits}")
    hashed, depth = _Hash(key), index_bits - 1
    nodes = [_seed(root) | _low(np.uint64(holder)) for holder, root in enumerate(roots)]
    steps = np.empty((len(place), depth, 2), np.uint64)
    for level in range(depth):
        turn = (place >> np.uint64(depth - level)) & _ONE
        steps[:, level], nodes = _step(hashed, nodes, turn)
    one, two = (_words(hashed, node, len(values)) for node in nodes)
    at_place = np.where((place & _ONE)[:, None, None] == np.arange(2, dtype=np.uint64), values.T[:, :, None], np.uint64(0))
    last = at_place - one + two
    return steps, np.where((nodes[1][:, 0] & _ONE).astype(bool)[:, None, None], np.negative(last), last)


def _step(hashed: _Hash, nodes: list[Words], turn: Words) -> tuple[Words, list[Words]]:
    """One level of both ways to the place: its correction, and their next nodes. ``turn``: 1 where the way goes right."""
    blocks = [_children(hashed, node) for node in nodes]  # (2, N, 2): left, right
    both = blocks[0] ^ blocks[1]
    rows = np.arange(len(turn))
    kept, lost = turn.astype(np.intp), (_ONE - turn).astype(np.intp)
    bits = both[:, :, 0] & _ONE
    bits[0] ^= turn ^ _ONE
    bits[1] ^= turn
    step = both[lost, rows]
    step[:, 0] = (step[:, 0] & ~np.uint64(3)) | bits[0] | bits[1] << _ONE
    found = [_corrected(block[kept, rows], node, step, turn) for block, node in zip(blocks, nodes, strict=True)]
    return step, found


def point_sums(key: Octets, root: Words, corrections: tuple[Words, Words], index: Words, local: Words, tables: Words, lead: bool) -> Words:
    """One holder's shares of ``sum_j tables[t][k][(index - j) mod 2^n] f_k(j)``, (T, N), where ``f(j) = v(j) (local - l)^k``.

    The point functions have the values ``v(j) l^k``, k below P; corrections as of ``point_keys``, one root (N, 2), index (N,) below 2^n,
    local (N,), tables (T, P, 2^n). The shares of both holders, of which one leads, add up. Memory: one function's, or a piece's.
    """
    steps, last = corrections
    size, parts = tables.shape[2], tables.shape[1]
    _check(key, (root, steps[:, 0], last[:, 0], index[:, None], local[:, None]), len(index), parts, size.bit_length() - 1)
    if steps.shape != (len(index), size.bit_length() - 2, 2) or last.shape != (len(index), parts, 2) or size & (size - 1):
        raise ProtocolMisuse(f"corrections {steps.shape} and {last.shape} do not fit {len(index)} functions and tables {tables.shape}")
    if index.size and int(index.max()) >= size:
        raise ProtocolMisuse(f"an index is not below {size}")
    if root.shape != (len(index), 2) or tables.dtype != np.uint64:
        raise ProtocolMisuse(f"roots {root.shape} are not two words each, or tables are {tables.dtype}, not uint64")
    out = np.empty((len(tables), len(index)), np.uint64)
    native = kernels.backend()
    if native.has_aes():
        given = [np.ascontiguousarray(array) for array in (root, steps, last, index, local, tables)]
        native.point_sums(np.ascontiguousarray(key), *given, lead, out)
        return out
    piece = max(1, _PLACES_AT_ONCE // size)
    for start in range(0, len(index), piece):
        rows = slice(start, start + piece)
        out[:, rows] = _sums(_Hash(key), root[rows], steps[rows], last[rows], index[rows], local[rows], tables, lead)
    return out


def _sums(hashed: _Hash, root: Words, steps: Words, last: Words, index: Words, local: Words, tables: Words, lead: bool) -> Words:
    """As :func:`point_sums`, all functions at once."""
    parts, size = tables.shape[1:]
    nodes = (_seed(root) | _low(np.uint64(not lead)))[:, None]
    for level in range(steps.shape[1]):
        blocks = np.stack([
            _corrected(child, nodes, steps[:, level, None], np.uint64(side)) for side, child in enumerate(_children(hashed, nodes))
        ], axis=2)  # fmt: skip
        nodes = blocks.reshape(len(root), -1, 2)
    words = _words(hashed, nodes, parts) + _controlled(nodes[..., None, :], last[:, None])
    leaves = words.transpose(2, 0, 1, 3).reshape(parts, len(root), size)
    for first in range(parts - 1):
        for k in range(parts - 1, first, -1):
            leaves[k] = local[:, None] * leaves[k - 1] - leaves[k]
    cells: Words = np.arange(size, dtype=np.uint64)
    turned: Words = (index[:, None] - cells) & np.uint64(size - 1)
    sums: Words = (tables[:, :, turned] * leaves).sum((1, 3), dtype=np.uint64)
    return sums if lead else np.negative(sums)


def _children(hashed: _Hash, nodes: Words) -> Words:
    """Blocks of the left and the right child of every node, not yet corrected."""
    seeds = _seed(nodes)
    return hashed(np.stack([seeds, seeds ^ _low(_ONE)]))


def _words(hashed: _Hash, nodes: Words, parts: int) -> Words:
    """What nodes (..., 2) of the last level hold for their two places, not yet corrected: (..., parts, 2)."""
    tweaks = _low(np.arange(2, 2 + parts, dtype=np.uint64))
    return hashed(_seed(nodes)[..., None, :] ^ tweaks)


def _corrected(child: Words, node: Words, step: Words, side: Words | np.uint64) -> Words:
    """A child as a node: ``step`` takes effect where the control bit of its parent ``node`` is set. ``side``: 1 for a right child."""
    correction = _seed(step)
    correction[..., 0] |= (step[..., 0] >> side) & _ONE
    out = child ^ _controlled(node, correction)
    out[..., 0] &= _SPARE
    return out


def _controlled(node: Words, words: Words) -> Words:
    """``words`` where the node's control bit is set, else zeros."""
    out: Words = np.negative(node[..., :1] & _ONE) & words
    return out


def _seed(node: Words) -> Words:
    out = node.copy()
    out[..., 0] &= _SEED
    return out


def _low(word: Any) -> Words:
    """Blocks of which only the first word is not zero."""
    return np.stack([word, np.zeros_like(word)], axis=-1)


def _check(key: Octets, arrays: tuple[Words, ...], count: int, parts: int, index_bits: int) -> None:
    if key.dtype != np.uint8 or key.shape != (16,):
        raise ProtocolMisuse(f"a key of AES has 16 octets, not {key.dtype} {key.shape}")
    if any(array.dtype != np.uint64 or len(array) != count for array in arrays):
        raise ProtocolMisuse(f"{count} point functions take uint64 words, not {[(a.dtype.name, a.shape) for a in arrays]}")
    if not 1 <= parts <= MOST_WORDS or not 2 <= index_bits <= 13:
        raise ProtocolMisuse(f"a point function has up to {MOST_WORDS} words at 2^2 to 2^13 places, not {parts} at 2^{index_bits}")
