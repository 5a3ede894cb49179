"""The page about performance says what is kept of the last measurement."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from moiety.bench import bars, machine, report
from moiety.bench.results import Store
from moiety.bench.sides import Measured, Turn
from moiety.claims.registry import Reproduction

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import performance

    yield performance
    del sys.modules["performance"]


def test_the_page_is_written_from_the_measurement(tool: ModuleType) -> None:
    page = tool.PAGE.read_text(encoding="utf-8")
    assert tool.written(page, tool.read()) == page, "run: make performance"


def test_the_plots_are_drawn_from_the_measurement(tool: ModuleType) -> None:
    kept = tool.read()
    if kept is None:
        assert not tool.PEERS_PLOT.exists()
        assert not tool.LENGTH_PLOT.exists()
        return
    assert tool.PEERS_PLOT.read_text(encoding="utf-8") == bars.plot(kept.report)
    assert tool.LENGTH_PLOT.read_text(encoding="utf-8") == tool.plot(kept.lengths)
    assert [one.tokens for one in kept.lengths] == list(tool.LENGTHS)


def test_every_figure_comes_from_the_report(tool: ModuleType, tmp_path: Path) -> None:
    store = Store(tmp_path, machine.build())
    for side, wall, others in (("moiety", 0.25, 0.0), ("spu", 2.5, 0.0), ("torch", 0.05, 1.0)):
        measured = Measured((9.0, wall), (wall, 0.0), (3_000_000,), 4_000_000, 2_000_000, 77, 1.5, 0.75, {})
        store.add(Turn("bert", side, store.build, 2, 0.0, 0.0, others, measured, 1e-3))
    kept = tool.Kept(report.made(store, 0.5, 1.5, ["CrypTen cannot be installed here: no room\nat all"]), ())
    page = tool.written(tool.PAGE.read_text(encoding="utf-8"), kept)
    for said in (
        "| BERT-base, 128 tokens | spu | 10.0× | 10.0× | 10.0× | 1.0× | 1.0× |",
        "| BERT-base, 128 tokens | moiety | 0.25 s | 0.25 s | 9 s | 0.25 s | 2.0 MB | 4.0 MB | 77 | 3 MB | 1.0e-03 | 0.75 s | 1.5 s |",
        "| BERT-base, 128 tokens | 0.25 s | 0.05 s | 5 |",
        "so their seconds say little: BERT-base, 128 tokens.",
        "- Not measured: CrypTen cannot be installed here: no room\n",
    ):
        assert said in page
    assert tool.NOTHING not in page
    assert tool.written(page, None) == tool.written(tool.PAGE.read_text(encoding="utf-8"), None)


def test_the_claim_about_puma_gets_its_speed_rows(tool: ModuleType, tmp_path: Path) -> None:
    store = Store(tmp_path, machine.build())
    for side, wall, sent in (("moiety", 0.25, 2_000_000), ("spu", 2.5, 9_000_000)):
        measured = Measured((9.0, wall), (wall, 0.0), (3_000_000,), sent, sent, 77, 1.5, 0.75, {})
        store.add(Turn("bert", side, store.build, 2, 0.0, 0.0, 0.0, measured, 1e-3))
    stored = msgspec.json.decode(tool.CLAIM.read_bytes(), type=Reproduction)
    claim = tool.claimed(stored, report.made(store, 0.0, 0.0))
    assert tool.claimed(claim, report.made(store, 0.0, 0.0)) == claim
    time, sent = claim.rows[-2:]
    assert (time.measured, time.baseline, time.unit, time.holds) == (0.25, 2.5, "s", True)
    assert (sent.measured, sent.baseline, sent.unit, claim.holds) == (2.0, 9.0, "MB", True)
    page = tool.claim_page(tool.CLAIM_PAGE.read_text(encoding="utf-8"), claim.rows)
    assert "| BERT-base, 128 tokens, time, moiety and SPU with PUMA's functions | - | 0.25 | 2.5 | s | yes |\n" in page
    assert tool.claim_page(page, stored.rows) == tool.claim_page(tool.CLAIM_PAGE.read_text(encoding="utf-8"), stored.rows)


def test_the_plot_of_lengths_shows_its_numbers(tool: ModuleType) -> None:
    drawn = tool.plot(
        [tool.Length(8, 360, 105_700_000, (0.5, 0.7, 1.2, 4.1, 15.0), ""), tool.Length(128, 408, 2_600_000_000, (8,) * 5, "")]
    )
    for shown in ("106 MB", "360 rounds", "2,600 MB", "128 tokens", "40 ms"):
        assert shown in drawn
