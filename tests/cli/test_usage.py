"""What commands say without any run: help, data, errors with their texts and statuses."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from moiety import errors
from moiety.cli import models
from moiety.cli.app import app
from moiety.cli.source import numbers
from moiety.engine.launch import start

from .conftest import moiety

GROUPS = ("audit",)
COMMANDS = tuple(name for name in get_command(app).commands if name not in GROUPS)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="moiety", env={"COLUMNS": "120", "TERM": "dumb"})


def error(result: Result, code: str, status: int) -> str:
    """The one line that a failure prints."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error [{code}]: ")
    return line


def test_help() -> None:
    shown = run("--help").stdout
    assert all(command in shown for command in COMMANDS)
    assert run().stdout.split() == shown.split()


def test_help_documents_every_exit_status() -> None:
    shown = " ".join(run("--help").stdout.split())
    kinds, found = [errors.MoietyError], set()
    while kinds:
        kind = kinds.pop()
        found.add(kind.exit_status)
        kinds += kind.__subclasses__()
    assert all(f" {status} " in shown for status in {0, 130, *found})
    assert "[MOI-nnn]" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands(command: str) -> None:
    shown = run(command, "-h")
    assert shown.exit_code == 0
    assert "Usage: moiety " + command in shown.stdout
    assert ("--json" in shown.stdout) == (command != "party")


def test_version() -> None:
    assert run("--version").stdout == "moiety 0.1.0\n"


@pytest.mark.parametrize("arguments", [("nothing",), ("demo", "--tokens", "0"), ("embed",), ("generate", "a", "--no-such")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("demo", "--model", "minilm"), "'minilm' is not a known decoder; take smollm2 or stories"),
        (("embed", "a", "--model", "smollm2"), "'smollm2' is not a known encoder; take minilm"),
        (("generate", "a", "--model", "ours", "--federation", "f.toml"), "'ours' is not a known decoder"),
        (("generate", "a", "--federation", "nowhere.toml"), "the federation file nowhere.toml cannot be read"),
        (("deploy", "smollm2", "--federation", "nowhere.toml"), "the federation file nowhere.toml cannot be read"),
        (("deploy", "smollm2", "--lengths", "8,x"), "'8,x' is not a list of lengths"),
        (("party", "--name", "a", "--federation", "nowhere.toml"), "the federation file nowhere.toml cannot be read"),
        (("keys", "a/b"), "party name 'a/b' is not usable"),
        (("keys", "a", "--role", "p3"), "role is p0, p1, p2 or owner, not 'p3'"),
    ],
)
def test_errors(arguments: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert text in error(run(*arguments), "MOI-100", 2)


def test_doctor() -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert found["machine"]["cores"] >= 1
    assert found["kernels"]["isa"]
    assert found["packages"]["moiety"] == "0.1.0"
    assert isinstance(found["advice"], list)
    shown = run("doctor").stdout
    assert all(word in shown for word in ("machine", "kernels", "packages", "SmolLM2"))


@pytest.mark.parametrize("code", ["MOI-302", "moi-302", "302"])
def test_explain(code: str) -> None:
    shown = run("explain", code)
    assert shown.stdout.startswith("# MOI-302: ")
    assert json.loads(run("explain", code, "--json").stdout)["page"] == shown.stdout


def test_explain_all() -> None:
    shown = run("explain").stdout.splitlines()
    assert len(shown) == len(json.loads(run("explain", "--json").stdout)) > 20
    assert "MOI-600  a number was about to be used twice" in shown
    assert "there is no error '299'; the codes are MOI-000," in error(run("explain", "299"), "MOI-100", 2)


def test_keys(tmp_path: Path) -> None:
    folder = str(tmp_path / "alice")
    made = run("keys", "alice", "--folder", folder, "--role", "p1")
    assert made.exit_code == 0
    assert made.stdout.splitlines()[:2] == ["[parties.alice]", 'roles = ["p1"]']
    assert 'address = "127.0.0.1:7001"' in made.stdout
    assert "never leaves this machine" in made.stderr
    assert "! no --address was given, so others will look for alice at 127.0.0.1:7001, which is their own machine" in made.stderr
    assert "to stdout go the lines of everybody's federation file" in made.stderr
    assert "--address" not in run("keys", "bob", "--folder", str(tmp_path / "bob"), "--role", "p2", "--address", "bob:7002").stderr
    again = json.loads(run("keys", "alice", "--folder", folder, "--json").stdout)
    assert not again["created"]
    assert again["fingerprint"] in made.stdout
    assert "the identity of alice" in error(run("keys", "bob", "--folder", folder), "MOI-100", 2)


def test_numbers() -> None:
    assert numbers("8,16,20-22,8") == (8, 16, 20, 21, 22)


def test_compute_party_command_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from moiety.cli.app import app; "
        f"app(['party', '--name', 'a', '--federation', '{tmp_path}/none.toml'], standalone_mode=False); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MOI-100" in done.stderr
    assert "torch" not in done.stdout


def test_party_that_cannot_serve(tmp_path: Path) -> None:
    with start(tmp_path / "f") as local:
        file = str(local.federation)
        taken = error(run("party", "--name", "party0", "--federation", file), "MOI-100", 2)
        assert "another process already runs the party" in taken
        assert "did you mean 'party0'?" in error(run("party", "--name", "party00", "--federation", file), "MOI-100", 2)
        assert "is no compute party" in error(run("party", "--name", "client", "--federation", file), "MOI-100", 2)
        moved = error(run("party", "--name", "party1", "--federation", file, "--folder", str(tmp_path / "f" / "party2")), "MOI-100", 2)
        assert "holds the identity of party2, not of party1" in moved
        assert run("keys", "party1", "--folder", str(tmp_path / "other")).exit_code == 0
        wrong = error(run("party", "--name", "party1", "--federation", file, "--folder", str(tmp_path / "other")), "MOI-200", 3)
        assert "put this party's current certificate into the federation file" in wrong
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert port in error(run("party", "--name", "party0", "--federation", file, "--port", port), "MOI-304", 4)


@pytest.mark.slow
def test_parties_that_do_not_run(tmp_path: Path) -> None:
    with start(tmp_path / "f") as local:
        file = str(local.federation)
    lost = error(run("generate", "a", "--federation", file, "--party", "client", "--model", "stories"), "MOI-302", 4)
    assert "party0" in lost


def test_unknown_model_names_the_known_ones() -> None:
    assert set(models.KNOWN) == {"smollm2", "stories", "minilm", "efficientnet"}
    assert "MODEL is smollm2, stories, minilm, efficientnet, path/to/file.py:function, or a HuggingFace" in error(
        run("check", "gpt"), "MOI-100", 2
    )


def test_as_a_process() -> None:
    done = moiety("demo", "--model", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error [MOI-100]: 'nope' is not a known decoder; take smollm2 or stories\n"
