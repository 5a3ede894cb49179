"""A session: one owner and the three compute parties, with channels and keys of its own, closed at its end or at an abort.

```
owner <-> P0, P1, P2     control, inputs, outputs: one channel each, the owner dials
P0 -> P1, P0 -> P2       the dealt stream and P0's word on what is about to run; P0 receives nothing there but the hello
P1 -> P2, P2 -> P1       the waves: one channel for each direction, the sender dials
```

Every member watches all channels on which it may be told something while it waits for one of them, so the end of a session
reaches everybody at once, whomever they wait for. An abort needs no draining, and sessions do not touch each other. What the
parties must agree on they compare on their own channels; the owner only carries public contributions between them.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from moiety.engine import keys
from moiety.engine.directory import Directory
from moiety.engine.messages import Agreement, Greeting, Here, Open, Ready, Roster, hear, say
from moiety.errors import ChannelError, FrameError, InconsistentInput, MoietyError, PlanMismatch, ReuseRefused
from moiety.mpc.party import Key
from moiety.mpc.rounds import Role
from moiety.net import Identity, Link, Peer, Watch, dial

VERSION: Final = 1
SESSION: Final = "session"  # purposes of channels
DEALT: Final = "dealt"
WAVES: Final = "waves"
PARTIES: Final = (Role.P0, Role.P1, Role.P2)

Wrap = Callable[[Link, str], Link]
"""The channel seam: applied to every new channel with its purpose; for faults, shaping, recording one's own traffic."""


def unchanged(link: Link, purpose: str) -> Link:
    """The channel itself: the default wrapper."""
    return link


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each kind of wait may last. ``docs/trust.md`` says which must exceed which."""

    open_s: float = 30.0
    absent_s: float = 5.0
    wave_s: float = 120.0
    result_s: float = 600.0
    idle_s: float = 3600.0
    stall_s: float = 300.0
    stop_s: float = 30.0


USUAL: Final = Deadlines()


@dataclass(slots=True)
class Session:
    """One member's end of a session. ``close`` and ``abort`` may be called from any thread."""

    role: Role
    id: bytes
    owner: str
    names: Mapping[Role, str]
    send: dict[Role, Link]
    receive: dict[Role, Link]
    watch: Watch
    pairs: dict[Key, bytes] = field(default_factory=dict)
    lives: dict[str, int] = field(default_factory=dict)
    """A number for the process of every party that spoke to this one: another number, another process."""
    last_run: int = 0
    last_deploy: int = 0

    def links(self) -> list[Link]:
        """All channels, each once."""
        return list({id(link): link for link in (*self.send.values(), *self.receive.values())}.values())

    def claim_run(self, number: int) -> None:
        """Use a run number. Raises ReuseRefused unless it is higher than all before: masks are drawn once under a number."""
        if number <= self.last_run:
            raise ReuseRefused(f"run {number} was already used in this session (the last was {self.last_run}); open a new session")
        self.last_run = number

    def claim_deploy(self, number: int) -> None:
        """As ``claim_run``, for sharing weights."""
        if number <= self.last_deploy:
            raise ReuseRefused(
                f"deployment {number} was already used in this session (the last was {self.last_deploy}); open a new session"
            )
        self.last_deploy = number

    def abort(self, code: str, message: str) -> None:
        """Say why to everybody, close everything. The session's id and keys are burnt. Never raises."""
        abort_all(self.links(), code, message)

    def close(self) -> None:
        """Close every channel. Never raises."""
        for link in self.links():
            link.close()

    def __repr__(self) -> str:
        return f"<Session {self.id.hex()[:12]} of {self.owner} at {self.role.name}>"


@dataclass(slots=True)
class Opening:
    """What a party needs to join a session."""

    directory: Directory
    identity: Identity
    role: Role
    advance: Callable[[], int]
    take: Callable[[str, str, bytes, float, Callable[[], None]], Link]
    deadlines: Deadlines
    life: int = 0
    wrap: Wrap = unchanged


