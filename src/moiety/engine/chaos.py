"""Random single faults on real processes: every run ends in an error of an expected kind, or in the right answer, within its deadline.

One fault at a time befalls one member, in one wave (or at one of the messages that open a session), of a run of a small model. What
then counts as well is said by ``EXPECTED``; anything else, a late end, or a process that died of it is a failure of moiety.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from moiety.compile import signature
from moiety.compile.plan import LINKS, Plan
from moiety.engine.deploy import Weights
from moiety.engine.injection import shaping
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES, LocalParties, start
from moiety.engine.owner import OwnerSession, open_session
from moiety.engine.session import Deadlines
from moiety.errors import ChannelError, DeadlineExceeded, FrameError, MoietyError, PeerLost
from moiety.mpc.rounds import Role, Words
from moiety.net import Fault, FaultKind, Injector, Kind, Link

SWIFT: Final = Deadlines(open_s=4.0, absent_s=2.0, wave_s=1.0, result_s=2.5, idle_s=60.0, stall_s=5.0, stop_s=5.0)
STEADY: Final = Deadlines(open_s=8.0, absent_s=4.0, wave_s=2.0, result_s=5.0, idle_s=60.0, stall_s=10.0, stop_s=5.0)
REPEATS: Final = 3  # of what misses a deadline for no reason but a busy machine
SLACK_S: Final = 6.0
"""What a run may take beyond its deadlines: closing channels, and a machine that has other things to do."""
RIGHT: Final = "right"
WRONG: Final = "WRONG"
LATE: Final = "LATE"
DIED: Final = "DIED"
KINDS: Final = (FaultKind.DROP, FaultKind.DELAY, FaultKind.DUPLICATE, FaultKind.ALTER, FaultKind.KILL, FaultKind.PARTITION)
_GONE: Final = {PeerLost.code, ChannelError.code}
EXPECTED: Final[Mapping[FaultKind, set[str]]] = {
    FaultKind.DROP: {FrameError.code, DeadlineExceeded.code},
    FaultKind.DELAY: {RIGHT, DeadlineExceeded.code},
    FaultKind.DUPLICATE: {RIGHT, FrameError.code},
    FaultKind.ALTER: {FrameError.code, *_GONE},
    FaultKind.KILL: {*_GONE, DeadlineExceeded.code},
    FaultKind.PARTITION: {DeadlineExceeded.code},
}
"""How a run may end that suffered a fault: by the code of its error, or ``RIGHT``. Unstruck, only ``RIGHT``."""
OPENING: Final = 3
"""Frames that a member sends to each other one before the first wave, at least."""


@dataclass(frozen=True)
class Subject:
    """A small model: its plan, what it needs, one input, and the answer with its tolerance."""

    name: str
    plan: Plan
    weights: Weights
    inputs: list[Words]
    answer: Any
    tolerance: float

    def right(self, outputs: Sequence[Words]) -> bool:
        """Whether these are the answer."""
        found = np.asarray(signature.decode_outputs(self.plan, outputs, False))
        return bool(np.abs(found - self.answer).max() <= self.tolerance)

    def waves(self, role: Role) -> int:
        """How many waves it takes until this member has nothing more to send."""
        mine = [i for i, (sender, _) in enumerate(LINKS) if sender is role]
        return 1 + max(number for number, row in enumerate(self.plan.waves) if any(row[i] for i in mine))


@dataclass(frozen=True)
class Outcome:
    """What came of one fault. ``halves``: frames of outputs that the client had got, of two.

    ``repeated``: so many times before, a deadline was missed that the fault does not explain: the machine had other things to do.
    """

    fault: str
    model: str
    end: str
    struck: bool
    halves: int
    seconds: float
    message: str
    repeated: int = 0

    @property
    def kind(self) -> FaultKind:
        """The kind of the fault."""
        return Fault.parse(self.fault).kind

    @property
    def expected(self) -> bool:
        """Whether it ended as it should, and showed no output that is not whole."""
        return self.end in (EXPECTED[self.kind] if self.struck else {RIGHT}) and (self.end != RIGHT or self.halves == 2)


@dataclass
class Ward:
    """One federation that suffers fault after fault; a party that was killed is started again, and the models restored."""

    subjects: Sequence[Subject]
    parties: LocalParties
    told: list[str] = field(default_factory=list)
    halves: int = 0
    _due: Fault | None = None

    def __post_init__(self) -> None:
        self._slow = shaping(self.parties.link)
        self._client = Injector(CLIENT, lambda: [self._due] if self._due else [], self.told.append)
        self.deploy()

    def deploy(self) -> None:
        """Share what some party does not hold."""
        for repeats_left in reversed(range(REPEATS + 1)):
            try:
                with self._session(MODEL_OWNER) as session:
                    for subject in self.subjects:
                        session.deploy(subject.name, [subject.plan], subject.weights)
                return
            except MoietyError as error:
                if not error.transient or not repeats_left:
                    raise

    def endure(self, fault: Fault, subject: Subject) -> Outcome:
        """As ``suffer``, again when a deadline was missed that the fault does not explain; a defect misses it every time."""
        for repeated in range(REPEATS + 1):
            outcome = replace(self.suffer(fault, subject), repeated=repeated)
            if outcome.expected or outcome.end != DeadlineExceeded.code:
                break
        return outcome

    def suffer(self, fault: Fault, subject: Subject) -> Outcome:
        """One run under one fault, and the federation well again."""
        self._due, self.halves = fault, 0
        self.told.clear()
        logged = {name: len(self.parties.log(name)) for name in PARTIES}
        self.parties.inject(fault)
        began = time.monotonic()
        end, message = self._run(subject)
        seconds = time.monotonic() - began
        self._due = None
        self.parties.inject()
        struck = bool(self.told) or any(f"the fault {fault} " in self.parties.log(name)[at:] for name, at in logged.items())
        if seconds > self.parties.deadlines.open_s + self.parties.deadlines.result_s + SLACK_S:
            end = LATE
        if self._revive(fault if struck else None):
            end = DIED
        return Outcome(str(fault), subject.name, end, struck, self.halves, round(seconds, 3), message)

    def _run(self, subject: Subject) -> tuple[str, str]:
        try:
            with self._session(CLIENT, self._wrap) as session:
                result = session.run(subject.name, subject.plan, subject.inputs)
        except MoietyError as error:
            return error.code, str(error)
        return (RIGHT, "") if subject.right(result.outputs) else (WRONG, "the answer is not the model's")

    def _session(self, name: str, wrap: Any = None) -> OwnerSession:
        seams = {} if wrap is None else {"wrap": wrap}
        return open_session(self.parties.directory, self.parties.identity(name), deadlines=self.parties.deadlines, **seams)

    def _wrap(self, link: Link, purpose: str) -> Any:
        return _Opened(self._client.wrap(self._slow(link, purpose), purpose), self)

    def _revive(self, fault: Fault | None) -> list[str]:
        """Start again whoever is dead; returns those who should not be."""
        killed = fault.party if fault is not None and fault.kind is FaultKind.KILL else ""
        if killed in PARTIES:
            self.parties.processes[killed].wait(SLACK_S)
        dead = [name for name in PARTIES if self.parties.processes[name].poll() is not None]
        for name in dead:
            self.parties.restart(name)
        if dead:
            self.deploy()
        return [name for name in dead if name != killed]


class _Opened:
    """The client's channel to one party: counts the frames of outputs that come."""

    def __init__(self, link: Link, ward: Ward) -> None:
        self._link, self._ward = link, ward

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def receive_into(self, kind: Kind, *rest: Any, **options: Any) -> None:
        """As the link; an output counts when it has come."""
        self._link.receive_into(kind, *rest, **options)
        self._ward.halves += kind is Kind.OUTPUT


