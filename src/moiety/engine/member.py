"""A compute party's side of one session: answer the owner's commands until it closes, leaves or something fails."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from moiety.engine import keys
from moiety.engine.audit import AuditLog
from moiety.engine.deploy import check_manifest, held_bytes, needed_bytes, receive_weights, sharing_of
from moiety.engine.directory import Directory
from moiety.engine.executor import Execution, Tally, Watcher
from moiety.engine.limits import Limits, Memory
from moiety.engine.messages import (
    AddPlan,
    Ask,
    Close,
    Command,
    Deploy,
    Done,
    Expect,
    Fetch,
    Fine,
    Holding,
    Keep,
    Run,
    Supply,
    Timed,
    hear,
    hear_command,
    say,
)
from moiety.engine.pieces import given
from moiety.engine.policy import accept_plan, check_opens_tokens
from moiety.engine.quota import Quotas
from moiety.engine.report import Report, peak_memory_bytes
from moiety.engine.reporting import make_report, wire_bytes
from moiety.engine.room import Expected
from moiety.engine.session import Deadlines, Session, agree
from moiety.engine.states import States
from moiety.engine.store import Model, PartySources, Store, Stored, position_row
from moiety.engine.supplied import WINDOW_BYTES, Supplied, delivered
from moiety.engine.timeline import MOST_SPANS, SPAN_BYTES, Recorder, TracedExecution
from moiety.engine.waves import Bound
from moiety.errors import (
    ChannelError,
    DeadlineExceeded,
    LimitReached,
    MoietyError,
    NotDeployed,
    PeerAborted,
    PeerStopping,
    PolicyRefused,
)
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.rounds import Role
from moiety.net import AbortReceived, Kind

REASON: Final = 300
"""Characters of a refusal's text that the audit log keeps."""
DECODED: Final = 4
"""Memory that a plan takes while it is checked, for each of its bytes."""
STARTED: Final = time.monotonic()
PAUSE_S: Final = 1.0
"""An owner who said nothing for so long is not in the middle of something; and how often an idle session looks around."""


@dataclass(slots=True)
class House:
    """What all sessions of a party share."""

    name: str
    directory: Directory
    deadlines: Deadlines
    store: Store
    memory: Memory
    quotas: Quotas
    audit: AuditLog
    log: Callable[[str], None]
    """Takes one line for each event."""
    stopping: threading.Event
    """Set when the party is to stop: what runs may end, nothing new begins."""
    watcher: Watcher | None = None
    served: set[str] = field(default_factory=set)
    """Owners that ran something."""

    @property
    def limits(self) -> Limits:
        """What this party is willing to hold."""
        return self.directory.limits


