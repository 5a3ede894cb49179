"""Every registered system has what makes it one: modules, tests, a claim that was measured, and a page that says so."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moiety.claims import registry

ROOT = Path(__file__).parents[2]
CLAIMS = sorted((ROOT / "src" / "moiety" / "claims").rglob("*.py"))
SYSTEMS = registry.systems()


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> registry.System:
    return SYSTEMS[request.param]


def page(system: registry.System) -> str:
    return (ROOT / system.page).read_text(encoding="utf-8")


def test_it_says_what_it_is(system: registry.System) -> None:
    assert SYSTEMS[system.id] is system
    assert all((system.title, system.paper, system.claim, system.built, system.limits))
    assert system.page == f"docs/systems/{system.id}.md"


def test_its_modules_exist_and_have_tests(system: registry.System) -> None:
    tests = {file: file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py")}
    for part in system.built:
        assert importlib.util.find_spec(part.where), part
        room, _, leaf = part.where.rpartition(".")
        imported = re.compile(rf"from {re.escape(room)} import [^\n]*\b{leaf}\b|from {re.escape(part.where)} import")
        mirror = ROOT / "tests" / room.split(".")[1] / f"test_{leaf.removeprefix('rules_')}.py"
        assert mirror in tests or any(imported.search(text) for text in tests.values()), f"{part.where} has no tests"


def test_its_page_shows_the_claim_as_measured(system: registry.System) -> None:
    text, stored = page(system), json.loads((ROOT / system.page).with_suffix(".json").read_text(encoding="utf-8"))
    assert set(stored) == {"id", "title", "paper", "holds", "rows", "seconds"}
    assert (stored["id"], stored["title"], stored["paper"]) == (system.id, system.title, system.paper)
    assert f"moiety reproduce {system.id}" in text
    assert "## Limits" in text
    assert stored["holds"] == all(row["holds"] for row in stored["rows"])
    for row in stored["rows"]:
        figures = " | ".join("-" if row[key] is None else f"{row[key]:.4g}" for key in ("paper", "measured", "baseline"))
        assert f"| {row['quantity'].replace('|', '&#124;')} | {figures} | {row['unit']} | {'yes' if row['holds'] else 'NO'} |" in text


def test_its_examples_run(system: registry.System, tmp_path: Path) -> None:
    for number, text in enumerate(re.findall(r"^```python\n(.*?)^```", page(system), re.MULTILINE | re.DOTALL)):
        script = tmp_path / f"example{number}.py"
        script.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", script], capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", CLAIMS, ids=lambda file: file.stem)
def test_claims_use_public_names_only(file: Path) -> None:
    """What a claim measures is what anybody can use."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not [name.name for name in node.names if name.name.startswith("_")]
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            assert isinstance(node.value, ast.Name)
            assert node.value.id == "self", f"line {node.lineno} reaches for {node.attr}"