def draw(subjects: Sequence[Subject], count: int, seed: int, late_s: float = 1.5) -> Iterator[tuple[Fault, Subject]]:
    """``count`` faults at random: a model, a kind, a member, a wave in which it sends, one time in eight an opening message.

    Half of the delays last ``late_s``, which should be more than a deadline.
    """
    generator = np.random.default_rng(seed)
    for _ in range(count):
        subject = subjects[int(generator.integers(len(subjects)))]
        kind = KINDS[int(generator.integers(len(KINDS)))]
        members = PARTIES if kind is FaultKind.KILL else (*PARTIES, CLIENT)  # the client's process is this one
        number = int(generator.integers(len(members)))
        late = generator.integers(2) == 1
        amount = (late_s if late else 0.1) if kind is FaultKind.DELAY else 0.0
        opening = generator.integers(8) == 0
        wave = generator.integers(OPENING if opening else subject.waves(Role(number)))
        yield Fault(members[number], int(wave), kind, amount, frame=bool(opening)), subject


def chaos(
    subjects: Sequence[Subject],
    count: int,
    seed: int,
    *,
    jobs: int = 1,
    deadlines: Deadlines = STEADY,
    link: str | None = None,
    tell: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Commit ``count`` faults, one at a time in each of ``jobs`` federations. ``tell`` hears of each as it ends.

    ``link``: all members but the model's owner send as slowly as by such a link; what it adds to a run must fit the deadlines.
    """
    drawn = list(draw(subjects, count, seed, 1.5 * deadlines.wave_s))
    turn, over, todo = threading.Lock(), threading.Event(), iter(enumerate(drawn))
    outcomes: dict[int, Outcome] = {}

    def work() -> None:
        with start(deadlines=deadlines, faults=True, link=link) as parties:
            ward = Ward(subjects, parties)
            while not over.is_set() and (item := _next(todo, turn)) is not None:
                number, (fault, subject) = item
                outcomes[number] = ward.endure(fault, subject)
                with turn:
                    tell(outcomes[number])

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for job in [pool.submit(work) for _ in range(jobs)]:
                job.result()
        finally:
            over.set()  # interrupted, or one of them failed: the others end after the fault that they are at
    return [outcomes[number] for number in sorted(outcomes)]


def _next(todo: Iterator[Any], turn: threading.Lock) -> Any:
    with turn:
        return next(todo, None)