def abort_all(links: Sequence[Link], code: str, message: str) -> None:
    """Say why on all channels, then close them at once: each close waits a moment for its peer to read. Never raises."""

    def end(link: Link) -> None:
        link.abort(code, message)
        link.close()

    threads = [threading.Thread(target=end, args=(link,), name=f"moiety-abort-{link.peer}", daemon=True) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def join(opening: Opening, control: Link) -> Session:
    """A party's side: from the owner's first message to a session that is ready. Closes what it opened when it fails."""
    made: list[Link] = []
    try:
        return _join(opening, control, made)
    except BaseException as error:
        abort_all(made, getattr(error, "code", "MOI-000"), _because(error, f"{opening.identity.name} could not join the session"))
        raise


def _because(error: BaseException, what: str) -> str:
    """What happened, after its cause where that was raised on purpose: such a text has no secret."""
    return f"{error}; so {what}" if isinstance(error, MoietyError) else what


def _join(opening: Opening, control: Link, made: list[Link]) -> Session:
    names, me, seconds = opening.directory.members, opening.role, opening.deadlines.open_s
    watch = Watch()
    control.watched(watch)
    asked = hear(control, Open, deadline_s=seconds, awaited="the opening of a session")
    if asked.version != VERSION or asked.parties != names:
        raise PlanMismatch(
            f"{control.peer} opens a session of version {asked.version} with {', '.join(asked.parties)}; "
            f"here it is version {VERSION} with {', '.join(names)}: let all use one release and one federation file"
        )
    mine = Here(os.urandom(32), opening.advance())
    say(control, mine)
    roster = hear(control, Roster, deadline_s=seconds, awaited="what everybody adds to the session id")
    if (roster.nonces[me], roster.counters[me]) != (mine.nonce, mine.counter):
        raise ReuseRefused(f"{control.peer} changed what {opening.identity.name} adds to the session id; the session is refused")
    session = Session(me, keys.session_id(control.peer, names, roster), control.peer, _by_role(names, control.peer), {}, {}, watch)
    deadline = time.monotonic() + seconds
    locator = control.peer.encode() + b" " + control.hello.session  # an owner can only mean sessions of its own
    for role, purpose in _dials(me):
        link = _dial(opening, opening.directory.compute(role), purpose, locator, deadline)
        made.append(link)
        session.send[role] = link
        if me is not Role.P0:  # who hears nothing from P1 and P2, not even why they end: its owner tells it
            link.watched(watch)
    for role, purpose in _awaited(me):
        link = opening.wrap(opening.take(names[role], purpose, locator, deadline - time.monotonic(), watch.look), purpose)
        made.append(link)
        link.watched(watch)
        session.receive[role] = link
    session.pairs = _greet(session, opening.life, deadline)
    session.send[Role.CLIENT] = session.receive[Role.CLIENT] = control
    say(control, Ready(session.id))
    return session


def _by_role(names: tuple[str, str, str], owner: str) -> dict[Role, str]:
    return {**dict(zip(PARTIES, names, strict=True)), Role.CLIENT: owner}


def _dials(me: Role) -> list[tuple[Role, str]]:
    if me is Role.P0:
        return [(Role.P1, DEALT), (Role.P2, DEALT)]
    return [(Role.P2 if me is Role.P1 else Role.P1, WAVES)]


def _awaited(me: Role) -> list[tuple[Role, str]]:
    if me is Role.P0:
        return []
    return [(Role.P0, DEALT), (Role.P2 if me is Role.P1 else Role.P1, WAVES)]


def _dial(opening: Opening, peer: Peer, purpose: str, locator: bytes, deadline: float) -> Link:
    left = max(0.001, deadline - time.monotonic())
    absent_s, stall_s = opening.deadlines.absent_s, opening.deadlines.stall_s
    channel = dial(opening.identity, peer, purpose=purpose, session=locator, deadline_s=left, absent_s=absent_s, stall_s=stall_s)
    return opening.wrap(channel, purpose)


def _greet(session: Session, life: int, deadline: float) -> dict[Key, bytes]:
    """Compare session ids and make the pair keys. P0 speaks to both; P1 and P2 also to each other."""
    secrets = {role: os.urandom(32) for role in session.send}
    for role, link in session.send.items():
        say(link, Greeting(session.id, secrets[role], life))
    heard: dict[Role, bytes] = {}
    for role, link in session.receive.items():
        left = max(0.001, deadline - time.monotonic())
        greeting = hear(link, Greeting, deadline_s=left, awaited="its greeting")
        if greeting.session != session.id:
            raise ReuseRefused(f"{link.peer} means another session than this party: the owner did not tell both the same; open a new one")
        heard[role] = greeting.secret
        session.lives[session.names[role]] = greeting.life
    found = {}
    for pair, key in keys.PAIR.items():
        if session.role in pair:
            [other] = pair - {session.role}
            found[key] = _pair_key(session, key, other, secrets.get(other, b""), heard.get(other, b""))
    return found


def _pair_key(session: Session, key: Key, other: Role, mine: bytes, theirs: bytes) -> bytes:
    first = session.role < other  # both put the lower role's part first
    nonces = b""
    # The lower role's channel first, then, where there is one, the other's; in each the dialler's nonce first.
    for link, dialled in ((session.send.get(other), True), (session.receive.get(other), False))[:: 1 if first else -1]:
        if link is not None:
            mine_, theirs_ = link.nonce
            nonces += mine_ + theirs_ if dialled else theirs_ + mine_
    names = (session.names[min(session.role, other)], session.names[max(session.role, other)])
    return keys.pair_key(key, session.id, names, mine + theirs if first else theirs + mine, nonces)


def agree(session: Session, subject: bytes, streams: Mapping[Key, bytes], seconds: float) -> None:
    """Before anything that counts: P1 and P2 compare with P0, then with each other, what is about to be done and the owner's streams.

    P0 only says its word: its masks are fresh for exactly its own view of the run, so it risks nothing by going on.
    Raises PlanMismatch, InconsistentInput.
    """
    if session.role is Role.P0:
        for role in (Role.P1, Role.P2):
            _say_word(session, role, subject, streams)
        return
    other = Role.P2 if session.role is Role.P1 else Role.P1
    _hear_word(session, Role.P0, subject, streams, seconds)
    _say_word(session, other, subject, {})
    _hear_word(session, other, subject, {}, seconds)


def _say_word(session: Session, to: Role, subject: bytes, streams: Mapping[Key, bytes]) -> None:
    say(session.send[to], Agreement(subject, _stream_digest(session, to, streams)))


def _hear_word(session: Session, of: Role, subject: bytes, streams: Mapping[Key, bytes], seconds: float) -> None:
    link = session.receive[of]
    heard = hear(link, Agreement, deadline_s=seconds, awaited="its word on what to run")
    if heard.subject != subject:
        raise PlanMismatch(
            f"{link.peer} is about to do something else than this party (another plan, weights, run number or position); "
            f"let {session.owner} send the same to all"
        )
    if heard.stream != _stream_digest(session, session.role, streams):
        raise InconsistentInput(f"{session.owner} gave {link.peer} and this party different input masks; nothing is run")


def _stream_digest(session: Session, evaluator: Role, streams: Mapping[Key, bytes]) -> bytes:
    """Of the stream that P0 shares with this evaluator; empty between evaluators."""
    key = streams.get(Key.D if evaluator is Role.P1 else Key.E)
    return keys.stream_digest(key, session.id) if key else b""


def open_as_owner(directory: Directory, identity: Identity, deadlines: Deadlines, wrap: Wrap = unchanged) -> Session:
    """An owner's side: dial the three parties and let them join one session."""
    locator, deadline = os.urandom(16), time.monotonic() + deadlines.open_s
    links: dict[Role, Link] = {}
    try:
        for role in PARTIES:
            left = max(0.001, deadline - time.monotonic())
            peer = directory.compute(role)
            absent_s, stall_s = deadlines.absent_s, deadlines.stall_s
            channel = dial(identity, peer, purpose=SESSION, session=locator, deadline_s=left, absent_s=absent_s, stall_s=stall_s)
            links[role] = wrap(channel, SESSION)
        return _lead(directory, identity.name, links, deadline)
    except BaseException as error:
        abort_all(list(links.values()), ChannelError.code, _because(error, f"{identity.name} could not open the session"))
        raise


def _lead(directory: Directory, owner: str, links: dict[Role, Link], deadline: float) -> Session:
    def left() -> float:
        return max(0.001, deadline - time.monotonic())

    watch = Watch(strict=True)
    for link in links.values():
        link.watched(watch)
    for link in links.values():
        say(link, Open(VERSION, directory.members))
    here = [hear(link, Here, deadline_s=left(), awaited="its part of the session id") for link in links.values()]
    nonces = (here[0].nonce, here[1].nonce, here[2].nonce, os.urandom(32))
    roster = Roster(nonces, (here[0].counter, here[1].counter, here[2].counter))
    for link in links.values():
        say(link, roster)
    mine = keys.session_id(owner, directory.members, roster)
    for link in links.values():
        if hear(link, Ready, deadline_s=left(), awaited="that it is ready").session != mine:
            raise FrameError(f"{link.peer} computed another session id; let all use one release and one federation file")
    return Session(Role.CLIENT, mine, owner, _by_role(directory.members, owner), dict(links), dict(links), watch)
