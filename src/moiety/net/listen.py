"""Wait for peers to connect. Nobody who merely opens a connection can hold up anybody else."""

import contextlib
import errno
import ipaddress
import queue
import select
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from moiety.errors import AddressInUse, ChannelError, ConfigError, DeadlineExceeded, IdentityError, MoietyError, PeerLost
from moiety.net.channel import Channel
from moiety.net.handshake import listener_hello
from moiety.net.identity import Identity, Peer, fingerprint
from moiety.net.silent import MAX_SILENT, Dialler, SilentDiallers
from moiety.net.stream import TlsStream, drain
from moiety.net.trust import handshake_error, remedy, tls_context
from moiety.net.writer import STALL_S

HANDSHAKE_S: Final = 5.0  # for TLS and hello together
MAX_HANDSHAKES: Final = 32  # at once, of diallers who said something; beyond it one of the host with the most is dropped
MAX_WAITING: Final = 128  # connections accepted but not yet taken
LINGER_S: Final = 0.5  # for a refused dialler to read why


def _ignore(reason: str) -> None:
    """The default ``on_refused``."""


class Listener:
    """Accepts connections from exactly ``peers``.

    Each handshake runs in a short-lived thread with its own deadline. A refused one is reported to ``on_refused`` (from
    that thread; the reason names the peer, or the dialler's address where no certificate was accepted) and the listener
    goes on.

    Raises AddressInUse if the port is taken, ConfigError if the address cannot be used, is a wildcard, or ``peers`` is
    inconsistent.
    """

    def __init__(
        self,
        identity: Identity,
        peers: Mapping[str, Peer],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        on_refused: Callable[[str], None] = _ignore,
        handshake_s: float = HANDSHAKE_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._identity, self._on_refused = identity, on_refused
        self._handshake_s, self._stall_s = handshake_s, stall_s
        self._peers = _by_certificate(peers)
        self._expected = ", ".join(sorted(peers)) or "nobody"
        self._context = tls_context(identity, self._peers, server=True)
        self._socket = _bind(host, port)
        self._port = int(self._socket.getsockname()[1])
        self._ready: queue.Queue[Channel | None] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}  # handshakes under way, oldest first
        self._refusals: list[IdentityError] = []
        self._closed = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"moiety-listen-{identity.name}", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on, also when it was chosen by the system."""
        return self._port

    def accept(self, *, deadline_s: float | None = None, awaited: str = "a connection") -> Channel:
        """The next connection whose certificate and hello are good.

        Raises DeadlineExceeded if none came in ``deadline_s``; IdentityError instead if somebody was refused for their
        certificate or name since the last call; ChannelError when the listener is closed.
        """
        try:
            channel = self._ready.get(timeout=deadline_s)
        except queue.Empty:
            with self._lock:
                refusals, self._refusals = self._refusals, []
            late = f"within {deadline_s:.3g} s while {awaited} was awaited by {self._identity.name}"
            if refusals:
                raise IdentityError(f"no connection {late}; refused: {'; '.join(dict.fromkeys(map(str, refusals)))}") from None
            raise DeadlineExceeded(
                f"none of {self._expected} connected {late}; start them, and check that they dial port {self._port}"
            ) from None
        with self._lock:
            self._refusals = []
        if channel is None:
            self._ready.put(None)  # for other threads that wait
            raise ChannelError(f"the listener of {self._identity.name} was closed while {awaited} was awaited")
        return channel

    def close(self) -> None:
        """Stop listening, end handshakes and connections that nobody took. May be called twice. Never raises."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            threads = list(self._open.values())
            for connection in self._open:
                _hang_up(connection)
        self._wake.send(b"x")
        for thread in (self._thread, *threads):
            if thread is not threading.current_thread():  # ``on_refused`` may close the listener
                thread.join(self._handshake_s + LINGER_S)
        self._socket.close()
        self._wake.close()
        self._woken.close()
        with contextlib.suppress(queue.Empty):
            while True:
                channel = self._ready.get_nowait()
                if channel is not None:
                    channel.close()
        self._ready.put(None)

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        silent = SilentDiallers(poller, self._handshake_s)
        try:
            while not self._closed:
                ready = [descriptor for descriptor, _ in poller.poll(silent.patience_ms())]
                if self._closed:
                    return
                for dialler in (silent.take(descriptor) for descriptor in ready):
                    if dialler is not None:
                        self._start(dialler)
                if self._socket.fileno() in ready:
                    self._admit(silent)
                for dialler in silent.late():
                    dialler.connection.close()
                    self._refuse(_silent(dialler, f"within {self._handshake_s:.3g} s"))
        finally:
            silent.close()

    def _admit(self, silent: SilentDiallers) -> None:
        try:
            connection, address = self._socket.accept()
        except OSError as error:
            # Out of descriptors, or the dialler left already: neither may end the listener.
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.1)
            return
        crowded = silent.add(connection, f"{address[0]}:{address[1]}")
        if crowded is not None:
            crowded.connection.close()
            self._refuse(_silent(crowded, f"while {MAX_SILENT} others waited"))

    def _start(self, dialler: Dialler) -> None:
        connection = dialler.connection
        connection.settimeout(self._handshake_s)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):
            connection.close()  # left already
            return
        name = f"moiety-hello-{dialler.address}"
        thread = threading.Thread(target=self._welcome, args=(tls, dialler.address), name=name, daemon=True)
        with self._lock:
            if self._closed:
                tls.close()
                return
            if len(self._open) >= MAX_HANDSHAKES:
                self._make_room()
            self._open[tls] = thread
            try:
                thread.start()
            except RuntimeError:  # no more threads to be had: this dialler must try again, the listener goes on
                del self._open[tls]
                tls.close()

    def _make_room(self) -> None:
        """Hang up on the oldest handshake of the host that has the most: who makes the crowd leaves first."""
        hosts = Counter(_host(thread) for thread in self._open.values())
        [(busiest, _)] = hosts.most_common(1)
        oldest = next(tls for tls, thread in self._open.items() if _host(thread) == busiest)
        del self._open[oldest]
        _hang_up(oldest)

    def _welcome(self, tls: ssl.SSLSocket, address: str) -> None:
        channel, refusal = None, None
        try:
            channel = self._handshake(tls, f"the dialler at {address} (one of {self._expected} was expected)")
        except MoietyError as error:
            refusal = error
        except (OSError, ValueError, EOFError) as error:
            refusal = PeerLost(f"the dialler at {address} left in mid-handshake ({type(error).__name__})")
        with self._lock:
            self._open.pop(tls, None)
        if channel is not None and not self._closed:
            try:
                self._ready.put_nowait(channel)
                return
            except queue.Full:
                refusal = ChannelError(f"{MAX_WAITING} connections wait to be taken, so one of {channel.peer} was refused")
                channel.abort(refusal.code, str(refusal))
        if channel is not None:
            channel.close()
        if refusal is not None:
            self._refuse(refusal)

    def _handshake(self, tls: ssl.SSLSocket, who: str) -> Channel:
        deadline = time.monotonic() + self._handshake_s
        try:
            tls.do_handshake()
        except (ssl.SSLError, OSError) as error:
            drain(tls, LINGER_S)
            tls.close()
            raise _handshake_refusal(error, who, self._handshake_s) from None
        shown = tls.getpeercert(binary_form=True) or b""
        peer = self._peers.get(shown)
        if peer is None:
            # TLS found a chain to a pinned certificate, but only the pinned ones themselves count.
            channel = Channel(TlsStream(tls), who)
            refusal = IdentityError(f"{who} showed {fingerprint(shown)}, which is pinned for nobody; {remedy('the dialler')}")
            channel.abort(refusal.code, str(refusal))
            channel.close()
            raise refusal
        return listener_hello(tls, self._identity.name, peer.name, deadline, self._stall_s)

    def _refuse(self, error: MoietyError) -> None:
        if isinstance(error, IdentityError):
            with self._lock:
                self._refusals = [*self._refusals[-15:], error]
        self._on_refused(str(error))


