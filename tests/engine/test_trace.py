"""Traced runs between real processes: every byte and every second of them has a place in the model, and no value is in it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine import plans
from tests.engine.conftest import as_client, as_owner

from moiety.engine.launch import LocalParties
from moiety.engine.report import Span, Timeline, What
from moiety.engine.timeline import MOST_SPANS, Recorder, checked
from moiety.engine.trace import Trace
from moiety.errors import FrameError, PolicyRefused
from moiety.mpc.rounds import Role

INPUT = np.linspace(-3, 3, 64).reshape(4, 16)


@pytest.fixture(scope="module")
def trace(local: LocalParties) -> Trace:
    plan, weights = plans.mlp(), plans.mlp_weights()
    with as_owner(local) as owner:
        owner.deploy("mlp", [plan], weights)
        owner.deploy("untraced", [plan], weights)
    with as_client(local) as client:
        client.run("mlp", plan, plans.words(INPUT))
        result = client.run("mlp", plan, plans.words(INPUT), trace=True)
    np.testing.assert_allclose(plans.reals(result), plans.mlp_float(weights, INPUT), atol=0.05)
    return Trace(plan, result.report, result.timelines)


def test_the_table_has_every_byte_and_module(trace: Trace) -> None:
    modules = {module.name: module for module in trace.modules()}
    assert {"x", "first", "gelu", "second", "y"} <= modules.keys()
    assert sum(module.spoken_bytes + module.dealt_bytes for module in modules.values()) == trace.report.payload_bytes
    assert all(modules[name].compute_s > 0 and modules[name].helper_s > 0 for name in ("first", "gelu", "second"))
    assert modules["gelu"].waiting_s > 0
    text = str(trace)
    assert all(name in text for name in ("gelu", "waiting", "P0", "CLIENT"))


def test_seconds_add_up(trace: Trace) -> None:
    members = trace.members()
    assert [member.role for member in members] == ["P0", "P1", "P2", "CLIENT"]
    for member in members:
        assert min(member.compute_s, member.waiting_s, member.sending_s) >= 0
        assert member.compute_s + member.waiting_s + member.sending_s <= member.seconds
    evaluators = [member for member in members if member.role in ("P1", "P2")]
    modules = trace.modules()
    assert sum(module.compute_s for module in modules) == pytest.approx(np.mean([member.compute_s for member in evaluators]))
    assert sum(module.waiting_s for module in modules) == pytest.approx(np.mean([member.waiting_s for member in evaluators]))
    for member in evaluators:
        assert member.waiting_s == pytest.approx(trace.report.of(member.role).waiting_s, abs=1e-3)


def test_the_file_is_a_trace_of_places_and_times(trace: Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["cat"] for event in slices} == {"compute", "wait", "send", "wave"}
    assert {event["pid"] for event in slices} == {int(role) for role in Role}
    assert {"gelu (table)", "wait for P2", "send to P1", "wave 1"} <= {event["name"] for event in slices}
    sent = sum(event["args"]["bytes"] for event in slices if event["cat"] == "send")
    received = sum(event["args"].get("bytes", 0) for event in slices if event["cat"] == "wait")
    assert sent <= trace.report.payload_bytes
    assert received <= trace.report.payload_bytes
    for role in Role:
        _nested([event for event in slices if event["pid"] == role and event["tid"] == 2])


def _nested(slices: list[dict[str, Any]]) -> None:
    """Slices of one row lie beside or within each other, as viewers need it; a microsecond is lost in rounding."""
    ends: list[float] = []
    for one in sorted(slices, key=lambda one: (one["ts"], -one["dur"])):
        while ends and ends[-1] <= one["ts"] + 1:
            ends.pop()
        assert not ends or one["ts"] + one["dur"] <= ends[-1] + 1
        ends.append(one["ts"] + one["dur"])


def test_who_does_not_ask_is_not_told(local: LocalParties, trace: Trace) -> None:
    with as_client(local) as client:
        assert client.run("mlp", trace.plan, plans.words(INPUT)).timelines == ()


def test_a_party_may_refuse(local: LocalParties, trace: Trace) -> None:
    with as_client(local) as client:
        client.run("untraced", trace.plan, plans.words(INPUT))
        with pytest.raises(PolicyRefused, match="tells no timelines of 'untraced'"):
            client.run("untraced", trace.plan, plans.words(INPUT), trace=True)


@pytest.mark.parametrize(
    ("role", "span"),
    [(Role.P1, Span(What.COMPUTE, 99, 0, 0, 1)), (Role.P1, Span(What.WAIT, 4, 0, 0, 1)), (Role.P1, Span(What.SEND, 0, 99, 0, 1))],
)
def test_timelines_of_another_run_are_refused(role: Role, span: Span) -> None:
    plan = plans.chain(2)
    checked(Timeline("a", "P1", 0.0, (Span(What.COMPUTE, 1, 0, 0, 1),)), plan, role)
    with pytest.raises(FrameError, match="another run"):
        checked(Timeline("a", "P1", 0.0, (span,)), plan, role)
    with pytest.raises(FrameError, match="another run"):
        checked(Timeline("a", "P0", 0.0, ()), plan, role)


def test_too_many_spans_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety.engine.timeline.MOST_SPANS", 3)
    recorder = Recorder()
    for _ in range(5):
        recorder.note(What.COMPUTE, 0, 0, -1.0)
    timeline = recorder.timeline("a", Role.P1)
    assert (len(timeline.spans), timeline.lost) == (3, 2)
    assert MOST_SPANS > 3
