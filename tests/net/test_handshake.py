"""Who is let in, who is not, and that both sides say why."""

import datetime
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from moiety.errors import AddressInUse, ChannelError, ConfigError, DeadlineExceeded, IdentityError, PeerAborted
from moiety.net import Channel, Hello, Identity, Kind, Listener, Peer, create_identity, dial
from moiety.net.link import PROTOCOL
from moiety.net.listen import MAX_HANDSHAKES
from moiety.net.stream import TlsStream
from moiety.net.trust import tls_context


def at(listener: Listener, identity: Identity, name: str = "") -> Peer:
    return Peer(name or identity.name, "127.0.0.1", listener.port, identity.certificate)


def refused_on_both_sides(town: Any, identity: Identity, peer: Peer, listener: Listener, dialler_says: str, listener_says: str) -> None:
    accepted = town.pool.submit(listener.accept, deadline_s=1.0)
    started = time.monotonic()
    with pytest.raises(IdentityError, match=dialler_says) as dialled:
        dial(identity, peer, purpose="x", deadline_s=8)
    assert time.monotonic() - started < 3, "an identity problem is no reason to try again"
    with pytest.raises(IdentityError, match=listener_says) as listened:
        accepted.result(10)
    assert any(reason in str(listened.value) for reason in town.refused)
    for caught in (dialled, listened):
        assert "federation file" in str(caught.value)
        assert "PRIVATE" not in str(caught.value)


def test_dialler_unknown(town: Any) -> None:
    one, two, stranger = town.identity("P1"), town.identity("P2"), town.identity("X")
    listener = town.listener(two, one)
    refused_on_both_sides(town, stranger, at(listener, two), listener, "P2 refused this party's", "dialler at 127.0.0.1:.*P1 was expected")


def test_impostor_dialler_with_a_known_name(town: Any) -> None:
    one, impostor, two = town.identity("P1"), town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one)
    refused_on_both_sides(town, impostor, at(listener, two), listener, "P2 refused this party's", "certificate of the dialler")


def test_impostor_listener_with_a_known_name(town: Any) -> None:
    one, two, impostor = town.identity("P1"), town.identity("P2"), town.identity("P2")
    listener = town.listener(impostor, one)
    refused_on_both_sides(town, one, at(listener, two), listener, "certificate of P2 is not acceptable", "dialler .* refused this party's")


def test_expired_dialler(town: Any) -> None:
    old, two = town.identity("P1", valid_days=-1), town.identity("P2")
    listener = town.listener(two, old)
    refused_on_both_sides(town, old, at(listener, two), listener, "P2 refused .* expired", "dialler .* expired")


def test_expired_listener(town: Any) -> None:
    one, old = town.identity("P1"), town.identity("P2", valid_days=-1)
    listener = town.listener(old, one)
    refused_on_both_sides(town, one, at(listener, old), listener, "P2 is not acceptable .*expired", "dialler .* expired")


@pytest.mark.parametrize("issuer_is_authority", [False, True])
def test_certificate_issued_by_a_member_for_another(town: Any, issuer_is_authority: bool) -> None:
    """A member signs a certificate for P1's name; even a pinned certificate that may sign (ca=True) does not help it."""
    one, two, member = town.identity("P1"), town.identity("P2"), town.identity("P3")
    signing = load_pem_private_key(member.key_path.read_bytes(), None)
    if issuer_is_authority:
        member = issue(member, "P3", signing, signing, True)  # type: ignore[arg-type]
    key = ec.generate_private_key(ec.SECP256R1())
    forger = issue(town.identity("forged"), "P1", key, signing, False, issuer="P3")  # type: ignore[arg-type]
    chain = forger.certificate_path.read_bytes() + member.certificate_path.read_bytes()
    forger.certificate_path.write_bytes(chain)
    listener = town.listener(two, one, member)
    refused_on_both_sides(town, forger, at(listener, two), listener, "certificate|fingerprint", "dialler")


def issue(
    place: Identity, name: str, key: ec.EllipticCurvePrivateKey, signing: ec.EllipticCurvePrivateKey, ca: bool, issuer: str = ""
) -> Identity:
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signing, hashes.SHA256())
    )
    place.key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    place.certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return replace(place, name=name, certificate=certificate.public_bytes(Encoding.DER))


