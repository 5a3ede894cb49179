"""What a plan costs and what it leaks, for people: known before a run, and completed by the last one."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from moiety.compile import program
from moiety.compile.forecast import peak_bytes
from moiety.compile.plan import LINKS, Lookup, Plan
from moiety.engine.report import RunReport
from moiety.mpc.cost import Costs
from moiety.mpc.rounds import Role

PROMISE = "semi-honest: private while at most one of the three compute parties is corrupted, follows the protocol, and none collude"


def promise(plan: Plan) -> str:
    """What running the plan promises, and what it takes for granted beyond the usual."""
    by_points = any(node.params.get("points") for node in plan.nodes)
    return PROMISE + ("; its look-ups by point functions take AES for an ideal cipher" if by_points else "")


class ModuleCost(NamedTuple):
    """What one module of the user's model adds. Modules share rounds, so these do not add up to the plan's.

    ``tables``: the functions it looks up, with the calibrated range (margin included) and the measured error on it.
    """

    name: str
    rounds: int
    payload_bytes: int
    tables: tuple[Lookup, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of one plan, and from ``seconds`` on those of the last run, None before it. ``print`` it."""

    rounds: int
    payload_bytes: int
    sent_bytes: dict[str, int]
    modules: tuple[ModuleCost, ...]
    forecast_bytes: dict[str, int]
    expected_failures: float
    leakage: tuple[str, ...]
    promise: str
    errors: dict[str, float | None]
    """By output: the largest absolute error against float to expect, None where none is stated."""
    seconds: float | None = None
    waiting_s: float | None = None
    peak_memory_bytes: int | None = None
    cpu_s: dict[str, float] | None = None
    """Processor time of each compute party."""

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.rounds} rounds, {_size(self.payload_bytes)} in all"
        yield "sent by " + ", ".join(f"{role} {_size(sent)}" for role, sent in self.sent_bytes.items())
        if self.seconds is not None and self.waiting_s is not None and self.peak_memory_bytes is not None:
            memory = _size(self.peak_memory_bytes) if self.peak_memory_bytes else "not told, since the parties serve others too"
            yield f"last run {self.seconds:.3f} s, of which the evaluators waited {self.waiting_s:.3f} s; largest party process {memory}"
        if self.cpu_s is not None and any(self.cpu_s.values()):
            yield "processor time of it: " + ", ".join(f"{role} {spent:.3f} s" for role, spent in self.cpu_s.items())
        yield "memory forecast: " + ", ".join(f"{role} {_size(peak)}" for role, peak in self.forecast_bytes.items())
        yield f"expected truncation failures a run: {self.expected_failures:.3g}"
        yield "largest error to expect: " + ", ".join(f"{name} {stated(error)}" for name, error in self.errors.items())
        width = max((len(module.name) for module in self.modules), default=0)
        for module in self.modules:
            tables = "; ".join(described(module.tables))
            yield f"  {module.name:<{width}}  {module.rounds:>5} rounds  {_size(module.payload_bytes):>10}  {tables}".rstrip()
        yield self.promise
        for line in self.leakage:
            yield f"leakage: {line}"


def described(lookups: Iterable[Lookup]) -> list[str]:
    """Each look-up in words, those of many steps once: function, range, measured error."""
    counts = Counter(map(str, lookups))
    return [text if count == 1 else f"{text}  x{count}" for text, count in counts.items()]


def cost(plan: Plan, report: RunReport | None = None) -> Cost:
    """Costs of a plan from its own program, with the times of a run when there was one."""
    found = program.costs(plan)
    sent = {role.name: sum(row[i] for row in plan.waves for i, link in enumerate(LINKS) if link[0] is role) for role in Role}
    rounds: dict[str, set[int]] = {}
    nbytes: dict[str, int] = {}
    for step in contributions(plan, found):
        nbytes[step.module] = nbytes.get(step.module, 0) + step.spoken_bytes + step.dealt_bytes
        rounds.setdefault(step.module, set()).update(step.waves)
    tables: dict[str, list[Lookup]] = {}
    for lookup in plan.lookups:
        tables.setdefault(lookup.module, []).append(lookup)
    modules = tuple(ModuleCost(name, len(rounds[name]), total, tuple(tables.get(name, ()))) for name, total in nbytes.items() if total)
    forecast = {role.name: peak for role, peak in peak_bytes(plan).items()}
    times = _times(report) if report is not None else (None, None, None, None)
    errors = {output.name: output.error for output in plan.outputs}
    return Cost(
        found.rounds, sum(sent.values()), sent, modules, forecast, plan.expected_failures, plan.leakage, promise(plan), errors, *times
    )


@dataclass(slots=True)
class Contribution:
    """What one node of a plan adds: the waves in which it speaks, what it says in them, and what is dealt for it."""

    module: str
    """Of the user's model; of what belongs to none, the operation."""
    waves: set[int] = field(default_factory=set)
    spoken_bytes: int = 0
    dealt_bytes: int = 0


def contributions(plan: Plan, found: Costs) -> list[Contribution]:
    """Those of all nodes, in order."""
    labels = [*plan.modules, *[""] * (len(plan.nodes) - len(plan.modules))]
    out = [Contribution(label or node.op) for label, node in zip(labels, plan.nodes, strict=True)]
    for number, wave in enumerate(found.waves):
        for step, count in wave.spoken.items():
            out[step].spoken_bytes += count
            if count:
                out[step].waves.add(number)
        for address, (_, word) in wave.dealt.items():
            out[address.path[0]].dealt_bytes += word.spec.nbytes
    return out


def stated(error: float | None) -> str:
    """An error as people read it."""
    return "not stated" if error is None else f"{error:.2g}"


def _times(report: RunReport) -> tuple[float, float, int, dict[str, float]]:
    waiting = max(report.of("P1").waiting_s, report.of("P2").waiting_s)
    parties = [report.of(role) for role in ("P0", "P1", "P2")]
    return report.seconds, waiting, max(one.peak_memory_bytes for one in parties), {one.role: one.cpu_s for one in parties}


def _size(nbytes: int) -> str:
    value, unit = float(nbytes), "B"
    for following in ("KB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, following
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
