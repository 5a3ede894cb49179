"""Bytes over one TLS connection, with a deadline on every wait.

The socket is non-blocking and every OpenSSL call is made under one lock, because OpenSSL objects are not safe for a read
and a write at once; the waits happen outside the lock, so a sender thread never keeps a receiver from its bytes.
"""

import contextlib
import select
import socket
import ssl
import struct
import sys
import threading
import time
from typing import Final

from moiety.net.trust import RECORD_BYTES

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
        self.closed = False

    def peek(self, nbytes: int, deadline: float) -> memoryview:
        """The next ``nbytes`` (at most a record) without taking them: a deadline here loses nothing. ``skip`` takes them."""
        while self._end - self._start < nbytes:
            if len(self._buffer) - self._end < RECORD_BYTES:
                waiting = self._end - self._start
                self._buffer[:waiting] = self._buffer[self._start : self._end]
                self._start, self._end = 0, waiting
            self._end += self._receive(self._buffer[self._end :], deadline)
        return self._buffer[self._start : self._start + nbytes]

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
            try:
                done += self._receive(view[done:], deadline)
            except TimeoutError:
                break
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

    def _receive(self, view: memoryview, deadline: float) -> int:
        tls = self._socket
        while True:
            if not tls.pending():  # decrypted bytes inside OpenSSL are invisible to poll
                self._wait(self._readable, deadline)
            try:
                with self._lock:
                    self._check_open()
                    count = tls.recv_into(view)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLWantWriteError:
                self._wait(self._writable, deadline)
                continue
            if not count:
                raise EOFError
            return count

    def _send(self, data: bytes | memoryview, stall_s: float) -> None:
        deadline = 0.0
        sent, size = 0, len(data)
        while True:
            try:
                with self._lock:
                    self._check_open()
                    sent += self._socket.send(data[sent:] if sent else data)
                if sent == size:
                    return
                deadline = 0.0
            except ssl.SSLWantWriteError:
                deadline = deadline or time.monotonic() + stall_s
                self._wait(self._writable, deadline)
            except ssl.SSLWantReadError:
                deadline = deadline or time.monotonic() + stall_s
                self._wait(self._readable, deadline)

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
