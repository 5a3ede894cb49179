"""Frames in: exactly the announced one, or an error that names the peer, what was awaited and for how long."""

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec

from moiety.errors import ChannelError, DeadlineExceeded, FrameError, MoietyError, PeerAborted, PeerLost, ProtocolMisuse
from moiety.net.frames import HEADER_BYTES, Header, Kind, decode_header
from moiety.net.link import Counters
from moiety.net.stream import TlsStream
from moiety.net.trust import stream_error

if TYPE_CHECKING:
    from typing_extensions import Buffer

ABORT_LIMIT: Final = 8192
NOTICE_S: Final = 1.0  # for the text behind the header of an abort
_CODE: Final = re.compile(r"MOI-\d{3}")


class Abort(msgspec.Struct):
    """The payload of an ABORT frame: an error code and its redacted message."""

    code: str
    message: str


class AbortReceived(PeerAborted):
    """PeerAborted as the reader raises it: ``peer_code`` is the peer's own error code."""

    def __init__(self, text: str, peer_code: str = "MOI-000") -> None:
        super().__init__(text)
        self.peer_code = peer_code


class Wait(NamedTuple):
    """One wait: when it ends (monotonic), how long it was to be, and what is awaited, for messages."""

    deadline: float
    seconds: float
    awaited: str


