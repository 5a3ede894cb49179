"""One authenticated connection to one peer, carrying frames."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from moiety.errors import DeadlineExceeded, MoietyError, PeerLost
from moiety.net.frames import Kind
from moiety.net.link import Counters, Hello, Nonces
from moiety.net.reader import Abort, FrameReader, Wait, again
from moiety.net.stream import TlsStream
from moiety.net.watch import Watch
from moiety.net.writer import STALL_S, FrameWriter, Piece, Sink

if TYPE_CHECKING:
    from typing_extensions import Buffer

GRACE_S: Final = 1.0  # how long abort, close and a failed sender wait for the peer


class Channel:
    """Frames to and from one peer whose certificate and hello are checked. Get one from ``dial`` or ``Listener.accept``.

    Threads: at most one thread sends and at most one thread receives. OpenSSL objects bear no read and write at once,
    so the channel takes turns between the two; where both directions carry load, open two channels, one for each
    direction (``purpose`` in the hello tells them apart), as the engine does between compute parties.
    ``abort`` and ``close`` may be called from any thread.

    Every error names the peer and what was awaited. After an error other than a deadline that passed between frames,
    the channel is of no more use and says so by raising the same error again.
    """

    def __init__(self, stream: TlsStream, peer: str, *, stall_s: float = STALL_S) -> None:
        self._stream, self._peer = stream, peer
        self._counters = Counters()
        self._reader = FrameReader(stream, peer, self._counters)
        self._writer = FrameWriter(stream, peer, self._counters, stall_s)
        self._mine: Hello | None = None
        self._theirs: Hello | None = None
        self._turn = threading.Lock()  # abort may come from another thread than the one that sends
        self._aborted = False

    def introduce(self, mine: Hello, theirs: Hello) -> None:
        """Keep the hellos that were exchanged. Called once, before anyone else sees the channel."""
        self._mine, self._theirs = mine, theirs

    @property
    def peer(self) -> str:
        """The name of the party at the other end."""
        return self._peer

    @property
    def hello(self) -> Hello:
        """What the peer said first."""
        assert self._theirs is not None, "hellos are exchanged before a channel is handed out"
        return self._theirs

    @property
    def nonce(self) -> Nonces:
        """The random bytes of this end and of the other."""
        assert self._mine is not None, "hellos are exchanged before a channel is handed out"
        return Nonces(self._mine.nonce, self.hello.nonce)

    @property
    def closed(self) -> bool:
        """Whether this end was closed here."""
        return self._stream.closed

    @property
    def queued_bytes(self) -> int:
        """What this process holds of frames that the kernel has not taken yet: at most ``QUEUE_BYTES`` and one frame."""
        return self._writer.queued_bytes

    @property
    def counters(self) -> Counters:
        """Frames and payload bytes so far, the hello included."""
        return self._counters

    def __repr__(self) -> str:
        return f"<Channel to {self._peer}{' closed' if self._stream.closed else ''}>"

    def send(self, kind: Kind, parts: Sequence["Buffer"], *, wave: int = 0, layout: int = 0) -> None:
        """Send one frame made of ``parts`` (contiguous buffers), large ones without a copy.

        A frame above 256 KiB, or behind such a frame, is sent by a thread: its parts must not change until ``flush``. While
        ``QUEUE_BYTES`` are with that thread this waits for room: a slow peer holds its sender back, and memory stays bounded.

        Raises PeerLost if the peer is gone, DeadlineExceeded if it takes no bytes, FrameError if the header cannot hold
        the values, ProtocolMisuse if a part is not contiguous. An error of the thread is raised by the next call.
        """
        with self._turn:
            self._writer.transmit(self._writer.encode(kind, parts, wave, layout))

    def flush(self, deadline_s: float) -> None:
        """Wait until all sent frames are with the kernel. Raises DeadlineExceeded, or the sender thread's error."""
        self._writer.flush(deadline_s)

    def receive(self, kind: Kind, nbytes: int, *, wave: int = 0, layout: int = 0, deadline_s: float, awaited: str) -> bytearray:
        """The payload of the next frame, which must be exactly this one. ``awaited`` names op and wave for messages.

        Raises FrameError on another kind, sequence, wave, layout or size, DeadlineExceeded, PeerLost, PeerAborted.
        """
        try:
            return self._reader.receive(kind, nbytes, wave, layout, self._wait(deadline_s, awaited))
        except (DeadlineExceeded, PeerLost) as error:
            raise self._cause(error) from None

    def receive_into(
        self, kind: Kind, buffers: Sequence["Buffer"], *, wave: int = 0, layout: int = 0, deadline_s: float, awaited: str
    ) -> None:
        """As ``receive``, filling writable contiguous ``buffers`` one after another. Raises ProtocolMisuse for others."""
        try:
            self._reader.receive_into(kind, buffers, wave, layout, self._wait(deadline_s, awaited))
        except (DeadlineExceeded, PeerLost) as error:
            raise self._cause(error) from None

    def receive_message(self, kind: Kind, *, deadline_s: float, awaited: str, limit_bytes: int = 65536) -> bytes:
        """The payload of the next frame, of any size up to ``limit_bytes``. Raises as ``receive`` does."""
        try:
            return self._reader.receive_message(kind, self._wait(deadline_s, awaited), limit_bytes)
        except (DeadlineExceeded, PeerLost) as error:
            raise self._cause(error) from None

    def watched(self, watch: Watch) -> None:
        """Join the links that one thread serves: waiting for this one then ends when another of them aborts."""
        watch.add(self._stream.fileno(), self._reader)
        self._stream.watch = self._writer.watch = watch

    def abort(self, code: str, message: str) -> None:
        """Tell the peer why the run ends, as far as that is still possible, and send nothing more. Never raises.

        ``message`` goes to the peer: give the redacted text of an error, never a value.
        """
        if self._aborted:
            return
        self._aborted = True
        notice = msgspec.msgpack.encode(Abort(code, message[:1024]))
        if not self._turn.acquire(timeout=GRACE_S):
            return  # the other thread is stuck in mid-frame: nothing can be said any more
        try:
            self._writer.transmit(self._writer.encode(Kind.ABORT, [notice], 0, 0), patient=False)
            self._writer.flush(GRACE_S)
        except MoietyError:
            pass
        finally:
            self._turn.release()

    def close(self) -> None:
        """End the connection. Large frames still queued get one second to leave: ``flush`` first if they matter.

        May be called twice. Never raises.
        """
        with contextlib.suppress(MoietyError):
            self._writer.flush(GRACE_S)
        self._writer.settle(GRACE_S)
        self._stream.close(GRACE_S if self._aborted else 0.0)
        self._writer.stop()

    def wire_bytes(self) -> tuple[int, int]:
        """Bytes that TCP carried (sent, received), with TLS and headers; (0, 0) where the system cannot tell."""
        return self._stream.wire_bytes()

    def divert(self, through: Callable[[TlsStream], Sink]) -> None:
        """For wrappers that shape: from now on bytes go to the stream by way of what ``through`` makes of it."""
        self._writer.divert(through(self._stream))

    def encode(self, kind: Kind, parts: Sequence["Buffer"], wave: int, layout: int) -> list[Piece]:
        """For wrappers that inject faults: a frame as pieces, its sequence number taken."""
        return self._writer.encode(kind, parts, wave, layout)

    def transmit(self, pieces: list[Piece]) -> None:
        """For wrappers that inject faults: send pieces as they are."""
        self._writer.transmit(pieces)

    def transmit_altered(self, frame: bytes) -> None:
        """For wrappers that inject faults: send a frame of which one bit is flipped on the wire."""
        self._writer.flush(STALL_S)
        self._writer.settle(STALL_S)
        self._stream.write_altered(frame, STALL_S)

    def fall_silent(self) -> None:
        """For wrappers that inject faults: nothing passes any more, and the peer is not told."""
        self._stream.fall_silent()

    def mend(self) -> None:
        """For wrappers that inject faults: end the silence, and with it the connection."""
        self._stream.mend()

    def _wait(self, deadline_s: float, awaited: str) -> Wait:
        # When sending has failed nothing good will come, but the peer's ABORT, which says why, may be on its way.
        seconds = deadline_s if self._writer.failure is None else min(deadline_s, GRACE_S)
        return Wait(time.monotonic() + seconds, seconds, awaited)

    def _cause(self, error: MoietyError) -> MoietyError:
        return error if self._writer.failure is None else again(self._writer.failure)
