"""`moiety systems` and `moiety reproduce`: data, tables, exit statuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from moiety.claims import registry, systems
from moiety.cli.app import app
from moiety.models.files import MINILM

from .conftest import moiety

FORM = """
from moiety.claims.registry import Part, Row, System
from moiety.errors import PeerLost

SYSTEM = System(id="tried", title="A title", paper="A paper", claim="C", built=(), limits=(), page="")


def rows(quick):
    yield Row("what holds", 2.0, 1.5, None, "B", True)
    BODY
"""
KEYS = {"id", "title", "paper", "holds", "rows", "seconds"}
ROW_KEYS = {"quantity", "paper", "measured", "baseline", "unit", "holds"}


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="moiety", env={"COLUMNS": "120", "TERM": "dumb", **env})


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A system with the given last lines, registered as any other."""

    def one(body: str) -> None:
        (tmp_path / "tried.py").write_text(FORM.replace("BODY", body))
        monkeypatch.setattr(systems, "__path__", [*systems.__path__, str(tmp_path)])

    yield one
    import sys

    sys.modules.pop("moiety.claims.systems.tried", None)


def test_systems() -> None:
    listed = json.loads(run("systems", "--json").stdout)
    assert [entry["id"] for entry in listed] == list(registry.systems())
    shown = run("systems").stdout
    for system in registry.systems().values():
        assert system.title in shown
        assert f"moiety reproduce {system.id}" in " ".join(shown.split())


def test_a_claim_that_holds(tried) -> None:
    tried("return")
    found = run("reproduce", "tried", "--json")
    assert (found.exit_code, found.stderr) == (0, "")
    data = json.loads(found.stdout)
    assert set(data) == KEYS
    assert data["rows"] == [{"quantity": "what holds", "paper": 2.0, "measured": 1.5, "baseline": None, "unit": "B", "holds": True}]
    shown = run("reproduce", "tried")
    assert "the claim holds" in shown.stdout
    assert "what holds: holds" in shown.stderr


def test_a_claim_that_cannot_hold(tried) -> None:
    tried('yield Row("one is less than zero", None, 1.0, 0.0, "", 1 < 0)')
    found = run("reproduce", "tried", "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["holds"] is False
    shown = run("reproduce", "tried")
    assert (shown.exit_code, "the claim does not hold" in shown.stdout) == (1, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('raise PeerLost("party alice is gone")', "error [MOI-301]: party alice is gone"),
        ("raise FileNotFoundError('no such text; set MOIETY_DATA')", "error [MOI-100]: no such text; set MOIETY_DATA"),
        ("import no_such_package_at_all", "error [MOI-100]: this command needs no_such_package_at_all"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_claim_that_could_not_be_measured(tried, body: str, said: str) -> None:
    """Half-measured rows are not printed, and no fault passes for a refuted claim."""
    tried(body)
    found = run("reproduce", "tried", "--json")
    assert (found.exit_code, found.stdout) == (2, "")
    assert said in found.stderr


def test_an_unknown_system() -> None:
    found = run("reproduce", "nothing")
    assert found.exit_code == 2
    assert "no system 'nothing' is built; take puma" in found.stderr


def test_missing_data(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        found = run("reproduce", "puma", "--quick", MOIETY_DATA=str(folder))
        assert (found.exit_code, found.stdout) == (2, "")
        assert "set MOIETY_DATA" in found.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_puma_holds_in_a_small_run(data_folder: Path) -> None:
    try:
        MINILM.find()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    done = moiety("reproduce", "puma", "--quick", "--json", timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert set(found) == KEYS
    assert found["holds"] is True
    assert all(set(row) == ROW_KEYS and row["paper"] is None for row in found["rows"])
    quantities = " ".join(row["quantity"] for row in found["rows"])
    for part in ("GeLU", "SiLU", "exponential, t = 8", "softmax", "rSqrt", "payload", "rounds", "embedding", "LayerNorm", "Spearman"):
        assert part in quantities
