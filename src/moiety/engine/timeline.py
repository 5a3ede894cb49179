"""Where one role spends the time of a run: computing for which node, waiting for whom, sending to whom.

A party tells it to the owner of the run who asks, unless its rules for the model say no. It is times and places in the plan, never a
value. Which operations run, in which order and on what sizes follows from the public plan alone, so the times do not depend on secrets
but as far as the processor's do; beside that they show how busy the party's machine is. An execution that is not traced has none of this.
"""

import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

from moiety.compile import program
from moiety.compile.plan import Plan
from moiety.engine.executor import Execution
from moiety.engine.report import Span, Timeline, What
from moiety.engine.waves import Frame
from moiety.errors import FrameError
from moiety.mpc.rounds import Protocol_, Role, Round, Schedule, Step, Words

MOST_SPANS: Final = 200_000
SPAN_BYTES: Final = 200
"""What a span takes at a party until it is told."""


Note = Callable[[float], None]


class Recorder:
    """Collects spans from one thread."""

    def __init__(self) -> None:
        self._clock_s, self._began, self._lost = time.time(), time.perf_counter(), 0
        self._spans: list[Span] = []

    def note(self, what: What, of: int, wave: int, began: float) -> None:
        """One span, from ``began`` (perf_counter) until now. What takes no microsecond is left out."""
        us = int(1e6 * (time.perf_counter() - began))
        if us and len(self._spans) < MOST_SPANS:
            self._spans.append(Span(what, of, wave, int(1e6 * (began - self._began)), us))
        elif us:
            self._lost += 1

    def timeline(self, name: str, role: Role) -> Timeline:
        """What was collected."""
        return Timeline(name, role.name, self._clock_s, tuple(self._spans), self._lost)


class TracedExecution(Execution):
    """An execution that tells ``recorder`` what it does."""

    def __init__(self, *arguments: Any, recorder: Recorder, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._recorder = recorder

    def _schedule(self, sources: program.Sources) -> Schedule:
        prepared = self._bound.prepared
        steps = [self._timed(i, step) for i, step in enumerate(prepared.steps(self.party, sources))]
        return Schedule(self.party, steps, prepared.graph)

    def _timed(self, i: int, step: Step) -> Step:
        def note(began: float) -> None:
            self._recorder.note(What.COMPUTE, i, self.wave, began)

        def start(*inputs: Any) -> Any:
            began = time.perf_counter()
            result = step.start(*inputs)
            if isinstance(result, Coroutine):
                return noted(result, note)
            note(began)
            return result

        return step._replace(start=start)

    def _read(self, frame: Frame, label: str) -> Words:
        began = time.perf_counter()
        words = super()._read(frame, label)
        self._recorder.note(What.WAIT, frame.peer, self.wave, began)
        return words

    def _transmit(self, frame: Frame, parts: list[Words]) -> None:
        began = time.perf_counter()
        super()._transmit(frame, parts)
        self._recorder.note(What.SEND, frame.peer, self.wave, began)

    def _hear_progress(self) -> None:
        began = time.perf_counter()
        super()._hear_progress()
        self._recorder.note(What.WAIT, Role.P1, self.wave - 1, began)  # a word on what is over


async def noted(protocol: Protocol_, note: Note) -> Any:
    """The protocol itself; ``note`` is told, at the end of every piece between two exchanges, when it began (perf_counter)."""
    return await _pieces(protocol, note)


@types.coroutine
def _pieces(protocol: Protocol_, note: Note) -> Generator[Round, list[Words], Any]:
    mail: list[Words] | None = None
    try:
        while True:
            began = time.perf_counter()
            try:
                said = protocol.send(mail)
            except StopIteration as stop:
                return stop.value
            finally:
                note(began)
            mail = yield said
    finally:
        protocol.close()


def checked(timeline: Timeline, plan: Plan, role: Role) -> Timeline:
    """Raises FrameError unless the places that a member names are those of the plan."""
    places = {What.COMPUTE: len(plan.nodes), What.WAIT: len(Role), What.SEND: len(Role)}
    if timeline.role != role.name or any(span.of >= places[span.what] or span.wave > len(plan.waves) for span in timeline.spans):
        raise FrameError(f"{role.name} told a timeline of another run than its own; run the same release of moiety everywhere")
    return timeline