class FrameReader:
    """The receiving half of a channel. One thread at a time.

    After any error but a deadline between frames the place in the stream is lost; every later call raises that error.
    """

    def __init__(self, stream: TlsStream, peer: str, counters: Counters) -> None:
        self._stream, self._peer, self._counters = stream, peer, counters
        self._sequence = 0
        self._last = time.monotonic()  # when a frame last came
        self._failure: MoietyError | None = None

    def receive(self, kind: Kind, nbytes: int, wave: int, layout: int, wait: Wait) -> bytearray:
        """The payload of the next frame, which must be exactly the one described."""
        self._expect(kind, nbytes, wave, layout, wait)
        payload = bytearray(nbytes)
        if nbytes:
            self._fill(memoryview(payload), 0, nbytes, wait)
        self._count(nbytes)
        return payload

    def receive_into(self, kind: Kind, buffers: Sequence["Buffer"], wave: int, layout: int, wait: Wait) -> None:
        """As ``receive``, into writable contiguous buffers that together have the frame's size."""
        views = [flat(buffer, writable=True) for buffer in buffers]
        total, done = sum(map(len, views)), 0
        self._expect(kind, total, wave, layout, wait)
        for view in views:
            self._fill(view, done, total, wait)
            done += len(view)
        self._count(total)

    def receive_message(self, kind: Kind, wait: Wait, limit_bytes: int) -> bytes:
        """The payload of the next frame, whose size is unknown but at most ``limit_bytes``."""
        header = self._header(kind, wait)
        if header.kind is not kind:
            self._refuse(f"kind {header.kind.name} came where {kind.name} was expected", wait.awaited)
        if header.nbytes > limit_bytes:
            self._refuse(f"a message of {header.nbytes} bytes came, above the limit of {limit_bytes}", wait.awaited)
        payload = bytearray(header.nbytes)
        self._fill(memoryview(payload), 0, header.nbytes, wait)
        self._count(header.nbytes)
        return bytes(payload)

    @property
    def number(self) -> int:
        """Of the next frame."""
        return self._sequence

    def glance(self, *, strict: bool) -> bool:
        """Without waiting: whether a frame waits, or nothing more will come. Takes an abort, and raises it.

        Raises FrameError where bytes were altered; PeerLost where the peer is gone if ``strict``, else whoever waits for it is told.
        """
        if self._failure is not None:
            return True
        try:
            seen = self._stream.glance(HEADER_BYTES)
            header = None if seen is None else decode_header(seen)
        except FrameError:
            return True  # nothing was taken: whoever waits for this peer will see it
        except (EOFError, OSError, ValueError) as error:
            lost = self._fail(self._lost(error, "another's word"))  # OpenSSL tells it once only
            if strict or isinstance(lost, FrameError):
                raise lost from None
            return True
        if header is not None and header.kind is Kind.ABORT and header.sequence == self._sequence:
            self._stream.skip(HEADER_BYTES)
            self._raise_abort(header.nbytes, Wait(time.monotonic() + NOTICE_S, NOTICE_S, "another's word"))
        return header is not None

    def _expect(self, kind: Kind, nbytes: int, wave: int, layout: int, wait: Wait) -> None:
        header = self._header(kind, wait)
        if header == (kind, self._sequence, wave, layout, nbytes):
            return
        for name, found, wanted in (
            ("kind", header.kind.name, kind.name),
            ("wave", header.wave, wave),
            ("layout", f"{header.layout:#x}", f"{layout:#x}"),
            ("size", header.nbytes, nbytes),
        ):
            if found != wanted:
                self._refuse(f"{name} {found} came where {name} {wanted} was expected", wait.awaited)

    def _header(self, kind: Kind, wait: Wait) -> Header:
        """The next header, checked for sequence; an ABORT ends here, and so does a BYE unless ``kind`` is BYE."""
        if self._failure is not None:
            raise again(self._failure)
        try:
            header = decode_header(self._stream.peek(HEADER_BYTES, wait.deadline))
        except TimeoutError:
            # Nothing was taken from the stream, so the caller may try again; no failure is kept.
            raise DeadlineExceeded(self._late("nothing came", wait)) from None
        except FrameError as error:
            self._refuse(str(error), wait.awaited)
        except (EOFError, OSError, ValueError) as error:
            raise self._fail(self._lost(error, wait.awaited)) from None
        self._stream.skip(HEADER_BYTES)
        if header.sequence != self._sequence:
            what = "repeated" if header.sequence < self._sequence else "missing"
            self._refuse(f"frame number {header.sequence} came where {self._sequence} was expected (a frame is {what})", wait.awaited)
        if header.kind is Kind.ABORT:
            self._raise_abort(header.nbytes, wait)
        if header.kind is Kind.BYE and kind is not Kind.BYE:
            raise self._fail(PeerLost(f"{self._peer} ended the connection in good order while {wait.awaited} was awaited from it"))
        return header

    def _fill(self, view: memoryview, before: int, total: int, wait: Wait) -> None:
        try:
            count = self._stream.read_into(view, wait.deadline)
        except (EOFError, OSError, ValueError) as error:
            raise self._fail(self._lost(error, f"{wait.awaited} (in mid-frame)")) from None
        if count < len(view):
            text = self._late(f"only {before + count} of {total} bytes came", wait)
            raise self._fail(DeadlineExceeded(text))

    def _raise_abort(self, nbytes: int, wait: Wait) -> NoReturn:
        if nbytes > ABORT_LIMIT:
            self._refuse(f"an abort notice of {nbytes} bytes came, above the limit of {ABORT_LIMIT}", wait.awaited)
        payload = bytearray(nbytes)
        self._fill(memoryview(payload), 0, nbytes, wait)
        try:
            notice = msgspec.msgpack.decode(payload, type=Abort)
        except (msgspec.MsgspecError, ValueError):
            notice = Abort("MOI-000", "(the notice is not readable)")
        code = notice.code if _CODE.fullmatch(notice.code) else "MOI-000"
        # The text is the peer's: without control characters it cannot forge lines in our log.
        text = "".join(c if c.isprintable() else " " for c in notice.message)
        raise self._fail(AbortReceived(f"{text} ({self._peer} ended the run with {code} while {wait.awaited} was awaited)", code))

    def _count(self, nbytes: int) -> None:
        self._sequence += 1
        self._last = time.monotonic()
        self._counters.frames_received += 1
        self._counters.payload_received += nbytes

    def _late(self, what: str, wait: Wait) -> str:
        return (
            f"{what} from {self._peer} within {wait.seconds:.3g} s while {wait.awaited} was awaited "
            f"(its last frame came {time.monotonic() - self._last:.1f} s ago); "
            f"check that {self._peer} is running and reachable, or allow a longer deadline"
        )

    def _lost(self, error: Exception, awaited: str) -> MoietyError:
        if self._stream.closed:
            return ChannelError(f"the channel to {self._peer} was closed here while {awaited} was awaited; open a new one")
        if isinstance(error, OSError):
            return stream_error(error, self._peer, f"{awaited} was awaited")
        return PeerLost(f"{self._peer} closed the connection while {awaited} was awaited; look at the log of {self._peer}")

    def _refuse(self, what: str, awaited: str) -> NoReturn:
        raise self._fail(
            FrameError(f"from {self._peer}, awaiting {awaited}: {what}; the run cannot go on, check that all run one plan")
        ) from None

    def _fail(self, error: MoietyError) -> MoietyError:
        self._failure = error
        return error


def again(error: MoietyError) -> MoietyError:
    """A fresh copy of a kept error: raising one object twice would grow its traceback."""
    if isinstance(error, AbortReceived):
        return AbortReceived(str(error), error.peer_code)
    return type(error)(str(error))


def flat(buffer: "Buffer", *, writable: bool = False) -> memoryview:
    """The bytes of ``buffer`` without a copy. Raises ProtocolMisuse if they are not contiguous (or not writable)."""
    view = memoryview(buffer)
    if writable and view.readonly:
        raise ProtocolMisuse("a buffer to receive into is read-only; give a writable one")
    if not view.c_contiguous:
        raise ProtocolMisuse("a frame's parts must be contiguous; copy the array first")
    if not view.nbytes:
        return memoryview(b"")  # a shape with a zero cannot be cast
    return view.cast("B") if view.format != "B" or view.ndim != 1 else view
