"""The generator against AES-CTR from its definition, its addresses, its limits and its silence about keys."""

import copy
import hashlib
import hmac
import pickle
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.errors import ProtocolMisuse
from moiety.ring import Prg, derive, prg

KEY = bytes(range(16))
NONCE = b"abcdefghijkl"


def counter_mode(key: bytes, nonce: bytes, count: int) -> bytes:
    blocks = b"".join(nonce + struct.pack(">I", 2 + i) for i in range(-(-count // 16)))
    return Cipher(AES(key), ECB()).encryptor().update(blocks)[:count]


@settings(deadline=None)
@given(key=st.binary(min_size=16, max_size=16), nonce=st.binary(min_size=12, max_size=12), count=st.integers(0, 300))
def test_the_stream_is_aes_in_counter_mode(key: bytes, nonce: bytes, count: int) -> None:
    reference = counter_mode(key, nonce, 8 * count)
    assert Prg(key).octets(nonce, count).tobytes() == reference[:count]
    assert Prg(key).words(nonce, count).tobytes() == reference


@pytest.mark.parametrize("count", [1, 15, 16, 17, 4096, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 5])
def test_both_forms_give_the_same_bytes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Prg(KEY).octets(NONCE, count)
    monkeypatch.setattr(prg, "_GCM_IN_PLACE", False)
    assert np.array_equal(Prg(KEY).octets(NONCE, count), usual)
    assert usual.tobytes() == counter_mode(KEY, NONCE, count)


def test_draws_are_addressed_and_repeatable() -> None:
    generator = Prg(KEY)
    first = generator.words(NONCE, (3, 5))
    generator.words(b"another one!", 1000)
    assert first.shape == (3, 5)
    assert first.dtype == np.uint64
    assert np.array_equal(Prg(KEY).words(NONCE, 15).reshape(3, 5), first)
    assert generator.octets(NONCE, (2, 3)).dtype == np.uint8
    assert generator.words(NONCE, (0, 4)).shape == (0, 4)
    assert generator.words(NONCE, ()).shape == ()


def test_no_word_repeats_within_or_between_streams() -> None:
    streams = [Prg(key).words(nonce, 20_000) for key in (KEY, KEY[::-1]) for nonce in (NONCE, NONCE[::-1])]
    assert np.unique(np.concatenate(streams)).size == 80_000


def test_draws_are_writeable_and_independent() -> None:
    generator = Prg(KEY)
    first = generator.words(NONCE, 100)
    kept = first.copy()
    first += np.uint64(1)
    assert np.array_equal(generator.words(NONCE, 100), kept)


def test_a_draw_beyond_the_block_counter_is_refused() -> None:
    with pytest.raises(ProtocolMisuse, match="split it over nonces"):
        Prg(KEY).words(NONCE, (2**36 - 32) // 8 + 1)
    with pytest.raises(ProtocolMisuse, match="split it over nonces"):
        Prg(KEY).octets(NONCE, (2**20, 2**16))


def test_misuse_is_refused_without_showing_the_key() -> None:
    for key in (b"", b"k" * 15, b"k" * 32):
        with pytest.raises(ProtocolMisuse, match="16 bytes") as refusal:
            Prg(key)
        assert "kk" not in str(refusal.value)
    with pytest.raises(ProtocolMisuse, match="12 bytes"):
        Prg(KEY).words(b"short", 1)
    with pytest.raises(ProtocolMisuse, match="negative"):
        Prg(KEY).words(NONCE, (-1, 2))


def test_the_key_stays_inside() -> None:
    generator = Prg(b"secret key bytes")
    assert repr(generator) == str(generator) == "Prg(key=<redacted>)"
    with pytest.raises(ProtocolMisuse, match="secret"):
        pickle.dumps(generator)
    with pytest.raises(ProtocolMisuse, match="secret"):
        copy.copy(generator)


def test_derive_is_hkdf_with_injective_labels() -> None:
    info = struct.pack("<Q", 2) + b"ab" + struct.pack("<Q", 1) + b"c"
    pseudorandom = hmac.digest(bytes(32), KEY, hashlib.sha256)
    assert derive(KEY, b"ab", b"c") == hmac.digest(pseudorandom, info + b"\x01", hashlib.sha256)
    labels = [(), (b"",), (b"", b""), (b"abc",), (b"ab", b"c"), (b"a", b"bc"), (b"abc", b""), (b"", b"abc")]
    assert len({derive(KEY, *label) for label in labels}) == len(labels)
    with pytest.raises(ProtocolMisuse, match="at least 16"):
        derive(b"short", b"label")
