"""The compute party's process: listen, give every session a thread, survive whatever happens in one, stop in good order.

Needs neither torch nor transformers. Logs one line for each event, with names, plans, times and sizes, and never a secret.
"""

import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from moiety.engine.audit import AuditLog
from moiety.engine.counter import Counter
from moiety.engine.directory import Directory, load
from moiety.engine.executor import Watcher
from moiety.engine.limits import Limits, Memory
from moiety.engine.lobby import Lobby
from moiety.engine.member import REASON, House, Member, verdict
from moiety.engine.quota import Quotas
from moiety.engine.session import DEALT, SESSION, USUAL, WAVES, Deadlines, Opening, Session, Wrap, abort_all, join, unchanged
from moiety.engine.status import STATUS, Desk
from moiety.engine.store import Store
from moiety.errors import AuditError, ConfigError, DeadlineExceeded, IdentityError, LimitReached, MoietyError, PeerStopping, PolicyRefused
from moiety.mpc.rounds import Role
from moiety.net import Identity, Link, Listener, Peer, load_identity

LOOK_S: Final = 0.25  # how often the main thread looks whether it is to stop
FAREWELL_S: Final = 5.0

Announce = Callable[[int], None]


@dataclass(slots=True)
class Party:
    """Everything that the threads of a compute party share."""

    identity: Identity
    directory: Directory
    counter: Counter
    audit: AuditLog
    deadlines: Deadlines = USUAL
    wrap: Wrap = unchanged
    watcher: Watcher | None = None
    out: TextIO = field(default_factory=lambda: sys.stderr)
    house: House = field(init=False)
    desk: Desk = field(init=False)
    begun: bool = False
    lobby: Lobby = field(default_factory=Lobby)
    stopping: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    """Set when it is told to stop a second time."""
    life: int = field(default_factory=lambda: int.from_bytes(os.urandom(7)))
    _lives: dict[str, int] = field(default_factory=dict)
    _open: dict[threading.Thread, Link | Session] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Make what sessions share, by the federation file as it is now, and say in the audit log that the party serves."""
        memory, quotas = Memory(self.directory.limits.memory_bytes), Quotas()
        for entry in self.audit.entries():
            if entry["what"] == "run" and entry["answer"]:
                quotas.restore(entry["by"], entry["model"], entry["time"][:10])
        store = Store()
        self.desk = Desk(self.directory, self.identity.name, self.role, store.models, self._owners, lambda: memory.taken)
        name, seams = self.identity.name, (self.log, self.stopping, self.watcher)
        self.house = House(name, self.directory, self.deadlines, store, memory, quotas, self.audit, *seams)
        rules = hashlib.sha256(self.directory.path.read_bytes()).hexdigest()
        self.audit.write("start", role=self.role.name, federation=rules)
        self.begun = True

    @property
    def role(self) -> Role:
        """The compute role of this party. Raises ConfigError when it has none."""
        role = self.directory.roles.get(self.identity.name)
        if role is None:
            raise ConfigError(f"{self.identity.name} is no compute party in {self.directory.path}; give it the role p0, p1 or p2")
        return role

    @property
    def limits(self) -> Limits:
        """What this party is willing to hold and do."""
        return self.directory.limits

    def log(self, text: str) -> None:
        """One line: time, party, event."""
        line = "".join(c if c.isprintable() else " " for c in text)
        with contextlib.suppress(OSError, ValueError):
            self.out.write(f"{time.strftime('%H:%M:%S')} {self.identity.name} {line}\n")
            self.out.flush()

    def receive(self, listener: Listener) -> None:
        """Take connections until the party stops."""
        while not self.stopping.is_set():
            self._take(listener)

    def drain(self, listener: Listener) -> None:
        """Take no new session; let those go on in which something runs, until all ended, time is up or somebody is in a hurry."""
        deadline = time.monotonic() + self.deadlines.stop_s
        self.log(f"is being stopped: {len(self._open)} sessions may go on for {self.deadlines.stop_s:g} s")
        while self._open and not self.hurry.is_set() and time.monotonic() < deadline:
            self._take(listener)

    def _take(self, listener: Listener) -> None:
        with contextlib.suppress(DeadlineExceeded, IdentityError):  # refusals were logged when they happened
            self._place(listener.accept(deadline_s=LOOK_S))

    def _place(self, link: Link) -> None:
        """An owner gets a thread; another compute party's channel waits for its session."""
        role, purpose = self.directory.roles.get(link.peer), link.hello.purpose
        if role is None and purpose == SESSION:
            self._begin(link)
        elif (role is Role.P0 and purpose == DEALT and self.role is not Role.P0) or (
            role in (Role.P1, Role.P2) and purpose == WAVES and self.role in (Role.P1, Role.P2)
        ):
            self.lobby.put(link)
        elif purpose == STATUS:
            if not self.desk.attend(link):
                self._turn_away(link, f"{self.identity.name} answers too many questions about its status; ask again later", LimitReached)
        else:
            self._turn_away(link, f"{link.peer} may not connect to {self.identity.name} for {purpose[:32]!r}; compare the federation files")

    def _turn_away(self, link: Link, text: str, kind: type[MoietyError] = PolicyRefused) -> None:
        self.log(f"refused {kind.code}: {text}")
        self._record("refused", by=link.peer, command="connect", code=kind.code, reason=text[:REASON])
        # In a thread: the peer may take its time to read why.
        name = f"moiety-refuse-{link.peer}"
        threading.Thread(target=abort_all, args=([link], kind.code, text), name=name, daemon=True).start()

    def _record(self, what: str, **fields: object) -> None:
        """Beside a session: whether the audit log can be written, the sessions themselves find out."""
        try:
            self.audit.write(what, **fields)
        except AuditError as error:
            self.log(f"{error.code}: {error}")

    def _begin(self, link: Link) -> None:
        if self.stopping.is_set():
            self._turn_away(link, f"{self.identity.name} is being stopped and takes no new session", PeerStopping)
            return
        with self._turn:
            full = self._full(link.peer)
            if full is None:
                thread = threading.Thread(target=self._converse, args=(link,), name=f"moiety-session-{link.peer}", daemon=True)
                self._open[thread] = link
                thread.start()
        if full is not None:
            self._turn_away(link, f"{full}; close one, try again later, or let {self.identity.name} raise its limit", LimitReached)

    def _owners(self) -> list[str]:
        """Of all sessions that are open."""
        with self._turn:
            return [one.owner if isinstance(one, Session) else one.peer for one in self._open.values()]

    def _full(self, owner: str) -> str | None:
        """Why no further session of ``owner`` fits, if none does."""
        theirs = sum(owner == (one.owner if isinstance(one, Session) else one.peer) for one in self._open.values())
        if len(self._open) >= self.limits.sessions:
            return f"{self.identity.name} already serves {self.limits.sessions} sessions"
        if theirs >= self.limits.sessions_per_owner:
            return f"{self.identity.name} already serves {theirs} sessions of {owner}"
        return None

    def _converse(self, control: Link) -> None:
        link, session, error = self.wrap(control, SESSION), None, None
        try:
            session = join(self._opening(), link)
            self._keep(session)
            self.log(f"session {session.id.hex()[:12]} with {link.peer} begins")
            self._notice(session)
            Member(self.house, session).serve()
        except BaseException as problem:
            error = problem
        self._end(link, session, error)

    def _opening(self) -> Opening:
        return Opening(
            self.directory, self.identity, self.role, self.counter.advance, self.lobby.take, self.deadlines, self.life, self.wrap
        )

    def _notice(self, session: Session) -> None:
        """Say so when another party is another process than it was: what was shared with it is gone."""
        with self._turn:
            new = [name for name, life in session.lives.items() if self._lives.get(name, life) != life]
            self._lives.update(session.lives)
        for name in new:
            self.log(f"{name} was started anew since its last session: weights and plans must be deployed again before it can run them")

    def _keep(self, session: Session) -> None:
        with self._turn:
            self._open[threading.current_thread()] = session

    def _end(self, link: Link, session: Session | None, error: BaseException | None) -> None:
        name = f"session {session.id.hex()[:12]}" if session else "session"
        if error is None:
            self.log(f"{name} with {link.peer} ends")
        else:
            code, text = verdict(error)
            self.log(f"{name} with {link.peer} aborts, {code}: {text}{_notes(error)}")
            self.desk.trouble(link.peer, code, text)
            (session or link).abort(code, text)
            _forget(error)
        (session or link).close()
        with self._turn:
            self._open.pop(threading.current_thread(), None)

    def stop(self) -> None:
        """End all sessions and wait for their threads. May be called twice."""
        self.stopping.set()
        self.lobby.close()
        with self._turn:
            threads = dict(self._open)
        for open_ in threads.values():
            open_.abort(PeerStopping.code, f"{self.identity.name} is being stopped and waits no longer for this session")
            open_.close()
        for thread in threads:
            thread.join(FAREWELL_S)
        if self.begun:
            self.begun = False
            self._record("stop")
        self.audit.close()
        self.counter.close()


