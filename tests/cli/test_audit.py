"""``moiety audit``: what it prints, and the exit status of a broken log."""

import json
from pathlib import Path

import pytest

from moiety.engine.audit import AUDIT_FILE, AuditLog

from .test_usage import error, run


@pytest.fixture
def log(tmp_path: Path) -> Path:
    written = AuditLog(tmp_path, "alice")
    written.write("start", role="P0")
    written.write("run", by="clinic", model="triage", plan="ab" * 32, outcome="done", sent=7)
    written.close()
    return tmp_path / AUDIT_FILE


def test_verify_show_and_head(log: Path) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    head = run("audit", "head", str(log)).stdout.strip()
    assert head == f"2:{lines[1]['hash']}"
    checked = run("audit", "verify", str(log), "--anchor", head)
    assert checked.exit_code == 0
    assert "2 entries, none altered, missing or out of order" in checked.stdout
    assert head in checked.stdout
    shown = run("audit", "show", str(log)).stdout
    assert all(word in shown for word in ("clinic", "triage", "abababababab", 'outcome="done"', "sent=7"))
    assert json.loads(run("audit", "show", str(log), "--json").stdout) == lines
    found = json.loads(run("audit", "verify", str(log), "--json").stdout)
    assert (found["head"], found["entries"], found["first"], found["unfinished"]) == (head, 2, 1, 0)
    assert json.loads(run("audit", "head", str(log), "--json").stdout)["number"] == 2


def test_broken_logs(log: Path) -> None:
    head = run("audit", "head", str(log)).stdout.strip()
    whole = log.read_text()
    log.write_text(whole.splitlines(keepends=True)[0])
    assert "its end was cut off" in error(run("audit", "verify", str(log), "--anchor", head), "MOI-800", 9)
    log.write_text(whole.replace("clinic", "clinik"))
    assert "line 2: entry 2 was altered" in error(run("audit", "verify", str(log)), "MOI-800", 9)
    shown = run("audit", "show", str(log))
    assert (shown.exit_code, "start" in shown.stdout, "clinik" in shown.stdout) == (9, True, False)
    error(run("audit", "show", str(log), "--json"), "MOI-800", 9)


def test_wrong_usage(log: Path) -> None:
    assert "is no head of an audit log" in error(run("audit", "verify", str(log), "--anchor", "5"), "MOI-100", 2)
    assert "is no file" in error(run("audit", "show", str(log.parent)), "MOI-100", 2)
