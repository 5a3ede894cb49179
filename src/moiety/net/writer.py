"""Frames out: small ones at once, large ones by a thread of the channel, always in order."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from moiety.errors import ChannelError, DeadlineExceeded, MoietyError, PeerLost
from moiety.net.frames import HEADER_BYTES, Kind, encode_header
from moiety.net.link import Counters
from moiety.net.reader import again, flat
from moiety.net.trust import RECORD_BYTES, stream_error
from moiety.net.watch import Watch

if TYPE_CHECKING:
    from typing_extensions import Buffer

INLINE_BYTES: Final = 256 * 1024  # above this the kernel's buffers may be full and two senders would wait for each other
QUEUE_BYTES: Final = 64 << 20  # what may wait for one peer in this process, beside one more frame and the kernel's buffers
LOOK_S: Final = 0.1  # how often a sender that waits for room looks whether its run has ended
STALL_S: Final = 300.0  # how long the peer may take no byte; receivers have the tighter deadlines

Piece = bytes | memoryview


class Sink(Protocol):
    """Takes bytes: the stream itself, or what stands before it (``net/shape.py``). ``TlsStream`` says what each method promises."""

    @property
    def closed(self) -> bool: ...
    def write(self, data: Piece, stall_s: float) -> None: ...
    def write_now(self, data: Piece) -> int: ...
    def settle(self, seconds: float) -> None: ...
    def stop(self) -> None: ...


class FrameWriter:
    """The sending half of a channel. One thread at a time calls it; ``transmit`` also serves wrappers that inject faults."""

    def __init__(self, stream: Sink, peer: str, counters: Counters, stall_s: float) -> None:
        self._stream, self._peer, self._counters, self._stall_s = stream, peer, counters, stall_s
        self._sequence = 0
        self._failure: MoietyError | None = None
        self._changed = threading.Condition()
        self._queue: deque[list[Piece]] = deque()
        self._busy = 0  # frames queued or being written by the thread
        self._queued_bytes = 0
        self.watch: Watch | None = None
        self._thread: threading.Thread | None = None
        self._ending = False

    def divert(self, through: Sink) -> None:
        """From now on write to ``through``. Nothing may be queued."""
        assert not self._busy, "diverted before large frames are sent"
        self._stream = through

    @property
    def failure(self) -> MoietyError | None:
        """What ended sending, if anything did."""
        return self._failure

    def encode(self, kind: Kind, parts: Sequence["Buffer"], wave: int, layout: int) -> list[Piece]:
        """A frame as pieces to write: the header joined with what is small, large parts as they are. Takes a number."""
        views = [flat(part) for part in parts]
        nbytes = sum(map(len, views))
        header = encode_header(kind, self._sequence, wave, layout, nbytes)
        self._sequence += 1
        self._counters.frames_sent += 1
        self._counters.payload_sent += nbytes
        if HEADER_BYTES + nbytes <= RECORD_BYTES:
            return [b"".join((header, *views))]
        pieces: list[Piece] = []
        small: list[Piece] = [header]
        for view in views:
            if len(view) < RECORD_BYTES:
                small.append(view)
                continue
            pieces.append(b"".join(small))
            pieces.append(view)
            small = []
        if small:
            pieces.append(b"".join(small))
        return [piece for piece in pieces if len(piece)]

    @property
    def queued_bytes(self) -> int:
        """The size of the frames queued or being written by the thread."""
        return self._queued_bytes

    def transmit(self, pieces: list[Piece], *, patient: bool = True) -> None:
        """Write encoded pieces at once as far as the kernel takes them; what is left, or large, or behind such, is queued.

        ``patient``: wait while the queue is full.
        """
        if self._failure is not None:
            raise again(self._failure)
        if not self._busy and sum(map(len, pieces)) <= INLINE_BYTES:
            pieces = self._write_now(pieces)
            if self._failure is not None:
                raise again(self._failure)
        if pieces:
            self._enqueue(pieces, patient)

    def _enqueue(self, pieces: list[Piece], patient: bool) -> None:
        size = sum(map(len, pieces))
        while patient and self._full(size):
            if self.watch is not None:
                self.watch.look()
        with self._changed:
            if self._failure is not None:
                raise again(self._failure)
            if self._ending:
                raise self._lost(EOFError())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"moiety-send-{self._peer}", daemon=True)
                self._thread.start()
            self._queue.append(pieces)
            self._busy += 1
            self._queued_bytes += size
            self._changed.notify_all()

    def _full(self, size: int) -> bool:
        """Whether there is no room yet, after waiting a moment for it. The thread notices a peer that takes nothing at all."""

        def room() -> bool:
            return not self._busy or self._queued_bytes + size <= QUEUE_BYTES or self._ending or self._failure is not None

        with self._changed:
            return not self._changed.wait_for(room, LOOK_S)

    def flush(self, deadline_s: float) -> None:
        """Return when every queued frame is handed to the kernel; then the parts given to ``send`` may be changed."""
        deadline = time.monotonic() + deadline_s
        with self._changed:
            while self._busy and self._failure is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(
                        f"{self._busy} frames for {self._peer} were not taken within {deadline_s:.3g} s; "
                        f"check that {self._peer} is receiving, or allow a longer deadline"
                    )
                self._changed.wait(left)
        if self._failure is not None:
            raise again(self._failure)

    def settle(self, seconds: float) -> None:
        """Return when what was flushed is on the wire, or ``seconds`` after it should be."""
        self._stream.settle(seconds)

    def stop(self) -> None:
        """No more frames; the thread ends. Called when the stream is closed, so that the thread cannot be stuck in it."""
        with self._changed:
            self._ending = True
            self._queue.clear()
            self._changed.notify_all()
        self._stream.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._ending:
                    self._changed.wait()
                if self._ending or self._failure is not None:
                    return
                pieces = self._queue.popleft()
            size = sum(map(len, pieces))
            self._write(pieces)
            pieces.clear()  # the caller's arrays are not kept alive while idle
            with self._changed:
                self._busy -= 1
                self._queued_bytes -= size
                self._changed.notify_all()

    def _write_now(self, pieces: list[Piece]) -> list[Piece]:
        """What the kernel did not take, as a copy: the caller may change its parts at once."""
        try:
            for number, piece in enumerate(pieces):
                sent = self._stream.write_now(piece)
                if sent < len(piece):
                    return [bytes(piece[sent:]), *map(bytes, pieces[number + 1 :])]
        except (EOFError, OSError, ValueError) as error:
            self._failure = self._lost(error)
        return []

    def _write(self, pieces: list[Piece]) -> None:
        try:
            for piece in pieces:
                self._stream.write(piece, self._stall_s)
        except TimeoutError:
            text = f"{self._peer} took no bytes for {self._stall_s:.3g} s; check that {self._peer} is running and receiving"
            self._failure = DeadlineExceeded(text)
        except (EOFError, OSError, ValueError) as error:
            self._failure = self._lost(error)

    def _lost(self, error: Exception) -> MoietyError:
        if self._stream.closed:
            return ChannelError(f"the channel to {self._peer} was closed here while frames were being sent; open a new one")
        if isinstance(error, OSError):
            return stream_error(error, self._peer, "a frame was being sent")
        return PeerLost(f"{self._peer} closed the connection while a frame was being sent; look at the log of {self._peer}")