def _forget(error: BaseException) -> None:
    """Let go of what the frames of an ended session hold, a run's values too: else they stay until a search for garbage."""
    ended: BaseException | None = error
    while ended is not None:
        traceback.clear_frames(ended.__traceback__)
        ended = ended.__context__


def _notes(error: BaseException) -> str:
    notes = " ".join(note for note in getattr(error, "__notes__", ()) if "moiety explain" not in note)
    if isinstance(error, MoietyError):
        return f" [{notes}]" if notes else ""
    # Where, but not the message: it was not written with secrets in mind.
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f" [{type(error).__name__} at {places} {notes}]"


def serve(
    folder: str | os.PathLike[str],
    federation_file: str | os.PathLike[str],
    name: str | None = None,
    *,
    port: int | None = None,
    announce: Announce | None = None,
    deadlines: Deadlines = USUAL,
    wrap: Wrap = unchanged,
    watcher: Watcher | None = None,
    out: TextIO | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run the party whose identity is in ``folder`` until SIGTERM, SIGINT or ``stop``: then runs may end, within ``stop_s``.

    A second signal stops it at once.

    ``port`` overrides the file's (0: any free one). ``announce`` is told the port once the party listens and before it
    takes connections; the federation file is read again when it returns. Raises ConfigError, IdentityError, AddressInUse.
    """
    identity, directory = load_identity(folder), load(federation_file)
    if name is not None and identity.name != name:
        raise ConfigError(f"{folder} holds the identity of {identity.name}, not of {name}; point to the right folder")
    mine, counter = _pinned(directory, identity), Counter(folder)
    try:
        audit = AuditLog(folder, identity.name)
    except BaseException:
        counter.close()
        raise
    party = Party(identity, directory, counter, audit, deadlines, wrap, watcher, out or sys.stderr, stopping=stop or threading.Event())
    listener = None
    try:
        role = party.role
        listener = Listener(
            identity,
            directory.others(identity.name),
            mine.host,
            mine.port if port is None else port,
            on_refused=lambda reason: party.log(f"refused: {reason}"),
            stall_s=deadlines.stall_s,
        )
        with _signals(party.stopping, party.hurry):
            try:
                if announce is not None:
                    announce(listener.port)
                    party.directory = load(federation_file)
                party.begin()
                party.log(f"listens on {mine.host}:{listener.port} as {role.name}")
                party.receive(listener)
                party.drain(listener)
            finally:
                listener.close()
    finally:
        party.stop()
        if listener is not None:  # else the caller is told why it never began
            party.log("stopped")


def _pinned(directory: Directory, identity: Identity) -> Peer:
    directory.check_known(identity.name)
    peer = directory.peers[identity.name]
    if peer.certificate != identity.certificate:
        raise IdentityError(
            f"{directory.path} pins {peer.fingerprint} for {identity.name}, but the identity here is {identity.fingerprint}; "
            "put this party's current certificate into the federation file"
        )
    return peer


@contextlib.contextmanager
def _signals(stopping: threading.Event, hurry: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT stop the party, the second time in a hurry; only the main thread of a process can be told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def told(*_: object) -> None:
        (hurry if stopping.is_set() else stopping).set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