def test_dialler_calls_itself_another(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one)
    says = "certificate of P1 calls itself 'P0'"
    refused_on_both_sides(town, replace(one, name="P0"), at(listener, two), listener, says, says)


def test_listener_is_meant_to_be_another(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one)
    says = "P1 meant to reach 'P0' but reached P2"
    refused_on_both_sides(town, one, at(listener, two, "P0"), listener, says, says)


def shake_hands(identity: Identity, listener: Listener, two: Identity) -> Channel:
    """A dialler that does TLS right and leaves the hello to the test."""
    plain = socket.create_connection(("127.0.0.1", listener.port))
    return Channel(TlsStream(tls_context(identity, [two.certificate], server=False).wrap_socket(plain)), "P2")


def test_other_protocol_version(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one)
    channel = town.keep(shake_hands(one, listener, two))
    channel.send(Kind.HELLO, [msgspec.msgpack.encode(Hello(PROTOCOL + 1, "P1", "P2", "x", b"", bytes(32)))])
    with pytest.raises(PeerAborted, match="P1 speaks protocol 2, P2 speaks 1; run the same release"):
        channel.receive_message(Kind.HELLO, deadline_s=5, awaited="hello")
    assert wait_for(lambda: any("P1 speaks protocol 2" in reason for reason in town.refused))


@pytest.mark.parametrize("hello", [b"", b"\xff", msgspec.msgpack.encode({"protocol": 1}), bytes(5000)])
def test_hello_that_is_none(town: Any, hello: bytes) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one)
    channel = town.keep(shake_hands(one, listener, two))
    channel.send(Kind.HELLO, [hello])
    with pytest.raises(PeerAborted, match="MOI-303"):
        channel.receive_message(Kind.HELLO, deadline_s=5, awaited="hello")
    assert wait_for(lambda: any("P1" in reason for reason in town.refused))


