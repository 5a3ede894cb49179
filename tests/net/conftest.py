"""Parties, connected pairs and a proxy, all on loopback with real TLS, all closed by the fixture that made them."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from moiety.net import Channel, Identity, Listener, Peer, create_identity, dial

DEADLINE = 10.0  # for what should succeed


@dataclass
class Town:
    """Makes parties and listeners and remembers what to close."""

    folder: Path
    pool: ThreadPoolExecutor
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    refused: list[str] = field(default_factory=list)
    count: int = 0

    def identity(self, name: str, valid_days: float = 365) -> Identity:
        self.count += 1
        return create_identity(name, self.folder / f"{name}-{self.count}", valid_days=valid_days)

    def listener(self, identity: Identity, *diallers: Identity, **options: float) -> Listener:
        peers = {who.name: Peer(who.name, "127.0.0.1", 1, who.certificate) for who in diallers}
        listener = Listener(identity, peers, on_refused=self.refused.append, **options)
        self.stack.callback(listener.close)
        return listener

    def keep(self, channel: Channel) -> Channel:
        self.stack.callback(channel.close)
        return channel

    def pair(self, port: Callable[[int], int] = lambda port: port, session: bytes = b"run 1", **options: float) -> tuple[Channel, Channel]:
        """Channels of P1 (dialler) and P2; ``port`` may put something between them."""
        one, two = self.identity("P1"), self.identity("P2")
        listener = self.listener(two, one)
        peer = Peer("P2", "127.0.0.1", port(listener.port), two.certificate)
        dialled = self.keep(dial(one, peer, purpose="test", session=session, deadline_s=DEADLINE, **options))
        return dialled, self.keep(listener.accept(deadline_s=DEADLINE))


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as stack:
        yield Town(tmp_path, pool, stack)


@pytest.fixture
def pair(town: Town) -> tuple[Channel, Channel]:
    return town.pair()


class FlippingProxy:
    """Passes bytes between a dialler and ``port``; after ``arm``, flips one bit of the next bytes that the dialler sends."""

    def __init__(self, port: int, at: int = 20) -> None:
        self._target, self._at = port, at
        self._armed = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._sockets = [self._listening]
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def arm(self) -> None:
        self._armed.set()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._listening.accept()
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            self._threads += [threading.Thread(target=self._pump, args=ends) for ends in ((near, far, True), (far, near, False))]
            for thread in self._threads[1:]:
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, flips: bool) -> None:
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                if flips and self._armed.is_set():
                    self._armed.clear()
                    data[min(self._at, len(data) - 1)] ^= 1
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()


@pytest.fixture
def flipping_proxy(town: Town) -> Callable[..., FlippingProxy]:
    def make(port: int, at: int = 20) -> FlippingProxy:
        proxy = FlippingProxy(port, at)
        town.stack.callback(proxy.close)
        return proxy

    return make
