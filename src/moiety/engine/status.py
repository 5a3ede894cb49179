"""The state of a compute party as another member sees it: a short connection of its own, answered whatever the sessions do.

Who may ask: every member of the federation file, compute parties included, proved by certificate as always. What they are told:

===================  ==================================================  ============================================
everybody            name, role, versions, up time, clock, kernels
an owner             models that it may deploy or query, own sessions    the last error of its own sessions, in full
a compute party      all models, sessions and memory in use              the last error's code, owner and age
===================  ==================================================  ============================================

Never weights, inputs, outputs, keys, or how often somebody else asked.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec

import moiety
from moiety import ring
from moiety.compile.plan import FORMAT
from moiety.engine.directory import Directory, Verb
from moiety.engine.messages import Message, Number, PlanHash, Text, hear, say
from moiety.engine.session import VERSION
from moiety.engine.store import Model
from moiety.errors import ChannelError, FrameError, MoietyError, PolicyRefused
from moiety.mpc.rounds import Role
from moiety.net import Identity, Kind, Link, Peer, dial

STATUS: Final = "status"
"""The purpose of such a connection."""
WAIT_S: Final = 10.0
LONGEST_S: Final = 60.0
MOST_QUERIES: Final = 64
"""On one connection, which lasts a minute at most."""
MOST_BYTES: Final = 8 << 20
"""Of one probe, in either direction."""
PROBE_BYTES: Final = 4 << 20
PINGS: Final = 5

Size = Annotated[int, msgspec.Meta(ge=0, le=MOST_BYTES)]


class Look(Message, frozen=True):
    """Member: tell me your state."""


class Probe(Message, frozen=True):
    """Member: so many bytes follow; answer with so many."""

    up: Size = 0
    down: Size = 0


class Leave(Message, frozen=True):
    """Member: that was all."""


class Deployed(msgspec.Struct, frozen=True):
    """A model that a party holds. ``nbytes``: its memory there, weights and plans."""

    name: Text
    plans: tuple[PlanHash, ...]
    nbytes: Number


class Trouble(msgspec.Struct, frozen=True):
    """How a session ended. The text is empty for all but its own owner."""

    owner: Text
    code: Text
    text: Annotated[str, msgspec.Meta(max_length=2048)]
    seconds_ago: float


class Standing(Message, frozen=True):
    """Party: my state, as far as you may see it. ``sessions`` and ``memory_bytes`` of all are None for owners."""

    name: Text
    role: Text
    version: Text
    wire: Number
    plan_format: Number
    up_s: float
    clock_s: float
    kernels: dict[str, str]
    models: tuple[Deployed, ...]
    own_sessions: Number
    sessions: Number | None
    memory_bytes: Number | None
    last_error: Trouble | None


@dataclass(slots=True)
class Desk:
    """A party's end. What it is asked it answers in a thread for each connection, a few at once."""

    directory: Directory
    name: str
    role: Role
    models: Callable[[], Mapping[str, Model]]
    sessions: Callable[[], list[str]]
    """Owners of the sessions that are open."""
    memory: Callable[[], int]
    since: float = field(default_factory=time.monotonic)
    most: int = 8
    _errors: dict[str, tuple[float, str, str]] = field(default_factory=dict)
    _busy: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def trouble(self, owner: str, code: str, text: str) -> None:
        """Remember how a session of ``owner`` ended; only its last one."""
        with self._turn:
            self._errors.pop(owner, None)
            self._errors[owner] = (time.monotonic(), code, text[:1024])

    def attend(self, link: Link) -> bool:
        """Answer in a thread. False when too many are being answered."""
        with self._turn:
            if self._busy >= self.most:
                return False
            self._busy += 1
        threading.Thread(target=self._serve, args=(link,), name=f"moiety-status-{link.peer}", daemon=True).start()
        return True

    def _serve(self, link: Link) -> None:
        try:
            self._answer(link)
        except MoietyError as error:
            link.abort(error.code, str(error))
        finally:
            link.close()
            with self._turn:
                self._busy -= 1

    def _answer(self, link: Link) -> None:
        until = time.monotonic() + LONGEST_S
        for _ in range(MOST_QUERIES):
            left = min(WAIT_S, max(0.0, until - time.monotonic()))
            match hear(link, Look | Probe | Leave, deadline_s=left, awaited="a question about the status"):  # type: ignore[arg-type]
                case Look():
                    say(link, self.standing(link.peer))
                case Probe(up, down):
                    _take(link, up)
                    link.send(Kind.CONTROL, [bytes(down)])
                    link.flush(WAIT_S)
                case Leave():
                    return

    def standing(self, asker: str) -> Standing:
        """What ``asker`` may see."""
        everything, sessions = asker in self.directory.roles, self.sessions()
        models = [
            Deployed(name, tuple(model.plans), model.nbytes)
            for name, model in sorted(self.models().items())
            if everything or _concerns(self.directory, name, asker)
        ]
        return Standing(
            name=self.name,
            role=self.role.name,
            version=str(moiety.__version__),
            wire=VERSION,
            plan_format=FORMAT,
            up_s=time.monotonic() - self.since,
            clock_s=time.time(),
            kernels={key: value for key, value in ring.features().items() if key in ("isa", "prg")},
            models=tuple(models),
            own_sessions=sessions.count(asker),
            sessions=len(sessions) if everything else None,
            memory_bytes=self.memory() if everything else None,
            last_error=self._trouble(asker, everything),
        )

    def _trouble(self, asker: str, everything: bool) -> Trouble | None:
        with self._turn:
            owner = next(reversed(self._errors), None) if everything else asker
            found = self._errors.get(owner or "")
        if owner is None or found is None:
            return None
        since, code, text = found
        return Trouble(owner, code, "" if everything else text, time.monotonic() - since)


