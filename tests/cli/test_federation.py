"""Five organisations: keys and a federation file, three ``moiety party``, a vendor who deploys, a clinic that asks by name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Running, data, moiety
from .pages import free_ports

pytestmark = pytest.mark.slow
PARTIES = {"alice": "p0", "bob": "p1", "carol": "p2"}
RULES = """
[models.tales]
deploy = ["vendor"]
query = ["clinic"]
receive = ["clinic"]
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file, written from what ``moiety keys`` prints, with three parties that run."""
    place = tmp_path_factory.mktemp("federation")
    lines = []
    for (name, role), port in zip(PARTIES.items(), free_ports(3), strict=True):
        lines.append(moiety("keys", name, "--folder", name, "--role", role, "--address", f"127.0.0.1:{port}", cwd=place).stdout)
    lines += [moiety("keys", name, "--folder", name, cwd=place).stdout for name in ("vendor", "clinic")]
    file = place / "federation.toml"
    file.write_text("\n".join(lines) + RULES)
    running = [Running("party", "--name", name, "--federation", str(file)) for name in PARTIES]
    try:
        for one, role in zip(running, PARTIES.values(), strict=True):
            one.wait_for(f" as {role.upper()}")
        yield file
    finally:
        statuses = [one.end() for one in running]
        assert statuses == [0, 0, 0]


def test_round_trip(federation: Path, stories: str) -> None:
    vendor, clinic = (("--federation", str(federation), "--party", name) for name in ("vendor", "clinic"))
    early = moiety("generate", "Once", *clinic, "--model", "tales", "--tokenizer", "stories")
    assert early.returncode == 6
    assert "error [MOI-500]: the parties hold no model 'tales'; ask its owner to deploy it" in early.stderr

    deployed = data("deploy", stories, *vendor, "--name", "tales", "--lengths", "3", "--context", "20")
    assert deployed["lengths"] == [3]
    assert len(deployed["plans"]) == 2
    assert deployed["parameters"] > 200_000

    asked = ("generate", "Once upon a time", *clinic, "--model", "tales", "--tokenizer", "stories")
    found = data(*asked, "--tokens", "5")
    assert found["text"] == ", there was a little"
    assert {member["name"] for member in found["members"]} == {*PARTIES, "clinic"}
    assert found["costs"]["runs"] == 2 + 5

    long = moiety(*asked, "--tokens", "300")
    assert long.returncode == 6
    assert "5 prompt tokens and 300 new ones exceed the deployed context of 64 tokens" in long.stderr


def test_refusals(federation: Path, stories: str) -> None:
    clinic = ("--federation", str(federation), "--party", "clinic")
    refused = moiety("generate", "Once", *clinic, "--model", "others", "--tokenizer", "stories")
    assert refused.returncode == 5
    assert refused.stderr.startswith("error [MOI-403]: ")  # by whichever party is first to say so
    assert "the federation file names no model 'others' (it names tales); add [models.others]" in refused.stderr
    nobody = moiety("generate", "Once", "--federation", str(federation), "--party", "clinc", "--model", "stories")
    assert nobody.returncode == 2
    assert "did you mean 'clinic'?" in nobody.stderr


def test_second_instance(federation: Path) -> None:
    """A second instance of a running party is refused, and says which folder is taken."""
    second = moiety("party", "--name", "alice", "--federation", str(federation))
    assert second.returncode == 2
    assert "another process already runs the party" in second.stderr
