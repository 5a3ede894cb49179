"""Links slower than the wire below them, in user space: for tests, benchmarks and plans.

```
leaves  = max(now, when the bytes before it have left) + bytes on the wire / bandwidth
arrives = leaves + delay
```

What a channel writes is cut into chunks; each waits in this process until it would have arrived, and is then handed to TLS and the
kernel. So frames follow each other in flight, and the sender waits only when the link's window is full, as with a real socket. Bytes
count as TLS carries them. Not shaped: the handshake and the hello, and how TCP itself would probe for bandwidth or mend losses.

Who sends decides: a process shapes its own links because its own command line, or its own caller, says so. Nothing that comes from a
peer, and no federation file, can switch it on.
"""

import re
import threading
import time
from collections import deque
from typing import Final

import msgspec

from moiety.errors import ConfigError
from moiety.net.channel import Channel
from moiety.net.link import Link
from moiety.net.stream import TlsStream
from moiety.net.trust import RECORD_BYTES
from moiety.net.writer import STALL_S

TLS_BYTES: Final = 22
"""What TLS 1.3 adds to a record: header, kind, and the cipher's tag."""
CHUNK_BYTES: Final = 4 * RECORD_BYTES
SOCKET_BYTES: Final = 4 << 20
"""What waits to leave, as in a socket's buffer; beside it so much may be in flight as the link holds."""


class Net(msgspec.Struct, frozen=True):
    """A network between every two members: seconds one way, and bytes a second in each direction of each link.

    ``shared``: all members are on one machine and share its processors.
    """

    name: str
    delay_s: float
    bytes_per_s: float
    shared: bool = False


NETS: Final = {net.name: net for net in (Net("loopback", 0.0001, 2e9, shared=True), Net("lan", 0.0005, 125e6), Net("wan", 0.020, 12.5e6))}
"""Between processes of one machine; 0.5 ms and 1 Gbit/s; 20 ms and 100 Mbit/s: one way, and each way."""
_CUSTOM: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s),(\d+(?:\.\d+)?)(k|M|G)bit(?:/s)?")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BITS: Final = {"k": 1e3, "M": 1e6, "G": 1e9}


def net(text: str) -> Net:
    """A network by name, or by its delay (one way) and bandwidth: ``20ms,100Mbit``. Raises ConfigError."""
    if text in NETS:
        return NETS[text]
    found = _CUSTOM.fullmatch(text)
    if found is None or not float(found[3]):
        raise ConfigError(f"{text!r} is no link; take {', '.join(NETS)}, or give delay one way and bandwidth, like 20ms,100Mbit")
    return Net(text, float(found[1]) * _SECONDS[found[2]], float(found[3]) * _BITS[found[4]] / 8)


def on_wire(nbytes: int) -> int:
    """The size of what is written at once, as TLS carries it."""
    return nbytes + TLS_BYTES * -(-nbytes // RECORD_BYTES)


class Pipe:
    """One direction of one link: says when bytes arrive. All channels that go this way share it, from any thread."""

    def __init__(self, net: Net) -> None:
        self._net, self._turn = net, threading.Lock()
        self._free = 0.0
        self.window_bytes = SOCKET_BYTES + net.delay_s * net.bytes_per_s

    def arrival(self, nbytes: int) -> float:
        """When ``nbytes`` that are sent now are there (monotonic)."""
        with self._turn:
            self._free = max(self._free, time.monotonic()) + nbytes / self._net.bytes_per_s
            return self._free + self._net.delay_s


class ShapedStream:
    """Stands before the stream of a channel, for writing. A thread hands over what has arrived; one other thread at a time writes.

    Raises as ``TlsStream`` does; what the thread met, the next call raises.
    """

    def __init__(self, stream: TlsStream, pipe: Pipe, peer: str) -> None:
        self._stream, self._pipe, self._peer = stream, pipe, peer
        self._changed = threading.Condition()
        self._flying: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        self._ending = False

    @property
    def closed(self) -> bool:
        """Whether the stream below is."""
        return self._stream.closed

    def write(self, data: bytes | memoryview, stall_s: float) -> None:
        """Take all of ``data``, as the window has room; TimeoutError if it has none for ``stall_s``."""
        view, done = memoryview(data), 0
        while (done := done + self.write_now(view[done:])) < len(view):
            with self._changed:
                if not self._changed.wait_for(self._open, stall_s):
                    raise TimeoutError

    def write_now(self, data: bytes | memoryview) -> int:
        """Take as much as there is room for; returns how much that was."""
        done = 0
        with self._changed:
            while done < len(data) and self._open():
                if self._failure is not None:
                    raise self._failure
                if self._ending or self.closed:
                    raise EOFError
                chunk = bytes(data[done : done + CHUNK_BYTES])
                done += len(chunk)
                self._held += len(chunk)
                self._flying.append((self._pipe.arrival(on_wire(len(chunk))), chunk))
            if self._thread is None and not self._ending:
                self._thread = threading.Thread(target=self._run, name=f"moiety-link-{self._peer}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return done

    def settle(self, seconds: float) -> None:
        """Wait until all that was taken is handed over: ``seconds`` beyond its arrival at most."""
        with self._changed:
            arrives = self._flying[-1][0] if self._flying else time.monotonic()
            left = max(0.0, arrives - time.monotonic()) + seconds
            self._changed.wait_for(lambda: not self._held or self._failure is not None, left)

    def stop(self) -> None:
        """What has not arrived is lost; the thread ends."""
        with self._changed:
            self._ending = True
            self._flying.clear()
            self._changed.notify_all()

    def _open(self) -> bool:
        return self._held + CHUNK_BYTES <= self._pipe.window_bytes or self._failure is not None or self._ending

    def _run(self) -> None:
        while (chunk := self._next()) is not None:
            try:
                self._stream.write(chunk, STALL_S)
            except (EOFError, OSError, ValueError) as error:
                self._fail(error)
                return
            with self._changed:
                self._held -= len(chunk)
                self._changed.notify_all()

    def _next(self) -> bytes | None:
        """What arrives next, at that time; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._flying or self._ending)
            while self._flying and not self._ending:
                left = self._flying[0][0] - time.monotonic()
                if left <= 0:
                    return self._flying.popleft()[1]
                self._changed.wait(left)
        return None

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = error
            self._flying.clear()
            self._changed.notify_all()


class Shaper:
    """Shapes all that one process sends. ``wrap`` is the channel seam of ``serve`` and ``open_session``."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._pipes: dict[str, Pipe] = {}

    def wrap(self, link: Link, purpose: str) -> Link:
        """The link itself, which sends by the pipe to its peer from now on."""
        assert isinstance(link, Channel), "shaping stands next to the channel, below faults"
        pipe = self._pipes.setdefault(link.peer, Pipe(self._net))
        link.divert(lambda stream: ShapedStream(stream, pipe, link.peer))
        return link
