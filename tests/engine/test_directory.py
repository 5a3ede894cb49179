"""The federation file: what is written is read, and every mistake names its key."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from moiety.engine.directory import Directory, Entry, Rules, _check_keys, _File, load, write
from moiety.engine.limits import MODEST, Limits
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


def test_patterns(entries: tuple[Path, dict[str, Entry]]) -> None:
    """A model's own name comes first, then the pattern that says most of it; names of owners may be patterns too."""
    lab, anyone = Rules(("lab",)), Rules(("l*",), ("*",), ("l?b",), "token", runs_per_minute=5, answers_per_day=100)
    directory = written(entries, {"*": lab, "llm-*": anyone, "llm-x*": lab, "llm-x": anyone})
    assert [directory.rules(name) for name in ("bert", "llm-a", "llm-xy", "llm-x")] == [lab, anyone, lab, anyone]
    for verb in ("deploy", "query", "receive"):
        assert directory.allow(verb, "llm-a", "lab") == anyone
    with pytest.raises(PolicyRefused, match="lab may not query the model 'bert'; the federation file allows nobody"):
        directory.allow("query", "bert", "lab")


def test_limits(entries: tuple[Path, dict[str, Entry]]) -> None:
    directory = written(entries)
    assert directory.limits == MODEST
    write(directory.path, entries[1], {}, Limits(sessions=3, plan_bytes=99))
    assert (load(directory.path).limits.sessions, load(directory.path).limits.plan_bytes) == (3, 99)


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
        ('query = ["lab"]', 'query = ["clinic-*"]', "'clinic-.', who is no owner here"),
        ('query = ["lab"]', 'reveal = "all"', r"Invalid enum value 'all'"),
        ('query = ["lab"]', "answers_per_day = 0", r"Expected `int` >= 1"),
        ('query = ["lab"]', 'receive = ["lab"]\n[limits]\nmemory = 1', "unknown key 'memory' in .limits.; did you mean 'memory_bytes'"),
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


def test_the_documented_example() -> None:
    text = (Path(__file__).parents[2] / "docs" / "federation.md").read_text(encoding="utf-8")
    raw = tomllib.loads(text.partition("```toml")[2].partition("```")[0])
    _check_keys(Path("federation.md"), raw)
    file = msgspec.convert(raw, _File)
    assert file.models["llm-*"].reveal == "token"
    assert msgspec.structs.replace(file.limits, memory_bytes=1) == Limits(memory_bytes=1)
    assert set(raw["limits"]) == set(Limits.__struct_fields__)
    assert set().union(*raw["models"].values()) == set(Rules.__struct_fields__)
