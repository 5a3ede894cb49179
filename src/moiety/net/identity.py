"""Who a party is: one ECDSA key and one self-signed leaf certificate, pinned by its SHA-256 everywhere else."""

import contextlib
import datetime
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moiety.errors import ConfigError, IdentityError

KEY_FILE: Final = "identity.key"
CERTIFICATE_FILE: Final = "identity.crt"
CLOCK_SKEW: Final = datetime.timedelta(minutes=10)  # clocks of separate organisations differ
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def fingerprint(certificate: bytes) -> str:
    """The pin of a DER certificate as it stands in a federation file."""
    return "sha256:" + hashlib.sha256(certificate).hexdigest()


def check_name(name: str) -> None:
    """Raises ConfigError unless ``name`` is 1 to 64 letters, digits, dots, dashes or underscores."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"party name {name!r} is not usable; take 1 to 64 letters, digits, '.', '-' or '_', a letter or digit first")


@dataclass(frozen=True)
class Identity:
    """This party: its name, its public certificate, and where its key lies. The key itself is never held here."""

    name: str
    certificate: bytes
    certificate_path: Path
    key_path: Path

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    def secret(self, purpose: bytes) -> bytes:
        """32 bytes that only who holds the key can compute, the same at every time; for another purpose unrelated ones."""
        held = load_pem_private_key(self.key_path.read_bytes(), password=None)
        material = held.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(material)

    def __repr__(self) -> str:
        return f"<Identity {self.name} {self.fingerprint[:23]}>"


@dataclass(frozen=True)
class Peer:
    """Another party as the federation file gives it: where it listens, and the DER certificate that it must show."""

    name: str
    host: str
    port: int
    certificate: bytes

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    def __repr__(self) -> str:
        return f"<Peer {self.name} at {self.host}:{self.port} {self.fingerprint[:23]}>"


def create_identity(name: str, folder: str | os.PathLike[str], *, valid_days: float = 365) -> Identity:
    """Make a key and its certificate in ``folder`` (mode 0700; the key 0600).

    Raises ConfigError on an unusable name or folder, and if the folder already holds an identity: a key is never replaced.
    """
    check_name(name)
    place = Path(folder)
    with _as_config_error(place):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(place, 0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _self_signed(name, key, datetime.timedelta(days=valid_days))
        # The key goes first and exclusively: two makers at once cannot mix one's key with the other's certificate.
        _write_new(place / KEY_FILE, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        _write_new(place / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM), 0o644)
    return Identity(name, certificate.public_bytes(Encoding.DER), place / CERTIFICATE_FILE, place / KEY_FILE)


def load_identity(folder: str | os.PathLike[str]) -> Identity:
    """The identity in ``folder``, after checking that only its owner can read the key and that the certificate is good.

    Raises ConfigError if files are missing, unreadable or open to others; IdentityError if the certificate is not valid
    now, is not a leaf, or does not belong to the key.
    """
    place = Path(folder)
    certificate_path, key_path = place / CERTIFICATE_FILE, place / KEY_FILE
    with _as_config_error(place):
        if not key_path.exists():  # first: a folder with somebody else's certificate alone may be open to all
            whose = f", only the certificate of {place.name}: this may not be its machine" if certificate_path.exists() else ""
            raise ConfigError(f"{key_path} does not exist{whose}; go to the folder where the key lies, or make one with `moiety keys NAME`")
        _check_private(place, 0o700)
        _check_private(key_path, 0o600)
        pem, key_pem = certificate_path.read_bytes(), key_path.read_bytes()
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = load_pem_private_key(key_pem, password=None)
        name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    except (ValueError, TypeError, IndexError):
        # The cause is left out on purpose: a parser's message may quote the key file.
        raise ConfigError(f"{place} holds no readable identity; restore it from a copy or make a new one in an empty folder") from None
    check_name(name)
    _check_certificate(name, certificate)
    if _public_bytes(key.public_key()) != _public_bytes(certificate.public_key()):
        raise IdentityError(f"the key in {place} does not belong to the certificate of {name} beside it; restore both from one copy")
    return Identity(name, certificate.public_bytes(Encoding.DER), certificate_path, key_path)


def validity(certificate: bytes) -> tuple[datetime.datetime, datetime.datetime]:
    """From when until when a DER certificate is valid, in UTC."""
    found = x509.load_der_x509_certificate(certificate)
    return found.not_valid_before_utc, found.not_valid_after_utc


def _self_signed(name: str, key: ec.EllipticCurvePrivateKey, validity: datetime.timedelta) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"), False
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + validity) - CLOCK_SKEW)
        .not_valid_after(now + validity)
        # ca=False: with ca=True in a common trust store, one party could issue a certificate for another's name.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, encipher_only=False, decipher_only=False, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _check_certificate(name: str, certificate: x509.Certificate) -> None:
    now = datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise IdentityError(
            f"the certificate of {name} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; "
            "make a new identity in an empty folder and give its certificate to the other parties"
        )
    if now < certificate.not_valid_before_utc:
        raise IdentityError(
            f"the certificate of {name} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; check the clock"
        )
    try:
        leaf = not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        leaf = False
    if not leaf:
        raise IdentityError(f"the certificate of {name} could issue others (it lacks ca=False); make one with create_identity")


def _check_private(path: Path, wanted: int) -> None:
    """Raises ConfigError if anyone but the owner could open ``path``."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:04o}, so others can open it; run: chmod {wanted:o} {path}")
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise ConfigError(f"{path} belongs to another user (uid {status.st_uid}); run as that user or move the identity")


def _write_new(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _public_bytes(key: object) -> bytes:
    data: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return data


@contextlib.contextmanager
def _as_config_error(place: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise ConfigError(f"{place} already holds an identity; load it, or choose an empty folder") from None
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename} does not exist; make an identity there first: `moiety keys NAME`") from None
    except OSError as error:
        raise ConfigError(f"identity folder {place} is not usable: {error.strerror}; check the path and its permissions") from None
