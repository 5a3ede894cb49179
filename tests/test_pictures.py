"""The README's figures show what this code prints and plans, as far as that can be told without an hour of computing."""

import html
import re
import sys
from pathlib import Path

import pytest
import typer

from moiety.cli.answers import PROTOCOL
from moiety.cli.app import app
from moiety.cli.demo import LIMITS, SAW
from moiety.engine.cost import PROMISE

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def shown() -> str:
    """The text of the terminal's picture, its lines joined."""
    svg = (PICTURES / "demo.svg").read_text(encoding="utf-8")
    lines = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    return " ".join(" ".join(html.unescape(line) for line in lines).split())


def test_the_picture_says_what_the_demo_says(shown: str) -> None:
    for said in (PROTOCOL, PROMISE, *LIMITS, SAW["P0"]):
        assert " ".join(said.split()) in shown, f"run `make picture`: it does not show {said!r}"


def test_commands_in_the_picture_exist(shown: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = re.findall(r"[$`] ?moiety (\w+)", shown)
    assert {"demo", "generate", "party"} <= set(named) <= set(known)


def test_pictures_ask_nobody_for_anything() -> None:
    for file in PICTURES.glob("*.svg"):
        assert not re.search(r"(?:href|src|url\()\W*http", file.read_text(encoding="utf-8"))


def test_the_plot_shows_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import plot

    try:
        assert (PICTURES / "token.svg").read_text(encoding="utf-8") == plot.plot(plot.read())
    finally:
        del sys.modules["plot"]