def wait_for(condition: Callable[[], object], seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_parties_may_start_in_any_order(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    dialled = town.pool.submit(dial, one, Peer("P2", "127.0.0.1", port, two.certificate), purpose="x", deadline_s=10)
    time.sleep(0.4)
    listener = Listener(two, {"P1": Peer("P1", "127.0.0.1", 1, one.certificate)}, port=port)
    town.stack.callback(listener.close)
    town.keep(listener.accept(deadline_s=10))
    assert town.keep(dialled.result(10)).peer == "P2"


def test_nobody_listens(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DeadlineExceeded, match=f"P2 at 127.0.0.1:{port} did not answer within 0.3 s .*refused.* start P2"):
        dial(one, Peer("P2", "127.0.0.1", port, two.certificate), purpose="x", deadline_s=0.3)


def test_silent_listener(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer("P2", "127.0.0.1", silent.getsockname()[1], two.certificate)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"P2 .* did not answer the TLS handshake"):
            dial(one, peer, purpose="x", deadline_s=0.5)
        assert time.monotonic() - started < 2


def test_something_else_listens(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(10)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(10_000)

        job = town.pool.submit(greet)
        peer = Peer("P2", "127.0.0.1", other.getsockname()[1], two.certificate)
        with pytest.raises(ChannelError, match=r"handshake with P2 failed .*check that a moiety party listens"):
            dial(one, peer, purpose="x", deadline_s=10)
        job.result(5)


def test_noise_and_silence_do_not_block_others(town: Any) -> None:
    """Silent diallers cost no thread, and crowd out neither an honest dialler nor one in the middle of its handshake."""
    one, two = town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one, handshake_s=3.0)

    def knock(says: bytes = b"") -> socket.socket:
        connection = town.stack.enter_context(socket.create_connection(("127.0.0.1", listener.port)))
        connection.sendall(says)
        return connection

    slow = knock(b"\x16")  # the first byte of a handshake
    for _ in range(MAX_HANDSHAKES + 8):
        knock()
    knock(b"GET / HTTP/1.1\r\n\r\n")
    started = time.monotonic()
    town.keep(dial(one, at(listener, two), purpose="x", deadline_s=10))
    town.keep(listener.accept(deadline_s=10))
    assert time.monotonic() - started < 2
    assert sum(thread.name.startswith("moiety-hello") for thread in threading.enumerate()) <= 3  # the slow one, the noise, the guest
    assert wait_for(lambda: len(town.refused) == 1 + MAX_HANDSHAKES + 8 + 1, 8)  # the noise, then everybody else by the deadline
    assert sum("did not begin a TLS handshake within 3 s" in reason for reason in town.refused) == MAX_HANDSHAKES + 8
    assert f"{slow.getsockname()[1]} (one of P1 was expected) did not finish the TLS handshake within 3 s" in " ".join(town.refused)


def test_a_crowd_of_half_handshakes_leaves_others_alone(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins handshakes and stops makes room for others; silent ones beyond the limit leave too."""
    monkeypatch.setattr("moiety.net.silent.MAX_SILENT", 4)
    one, two = town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one, handshake_s=5.0)
    for says in (b"\x16", b""):
        for _ in range(MAX_HANDSHAKES + 4):
            town.stack.enter_context(socket.create_connection(("127.0.0.1", listener.port))).sendall(says)
    town.keep(dial(one, at(listener, two), purpose="x", deadline_s=10))
    town.keep(listener.accept(deadline_s=10))
    assert wait_for(lambda: len(town.refused) >= 4 + MAX_HANDSHAKES)
    assert any("did not begin a TLS handshake while" in reason for reason in town.refused)


def test_silent_after_tls(town: Any) -> None:
    """A member that shakes hands but never says hello."""
    one, two = town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one, handshake_s=0.5)
    town.keep(shake_hands(one, listener, two))
    with pytest.raises(DeadlineExceeded, match=r"none of P1 connected within 1\.5 s"):
        listener.accept(deadline_s=1.5)
    assert any("from P1" in reason and "its hello was awaited" in reason for reason in town.refused)


def test_port_taken(town: Any) -> None:
    two = town.identity("P2")
    listener = town.listener(two)
    with pytest.raises(AddressInUse, match=f"127.0.0.1:{listener.port} is taken; stop what listens there"):
        Listener(two, {}, port=listener.port)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "0", "::0", "192.0.2.1", "no-such-host.invalid"])
def test_hosts_that_cannot_be_listened_on(town: Any, host: str) -> None:
    with pytest.raises(ConfigError):
        Listener(town.identity("P2"), {}, host=host)


def test_inconsistent_peers(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    peer = Peer("P1", "h", 1, one.certificate)
    with pytest.raises(ConfigError, match="listed under the name 'P3'"):
        Listener(two, {"P3": peer})
    with pytest.raises(ConfigError, match="P1 and P3 have one certificate"):
        Listener(two, {"P1": peer, "P3": replace(peer, name="P3")})
    with pytest.raises(ConfigError, match=r"not DER X\.509"):
        Listener(two, {"P1": replace(peer, certificate=b"nonsense")})


def test_closing_a_listener_wakes_who_waits(town: Any) -> None:
    listener = town.listener(town.identity("P2"), town.identity("P1"))
    waits = [town.pool.submit(listener.accept) for _ in range(2)]
    time.sleep(0.1)
    listener.close()
    for wait in waits:
        with pytest.raises(ChannelError, match="was closed"):
            wait.result(5)


def test_closing_a_listener_closes_what_nobody_took(town: Any) -> None:
    one, two = town.identity("P1"), town.identity("P2")
    listener = town.listener(two, one)
    channel = town.keep(dial(one, at(listener, two), purpose="x", deadline_s=5))
    listener.close()
    assert not any(thread.name.startswith("moiety") for thread in threading.enumerate())
    assert "P2" in repr(channel)


def test_key_removed_between_load_and_dial(town: Any) -> None:
    one = create_identity("P1", town.folder / "gone")
    one.key_path.unlink()
    with pytest.raises(ConfigError, match="key and certificate of P1 cannot be read"):
        dial(one, Peer("P2", "127.0.0.1", 1, one.certificate), purpose="x", deadline_s=1)
