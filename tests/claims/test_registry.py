"""Systems are found by being there; a claim holds if every row does."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from moiety.claims import registry
from moiety.claims import systems as package
from moiety.errors import ConfigError

SYSTEM = """
from moiety.claims.registry import Part, Row, System

SYSTEM = System(
    id="{id}", title="T", paper="P", claim="C", built=(Part("a", "moiety.errors"),), limits=(), page="docs/systems/{id}.md"
)


def rows(quick):
    {body}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put systems' modules where they are found, for one test."""
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    made = []

    def one(name: str, body: str) -> None:
        (tmp_path / f"{name}.py").write_text(SYSTEM.format(id=name, body=body))
        made.append(f"{package.__name__}.{name}")

    yield one
    for name in made:
        sys.modules.pop(name, None)


def row(measured: float, holds: bool) -> str:
    return f'yield Row("q", None, {measured}, 1.0, "B", {holds})'


def test_a_module_is_enough(write) -> None:
    before = registry.systems()
    write("another", row(2.5, True))
    assert set(registry.systems()) == {*before, "another"}
    heard: list[registry.Row] = []
    found = registry.reproduce("another", on_row=heard.append)
    assert found.holds
    assert found.rows == tuple(heard) == (registry.Row("q", None, 2.5, 1.0, "B", True),)


@pytest.mark.parametrize("body", [f"{row(1, True)}\n    {row(2, False)}", "yield from ()"])
def test_a_claim_with_a_row_that_fails_or_without_rows_does_not_hold(write, body: str) -> None:
    write("weak", body)
    assert not registry.reproduce("weak").holds


def test_rows_hold_plain_numbers(write) -> None:
    write("arrays", "import numpy; yield Row('q', None, 1.0, None, '', numpy.float64(1) > 0)")
    with pytest.raises(msgspec.ValidationError, match="Expected `bool`"):
        registry.reproduce("arrays")


def test_quick_reaches_the_measurement(write) -> None:
    write("both", "yield Row('q', None, 1.0, None, '', quick)")
    assert registry.reproduce("both", quick=True).holds
    assert not registry.reproduce("both").holds


def test_what_is_not_built_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no system 'nothing' is built; take .*puma"):
        registry.reproduce("nothing")


def test_listing_systems_loads_no_torch() -> None:
    code = "import sys; from moiety.claims import registry; print(*registry.systems()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    ids, torch = done.stdout.splitlines()
    assert "puma" in ids.split()
    assert torch == "False"
