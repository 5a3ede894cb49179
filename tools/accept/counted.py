"""A deployed model whose every run is compared with its plan."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moiety.cli.answers import Watched
from moiety.compile import program
from moiety.compile.plan import Plan
from moiety.engine.federation import Federation
from moiety.engine.owner import Progress
from moiety.engine.report import RunReport, RunResult
from moiety.engine.waves import payload
from moiety.mpc.rounds import Words


@dataclass(slots=True)
class Counted(Watched):
    """A deployed model whose every run is compared with its plan: frames, payload on each link, rounds, and what P0 received."""

    runs: list[tuple[Plan, RunReport]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.private.name

    def run(self, plan: Plan, inputs: list[Words], *, position: int | None = None, on_progress: Progress | None = None) -> RunResult:
        result = Watched.run(self, plan, inputs, position=position, on_progress=on_progress)
        self.runs.append((plan, result.report))
        self.differences += differences(plan, result.report)
        return result

    def summary(self) -> dict[str, Any]:
        plans = {plan.hash[:12]: plan for plan, _ in self.runs}
        received = sum(r for _, run in self.runs for member in run.members for _, r in member.wire.values())
        total = sum(run.payload_bytes for _, run in self.runs)
        return {
            "runs": len(self.runs),
            "counters_equal_plan": not self.differences,
            "differences": self.differences[:5],
            "payload_bytes": total,
            "wire_bytes": received,
            "wire_overhead": received / total - 1,
            "peak_memory_bytes": {m.role: m.peak_memory_bytes for m in self.runs[-1][1].members},
            "plans": [self._plan(name, plan) for name, plan in plans.items()],
        }

    def _plan(self, name: str, plan: Plan) -> dict[str, Any]:
        seconds = [run.seconds for used, run in self.runs if used is plan]
        return {
            "plan": name,
            "input": "x".join(map(str, plan.inputs[0].shape)),
            "rounds": program.costs(plan).rounds,
            "payload_bytes": sum(nbytes for _, nbytes in payload(plan).values()),
            "runs": len(seconds),
            "median_seconds": round(float(np.median(seconds)), 3),
        }


def differences(plan: Plan, report: RunReport) -> list[str]:
    """Where a run's counters, at either end of every link, are not what the plan's wave table says."""
    out = []
    for (sender, receiver), expected in payload(plan).items():
        name = f"{sender.name}->{receiver.name}"
        for role in (sender, receiver):
            counted = report.of(role.name).links.get(name)
            found = (counted.frames, counted.payload_bytes) if counted else (0, 0)
            if found != expected:
                out.append(f"{name} at {role.name}: {found}, the plan says {expected}")
    rounds = program.costs(plan).rounds
    out += [f"{m.name} counted {m.rounds} rounds, the plan has {rounds}" for m in report.members if m.rounds != rounds]
    out += [f"{m.name} saw bytes for P0" for m in report.members for link in m.links if link.endswith("->P0")]
    return out


def deploy(owner: Federation, client: Federation, name: str, plans: Sequence[Plan], weights: Any) -> tuple[Counted, float]:
    began = time.perf_counter()
    owner.deploy_plans(name, plans, weights)
    return Counted(client.model(name)), time.perf_counter() - began
