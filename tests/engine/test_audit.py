"""The audit log: what is written, that whatever is done to it shows as far as a chain can show it, that a killed party goes on."""

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety.engine.audit import AUDIT_FILE, GENESIS, AuditLog, Head, encode, follow, verify
from moiety.engine.directory import Rules
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES, LocalParties, start
from moiety.errors import AuditError, LimitReached, MoietyError, PolicyRefused

from . import plans
from .conftest import BRISK, as_client, as_owner


def fill(folder: Path, count: int = 5, **options: Any) -> Path:
    log = AuditLog(folder, "alice", **options)
    for number in range(count):
        log.write("run", by="clinic", number=number)
    log.close()
    return folder / AUDIT_FILE


def entries(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as lines:
        return [found.entry for found in follow(lines)]


def test_entries(tmp_path: Path) -> None:
    path = fill(tmp_path)
    found = entries(path)
    assert [entry["n"] for entry in found] == [1, 2, 3, 4, 5]
    assert [entry["prev"] for entry in found] == [GENESIS.hash, *(entry["hash"] for entry in found[:-1])]
    assert found[2].items() >= {"v": 1, "party": "alice", "what": "run", "by": "clinic", "number": 2}.items()
    assert [json.loads(line) for line in path.read_text().splitlines()] == found
    assert verify([path]).head == Head(5, found[-1]["hash"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log = AuditLog(tmp_path, "alice")
    log.write("stop")
    log.close()
    with pytest.raises(AuditError, match="is closed"):
        log.write("run")
    assert [entry["n"] for entry in entries(path)] == [1, 2, 3, 4, 5, 6]


def test_the_documented_check(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    code = compile(text.partition("```python")[2].partition("```")[0].replace('open("audit.jsonl", "rb")', "lines"), "audit.md", "exec")
    lines = fill(tmp_path).read_bytes().splitlines(keepends=True)
    exec(code, {"lines": lines})
    for wrong in (lines[1:], [lines[0], lines[1].replace(b"clinic", b"clinik")]):
        with pytest.raises(AssertionError):
            exec(code, {"lines": wrong})


def swap(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def forge(lines: list[bytes]) -> list[bytes]:
    """Entry 3 written anew, with a hash that fits."""
    return [*lines[:2], encode(3, json.loads(lines[1])["hash"], "alice", "run", {"by": "nobody"}, datetime.now(UTC))[0], *lines[3:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b"clinic", b"clinik"), *lines[3:]], "line 3: entry 3 was altered"),
        (lambda lines: [*lines[:4], lines[4].replace(b"clinic", b"clinik")], "line 5: entry 5 was altered"),
        (lambda lines: [*lines[:2], lines[2][:-9] + b"\n", *lines[3:]], "line 3 is no entry, and entry 4 after it does not say why"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: entry 4 follows entry 2; entries were removed"),
        (swap, "line 2: entry 3 follows entry 1"),
        (lambda lines: [*lines, lines[-1]], "line 6: entry 5 follows entry 5"),
        (forge, "line 4: entry 4 does not continue entry 3"),
        (lambda lines: [*lines, b"words\n"], "the last line is no entry"),
        (lambda lines: [*lines[:1], b"\n", *lines[1:]], "line 2 is no entry"),
        (lambda lines: [lines[0].replace(b'"v":1', b'"v":2'), *lines[1:]], "entry 1 has the version 2"),
    ],
)
def test_every_change_shows(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], said: str) -> None:
    path = fill(tmp_path)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(AuditError, match=said):
        verify([path])
    with pytest.raises(AuditError, match=r"is no whole chain.*keep its files as evidence"):
        AuditLog(tmp_path, "alice")


def test_a_cut_end_shows_against_an_anchor_alone(tmp_path: Path) -> None:
    path = fill(tmp_path)
    kept = [Head(entry["n"], entry["hash"]) for entry in entries(path)]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert verify([path], kept[:3]).head == kept[2]
    with pytest.raises(AuditError, match=r"entry 5 with the hash .* is not in this chain, which ends with entry 3: its end was cut off"):
        verify([path], kept[4:])


def test_a_torn_line_is_noted_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = fill(tmp_path)
    whole = path.read_bytes()
    for cut in (2, 30, 200):
        path.write_bytes(whole[:-cut])
        assert (verify([path]).head.number, verify([path]).unfinished) == (4, 1)
        log = AuditLog(tmp_path, "alice")
        log.write("start")
        log.write("stop")
        log.close()
        found = entries(path)
        assert [entry["n"] for entry in found] == [1, 2, 3, 4, 5, 6]
        assert found[4]["torn"]["bytes"] == len(whole.splitlines()[-1]) + 1 - cut
        assert verify([path]).unfinished == 1
        changed = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*changed[:4], b"x" + changed[4][1:], *changed[5:]]))  # the remains are part of the chain too
        with pytest.raises(AuditError, match="does not say why"):
            verify([path])


