"""docs/cli.md says what the command line does: every command, option, exit status and key of --json; and completion works."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from moiety import errors
from moiety.cli.app import app
from moiety.cli.failures import STATUSES, TRACEBACK, reported

from .conftest import COMMAND, environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf8")


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "tools" / "cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names() -> list[str]:
    return [name for name, _ in reference().commands()]


def test_the_page_is_up_to_date() -> None:
    assert reference().written(PAGE) == PAGE, "run: python tools/cli_reference.py"


def test_no_command_and_no_option_is_missing() -> None:
    """Told by --help itself, not by what the page is made from."""
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    for group in re.findall(r"^│ (\w+) +[A-Z]", shown, re.MULTILINE):
        assert f"### moiety {group}" in PAGE
    for name in names():
        help_ = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
        section = PAGE.split(f"### {name}\n")[1].split("\n### ")[0]
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", help_.split("Options")[-1])) - {
            "--help",
            "--federation",
            "--rtt",
            "--bandwidth",
        }
        assert options
        assert options <= set(re.findall(r"--[a-z][a-z-]+", section)), name


def test_exit_statuses_follow_the_families_of_errors() -> None:
    kinds = [errors.MoietyError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        family = int(kind.code[4])
        assert kind.exit_status == (family + 1 if family else 8), kind.__name__
        assert kind.exit_status in STATUSES


def keys(value: Any) -> set[str]:
    """All keys of a document, but for those of plain tables (packages, roles)."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if isinstance(value, dict):
        inner = set().union(*(keys(one) for name, one in value.items() if name not in ("sent_bytes", "memory_forecast_bytes")))
        return {*value} | inner
    return set()


@pytest.mark.parametrize("command", ["check", "plan", "compare", "calibrate"])
def test_every_key_is_documented(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = "import torch\ndef f():\n    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU()), (torch.ones(1, 4),)\n"
    Path("own.py").write_text(model)
    found = json.loads(CliRunner().invoke(app, [command, "own.py:f", "--json"]).stdout)
    section = PAGE.split(f"### moiety {command}\n")[1].split("\n### ")[0]
    assert keys(found) <= set(re.findall(r"`(\w+)`", section))


@pytest.mark.parametrize(
    ("line", "wanted"), [("moiety pl", "plan"), ("moiety compare mini", "minilm"), ("moiety plan stories --rt", "--rtt")]
)
def test_completion(line: str, wanted: str) -> None:
    asked = {"_MOIETY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=60, env=environment() | asked, check=False)
    assert done.stdout.split() == [wanted]


def test_help_starts_light() -> None:
    code = "import sys, moiety.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"torch", "transformers", "numpy", "cryptography"}.intersection(done.stdout.split())


def test_errors_that_nobody_foresaw(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @reported
    def broken() -> None:
        raise ValueError("a secret")

    with pytest.raises(Exception, match="8") as ended:
        broken()
    assert type(ended.value).__name__ == "Exit"
    said = capsys.readouterr().err
    assert said.startswith("error [MOI-000]: unforeseen ValueError at test_reference.py:")
    assert "a secret" not in said
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="a secret"):
        broken()


def test_a_closed_pipe_is_no_finding() -> None:
    code = (
        "from moiety.cli.failures import reported\n@reported\ndef f():\n raise BrokenPipeError\n"
        "try:\n f()\nexcept Exception as ended:\n exit(ended.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


def test_all_commands_take_part() -> None:
    assert {name.split()[1] for name in names()} == set(get_command(app).commands)
