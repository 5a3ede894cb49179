"""The part of a run that peers time too, from members' timelines."""

import pytest
import torch

from moiety.bench import interval
from moiety.compile.model import compile_model
from moiety.compile.plan import Plan
from moiety.engine.report import RunReport, Span, Timeline, What
from moiety.engine.trace import Trace
from moiety.mpc.rounds import Role

C, W, S = What.COMPUTE, What.WAIT, What.SEND


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile_model(torch.nn.ReLU(), (torch.linspace(-2, 2, 64),)).plan


def evaluator(role: Role, began_s: float, heard_us: int, opens_us: int) -> Timeline:
    """Inputs of wave 0, digests in wave 1; then one piece of node 2, a progress later the answer."""
    spans = (Span(W, Role.CLIENT, 0, 0, 100), Span(W, 3 - role, 1, heard_us - 50, 50), Span(C, 2, 2, heard_us, 500))
    return Timeline(role.name, role.name, began_s, (*spans, Span(S, Role.CLIENT, 9, opens_us, 70)))


def test_the_later_evaluator_counts_and_what_p0_did_before(plan: Plan) -> None:
    helper = Timeline("P0", "P0", 100.0, (Span(C, 0, 0, 0, 900), Span(C, 2, 1, 1000, 300), Span(S, Role.P1, 2, 2900, 400)))
    timelines = (helper, evaluator(Role.P1, 100.0, 2000, 9000), evaluator(Role.P2, 100.001, 2000, 9500), Timeline("c", "CLIENT", 99.0, ()))
    found = interval.seconds(Trace(plan, RunReport((), 0.0), timelines))
    # 3000 to 10500 us; before 3000 us P0 computed 300 and sent 100 of 400, and P1 computed 500: the longer of the two
    assert found == pytest.approx(7500e-6 + 500e-6, abs=2e-6)
