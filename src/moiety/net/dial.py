"""Open a connection to a listening peer."""

import socket
import ssl
import time
from typing import Final

from moiety.errors import ConfigError, DeadlineExceeded, PeerLost
from moiety.net.channel import Channel
from moiety.net.handshake import dialler_hello
from moiety.net.identity import Identity, Peer
from moiety.net.trust import check_pin, handshake_error, tls_context
from moiety.net.writer import STALL_S

FIRST_PAUSE_S: Final = 0.02
LAST_PAUSE_S: Final = 0.5
ABSENT_S: Final = 5.0


def dial(
    identity: Identity,
    peer: Peer,
    *,
    purpose: str,
    session: bytes = b"",
    deadline_s: float,
    absent_s: float = ABSENT_S,
    stall_s: float = STALL_S,
) -> Channel:
    """Connect to ``peer``, trying again until ``deadline_s`` while it does not listen yet: parties start in any order.

    A machine that answers, but on which nothing listens at the port, is asked for ``absent_s`` only.

    Raises IdentityError at once if either side does not accept the other's certificate or name, ChannelError at once if
    what answers is no moiety party, DeadlineExceeded if nobody answers in time, ConfigError on an unusable host or key.
    """
    began = time.monotonic()
    deadline, patience = began + deadline_s, began + min(absent_s, deadline_s)
    context = tls_context(identity, [peer.certificate], server=False)
    pause, obstacle, waited_s = FIRST_PAUSE_S, "no attempt was made", deadline_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            return _attempt(context, identity, peer, purpose, session, deadline, stall_s)
        except (PeerLost, OSError, EOFError) as error:
            # A listener that restarts or is crowded drops connections without a word: not a verdict, so try again.
            obstacle = str(error) or type(error).__name__
            if not isinstance(error, ConnectionRefusedError):
                patience = max(patience, time.monotonic() + absent_s)  # somebody was there a moment ago
            elif time.monotonic() > patience:
                waited_s = min(absent_s, deadline_s)
                break
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LAST_PAUSE_S)
    raise DeadlineExceeded(
        f"{peer.name} at {peer.host}:{peer.port} did not answer within {waited_s:.3g} s while the connection for "
        f"{purpose!r} was awaited (last attempt: {obstacle}); start {peer.name}, or correct its host and port"
    )


def _attempt(
    context: ssl.SSLContext, identity: Identity, peer: Peer, purpose: str, session: bytes, deadline: float, stall_s: float
) -> Channel:
    """One try. Raises PeerLost or OSError where another try may do better."""
    plain = _connect(peer, deadline)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(max(0.001, deadline - time.monotonic()))
        tls = context.wrap_socket(plain, do_handshake_on_connect=False)
    except BaseException:
        plain.close()
        raise
    try:
        _shake(tls, peer)
    except BaseException:
        tls.close()
        raise
    return dialler_hello(tls, identity.name, peer.name, purpose, session, deadline, stall_s)


def _connect(peer: Peer, deadline: float) -> socket.socket:
    try:
        return socket.create_connection((peer.host, peer.port), timeout=max(0.001, deadline - time.monotonic()))
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            raise
        raise ConfigError(f"address {peer.host}:{peer.port} of {peer.name} is not usable ({error}); correct the federation file") from None


def _shake(tls: ssl.SSLSocket, peer: Peer) -> None:
    try:
        tls.do_handshake()
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
        raise PeerLost(f"{peer.name} dropped the connection during the handshake") from None
    except ssl.SSLError as error:
        raise handshake_error(error, peer.name) from None
    except TimeoutError:
        raise PeerLost(f"{peer.name} accepted the connection but did not answer the TLS handshake") from None
    check_pin(peer, tls.getpeercert(binary_form=True))
