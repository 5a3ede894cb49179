"""A compute party's side of one session: answer the owner's commands until it closes, leaves or something fails."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from moiety import ring
from moiety.engine import keys
from moiety.engine.deploy import given, receive_weights
from moiety.engine.directory import Directory
from moiety.engine.executor import Execution, Tally, Watcher
from moiety.engine.messages import (
    PLAN_LIMIT,
    AddPlan,
    Ask,
    Close,
    Deploy,
    Done,
    Fetch,
    Fine,
    Holding,
    Run,
    hear_command,
    say,
)
from moiety.engine.policy import accept_plan
from moiety.engine.report import Report, packages, peak_memory_bytes
from moiety.engine.session import Deadlines, Session, agree
from moiety.engine.store import Model, PartySources, States, Store, position_row
from moiety.engine.waves import Bound
from moiety.errors import PlanMismatch, PolicyRefused
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.rounds import Role
from moiety.net import Kind


@dataclass(frozen=True, slots=True)
class Limits:
    """What one party is willing to hold."""

    sessions: int = 64
    weight_bytes: int = 1 << 37
    plan_bytes: int = PLAN_LIMIT
    plans: int = 256


MODEST: Final = Limits()


@dataclass(slots=True)
class Member:
    """One party in one session. ``log`` takes one line for each event."""

    name: str
    directory: Directory
    session: Session
    store: Store
    deadlines: Deadlines
    limits: Limits
    log: Callable[[str], None]
    watcher: Watcher | None = None
    states: States | None = None
    _wire: dict[str, tuple[int, int]] = field(default_factory=dict)
    """TCP bytes after the last command. The dealer may be ahead of a run's beginning here, so that is no time to count."""

    def serve(self) -> None:
        """Until the owner says close. Raises what ended the session otherwise."""
        self.states = States(self.session.role)
        control = self.session.receive[Role.CLIENT]
        while True:
            self._wire = wire_bytes(self.session)
            command = hear_command(control, self.deadlines.idle_s)
            match command:
                case Close():
                    return
                case Ask():
                    self._tell(command)
                case Deploy():
                    self._deploy(command)
                case AddPlan():
                    self._add_plan(command)
                case Fetch():
                    self._fetch(command)
                case Run():
                    self._run(command)

    def _say(self, message: Holding | Fine | Done) -> None:
        say(self.session.send[Role.CLIENT], message)

    def _tell(self, command: Ask) -> None:
        self._allow_any(command.model)
        model = self.store.model(command.model)
        self._say(Holding(tuple(model.weights), tuple(model.plans)))

    def _allow_any(self, model: str) -> None:
        try:
            self.directory.allow("query", model, self.session.owner)
        except PolicyRefused:
            self.directory.allow("deploy", model, self.session.owner)

    def _deploy(self, command: Deploy) -> None:
        self.directory.allow("deploy", command.model, self.session.owner)
        self.session.claim_deploy(command.number)
        left = self.limits.weight_bytes - self.store.nbytes
        weights = receive_weights(self.session, command, limit_bytes=left, wait_s=self.deadlines.wave_s)
        self.store.add_weights(command.model, weights, replace=command.replace)
        self.log(f"{self.session.owner} shared {len(weights)} weights of {command.model!r}")
        self._say(Fine())

    def _add_plan(self, command: AddPlan) -> None:
        self.directory.allow("deploy", command.model, self.session.owner)
        model = self.store.model(command.model)
        if len(model.plans) >= self.limits.plans:
            raise PolicyRefused(f"{command.model!r} already has {len(model.plans)} plans here, the most that this party holds")
        data = self.session.receive[Role.CLIENT].receive_message(
            Kind.CONTROL, deadline_s=self.deadlines.wave_s, awaited="a plan", limit_bytes=self.limits.plan_bytes
        )
        bound = accept_plan(data, command.hash, self.session.role)
        self.store.add_plan(command.model, bound, self.session.owner)
        self.log(f"{self.session.owner} added plan {bound.hash[:12]} of {command.model!r}: {bound.rounds} rounds")
        self._say(Fine())

    def _fetch(self, command: Fetch) -> None:
        self._allow_any(command.model)
        self.session.send[Role.CLIENT].send(Kind.CONTROL, [self._plan(self.store.model(command.model), command).plan.encode()])

    def _plan(self, model: Model, command: Run | Fetch) -> Bound:
        wanted = command.plan if isinstance(command, Run) else command.hash
        bound = model.plans.get(wanted)
        if bound is None:
            raise PlanMismatch(
                f"{self.name} holds no plan {wanted[:12]} of the model {command.model!r}; deploy it to all three parties first"
            )
        return bound

    def _run(self, command: Run) -> None:
        began, session, states = time.perf_counter(), self.session, self.states
        assert states is not None, "made when serving begins"
        self.directory.allow("query", command.model, session.owner)
        self.directory.allow("receive", command.model, session.owner)
        session.claim_run(command.number)
        model = self.store.model(command.model)  # one snapshot: another session may replace the model at any time
        bound = self._plan(model, command)
        position_row(bound.plan, command.position)
        states.rewind(command.model, bound.plan, command.position or 0)
        streams = given(session.role, command.key_d, command.key_e)
        agree(session, self._subject(command, bound, model, states), streams, self.deadlines.wave_s)
        held = keys.run_keys(session.role, session.pairs, streams, session.id, command.number, bound.hash)
        run = Execution(bound, session.send, session.receive, KeyedDraws(held), wait_s=self.deadlines.wave_s, watcher=self.watcher)
        results = run.run(PartySources(bound, command.model, model, states, command.position))
        states.write(command.model, bound.plan, command.position or 0, results)
        report = make_report(
            self.name, bound, session, run.tally, self._wire, time.perf_counter() - began, self.store.nbytes, states.nbytes
        )
        self._say(Done(report))
        self.log(f"run {command.number} of {command.model!r} for {session.owner}: {report.seconds:.3f} s, {report.sent_bytes:,} B sent")

    def _subject(self, command: Run, bound: Bound, model: Model, states: States) -> bytes:
        sharing = model.sharing(bound.plan)
        position = -1 if command.position is None else command.position
        lengths = states.lengths(command.model, bound.plan)
        return keys.digest("moiety run", self.session.id, command.number, command.model, bound.hash, sharing, position, *lengths)


def wire_bytes(session: Session) -> dict[str, tuple[int, int]]:
    """TCP bytes (sent, received) so far, by peer."""
    total: dict[str, tuple[int, int]] = {}
    for link in session.links():
        (sent, received), (s, r) = total.get(link.peer, (0, 0)), link.wire_bytes()
        total[link.peer] = (sent + s, received + r)
    return total


def make_report(
    name: str,
    bound: Bound,
    session: Session,
    tally: Tally,
    before: dict[str, tuple[int, int]],
    seconds: float,
    weight_bytes: int = 0,
    state_bytes: int = 0,
) -> Report:
    """One member's report of the run that just ended."""
    after = wire_bytes(session)
    return Report(
        name=name,
        role=session.role.name,
        waves=bound.spoken,
        rounds=bound.rounds,
        seconds=seconds,
        waiting_s=tally.waiting_s,
        links=tally.traffic(),
        wire={peer: (sent - before[peer][0], received - before[peer][1]) for peer, (sent, received) in after.items()},
        peak_memory_bytes=peak_memory_bytes(),
        weight_bytes=weight_bytes,
        state_bytes=state_bytes,
        kernels=ring.features(),
        packages=packages(),
    )