def test_a_line_that_lacks_its_end_alone_is_an_entry(tmp_path: Path) -> None:
    path = fill(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    fill(tmp_path, 1)
    assert (verify([path]).head.number, verify([path]).unfinished) == (6, 0)


def test_full_files_are_set_aside_and_form_one_chain(tmp_path: Path) -> None:
    path = fill(tmp_path, 20, full_bytes=2000)
    aside = sorted(tmp_path.glob("audit-*.jsonl"))
    assert len(aside) >= 2
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in aside)
    assert (verify([*aside, path]).first, verify([*aside, path]).head.number) == (1, 20)
    assert verify([path]).first > 1
    with pytest.raises(AuditError, match="entries were removed"):
        verify([aside[0], *aside[2:], path])
    path.unlink()  # as after a crash between setting aside and beginning anew
    log = AuditLog(tmp_path, "alice")
    log.write("start")
    log.close()
    assert entries(path)[0]["n"] == verify(aside).head.number + 1


def test_many_threads_write_one_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, "alice", full_bytes=1 << 20)
    threads = [threading.Thread(target=lambda: [log.write("run", by="a" * 50) for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert verify([tmp_path / AUDIT_FILE]).head.number == 800


def test_nothing_is_done_once_it_cannot_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path, "alice")
    log.write("start")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: 5)
        with pytest.raises(AuditError, match=r"cannot be written \(no room on the disk\)"):
            log.write("run")
    with pytest.raises(AuditError, match="serves nobody until"):
        log.check()
    log.close()
    (tmp_path / AUDIT_FILE).chmod(0o644)
    with pytest.raises(AuditError, match="chmod 600"):
        AuditLog(tmp_path, "alice")


RULES = {"*": Rules((MODEL_OWNER,), (CLIENT,), (CLIENT,), answers_per_day=4)}


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[LocalParties]:
    with start(tmp_path / "federation", deadlines=BRISK, owners=(MODEL_OWNER, CLIENT, "press"), models=RULES) as local:
        yield local


def test_parties_record_what_they_did_and_go_on_after_a_kill(parties: LocalParties) -> None:
    plan, x = plans.mlp(), np.random.default_rng(3).normal(size=(4, 16))
    with as_owner(parties) as session:
        session.deploy("mlp", [plan], plans.mlp_weights())
    with as_client(parties) as client:
        for _ in range(2):
            result = client.run("mlp", plan, plans.words(x))
    with as_client(parties, "press") as press, pytest.raises(PolicyRefused):
        press.run("mlp", plan, plans.words(x))
    logs = {name: parties.folder / name / AUDIT_FILE for name in PARTIES}
    for role, name in zip(("P0", "P1", "P2"), PARTIES, strict=True):
        found = soon(logs[name], 6)
        assert [entry["what"] for entry in found] == ["start", "deploy", "plan", "run", "run", "refused"]
        assert all(entry["party"] == name for entry in found)
        first, deploy, added, _, run, refused = found
        assert first["role"] == role
        assert deploy.items() >= {"by": MODEL_OWNER, "model": "mlp", "weights": 2, "replace": False}.items()
        assert added["plan"] == run["plan"] == plan.hash
        assert run.items() >= {"by": CLIENT, "model": "mlp", "run": 2, "outcome": "done", "answer": True}.items()
        assert run["sent"] == result.report.of(role).sent_bytes
        assert refused.items() >= {"by": "press", "command": "run", "model": "mlp", "plan": plan.hash, "code": "MOI-403"}.items()
    fail_a_run(parties)
    for name in PARTIES:
        failed = soon(logs[name], 8)[-1]
        assert (failed["what"], failed["model"], failed["outcome"] != "done") == ("run", "sums", True)
    parties.processes[PARTIES[1]].kill()
    parties.restart(PARTIES[1])
    with as_owner(parties) as session:
        session.deploy("mlp", [plan], plans.mlp_weights())
    with as_client(parties) as client:
        for _ in range(2):
            client.run("mlp", plan, plans.words(x))
        with pytest.raises(LimitReached, match="had 4 answers of the model 'mlp'"):  # party1 counts on after its restart
            client.run("mlp", plan, plans.words(x))
    found = soon(logs[PARTIES[1]], 14)
    assert [entry["what"] for entry in found[8:]] == ["start", "deploy", "plan", "run", "run", "refused"]
    parties.stop()
    for name in PARTIES:
        assert entries(logs[name])[-1]["what"] == "stop"
        verify([logs[name]], [Head(found[-1]["n"], found[-1]["hash"])] if name == PARTIES[1] else [])


def fail_a_run(parties: LocalParties) -> None:
    plan = plans.running_sum(3)
    with as_owner(parties) as session:
        session.deploy("sums", [plan], {})
    with as_client(parties) as client, pytest.raises(MoietyError):
        client.run("sums", plan, plans.words(np.ones((1, 3))), position=2)


def soon(path: Path, count: int) -> list[dict[str, Any]]:
    """The entries once there are so many: a party records a run before it reports it, but a refusal by one ends it at all."""
    deadline = time.monotonic() + 10
    while len(found := entries(path)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
