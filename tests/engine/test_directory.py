"""The federation file: what is written is read, and every mistake names its key."""

from pathlib import Path

import pytest

from moiety.engine.directory import Directory, Entry, Rules, load, write
from moiety.errors import ConfigError, PolicyRefused
from moiety.mpc.rounds import Role
from moiety.net import create_identity


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Entry]]:
    folder = tmp_path_factory.mktemp("federation")
    out = {}
    for name, role, address in [
        ("a", "p0", "127.0.0.1:7000"),
        ("b", "p1", "[::1]:7001"),
        ("c", "p2", "host.test:7002"),
        ("lab", "owner", ""),
    ]:
        made = create_identity(name, folder / name)
        out[name] = Entry((role,), f"{name}/identity.crt", made.fingerprint, address)
    return folder, out


def written(place: tuple[Path, dict[str, Entry]], models: dict[str, Rules] | None = None, **changed: Entry) -> Directory:
    folder, found = place
    write(folder / "federation.toml", {**found, **changed}, models or {"gpt": Rules(("lab",), ("lab",), ("lab",))})
    return load(folder / "federation.toml")


def test_round_trip(entries: tuple[Path, dict[str, Entry]]) -> None:
    directory = written(entries)
    assert directory.members == ("a", "b", "c")
    assert (directory.compute(Role.P1).host, directory.compute(Role.P1).port) == ("::1", 7001)
    assert set(directory.others("lab")) == {"a", "b", "c"}
    directory.allow("deploy", "gpt", "lab")
    with pytest.raises(PolicyRefused, match="a may not query the model 'gpt'; the federation file allows lab"):
        directory.allow("query", "gpt", "a")
    with pytest.raises(PolicyRefused, match="names no model 'bert'"):
        directory.allow("query", "bert", "lab")
    with pytest.raises(ConfigError, match="did you mean 'lab'"):
        directory.others("lap")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("address", "adress", "unknown key 'adress' in .parties.a.; did you mean 'address'"),
        ("[models.", "[model.", "unknown key 'model' in the file; did you mean 'models'"),
        ("deploy", "deplyo", "unknown key 'deplyo' in .models.gpt.; did you mean 'deploy'"),
        ('roles = ["p0"]', 'roles = ["p9"]', "unknown role 'p9'"),
        ('roles = ["p0"]', 'roles = ["p1"]', "exactly one party must have the role"),
        ('roles = ["p0"]', 'roles = ["p0", "owner"]', "exactly one role"),
        ('roles = ["p0"]', 'roles = "p0"', r"\$.parties"),
        ("127.0.0.1:7000", "127.0.0.1", "not host:port"),
        ("127.0.0.1:7000", "", "no address"),
        ("sha256:", "sha256:0", "compare it with"),
        ("a/identity.crt", "a/nothing.crt", "cannot be read"),
        ("a/identity.crt", "federation.toml", "not a PEM certificate"),
        ('query = ["lab"]', 'query = ["lad"]', "'lad', who is no owner here; did you mean 'lab'"),
        ("[parties.", "[parties.[", "not TOML"),
    ],
)
def test_mistakes(entries: tuple[Path, dict[str, Entry]], old: str, new: str, said: str) -> None:
    place = written(entries).path
    text = place.read_text().replace('"a"', "a")
    assert old in text
    place.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=said):
        load(place)


def test_one_certificate_each(entries: tuple[Path, dict[str, Entry]]) -> None:
    _, found = entries
    with pytest.raises(ConfigError, match="have one certificate"):
        written(entries, other=found["lab"])


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "federation.toml")