def _handshake_refusal(error: OSError, who: str, handshake_s: float) -> MoietyError:
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return handshake_error(error, who)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"{who} did not finish the TLS handshake within {handshake_s:.3g} s; nothing to do unless it repeats")
    return PeerLost(f"{who} left during the TLS handshake; nothing to do unless it repeats")


def _silent(dialler: Dialler, when: str) -> MoietyError:
    return DeadlineExceeded(f"the dialler at {dialler.address} did not begin a TLS handshake {when}; nothing to do unless it repeats")


def _host(handshake: threading.Thread) -> str:
    return handshake.name.rpartition(":")[0]


def _hang_up(connection: socket.socket) -> None:
    """Wake the thread that works on ``connection``; it closes it."""
    with contextlib.suppress(OSError):
        # The plain method: SSLSocket.shutdown would take the TLS object away from under that thread.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _by_certificate(peers: Mapping[str, Peer]) -> dict[bytes, Peer]:
    found: dict[bytes, Peer] = {}
    for name, peer in peers.items():
        if peer.name != name:
            raise ConfigError(f"peer {peer.name!r} is listed under the name {name!r}; correct the federation file")
        if peer.certificate in found:
            other = found[peer.certificate].name
            raise ConfigError(f"{other} and {name} have one certificate; each party needs its own, correct the federation file")
        found[peer.certificate] = peer
    return found


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigError(f"address {host}:{port} is not usable ({error}); give a host name or address of this machine") from None
    # After resolving, because "0" and "::0" are names of the wildcard too.
    if not host or ipaddress.ip_address(str(address[0]).partition("%")[0]).is_unspecified:
        raise ConfigError(f"refusing to listen on every interface ({host!r}); name the one address that the other parties dial")
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port is free again at once after a restart
        listening.bind(address)
        listening.listen(128)
        listening.setblocking(False)
    except (OSError, OverflowError) as error:
        listening.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{host}:{port} is taken; stop what listens there (see: ss -ltnp), or choose another port or 0") from None
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose an address of this machine and a free port") from None
    return listening
