"""Bytes over one TLS connection, with a deadline on every wait.

The socket is non-blocking and every OpenSSL call is made under one lock, because OpenSSL objects are not safe for a read
and a write at once; the waits happen outside the lock, so a sender thread never keeps a receiver from its bytes.
"""

import contextlib
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from typing import Final

from moiety.net.trust import RECORD_BYTES
from moiety.net.watch import Watch

WRITE_CHUNK: Final = 1 << 20  # the lock is given back between chunks
_TCP_INFO: Final = 11
_SENT: Final = struct.Struct("@QQ")  # bytes sent, bytes retransmitted, at 200 in struct tcp_info since Linux 4.19
_RECEIVED: Final = struct.Struct("@Q")  # bytes received, at 128


class TlsStream:
    """Exact reads and writes on a TLS socket whose handshake is done.

    Raises TimeoutError at a deadline, EOFError when the peer ended the stream, OSError (also ssl.SSLError) on any other
    failure. Callers turn these into errors that name the peer.
    """

    def __init__(self, tls: ssl.SSLSocket) -> None:
        tls.setblocking(False)
        self._socket = tls
        self._lock = threading.Lock()
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(tls, select.POLLIN)
        self._writable.register(tls, select.POLLOUT)
        self._buffer = memoryview(bytearray(2 * RECORD_BYTES))
        self._start = self._end = 0
        self._wire = (0, 0)
        self._severed: tuple[socket.socket, ...] = ()
        self.watch: Watch | None = None
        """Other links whose end ends a wait for bytes of this one."""
        self.closed = False

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    def peek(self, nbytes: int, deadline: float, *, wait: bool = True) -> memoryview:
        """The next ``nbytes`` (at most a record) without taking them: a deadline here loses nothing. ``skip`` takes them."""
        while self._end - self._start < nbytes:
            if len(self._buffer) - self._end < RECORD_BYTES:
                waiting = self._end - self._start
                self._buffer[:waiting] = self._buffer[self._start : self._end]
                self._start, self._end = 0, waiting
            self._end += self._receive(self._buffer[self._end :], deadline, wait=wait)
        return self._buffer[self._start : self._start + nbytes]

    def glance(self, nbytes: int) -> memoryview | None:
        """As ``peek`` without waiting: None while fewer bytes are there. Raises EOFError, OSError."""
        try:
            return self.peek(nbytes, 0.0, wait=False)
        except TimeoutError:
            return None

    def skip(self, nbytes: int) -> None:
        """Take what ``peek`` showed."""
        self._start += nbytes
        if self._start == self._end:
            self._start = self._end = 0

    def read_into(self, view: memoryview, deadline: float) -> int:
        """Fill ``view`` and return the bytes filled: fewer than its length only when the deadline passed."""
        done = min(len(view), self._end - self._start)
        if done:
            view[:done] = self._buffer[self._start : self._start + done]
            self.skip(done)
        while done < len(view):
            done += self._read_ready(view[done:])
            if done == len(view):
                break
            try:
                done += self._receive(view[done:], deadline)
            except TimeoutError:
                break
        return done

    def _read_ready(self, view: memoryview) -> int:
        """What has come already, record after record."""
        done, size, receive = 0, len(view), self._socket.recv_into
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError), self._lock:
            self._check_open()
            while done < size and (count := receive(view[done:])):
                done += count
        return done

    def write(self, data: bytes | memoryview, stall_s: float) -> None:
        """Write all of ``data``; TimeoutError if the peer takes no byte for ``stall_s``."""
        size = len(data)
        if size <= WRITE_CHUNK:
            self._send(data, stall_s)
            return
        view = memoryview(data)
        for start in range(0, size, WRITE_CHUNK):
            self._send(view[start : start + WRITE_CHUNK], stall_s)

    def write_now(self, data: bytes | memoryview) -> int:
        """Write as much as the kernel takes at once; returns how much that was."""
        sent = 0
        try:
            with self._lock:
                self._check_open()
                while sent < len(data):
                    sent += self._socket.send(data[sent:] if sent else data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        return sent

    def settle(self, seconds: float) -> None:
        """Nothing to wait for: what was written is with the kernel."""

    def stop(self) -> None:
        """Nothing to end."""

    def write_altered(self, data: bytes, stall_s: float) -> None:
        """For injected faults: write ``data``, one bit of its first TLS record flipped after encryption."""
        with self._lock:
            self._check_open()
            true, far = self._divert()
            self._socket.send(data[:RECORD_BYTES])
            record = bytearray(far.recv(2 * RECORD_BYTES))
            os.dup2(true.fileno(), self._socket.fileno())
        record[len(record) // 2] ^= 1
        with true, far:
            true.settimeout(stall_s)
            true.sendall(record)
        self.write(data[RECORD_BYTES:], stall_s)

    def fall_silent(self) -> None:
        """For injected faults: from now on nothing passes in either direction. The peer sees no end before ``mend``."""
        with contextlib.suppress(OSError), self._lock:
            if not self.closed and not self._severed:
                self._severed = self._divert()

    def mend(self) -> None:
        """For injected faults: end the silence by ending the connection."""
        for each in self._severed:
            each.close()

    def _divert(self) -> tuple[socket.socket, ...]:
        """Put a socket in the place of the connection; returns the connection by another handle, and that socket's other end."""
        true = socket.socket(fileno=os.dup(self._socket.fileno()))
        near, far = socket.socketpair()
        near.setblocking(False)
        os.dup2(near.fileno(), self._socket.fileno())
        near.close()
        return true, far

    def wire_bytes(self) -> tuple[int, int]:
        """Bytes that TCP sent and received on this connection (without retransmissions), after closing too; (0, 0) off Linux."""
        if sys.platform == "linux" and not self.closed:
            with contextlib.suppress(OSError, struct.error):
                info = self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)
                sent, again = _SENT.unpack_from(info, 200)
                self._wire = (sent - again, _RECEIVED.unpack_from(info, 128)[0])
        return self._wire

    def close(self, linger_s: float = 0.0) -> None:
        """End the stream. With ``linger_s``, wait that long for the peer to read and close: closing a socket to which
        unread bytes come makes TCP drop what was sent last, and the last thing sent may be why.
        """
        if self.closed:
            return
        self.wire_bytes()
        self.closed = True
        with contextlib.suppress(OSError, ValueError), self._lock:
            self._socket.unwrap()  # on a non-blocking socket: sends close_notify, does not wait for the peer's
        drain(self._socket, linger_s)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in poll
        self._socket.close()

    def _receive(self, view: memoryview, deadline: float, *, wait: bool = True) -> int:
        while True:
            try:
                with self._lock:
                    self._check_open()
                    count = self._socket.recv_into(view)
            except ssl.SSLWantReadError:
                if not wait:
                    raise TimeoutError from None
                self._wait_readable(deadline)
                continue
            except ssl.SSLWantWriteError:
                self._wait(self._writable, deadline)
                continue
            if not count:
                raise EOFError
            return count

    def _send(self, data: bytes | memoryview, stall_s: float) -> None:
        deadline, before = 0.0, -1
        sent, size = 0, len(data)
        while True:
            try:
                with self._lock:
                    self._check_open()
                    while sent < size:  # record by record, which is how OpenSSL writes here
                        sent += self._socket.send(data[sent:] if sent else data)
                return
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError) as error:
                deadline = time.monotonic() + stall_s if sent > before else deadline
                before = sent
                self._wait(self._writable if isinstance(error, ssl.SSLWantWriteError) else self._readable, deadline)

    def _wait_readable(self, deadline: float) -> None:
        if self.watch is None:
            self._wait(self._readable, deadline)
            return
        self._check_open()
        if (descriptor := self._socket.fileno()) < 0:  # closed by another thread since
            raise EOFError
        self.watch.wait(descriptor, deadline)

    def _wait(self, poller: select.poll, deadline: float) -> None:
        self._check_open()
        left = deadline - time.monotonic()
        # Even past the deadline look once: what has already come is not late.
        if not poller.poll(max(0.0, left * 1000.0)):
            raise TimeoutError

    def _check_open(self) -> None:
        # Under the lock: an SSLSocket whose TLS has ended reads and writes in the clear.
        if self.closed:
            raise EOFError


def drain(connection: socket.socket, linger_s: float) -> None:
    """End our direction, then read and drop what has come, and what comes for ``linger_s``, to the peer's end at most."""
    deadline = time.monotonic() + linger_s
    with contextlib.suppress(OSError, ValueError):
        connection.setblocking(False)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        while poller.poll(max(0.0, deadline - time.monotonic()) * 1000.0):
            if not socket.socket.recv(connection, 65536):
                return