def _concerns(directory: Directory, model: str, asker: str) -> bool:
    verbs: tuple[Verb, ...] = ("deploy", "query")
    for verb in verbs:
        try:
            directory.allow(verb, model, asker)
            return True
        except PolicyRefused:
            continue
    return False


def _take(link: Link, nbytes: int) -> None:
    got = link.receive_message(Kind.CONTROL, deadline_s=WAIT_S, awaited="the bytes of a probe", limit_bytes=MOST_BYTES)
    if len(got) != nbytes:
        raise FrameError(f"{link.peer} announced a probe of {nbytes} bytes and sent {len(got)}; run the same release of moiety everywhere")


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a connection to one party: the state that it told, or the error. Times in seconds, rates in bytes a second
    (None where they were not measured). ``ahead_s``: how far its clock is ahead of ours."""

    name: str
    role: str
    address: str
    ok: bool
    code: str = ""
    why: str = ""
    open_s: float | None = None
    round_trip_s: float | None = None
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    ahead_s: float | None = None
    standing: Standing | None = None


def look(directory: Directory, identity: Identity, *, deadline_s: float = 5.0, probe_bytes: int = 0) -> list[Reach]:
    """Ask every compute party but ourselves, at the same time; with ``probe_bytes`` also measure the bandwidth in turn."""
    peers = {role: directory.compute(role) for role in (Role.P0, Role.P1, Role.P2)}
    others = {role: peer for role, peer in peers.items() if peer.name != identity.name}
    with ThreadPoolExecutor(len(others)) as pool:
        found = list(pool.map(lambda role: _reach(identity, others[role], role, deadline_s, 0), others))
    if not probe_bytes:
        return found
    again = zip(others.items(), found, strict=True)
    return [_reach(identity, peer, role, deadline_s, probe_bytes) if was.ok else was for (role, peer), was in again]


def _reach(identity: Identity, peer: Peer, role: Role, deadline_s: float, probe_bytes: int) -> Reach:
    place: dict[str, Any] = {"name": peer.name, "role": role.name, "address": f"{peer.host}:{peer.port}"}
    began = time.perf_counter()
    try:
        link = dial(identity, peer, purpose=STATUS, deadline_s=deadline_s)
        try:
            return _asked(link, place, time.perf_counter() - began, probe_bytes)
        finally:
            link.close()
    except MoietyError as error:
        return Reach(**place, ok=False, code=getattr(error, "peer_code", error.code), why=str(error))


def _asked(link: Link, place: Mapping[str, Any], open_s: float, probe_bytes: int) -> Reach:
    trips = [_probe(link, 0, 0) for _ in range(PINGS)]
    before = time.time()
    say(link, Look())
    standing = hear(link, Standing, deadline_s=WAIT_S, awaited="its status")
    if standing.name != link.peer:
        raise ChannelError(f"{link.peer} calls itself {standing.name!r}; compare the federation files")
    trip = min(trips)
    ahead = standing.clock_s - (before + time.time()) / 2
    rates: list[float | None] = [None, None]
    if probe_bytes:
        rates = [probe_bytes / max(_probe(link, *sizes) - trip, 1e-6) for sizes in ((probe_bytes, 0), (0, probe_bytes))]
    say(link, Leave())
    return Reach(
        **place,
        ok=True,
        open_s=open_s,
        round_trip_s=trip,
        up_bytes_per_s=rates[0],
        down_bytes_per_s=rates[1],
        ahead_s=ahead,
        standing=standing,
    )


def _probe(link: Link, up: int, down: int) -> float:
    """Seconds until the answer is here."""
    began = time.perf_counter()
    say(link, Probe(up, down))
    link.send(Kind.CONTROL, [bytes(up)])
    link.flush(WAIT_S)
    _take(link, down)
    return time.perf_counter() - began
