"""The command's view of the model owner's process: its report counts, not how it ends; without one, what it said last."""

import sys
import time

import pytest

from moiety.cli import local
from moiety.cli.screen import Screen
from moiety.cli.vendor import Request
from moiety.errors import ChannelError

REPORTS = 'import time; print(\'{"kind": "done", "report": {"parameters": 7}}\', flush=True); time.sleep(60)'
FAILS = 'import sys; sys.exit("no such layer")'
REQUEST = Request("federation.toml", "model-owner", "minilm", "minilm", (8,), 0, "logits")


def script(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(local, "VENDOR", (sys.executable, "-c", text))


def test_a_process_that_ends_slowly_has_reported_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, REPORTS)
    monkeypatch.setattr(local, "FAREWELL_S", 0.2)
    begin = time.monotonic()
    assert local.run_vendor(REQUEST, Screen()) == {"parameters": 7}
    assert time.monotonic() - begin < 30


def test_a_process_without_a_report_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, FAILS)
    with pytest.raises(ChannelError, match="ended with status 1: no such layer"):
        local.run_vendor(REQUEST, Screen())