@dataclass(slots=True)
class Member:
    """One party in one session."""

    house: House
    session: Session
    states: States = field(init=False)
    expected: Expected = field(init=False)
    _wire: dict[str, tuple[int, int]] = field(default_factory=dict)
    """TCP bytes after the last command. The dealer may be ahead of a run's beginning here, so that is no time to count."""
    _cpu_s: float = 0.0
    """Processor time then."""
    _recorded: bool = False
    """Whether the present command has its entry in the audit log."""

    def __post_init__(self) -> None:
        self.states = States(self.session.role, self.house.memory)
        self.expected = Expected(self.house.memory)

    def serve(self) -> None:
        """Until the owner says close. Raises what ended the session otherwise."""
        try:
            while True:
                self._wire, self._cpu_s = wire_bytes(self.session), time.process_time()
                command = self._next_command()
                if isinstance(command, Close):
                    return
                self._answer(command)
                if isinstance(command, Supply):
                    return
        finally:
            self.states.close()
            self.expected.close()

    def _answer(self, command: Command) -> None:
        self.house.audit.check()
        self._recorded = False
        try:
            self._obey(command)
        except Exception as error:
            if not self._recorded and not isinstance(error, ChannelError | PeerAborted):
                self._record_refusal(command, error)
            raise

    def _obey(self, command: Command) -> None:
        match command:
            case Ask():
                self._tell(command)
            case Expect():
                self._expect(command)
            case Deploy():
                self._deploy(command)
            case Supply():
                self._supply(command)
            case AddPlan():
                self._add_plan(command)
            case Fetch():
                self._fetch(command)
            case Run():
                self._run(command)

    def _record(self, what: str, model: str, **fields: object) -> None:
        self._recorded = True
        self.house.audit.write(what, by=self.session.owner, session=self.session.id.hex()[:32], model=model, **fields)

    def _record_refusal(self, command: Command, error: Exception) -> None:
        plan = getattr(command, "plan", getattr(command, "hash", None))
        code, reason = verdict(error)
        named = {} if plan is None else {"plan": plan}
        self._record(
            "refused", getattr(command, "model", ""), command=type(command).__name__.lower(), **named, code=code, reason=reason[:300]
        )

    def _next_command(self) -> Command:
        """Raises PeerStopping when the party is being stopped and the owner is not in the middle of something."""
        house, idle_s = self.house, self.house.deadlines.idle_s
        deadline = time.monotonic() + idle_s
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                with self.session.watch.inattentive():  # the owner's word comes first, so that every party answers it for itself
                    return hear_command(self.session.receive[Role.CLIENT], min(left, PAUSE_S))
            except DeadlineExceeded:
                if house.stopping.is_set():
                    raise PeerStopping(f"{house.name} is being stopped and ends the session, in which nothing is running") from None
                if left <= PAUSE_S:
                    text = f"{self.session.owner} gave no command for {idle_s:.3g} s; let it open a new session"
                    raise DeadlineExceeded(text) from None

    def _say(self, message: Holding | Fine | Done | Timed) -> None:
        say(self.session.send[Role.CLIENT], message)

    def _tell(self, command: Ask) -> None:
        self._allow_any(command.model)
        model = self.house.store.model(command.model)
        sharings = {name: stored.sharing for name, stored in model.weights.items()}
        seals = {name: stored.seal for name, stored in model.weights.items() if stored.seal}
        self._say(Holding(sharings, tuple(model.plans), seals, {known: bound.plan.serves for known, bound in model.plans.items()}))

    def _allow_any(self, model: str) -> None:
        try:
            self.house.directory.allow("query", model, self.session.owner)
        except PolicyRefused:
            self.house.directory.allow("deploy", model, self.session.owner)

    def _expect(self, command: Expect) -> None:
        """Set memory aside, unless there is none to spare, or something under the name: then most of the weights may be here already."""
        house = self.house
        house.directory.allow("deploy", command.model, self.session.owner)
        if not command.words or not house.store.model(command.model).weights:
            nbytes = held_bytes(command.words, self.session.role, command.clear)
            self.expected.expect(nbytes, f"room for the weights of {command.model!r}")
        self._say(Fine())

    def _deploy(self, command: Deploy) -> None:
        house, owner = self.house, self.session.owner
        house.directory.allow("deploy", command.model, owner)
        if any(tensor.clear for tensor in command.tensors):
            house.directory.check_holder(owner, command.model)
        check_manifest(command)
        self.session.claim_deploy(command.number)
        need, what = needed_bytes(command, self.session.role), f"sharing the weights of {command.model!r}"
        with house.store.deploying(command.model, house.limits.models), self.expected.placing(need, what) as place:
            weights = receive_weights(self.session, command, house.deadlines.wave_s, place)
            self._say(Fine())
            # P0 is done before the others: what none of the three may lack is kept when the owner knows that all have it.
            awaited = "that all parties have the weights"
            keep = hear(self.session.receive[Role.CLIENT], Keep, deadline_s=house.deadlines.wave_s, awaited=awaited)
            sealed = {t.name: replace(weights[t.name], seal=seal) for t, seal in zip(command.tensors, keep.seals, strict=False)}
            house.memory.settle(house.store.add_weights(command.model, weights | sealed, replace=command.replace))
        size = sum(stored.nbytes for stored in weights.values())
        clear = sum(tensor.clear > 0 for tensor in command.tensors)
        self._record("deploy", command.model, weights=len(weights), clear=clear, bytes=size, replace=command.replace)
        house.log(f"{owner} shared {len(weights)} weights of {command.model!r}")
        self._say(Fine())

    def _supply(self, command: Supply) -> None:
        """Until the owner has enough of it; then the session is over."""
        house, owner, tensors = self.house, self.session.owner, command.tensors
        house.directory.allow("deploy", command.model, owner)
        if any(tensor.clear for tensor in tensors):
            house.directory.check_holder(owner, command.model)
        check_manifest(command)
        self.session.claim_deploy(command.number)
        with house.memory.held(WINDOW_BYTES, f"streaming weights of {command.model!r}"):
            with house.store.deploying(command.model, house.limits.models):
                supplied = Supplied(self.session, command, house.deadlines.wave_s)
                self._say(Fine())
                hear(self.session.receive[Role.CLIENT], Keep, deadline_s=house.deadlines.wave_s, awaited="that all parties agree")
                named = {t.name: Stored(t, supplied, sharing_of(self.session, command, t), owner) for t in tensors}
                house.memory.settle(house.store.add_weights(command.model, named))
            self._record("supply", command.model, weights=len(tensors), clear=sum(tensor.clear > 0 for tensor in tensors))
            house.log(f"{owner} streams {len(tensors)} weights of {command.model!r}")
            try:
                self._say(Fine())
                supplied.serve(house.stopping.is_set)
            finally:
                house.store.drop(command.model, supplied)

    def _add_plan(self, command: AddPlan) -> None:
        house, owner = self.house, self.session.owner
        rules = house.directory.allow("deploy", command.model, owner)
        if len(house.store.model(command.model).plans) >= house.limits.plans:
            raise LimitReached(f"{command.model!r} already has {house.limits.plans} plans here, as many as {house.name} holds; replace it")
        data = self.session.receive[Role.CLIENT].receive_message(
            Kind.CONTROL, deadline_s=house.deadlines.wave_s, awaited="a plan", limit_bytes=house.limits.plan_bytes
        )
        need, what = DECODED * len(data), f"checking the plan {command.hash[:12]}"
        with house.store.deploying(command.model, house.limits.models), house.memory.held(need, what):
            bound = accept_plan(data, command.hash, self.session.role, house.limits)
            if rules.reveal == "token":
                check_opens_tokens(bound.plan)
            if any(weight.clear for weight in bound.plan.weights):
                house.directory.check_holder(owner, command.model)
            house.memory.settle(house.store.add_plan(command.model, bound, owner))
        self._record("plan", command.model, plan=bound.hash)
        house.log(f"{owner} added plan {bound.hash[:12]} of {command.model!r}: {bound.rounds} rounds")
        self._say(Fine())

    def _fetch(self, command: Fetch) -> None:
        self._allow_any(command.model)
        self.session.send[Role.CLIENT].send(Kind.CONTROL, [self._plan(self.house.store.model(command.model), command).plan.encode()])

    def _plan(self, model: Model, command: Run | Fetch) -> Bound:
        wanted = command.plan if isinstance(command, Run) else command.hash
        bound = model.plans.get(wanted)
        if bound is None:
            held = "other plans" if model.plans else "nothing"
            raise NotDeployed(
                f"{self.house.name}, whose process is {time.monotonic() - STARTED:.0f} s old, holds no plan {wanted[:12]} of the model "
                f"{command.model!r}, only {held}: what a party holds is gone when it ends, so let the model's owner deploy it again"
            )
        return bound

    def _run(self, command: Run) -> None:
        house, owner = self.house, self.session.owner
        house.directory.allow("query", command.model, owner)
        rules = house.directory.allow("receive", command.model, owner)
        if command.trace and not rules.trace:
            raise PolicyRefused(f"{house.name} tells no timelines of {command.model!r} (trace = false there); run it without a trace")
        model = house.store.model(command.model)  # one snapshot: another session may replace the model at any time
        bound = self._plan(model, command)
        house.quotas.charge(rules, owner, command.model, answers=bound.plan.opens)
        self.session.claim_run(command.number)
        house.served.add(owner)
        recorder = Recorder() if command.trace else None
        need = bound.run_bytes + (MOST_SPANS * SPAN_BYTES if recorder else 0)
        with house.memory.held(need, f"a run of the plan {bound.hash[:12]}"), self._recorded_run(command, bound) as tally:
            report = self._execute(command, bound, model, tally, recorder)
        self._say(Done(report))
        if recorder is not None:
            self._say(Timed(recorder.timeline(house.name, self.session.role)))
        house.log(f"run {command.number} of {command.model!r} for {owner}: {report.seconds:.3f} s, {report.sent_bytes:,} B sent")

    @contextlib.contextmanager
    def _recorded_run(self, command: Run, bound: Bound) -> Iterator[Tally]:
        """A run's entry in the audit log, however it ends."""
        tally, began, outcome, role = Tally(), time.perf_counter(), "done", self.session.role
        try:
            yield tally
        except BaseException as error:
            outcome = verdict(error)[0]
            raise
        finally:
            self._record(
                "run",
                command.model,
                plan=bound.hash,
                run=command.number,
                answer=bound.plan.opens,
                outcome=outcome,
                sent=tally.nbytes(sender=role),
                received=tally.nbytes(receiver=role),
                seconds=round(time.perf_counter() - began, 3),
            )

    def _execute(self, command: Run, bound: Bound, model: Model, tally: Tally, recorder: Recorder | None) -> Report:
        began, session, house, states = time.perf_counter(), self.session, self.house, self.states
        position_row(bound.plan, command.position)
        states.prepare(command.model, model.generation, bound, command.position or 0)
        streams = given(session.role, command.key_d, command.key_e)
        agree(session, self._subject(command, bound, model, states), streams, house.deadlines.wave_s)
        draws = KeyedDraws(keys.run_keys(session.role, session.pairs, streams, session.id, command.number, bound.hash))
        wait_s, watcher = house.deadlines.wave_s, house.watcher
        made = Execution if recorder is None else functools.partial(TracedExecution, recorder=recorder)
        run = made(bound, session.send, session.receive, draws, wait_s=wait_s, watcher=watcher, tally=tally)
        asked = keys.digest("moiety pass", session.id, command.number)
        with delivered(bound, model, asked, session.watch.look, house.deadlines.result_s) as deliveries:
            results = run.run(PartySources(bound, command.model, model, states, command.position, deliveries))
            tally.streamed = sum(delivery.nbytes for delivery in set(deliveries.values()))
        states.write(command.model, bound.plan, command.position or 0, results)
        alone = house.served == {session.owner}
        taken = (peak_memory_bytes(), time.process_time() - self._cpu_s) if alone else (0, 0.0)
        memory = (model.weight_bytes(bound.plan), states.nbytes)
        return make_report(house.name, bound, session, tally, self._wire, time.perf_counter() - began, *memory, *taken)

    def _subject(self, command: Run, bound: Bound, model: Model, states: States) -> bytes:
        sharing = model.sharing(bound.plan)
        position = -1 if command.position is None else command.position
        lengths = states.lengths(command.model, bound.plan)
        return keys.digest("moiety run", self.session.id, command.number, command.model, bound.hash, sharing, position, *lengths)


def verdict(error: BaseException) -> tuple[str, str]:
    """Code and text for the other members: the first cause where a peer told it, and nothing of an unforeseen error but its type."""
    if isinstance(error, AbortReceived):
        return error.peer_code, str(error)
    if isinstance(error, MoietyError):
        return error.code, str(error)
    return MoietyError.code, f"internal error ({type(error).__name__}); see the log of this party"
