"""How a weight travels: its words in the order in which parties hold it, in pieces, each masked and tagged by itself.

What is packed travels packed (panels of 32 columns, the last one filled up), so that nobody lays it out anew. A piece is a run of
whole panels, or a part of one, and has its own address under keys that are fresh for each sharing. P1 and P2 compare tags of
what came (GMAC under a key that only they have): the words are chosen by somebody who knows nothing of that key.
"""

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moiety import ring
from moiety.engine import keys
from moiety.engine.messages import Tensor
from moiety.errors import ConfigError, InputError
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.party import Key, Kind
from moiety.mpc.rounds import Address, Role, Spec, Words

PIECE_WORDS: Final = 1 << 18
"""At most: 2 MiB, so that what is done to a piece is done in the cache."""


class Piece(NamedTuple):
    """Part of a matrix: its rows and columns, and where it begins and ends among the words that travel."""

    number: int
    rows: slice
    columns: slice
    begin: int
    end: int

    @property
    def panels(self) -> tuple[int, int, int]:
        """The shape of what is packed."""
        depth = self.rows.stop - self.rows.start
        return ((self.end - self.begin) // (depth * ring.PANEL), depth, ring.PANEL)


def pieces(tensor: Tensor) -> Iterator[Piece]:
    """All pieces of a tensor, in order. What is not packed is one long row."""
    if not tensor.packed:
        size = math.prod(tensor.shape)
        for number, start in enumerate(range(0, size, PIECE_WORDS)):
            stop = min(size, start + PIECE_WORDS)
            yield Piece(number, slice(0, 1), slice(start, stop), start, stop)
        return
    depth, columns = tensor.shape
    wide = max(1, PIECE_WORDS // max(1, depth * ring.PANEL)) * ring.PANEL
    deep = PIECE_WORDS // ring.PANEL
    number = end = 0
    for left in range(0, columns, wide):
        right = min(columns, left + wide)
        for top in range(0, depth, deep):
            bottom = min(depth, top + deep)
            begin, end = end, end + (bottom - top) * -(-(right - left) // ring.PANEL) * ring.PANEL
            yield Piece(number, slice(top, bottom), slice(left, right), begin, end)
            number += 1


def held_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape in which a tensor is held: packed matrices have whole panels of columns."""
    if not tensor.packed:
        return tensor.shape
    return (-(-tensor.shape[1] // ring.PANEL), tensor.shape[0], ring.PANEL)


def words_of(tensor: Tensor) -> int:
    """How many words of a tensor travel to each of P1 and P2."""
    return math.prod(held_shape(tensor))


class Masks:
    """The masks of one sharing, as far as one member knows them."""

    def __init__(self, streams: Mapping[Key, bytes], session: bytes, number: int) -> None:
        self._draws = KeyedDraws({key: keys.deploy_key(value, session, number) for key, value in streams.items()})
        self._keys = tuple(streams)

    def parts(self, tensor: int, piece: Piece) -> list[Words]:
        """The masks of a piece from every stream that this member holds: at most two."""
        address = Address((tensor,), Kind.INPUT_MASK, piece.number)
        return [self._draws.words(key, address, _spec(piece)) for key in self._keys]

    def known_to_p1(self, tensor: int, piece: Piece) -> Words | None:
        """The mask of a matrix that P1 knows: of stream D alone, which P2 never has; None at P2."""
        if Key.D not in self._keys:
            return None
        return self._draws.words(Key.D, Address((tensor,), Kind.INPUT_MASK, piece.number), _spec(piece))

    def whole(self, tensor: int, piece: Piece) -> Words:
        """Their sum: what this member holds of the mask."""
        first, *others = self.parts(tensor, piece)
        for other in others:
            first += other
        return first


def _spec(piece: Piece) -> Spec:
    return Spec((piece.end - piece.begin,), 64)


class Matrix:
    """An owner's tensor, read piece by piece. ``source``: an array or tensor, one with a ``gain`` for its rows, or what makes one."""

    def __init__(self, tensor: Tensor, source: Any) -> None:
        self.tensor = tensor
        found = source if hasattr(source, "shape") else source()
        gain = getattr(found, "gain", None)
        self._gain = None if gain is None else floats(gain)
        values = _bits(found if gain is None else found.tensor)
        if tuple(values.shape) != tensor.shape:
            raise InputError(f"the weight {tensor.name!r} has shape {tuple(values.shape)}, the plan reads {tensor.shape}")
        self._values = values if tensor.packed else values.reshape(1, -1)

    def masked(self, piece: Piece, masks: list[Words]) -> Words:
        """The words of a piece under its two masks, which are used up. Raises InputError for what does not fit the ring."""
        words, also = masks
        values, fraction = self._values[piece.rows, piece.columns], self.tensor.fraction
        if not self.tensor.packed:
            ring.encode_onto(values, fraction, also[None], words[None])
            return words
        gain = None if self._gain is None else self._gain[piece.rows]
        onto, from_ = words.reshape(piece.panels), also.reshape(piece.panels)
        for i in range(len(onto)):
            panel = values[:, ring.PANEL * i : ring.PANEL * (i + 1)]
            ring.encode_onto(panel, fraction, from_[i], onto[i], gain=gain)
            onto[i, :, panel.shape[1] :] += from_[i, :, panel.shape[1] :]  # what fills up the panel is zero, and masked like all
        return words

    def clear(self, piece: Piece) -> "np.ndarray[Any, Any]":
        """The integers of a piece as P1 is told them. Raises InputError for what does not fit the octets that the plan has for them."""
        words = self.masked(piece, [np.zeros(piece.end - piece.begin, np.uint64) for _ in range(2)]).view(np.int64)
        most = (1 << (8 * self.tensor.clear - 1)) - 1
        if words.size and not -most - 1 <= int(words.min()) <= int(words.max()) <= most:
            octets = self.tensor.clear
            raise InputError(f"the weight {self.tensor.name!r} does not fit {octets} octets, as its plan says; compile the model again")
        return words.astype(integers(self.tensor))


def integers(tensor: Tensor) -> "np.dtype[Any]":
    """As what P1 holds a matrix that it knows: signed integers, or the words themselves."""
    return np.dtype({2: np.int16, 4: np.int32, 8: np.uint64}[tensor.clear])


def add_clear(clear: "np.ndarray[Any, Any]", mask: Words) -> Words:
    """What P2 is told of a matrix that P1 knows: the integers under their mask, which is used up."""
    np.add(mask.view(np.int64), clear if clear.dtype != np.uint64 else clear.view(np.int64), out=mask.view(np.int64))
    return mask


def floats(tensor: Any) -> "np.ndarray[Any, Any]":
    """A numpy array of a numpy or torch tensor, whatever its precision, or of what makes one, which may be made later itself."""
    while callable(tensor):
        tensor = tensor()
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()
    return np.asarray(tensor)


def _bits(tensor: Any) -> "np.ndarray[Any, Any]":
    """As ``floats``, but bfloat16 as its bits (uint16), without a copy; integers of that type become wider."""
    if str(getattr(tensor, "dtype", "")) == "torch.bfloat16":
        words: Any = sys.modules["torch"].uint16  # who has such a tensor has it loaded; a party has neither
        return np.asarray(tensor.detach().cpu().view(words).numpy())
    array = floats(tensor)
    return array.astype(np.int64) if array.dtype == np.uint16 else array


class Tags:
    """GMAC tags of pieces, and what they add up to for a tensor. ``key``: 16 bytes that who chose the words does not know."""

    def __init__(self, key: bytes) -> None:
        self._gmac = AESGCM(key[:16])

    def tag(self, tensor: int, piece: Piece, words: Words) -> bytes:
        """16 bytes. Two contents of one piece have the same with probability below 2^-100."""
        nonce = Address((tensor,), Kind.INPUT_MASK, piece.number).nonce()
        return self._gmac.encrypt(nonce, b"", words.data.cast("B"))


def total(tags: list[bytes]) -> bytes:
    """What P1 and P2 compare of one tensor."""
    return hashlib.sha256(b"".join(tags)).digest()


def given(role: Role, key_d: bytes, key_e: bytes) -> dict[Key, bytes]:
    """Input streams that belong to a role. Raises ConfigError when the owner gave too few, too many or short keys."""
    wanted = {key for key in (Key.D, Key.E) if key in keys.KEYS_OF[role]}
    found = {key: value for key, value in ((Key.D, key_d), (Key.E, key_e)) if value}
    if set(found) != wanted or any(len(value) != 32 for value in found.values()):
        raise ConfigError(f"the owner gave {role.name} other mask keys than it must have; let it run the same release of moiety")
    return found
