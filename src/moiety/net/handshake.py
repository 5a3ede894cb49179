"""Both sides say hello before either reports a connection.

A TLS 1.3 client's handshake returns before the server may reject its certificate, so success of the handshake alone
proves nothing to the dialler. Its hello is answered only by a listener that accepted certificate and hello.
"""

import contextlib
import os
import ssl
import time
from typing import Final, NoReturn

import msgspec

from moiety.errors import FrameError, IdentityError, PeerLost
from moiety.net.channel import Channel
from moiety.net.frames import Kind
from moiety.net.link import PROTOCOL, Hello
from moiety.net.reader import AbortReceived
from moiety.net.stream import TlsStream

HELLO_LIMIT: Final = 4096


def dialler_hello(tls: ssl.SSLSocket, me: str, peer: str, purpose: str, session: bytes, deadline: float, stall_s: float) -> Channel:
    """Say hello, wait for the answer. The channel is ready when this returns.

    Raises IdentityError if either side does not accept the other, FrameError on another protocol, PeerLost,
    DeadlineExceeded. The socket is closed on any error.
    """
    channel = Channel(TlsStream(tls), peer, stall_s=stall_s)
    try:
        mine = Hello(PROTOCOL, me, peer, purpose, session, os.urandom(32))
        with contextlib.suppress(PeerLost):  # a listener that refused has hung up; its reason can still be read
            channel.send(Kind.HELLO, [msgspec.msgpack.encode(mine)])
        theirs = _receive(channel, deadline, "its hello")
        _check(theirs, sender=peer, receiver=me)
        if (theirs.purpose, theirs.session) != (purpose, session):
            raise FrameError(f"{peer} answered for another purpose or session than the one asked for; dial again")
        channel.introduce(mine, theirs)
    except BaseException as error:
        _end(channel, error)
    return channel


def listener_hello(tls: ssl.SSLSocket, me: str, peer: str, deadline: float, stall_s: float) -> Channel:
    """Wait for the hello of ``peer``, whose certificate was checked, and answer it. Raises as ``dialler_hello`` does."""
    channel = Channel(TlsStream(tls), peer, stall_s=stall_s)
    try:
        theirs = _receive(channel, deadline, "its hello")
        _check(theirs, sender=peer, receiver=me)
        mine = Hello(PROTOCOL, me, peer, theirs.purpose, theirs.session, os.urandom(32))
        channel.send(Kind.HELLO, [msgspec.msgpack.encode(mine)])
        channel.introduce(mine, theirs)
    except BaseException as error:
        _end(channel, error)
    return channel


def _receive(channel: Channel, deadline: float, awaited: str) -> Hello:
    left = max(0.0, deadline - time.monotonic())
    try:
        data = channel.receive_message(Kind.HELLO, deadline_s=left, awaited=awaited, limit_bytes=HELLO_LIMIT)
    except AbortReceived as error:
        if error.peer_code == IdentityError.code:
            raise IdentityError(str(error)) from None
        raise
    try:
        return msgspec.msgpack.decode(data, type=Hello)
    except msgspec.MsgspecError as error:
        raise FrameError(f"the hello of {channel.peer} is not readable ({error}); run the same release of moiety everywhere") from None


def _check(hello: Hello, *, sender: str, receiver: str) -> None:
    if hello.protocol != PROTOCOL:
        raise FrameError(
            f"{sender} speaks protocol {hello.protocol}, {receiver} speaks {PROTOCOL}; run the same release of moiety everywhere"
        )
    if hello.sender != sender:
        raise IdentityError(
            f"the party with the certificate of {sender} calls itself {hello.sender!r}; "
            f"let {sender} and {receiver} use one federation file with the same names"
        )
    if hello.receiver != receiver:
        raise IdentityError(
            f"{sender} meant to reach {hello.receiver!r} but reached {receiver}; "
            f"correct host, port and certificate of {hello.receiver!r} in the federation file of {sender}"
        )


def _end(channel: Channel, error: BaseException) -> NoReturn:
    # The other side gets the reason, so that both report the same failure.
    if isinstance(error, IdentityError | FrameError):
        channel.abort(error.code, str(error))
    channel.close()
    raise error
