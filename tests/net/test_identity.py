"""Identities on disk: modes, expiry, mismatch, and no key anywhere but in its file."""

import stat
from pathlib import Path

import pytest
from cryptography import x509

from moiety.errors import ConfigError, IdentityError
from moiety.net import Peer, create_identity, fingerprint, load_identity


def test_create_then_load(tmp_path: Path) -> None:
    made = create_identity("P1", tmp_path / "p1")
    assert load_identity(tmp_path / "p1") == made
    assert made.fingerprint == fingerprint(made.certificate)
    assert made.fingerprint.startswith("sha256:")
    assert stat.S_IMODE(made.key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.key_path.parent.stat().st_mode) == 0o700
    certificate = x509.load_der_x509_certificate(made.certificate)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_no_key_in_repr(tmp_path: Path) -> None:
    made = create_identity("P1", tmp_path / "p1")
    key = made.key_path.read_text().splitlines()[1]
    assert key not in repr(made)
    assert repr(Peer("P1", "h", 1, made.certificate)).startswith("<Peer P1 at h:1 sha256:")


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    create_identity("P1", tmp_path / "p1")
    with pytest.raises(ConfigError, match="already holds an identity"):
        create_identity("P1", tmp_path / "p1")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a\nb", "x" * 65, "ä"])
def test_unusable_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="party name"):
        create_identity(name, tmp_path / "p")


@pytest.mark.parametrize(("file", "mode", "cure"), [("identity.key", 0o640, "chmod 600"), (".", 0o755, "chmod 700")])
def test_open_to_others(tmp_path: Path, file: str, mode: int, cure: str) -> None:
    create_identity("P1", tmp_path / "p1")
    (tmp_path / "p1" / file).chmod(mode)
    with pytest.raises(ConfigError, match=cure):
        load_identity(tmp_path / "p1")


def test_existing_open_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        create_identity("P1", tmp_path / "open")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_identity(tmp_path / "nobody")


def test_expired(tmp_path: Path) -> None:
    create_identity("P1", tmp_path / "p1", valid_days=-1)
    with pytest.raises(IdentityError, match=r"P1 expired on .* make a new identity"):
        load_identity(tmp_path / "p1")


def test_key_of_another(tmp_path: Path) -> None:
    one, two = create_identity("P1", tmp_path / "p1"), create_identity("P2", tmp_path / "p2")
    one.key_path.write_bytes(two.key_path.read_bytes())
    with pytest.raises(IdentityError, match="does not belong"):
        load_identity(tmp_path / "p1")


def test_unreadable_key_is_not_quoted(tmp_path: Path) -> None:
    one = create_identity("P1", tmp_path / "p1")
    lines = one.key_path.read_text().splitlines()
    one.key_path.write_text("\n".join([lines[0], lines[1][:-7], *lines[2:]]))
    with pytest.raises(ConfigError, match="no readable identity") as caught:
        load_identity(tmp_path / "p1")
    assert lines[1][:20] not in repr(caught.getrepr(style="long"))
    assert caught.value.__cause__ is None
