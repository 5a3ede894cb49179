"""The keyed generator of correlated randomness: AES-128 in counter mode, addressed by nonce, never a shared cursor.

The stream is AES-GCM over zeros with the tag dropped, which equals AES-CTR that starts at counter block 2. Both forms
live here and give the same bytes: GCM because current OpenSSL runs it twice as fast, CTR where GCM has no in-place
call or a draw is longer than GCM takes at once.

A (key, nonce) pair must never serve two draws; callers derive nonces from the address of a draw, so this file keeps
no state but the key.
"""

import mmap
import struct
from math import prod
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from moiety.errors import ProtocolMisuse

KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
LONGEST_DRAW: Final = 2**36 - 32
"""Bytes that one nonce can give before the 32-bit block counter of GCM would repeat."""

_WORD: Final = np.dtype("<u8")
_TAG_BYTES: Final = 16
_GCM_AT_ONCE: Final = 2**28
_CTR_AT_ONCE: Final = 2**20
_GCM_IN_PLACE: Final = hasattr(AESGCM, "encrypt_into")

BACKEND: Final = "aes-128-gcm" if _GCM_IN_PLACE else "aes-128-ctr"
"""Which form of the same stream serves ordinary draws."""


class Prg:
    """Random words and bytes, a pure function of (key, nonce).

    ``key`` is 16 secret bytes; anything else raises ProtocolMisuse. The key is never shown and cannot be pickled.
    """

    __slots__ = ("_gcm", "_key")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ProtocolMisuse(f"a generator key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = bytes(key)
        self._gcm = AESGCM(self._key)

    def words(self, nonce: bytes, shape: int | tuple[int, ...]) -> NDArray[np.uint64]:
        """A fresh uint64 array of ``shape``, uniform over Z_2^64, from the stream of ``nonce`` (12 bytes).

        Raises ProtocolMisuse for a nonce of another length or a draw above 2^36 - 32 bytes.
        """
        sizes = _sizes(shape)
        return self._stream(nonce, 8 * prod(sizes)).view(_WORD).reshape(sizes)

    def octets(self, nonce: bytes, shape: int | tuple[int, ...]) -> NDArray[np.uint8]:
        """A fresh uint8 array of ``shape``, uniform, from the same stream; errors as for ``words``."""
        sizes = _sizes(shape)
        return self._stream(nonce, prod(sizes)).reshape(sizes)

    def _stream(self, nonce: bytes, count: int) -> NDArray[np.uint8]:
        if len(nonce) != NONCE_BYTES:
            raise ProtocolMisuse(f"a generator nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        if count > LONGEST_DRAW:
            raise ProtocolMisuse(f"a draw of {count} bytes exceeds {LONGEST_DRAW} for one nonce; split it over nonces")
        if count == 0:
            return np.empty(0, dtype=np.uint8)
        if _GCM_IN_PLACE and count <= _GCM_AT_ONCE:
            return self._by_gcm(nonce, count)
        return self._by_ctr(nonce, count)

    def _by_gcm(self, nonce: bytes, count: int) -> NDArray[np.uint8]:
        out = np.empty(count + _TAG_BYTES, dtype=np.uint8)
        self._gcm.encrypt_into(nonce, _kept_zeros(count), None, out.data)
        return out[:count]

    def _by_ctr(self, nonce: bytes, count: int) -> NDArray[np.uint8]:
        stream = Cipher(AES(self._key), CTR(nonce + struct.pack(">I", 2))).encryptor()
        out = np.empty(count + _TAG_BYTES - 1, dtype=np.uint8)
        for start in range(0, count, _CTR_AT_ONCE):
            _fill(stream, out, start, min(_CTR_AT_ONCE, count - start))
        return out[:count]

    def __repr__(self) -> str:
        return "Prg(key=<redacted>)"

    def __reduce__(self) -> str:
        raise ProtocolMisuse("a generator holds a secret key and cannot be pickled or copied; send the key on purpose")


def derive(key: bytes, *info: bytes) -> bytes:
    """32 bytes of key material from ``key`` and a sequence of labels, by HKDF-SHA256.

    Each label is prefixed with its length, so different sequences of labels never meet: ``(b"ab", b"c")`` and
    ``(b"a", b"bc")`` give unrelated keys. Raises ProtocolMisuse for a key shorter than 16 bytes.
    """
    if len(key) < KEY_BYTES:
        raise ProtocolMisuse(f"keys are derived from at least {KEY_BYTES} bytes, not {len(key)}")
    labels = b"".join(struct.pack("<Q", len(label)) + label for label in info)
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=labels).derive(key)


def _sizes(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if min(sizes, default=0) < 0:
        raise ProtocolMisuse(f"cannot draw shape {sizes}: a size is negative")
    return sizes


def _zero_bytes(count: int) -> memoryview:
    """Zeros that take no memory, however many: of what is mapped and only ever read, the system keeps one page."""
    return memoryview(mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ))


_zeros = _zero_bytes(_CTR_AT_ONCE)


def _kept_zeros(count: int) -> memoryview:
    """A view of ``count`` zero bytes; the buffer grows by doubling and is replaced whole, so threads may share it."""
    global _zeros
    zeros = _zeros
    if len(zeros) < count:
        zeros = _zeros = _zero_bytes(1 << (count - 1).bit_length())
    return zeros[:count]


def _fill(stream: CipherContext, out: NDArray[np.uint8], start: int, count: int) -> None:
    window = out.data[start : start + count + _TAG_BYTES - 1]
    stream.update_into(_kept_zeros(count), window)
