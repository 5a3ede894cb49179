"""Drive a bound plan at one role over real channels: one frame for each peer and wave, each checked against the table first.

P0 runs ahead: it deals frame after frame and awaits nobody, until the frames that a receiver has not taken fill the channel's
queue (``net.writer.QUEUE_BYTES``). When that is depends on sizes and on the receivers' pace, never on a secret. P1 and P2 read the
dealt frame of a wave when an op first takes from it, so they overlap computing with P0. Nothing is retried: any departure
from the table, any lost peer and any missed deadline ends the run with an error that names op, wave and peer.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from moiety import ring
from moiety.compile import program
from moiety.engine.report import Traffic
from moiety.engine.waves import Bound, Dealt, Entry, Frame
from moiety.errors import PlanMismatch
from moiety.mpc.party import Draws, Party
from moiety.mpc.rounds import SILENCE, Address, Role, Round, Schedule, Spec, Words
from moiety.mpc.share import dtype_of
from moiety.net import Kind, Link


class Watcher(Protocol):
    """Told what a run does; for progress, traces and tests. ``label`` names the steps that speak, never a value."""

    def wave_started(self, wave: int, label: str) -> None: ...
    def wave_ended(self, wave: int, label: str) -> None: ...
    def run_failed(self, wave: int, error: BaseException) -> None: ...


class Unwatched:
    """The default watcher: not interested."""

    def wave_started(self, wave: int, label: str) -> None: ...
    def wave_ended(self, wave: int, label: str) -> None: ...
    def run_failed(self, wave: int, error: BaseException) -> None: ...


@dataclass(slots=True)
class Tally:
    """Frames of the plan and their payload on every link this role has part in, and the time spent waiting for others."""

    links: dict[tuple[Role, Role], list[int]] = field(default_factory=dict)
    waiting_s: float = 0.0
    streamed: int = 0
    """Bytes of weights that their owner streamed into the run."""

    def count(self, sender: Role, receiver: Role, nbytes: int) -> None:
        entry = self.links.setdefault((sender, receiver), [0, 0])
        entry[0] += 1
        entry[1] += nbytes

    def nbytes(self, *, sender: Role | None = None, receiver: Role | None = None) -> int:
        """Payload on all links from this sender, or to this receiver."""
        return sum(entry[1] for (a, b), entry in self.links.items() if sender in (None, a) and receiver in (None, b))

    def traffic(self) -> dict[str, Traffic]:
        """By ``"P1->P2"``."""
        return {f"{a.name}->{b.name}": Traffic(*counts) for (a, b), counts in sorted(self.links.items())}


class Execution:
    """One run of a plan at one role. Use once."""

    def __init__(
        self,
        bound: Bound,
        send: Mapping[Role, Link],
        receive: Mapping[Role, Link],
        draws: Draws,
        *,
        wait_s: float,
        watcher: Watcher | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._bound, self._role = bound, bound.role
        self._send, self._receive = send, receive
        self._wait_s, self._watcher = wait_s, watcher or Unwatched()
        self.wave, self.tally = 0, tally or Tally()
        self._stash: dict[Address, tuple[Role, Spec, Words]] = {}  # P0: put in this wave, not yet sent
        self._frame: Words | None = None  # P1, P2: the dealt frame of this wave, once it was read
        self.party = Party(bound.role, draws, self)

    def run(self, sources: program.Sources) -> dict[int, Any]:
        """The results of the plan's kept nodes. Raises whatever ended the run, after closing all that was suspended."""
        schedule = self._schedule(sources)
        coroutine = schedule.run()
        try:
            with np.errstate(over="ignore"):  # words wrap around; numpy would warn about it for single ones
                return self._drive(coroutine)
        except BaseException as error:
            self._watcher.run_failed(self.wave, error)
            raise
        finally:
            coroutine.close()
            schedule.close()

    def _schedule(self, sources: program.Sources) -> Schedule:
        return self._bound.prepared.schedule(self.party, sources)

    def _drive(self, coroutine: Any) -> dict[int, Any]:
        entries, watcher = self._bound.entries, self._watcher
        mail: list[Words] | None = None
        while True:
            try:
                said = coroutine.send(mail)
            except StopIteration as stop:
                self._finish()
                results: dict[int, Any] = stop.value
                return results
            if self.wave >= self._bound.spoken:
                raise PlanMismatch(f"the plan speaks in wave {self.wave}, but its table has only {self._bound.spoken}")
            entry = entries[self.wave]
            watcher.wave_started(self.wave, entry.label)
            self._deal(entry)
            mail, said = self._exchange(entry, said), None  # what was sent is not held while the next wave is computed
            watcher.wave_ended(self.wave, entry.label)
            self.wave += 1
            self._progress()

    def _finish(self) -> None:
        if self.wave != self._bound.spoken:
            raise PlanMismatch(f"the plan ended after {self.wave} waves, but its table has {self._bound.spoken}")
        if self.wave < len(self._bound.entries):
            self._deal(self._bound.entries[self.wave])

    def _exchange(self, entry: Entry, said: Round) -> list[Words]:
        if said is SILENCE and not entry.sends and not entry.expects:
            return []
        self._check(entry, said)
        for frame in entry.sends:
            parts = [np.asarray(w.value, order="C") for w in said.send if w.receiver is frame.peer and w.value is not None]
            self._transmit(frame, parts)
        if not entry.expects:
            return []
        if len(entry.expects) == 1:
            return self._arrived(entry.expects[0], entry.label)
        arrived = {frame.peer: iter(self._arrived(frame, entry.label)) for frame in entry.expects}
        return [next(arrived[word.sender]) for word in said.expect]

    def _check(self, entry: Entry, said: Round) -> None:
        """Before anything is sent: exactly the announced segments to and from exactly the announced peers."""
        for frames, words, outward in ((entry.sends, said.send, True), (entry.expects, said.expect, False)):
            count = 0
            for frame in frames:
                specs = tuple([w.spec for w in words if (w.receiver if outward else w.sender) is frame.peer])
                if specs != frame.specs:
                    raise PlanMismatch(
                        f"{entry.label}: {self._role.name} would exchange other shapes with {frame.peer.name} than the table has"
                    )
                count += len(specs)
            if count != len(words):
                raise PlanMismatch(f"{entry.label}: {self._role.name} would exchange words that the table does not have")

    def _transmit(self, frame: Frame, parts: list[Words]) -> None:
        for part, spec in zip(parts, frame.specs, strict=True):
            if part.dtype != dtype_of(spec.bits) or part.shape != spec.shape:
                raise PlanMismatch(
                    f"{self._role.name} would send {part.dtype} {part.shape} to {frame.peer.name} where the table has {spec}"
                )
        views = [on_wire(part, spec).data for part, spec in zip(parts, frame.specs, strict=True)]
        self._send[frame.peer].send(frame.kind, views, wave=self.wave, layout=frame.layout)
        self.tally.count(self._role, frame.peer, frame.nbytes)

    def _read(self, frame: Frame, label: str) -> Words:
        buffer = np.empty(frame.nbytes, np.uint8)
        began = time.perf_counter()
        self._receive[frame.peer].receive_into(
            frame.kind, [buffer.data], wave=self.wave, layout=frame.layout, deadline_s=self._wait_s, awaited=label
        )
        self.tally.waiting_s += time.perf_counter() - began
        self.tally.count(frame.peer, self._role, frame.nbytes)
        return buffer

    def _arrived(self, frame: Frame, label: str) -> list[Words]:
        buffer, at, out = self._read(frame, label), 0, []
        for spec in frame.specs:
            out.append(segment(buffer, at, spec))
            at += spec.nbytes
        return out

    # The dealt stream: the party's Dealer.

    def put(self, receiver: Role, address: Address, spec: Spec, value: Words) -> None:
        """P0: this value goes into the frame of the current wave."""
        if value.dtype != dtype_of(spec.bits) or value.shape != spec.shape:
            raise PlanMismatch(f"dealt {value.dtype} {value.shape} where {spec} was announced")
        self._stash[address] = (receiver, spec, value)

    def take(self, receiver: Role, address: Address, spec: Spec) -> Words:
        """P1, P2: the value at its place in the current wave's frame."""
        entry = self._bound.entries[self.wave] if self.wave < len(self._bound.entries) else None
        dealt = entry.dealt[0] if entry is not None and entry.dealt else None
        place = None if dealt is None else dealt.places.get(address)
        if entry is None or dealt is None or place is None or place[1] != spec:
            raise PlanMismatch(f"a value is taken in wave {self.wave} that the table does not deal there")
        if self._frame is None:
            self._frame = self._read(dealt.frame, entry.label)
        return segment(self._frame, place[0], spec)

    def _deal(self, entry: Entry) -> None:
        if self._role is Role.P0:
            for dealt in entry.dealt:
                self._send_dealt(dealt)
            if self._stash:
                raise PlanMismatch(f"{entry.label}: values were dealt that the table does not have")
        elif entry.dealt and self._frame is None:
            raise PlanMismatch(f"{entry.label}: dealt values were not taken")
        self._frame = None

    def _send_dealt(self, dealt: Dealt) -> None:
        parts, peer = [], dealt.frame.peer
        for address, (_, spec) in dealt.places.items():
            receiver, said, value = self._stash.pop(address, (None, None, None))
            if receiver is not peer or said != spec or value is None:
                raise PlanMismatch(f"wave {self.wave}: a dealt value is not the one that the table has")
            parts.append(np.asarray(value, order="C"))
        began = time.perf_counter()
        self._transmit(dealt.frame, parts)
        self.tally.waiting_s += time.perf_counter() - began

    def _progress(self) -> None:
        """P1 tells the client at fixed waves how far the run is, so that the client's waits are short and can show progress."""
        if self.wave % self._bound.progress_every or self.wave >= self._bound.spoken:
            return
        if self._role is Role.P1:
            self._send[Role.CLIENT].send(Kind.REPORT, [b""], wave=self.wave)
        elif self._role is Role.CLIENT:
            self._hear_progress()

    def _hear_progress(self) -> None:
        began = time.perf_counter()
        awaited = f"progress to wave {self.wave} of {self._bound.spoken}"
        self._receive[Role.P1].receive_into(Kind.REPORT, [], wave=self.wave, deadline_s=self._wait_s, awaited=awaited)
        self.tally.waiting_s += time.perf_counter() - began


def on_wire(part: Words, spec: Spec) -> Words:
    """An array as it travels: as it is, or as the octets that its ring fills, reduced to the ring."""
    return part if spec.bits in (8, 64) else ring.to_octets(part, spec.bits)


def segment(buffer: Words, at: int, spec: Spec) -> Words:
    """One array of a frame: a view where the processor may read it as such, else a copy."""
    if spec.bits <= 56 and spec.bits != 8:
        return ring.from_octets(buffer[at : at + spec.nbytes], spec.bits).reshape(spec.shape)
    view: Words = np.ndarray(spec.shape, dtype_of(spec.bits), buffer.data, at)
    return view if view.flags.aligned else view.copy()
