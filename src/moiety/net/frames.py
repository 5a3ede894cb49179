"""The fixed header in front of every frame.

A frame is 40 bytes of header and then ``nbytes`` of payload. TLS already protects both; the CRC catches a flipped
header byte where TLS ended before the fault (a wrapper, memory, a test on a plain socket).
"""

import struct
import zlib
from enum import IntEnum
from typing import Final, NamedTuple

from moiety.errors import FrameError

MAGIC: Final = b"MOIF"
VERSION: Final = 1
MAX_PAYLOAD: Final = 1 << 36  # 64 GiB: no honest frame comes near; checked before anything is allocated

_BODY: Final = struct.Struct("<4sBBxxQIQQ")  # magic, version, kind, sequence, wave, layout, nbytes
_CRC: Final = struct.Struct("<I")
_WHOLE: Final = struct.Struct(_BODY.format + "I")
HEADER_BYTES: Final = _WHOLE.size


class Kind(IntEnum):
    """What a frame carries."""

    HELLO = 1
    CONTROL = 2
    WAVE = 3
    DEALT = 4
    INPUT = 5
    OUTPUT = 6
    REPORT = 7
    ABORT = 8
    BYE = 9


class Header(NamedTuple):
    """A decoded header. ``layout`` is the caller's hash over shapes and dtypes of the frame's segments."""

    kind: Kind
    sequence: int
    wave: int
    layout: int
    nbytes: int


def encode_header(kind: Kind, sequence: int, wave: int, layout: int, nbytes: int) -> bytes:
    """The 40 bytes that stand before a payload.

    Raises FrameError if a field does not fit or the payload is above ``MAX_PAYLOAD``.
    """
    if nbytes > MAX_PAYLOAD:
        raise FrameError(f"a {kind.name} frame of {nbytes} bytes is above the limit of {MAX_PAYLOAD}; split it")
    try:
        body = _BODY.pack(MAGIC, VERSION, kind, sequence, wave, layout, nbytes)
    except struct.error as error:
        raise FrameError(f"header field out of range for a {kind.name} frame (wave {wave}, layout {layout}): {error}") from None
    return body + _CRC.pack(zlib.crc32(body))


def decode_header(data: bytes | bytearray | memoryview) -> Header:
    """Read and check the 40 bytes that stand before a payload.

    Raises FrameError on a wrong magic, version, checksum or kind, and on a size above ``MAX_PAYLOAD``.
    """
    magic, version, number, sequence, wave, layout, nbytes, checksum = _WHOLE.unpack_from(data)
    if magic != MAGIC:
        raise FrameError("this is not the start of a moiety frame (wrong magic)")
    if zlib.crc32(data[: _BODY.size]) != checksum:
        raise FrameError("the frame's header was altered (wrong checksum)")
    if version != VERSION:
        raise FrameError(f"frame format {version}, this party speaks {VERSION}; run the same release of moiety everywhere")
    kind = _KINDS.get(number)
    if kind is None:
        raise FrameError(f"unknown frame kind {number}")
    if nbytes > MAX_PAYLOAD:
        raise FrameError(f"a {kind.name} frame announces {nbytes} bytes, above the limit of {MAX_PAYLOAD}")
    return Header(kind, sequence, wave, layout, nbytes)


_KINDS: Final = {int(kind): kind for kind in Kind}  # a dict look-up is 4 times faster than Kind(number)
