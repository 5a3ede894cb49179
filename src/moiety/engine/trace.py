"""A traced run for people: a table by module of the user's model, and a trace that Perfetto or chrome://tracing shows.

The members' timelines are joined with the plan, which names modules and operations and knows every byte. Nothing in it is a value.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from moiety.compile import program, signature
from moiety.compile.plan import Plan
from moiety.engine.cost import Contribution, contributions
from moiety.engine.owner import OwnerSession
from moiety.engine.report import RunReport, Span, Timeline, What
from moiety.engine.waves import step_label
from moiety.mpc.cost import Costs
from moiety.mpc.rounds import Role

EVALUATORS: Final = (Role.P1, Role.P2)
WAVES, WORK = 1, 2
"""The rows of a member in a trace."""


class ModuleTime(NamedTuple):
    """What one module adds. Seconds are those of an evaluator, the mean of both; ``helper_s`` is what P0 computes.

    ``waiting_s``: for the words of its waves, where several modules speak in proportion to their bytes. Modules share rounds.
    """

    name: str
    rounds: int
    spoken_bytes: int
    dealt_bytes: int
    compute_s: float
    helper_s: float
    waiting_s: float


class MemberTime(NamedTuple):
    """How one member spent a run: computing, waiting, sending, and the rest (framing, checks, threads that were not run)."""

    name: str
    role: str
    seconds: float
    compute_s: float
    waiting_s: float
    sending_s: float

    @property
    def rest_s(self) -> float:
        """What is none of the three."""
        return max(0.0, self.seconds - self.compute_s - self.waiting_s - self.sending_s)


@dataclass(frozen=True, slots=True)
class Trace:
    """One run of ``plan``: what its members told. ``answer`` is what the model's caller gets. ``print`` it, or ``save`` it."""

    plan: Plan
    report: RunReport
    timelines: tuple[Timeline, ...]
    answer: Any = field(default=None, repr=False)

    def members(self) -> list[MemberTime]:
        """Every member's time in all."""
        return [self._member(timeline) for timeline in self.timelines]

    def _member(self, timeline: Timeline) -> MemberTime:
        total: dict[What, float] = defaultdict(float)
        for span, seconds in _alone(timeline):
            total[span.what] += seconds
        whole = self.report.of(timeline.role).seconds
        return MemberTime(timeline.name, timeline.role, whole, total[What.COMPUTE], total[What.WAIT], total[What.SEND])

    def modules(self, depth: int | None = None) -> list[ModuleTime]:
        """By module of the user's model, in its order; ``depth`` joins what lies deeper."""
        found = program.costs(self.plan)
        steps = contributions(self.plan, found)
        names = [".".join(one.module.split(".")[:depth]) for one in steps]
        compute, helper, waiting = (defaultdict[int, float](float) for _ in range(3))
        for timeline in self.timelines:
            role = Role[timeline.role]
            if role is Role.CLIENT:
                continue
            for span, seconds in _alone(timeline):
                if span.what is What.COMPUTE:
                    (helper if role is Role.P0 else compute)[span.of] += seconds
                elif span.what is What.WAIT:
                    for step, share in _blame(found, span):
                        waiting[step] += share * seconds
        return [
            _module(name, steps, [i for i, one in enumerate(names) if one == name], (compute, helper, waiting)) for name in _once(names)
        ]

    def events(self) -> list[dict[str, Any]]:
        """The trace's events, in the format of Chrome's trace viewer; times in microseconds from the first on."""
        found = program.costs(self.plan)
        zero = min((timeline.began_s for timeline in self.timelines), default=0.0)
        return [event for timeline in self.timelines for event in _events(self.plan, found, timeline, 1e6 * (timeline.began_s - zero))]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as JSON, for https://ui.perfetto.dev or chrome://tracing."""
        Path(path).write_bytes(msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": self.events()}))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.report.seconds:.3f} s, {sum(any(row) for row in self.plan.waves)} waves"
        for one in self.members():
            parts = f"computing {one.compute_s:.3f}, waiting {one.waiting_s:.3f}, sending {one.sending_s:.3f}, rest {one.rest_s:.3f}"
            yield f"  {one.role:<6} {one.seconds:.3f} s: {parts}"
        modules = self.modules()
        width = max((len(module.name) for module in modules), default=0)
        yield f"  {'':<{width}}  rounds      spoken       dealt  compute s  P0 compute s  waiting s"
        for module in modules:
            sizes = f"{module.rounds:>6}  {module.spoken_bytes:>10,}  {module.dealt_bytes:>10,}"
            yield f"  {module.name:<{width}}  {sizes}  {module.compute_s:>9.4f}  {module.helper_s:>12.4f}  {module.waiting_s:>9.4f}"
        if lost := sum(timeline.lost for timeline in self.timelines):
            yield f"  {lost:,} spans were too many to be told"


def traced(session: OwnerSession, model: str, plans: Sequence[Plan]) -> Iterator[Trace]:
    """Run plans that are deployed, on zeros: each once to warm up, and once traced. No time depends on values.

    The step of a decoder takes the token behind the prompt before it; steps for other positions are left out.
    """
    rows = 0
    for plan in plans:
        if plan.positions and not 0 <= rows - plan.first_position < plan.positions:
            continue
        position, inputs = rows if plan.positions else None, signature.zeros(plan)
        session.run(model, plan, inputs, position=position)
        result = session.run(model, plan, inputs, position=position, trace=True)
        if plan.states and not plan.positions:
            rows = plan.inputs[0].shape[1]
        yield Trace(plan, result.report, result.timelines)


def _once(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _module(name: str, steps: list[Contribution], mine: list[int], times: tuple[defaultdict[int, float], ...]) -> ModuleTime:
    compute, helper, waiting = (sum(of[i] for i in mine) for of in times)
    rounds = len(set[int]().union(*(steps[i].waves for i in mine)))
    spoken, dealt = sum(steps[i].spoken_bytes for i in mine), sum(steps[i].dealt_bytes for i in mine)
    return ModuleTime(name, rounds, spoken, dealt, compute / len(EVALUATORS), helper, waiting / len(EVALUATORS))


def _alone(timeline: Timeline) -> Iterator[tuple[Span, float]]:
    """Every span with its seconds, without those of spans that lie within it (spans are told as they end: the inner ones first)."""
    inner: list[Span] = []
    for span in timeline.spans:
        while inner and inner[-1].begin_us + inner[-1].us <= span.begin_us:
            inner.pop()
        within = [one for one in inner if one.begin_us >= span.begin_us]
        yield span, 1e-6 * max(0, span.us - sum(one.us for one in within))
        inner = [*inner[: len(inner) - len(within)], span]


def _blame(found: Costs, span: Span) -> list[tuple[int, float]]:
    """The nodes for whose words an evaluator waits in this span, with their shares."""
    if span.wave >= len(found.waves):
        return []
    wave, weights = found.waves[span.wave], defaultdict[int, int](int)
    if span.of == Role.P0:
        for address, (_, word) in wave.dealt.items():
            weights[address.path[0]] += word.spec.nbytes
    else:
        weights |= wave.spoken
    total = sum(weights.values())
    return [(step, nbytes / total) for step, nbytes in weights.items() if nbytes]


def _events(plan: Plan, found: Costs, timeline: Timeline, shift_us: float) -> Iterator[dict[str, Any]]:
    role = Role[timeline.role]
    yield {"name": "process_name", "ph": "M", "pid": int(role), "args": {"name": f"{role.name} ({timeline.name})"}}
    for row, what in ((WAVES, "waves"), (WORK, "work")):
        yield {"name": "thread_name", "ph": "M", "pid": int(role), "tid": row, "args": {"name": what}}
    for span in timeline.spans:
        yield _event(WORK, role, _name(plan, role, span), span.what.name.lower(), shift_us + span.begin_us, span.us) | {
            "args": _arguments(found, role, span)
        }
    for wave, begin_us, end_us in _waves(timeline):
        steps = [step_label(plan, step) for step, nbytes in found.waves[wave].spoken.items() if nbytes] if wave < len(found.waves) else []
        yield _event(WAVES, role, f"wave {wave}", "wave", shift_us + begin_us, end_us - begin_us) | {"args": {"speak": steps[:8]}}


def _event(row: int, role: Role, name: str, kind: str, begin_us: float, us: int) -> dict[str, Any]:
    return {"name": name, "cat": kind, "ph": "X", "pid": int(role), "tid": row, "ts": begin_us, "dur": us}


def _name(plan: Plan, role: Role, span: Span) -> str:
    if span.what is What.COMPUTE:
        return step_label(plan, span.of)
    return f"wait for {Role(span.of).name}" if span.what is What.WAIT else f"send to {Role(span.of).name}"


def _arguments(found: Costs, role: Role, span: Span) -> dict[str, int]:
    if span.what is What.COMPUTE or span.wave >= len(found.waves):
        return {"wave": span.wave}
    link = (role, Role(span.of)) if span.what is What.SEND else (Role(span.of), role)
    return {"wave": span.wave, "bytes": found.waves[span.wave].links[link]}


def _waves(timeline: Timeline) -> Iterator[tuple[int, int, int]]:
    """From the first to the last span of every wave."""
    ends: dict[int, tuple[int, int]] = {}
    for span in timeline.spans:
        begin, end = ends.get(span.wave, (span.begin_us, 0))
        ends[span.wave] = (min(begin, span.begin_us), max(end, span.begin_us + span.us))
    for wave, (begin, end) in sorted(ends.items()):
        yield wave, begin, end
