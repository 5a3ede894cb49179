"""TLS as moiety uses it: version 1.3, mutual, and only certificates that the federation file pins."""

import ssl
from collections.abc import Iterable
from typing import Final

from moiety.errors import ChannelError, ConfigError, FrameError, IdentityError, MoietyError, PeerLost
from moiety.net.identity import Identity, Peer, fingerprint

RECORD_BYTES: Final = 16384  # the most that one TLS record carries

_ALTERED: Final = frozenset(
    {
        "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
        "SSLV3_ALERT_BAD_RECORD_MAC",
        "BAD_RECORD_TYPE",
        "WRONG_VERSION_NUMBER",
        "ENCRYPTED_LENGTH_TOO_LONG",
        "DATA_LENGTH_TOO_LONG",
        "PACKET_LENGTH_TOO_LONG",
        "TLSV1_ALERT_RECORD_OVERFLOW",
        "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        "TLSV1_ALERT_DECODE_ERROR",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "UNEXPECTED_MESSAGE",
        "INVALID_CCS_MESSAGE",
        "UNEXPECTED_RECORD",
        "LENGTH_TOO_SHORT",
        "DIGEST_CHECK_FAILED",
        "TLSV1_ALERT_DECRYPT_ERROR",
    }
)
_REFUSED: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate has expired or is not valid yet",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it cannot accept the certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the certificate is bad",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the certificate is of the wrong type",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the certificate is revoked",
    "TLSV1_ALERT_ACCESS_DENIED": "access is denied",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "no certificate was shown",
}


def tls_context(identity: Identity, certificates: Iterable[bytes], *, server: bool) -> ssl.SSLContext:
    """A context that speaks TLS 1.3 as ``identity`` and trusts exactly ``certificates`` (DER).

    Built by hand and not by ``ssl.create_default_context``, which would also trust the system's authorities and write
    session keys to the file named by SSLKEYLOGFILE.

    Raises ConfigError if the identity's files or a certificate cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the pin names the party; hosts may be addresses
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if server:
        context.num_tickets = 0  # no resumption: every connection proves the key anew
    try:
        context.load_cert_chain(identity.certificate_path, identity.key_path)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"the key and certificate of {identity.name} cannot be read; check with load_identity") from None
    for certificate in certificates:
        try:
            context.load_verify_locations(cadata=certificate)
        except (ssl.SSLError, ValueError):
            raise ConfigError(f"a peer's certificate ({fingerprint(certificate)}) is not DER X.509; ask the peer for it again") from None
    return context


def check_pin(peer: Peer, shown: bytes | None) -> None:
    """Raises IdentityError unless the certificate shown in the handshake is the one pinned for ``peer``."""
    if shown != peer.certificate:
        found = fingerprint(shown) if shown else "no certificate"
        raise IdentityError(f"{peer.name} showed {found}, but {peer.fingerprint} is pinned for it; {remedy(peer.name)}")


def remedy(peer: str) -> str:
    """What to do when certificates do not match."""
    return f"compare fingerprints with {peer} over another way, then correct the certificate in the federation file"


def handshake_error(error: ssl.SSLError, who: str) -> MoietyError:
    """The clear error for a handshake with ``who`` that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return IdentityError(f"the certificate of {who} is not acceptable ({error.verify_message}); {remedy(who)}")
    reason = error.reason or "unknown"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return IdentityError(f"{who} showed no certificate; let it connect with moiety and its own identity")
    if reason in _REFUSED:
        return IdentityError(
            f"{who} refused this party's certificate: {_REFUSED[reason]}; "
            f"give {who} this party's current certificate for its federation file"
        )
    return ChannelError(
        f"the TLS 1.3 handshake with {who} failed ({reason}); check that a moiety party listens there and nothing in between"
    )


def stream_error(error: OSError, peer: str, doing: str) -> MoietyError:
    """The clear error for a read or write that failed after the handshake."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        reason = error.reason or "unknown"
        if reason in _REFUSED:  # after the handshake, because a TLS 1.3 client's returns before the server may refuse
            return handshake_error(error, peer)
        if reason in _ALTERED:
            return FrameError(
                f"bytes between this party and {peer} were altered on the way ({reason}) while {doing}; check the network path"
            )
        return PeerLost(f"TLS with {peer} failed ({reason}) while {doing}; look at the log of {peer}")
    return PeerLost(f"{peer} dropped the connection ({type(error).__name__}) while {doing}; look at the log of {peer}")
