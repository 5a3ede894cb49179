"""The header: what goes in comes out, and nothing else is accepted."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moiety.errors import FrameError
from moiety.net.frames import HEADER_BYTES, MAX_PAYLOAD, Header, Kind, decode_header, encode_header

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@given(st.sampled_from(Kind), U64, U32, U64, st.integers(0, MAX_PAYLOAD))
def test_header_round_trips(kind: Kind, sequence: int, wave: int, layout: int, nbytes: int) -> None:
    data = encode_header(kind, sequence, wave, layout, nbytes)
    assert len(data) == HEADER_BYTES
    assert decode_header(data) == Header(kind, sequence, wave, layout, nbytes)


@given(st.integers(0, HEADER_BYTES * 8 - 1))
def test_every_flipped_bit_is_caught(bit: int) -> None:
    data = bytearray(encode_header(Kind.WAVE, 7, 3, 0xABCDEF, 64))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FrameError):
        decode_header(data)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_noise_is_a_frame_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_header(data)


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [(4, b"\x02", "same release"), (5, b"\x63", "unknown frame kind 99"), (32 - 4, struct.pack("<Q", MAX_PAYLOAD + 1), "above the limit")],
)
def test_well_formed_but_unacceptable(offset: int, value: bytes, text: str) -> None:
    data = bytearray(encode_header(Kind.WAVE, 0, 0, 0, 0)[:-4])
    data[offset : offset + len(value)] = value
    with pytest.raises(FrameError, match=text):
        decode_header(data + struct.pack("<I", zlib.crc32(data)))


@pytest.mark.parametrize("fields", [(-1, 0, 0, 0), (0, 2**32, 0, 0), (0, 0, 2**64, 0), (0, 0, 0, MAX_PAYLOAD + 1)])
def test_fields_that_do_not_fit(fields: tuple[int, int, int, int]) -> None:
    with pytest.raises(FrameError):
        encode_header(Kind.WAVE, *fields)
