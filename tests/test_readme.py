"""Every Python block of the README runs as a reader would run it; every command it shows exists."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from moiety.claims.registry import systems
from moiety.cli.app import app

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)( no-run)?\n(.*?)^```", README.read_text(encoding="utf8"), re.MULTILINE | re.DOTALL)
PYTHON = [text for language, skip, text in BLOCKS if language == "python" and not skip]
SKETCHES = [text for language, skip, text in BLOCKS if language == "python" and skip]


@pytest.mark.parametrize("text", PYTHON, ids=range(len(PYTHON)))
def test_block_runs_as_a_script(text: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(text, encoding="utf8")
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", script], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"# .*-> (.*) \.\.\.$", text, re.MULTILINE)
    assert shown
    assert all(line in done.stdout for line in shown), done.stdout


@pytest.mark.parametrize("text", SKETCHES, ids=range(len(SKETCHES)))
def test_sketch_compiles(text: str) -> None:
    compile(text, "README", "exec")


def test_shown_commands_exist() -> None:
    shown = re.findall(
        r"`?moiety (demo|generate|embed|party|keys|doctor|\w+)[ `]", "\n".join(t for lang, _, t in BLOCKS if lang == "console")
    )
    page = (README.parent / "docs" / "cli.md").read_text(encoding="utf8")
    table = re.findall(r"`moiety (\w+)", page.split("## All commands")[1].split("## ")[0])
    assert set(table) == set(get_command(app).commands), "docs/cli.md lists the commands"  # type: ignore[attr-defined]
    for command in shown:
        done = subprocess.run(
            [sys.executable, "-m", "moiety.cli", command, "--help"], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"moiety {command}: {done.stderr}"


def test_published_systems_are_those_that_are_built() -> None:
    """With the outcome that was last kept, whatever it was."""
    folder = README.parent / "docs" / "systems"
    rows = re.findall(r"^\| \[`(\w+)`\]\((.*?)\) \| .* \| (.*?) \|$", (folder / "README.md").read_text(encoding="utf8"), re.MULTILINE)
    assert {name: f"docs/systems/{page}" for name, page, _ in rows} == {name: system.page for name, system in systems().items()}
    for name, page, outcome in rows:
        kept = json.loads((folder / page).with_suffix(".json").read_text(encoding="utf8"))
        assert outcome == ("holds" if kept["holds"] else "does not hold"), name


def test_the_first_screen_is_short() -> None:
    assert README.read_text(encoding="utf8").split("## Between organisations")[0].count("\n") < 45


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text(encoding="utf8")):
        assert (README.parent / target).exists(), target
