"""The fault language, and a link that commits a fault: for tests and for ``moiety chaos``.

A fault is one line of text: the party that suffers it, when, and what happens.

```
party1@17:drop               the first frame that party1 sends in wave 17 or later is lost
party1@17>party2:delay=0.5   its first such frame to party2 leaves half a second late
party0#4:kill                party0 is killed in place of the frame number 4 (from 0) of any of its channels
```

An injector stands within the process of the party that suffers the fault, behind that party's own TLS. So it sees what its party
sends anyway, and no plaintext of a pair to which the party does not belong. ``alter`` and ``partition`` act on the ciphertext.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from moiety.errors import ConfigError
from moiety.net.channel import Channel
from moiety.net.frames import Kind
from moiety.net.link import Counters, Hello, Link, Nonces
from moiety.net.watch import Watch

if TYPE_CHECKING:
    from typing_extensions import Buffer


class FaultKind(StrEnum):
    """What happens to the chosen frame, or in its place. ``amount`` is the number behind ``=``."""

    DROP = "drop"  # it takes its number but is not sent
    DELAY = "delay"  # it is sent ``amount`` seconds later (0.2)
    DUPLICATE = "duplicate"  # it is sent twice
    ALTER = "alter"  # one bit of its first TLS record is flipped on the wire
    KILL = "kill"  # the process is killed (SIGKILL)
    PARTITION = "partition"  # its channels that are open fall silent in both directions, and no peer sees them end
    CLOSE = "close"  # the connection is closed
    TRUNCATE = "truncate"  # only its first ``amount`` bytes are sent
    LIE = "lie"  # one bit of the byte ``amount`` is flipped before encryption, counting from the header's first byte


DEFAULTS: Final = {FaultKind.DELAY: 0.2}
_TEXT: Final = re.compile(r"(?P<party>[\w.-]+)(?P<by>[@#])(?P<at>\d+)(>(?P<peer>[\w.-]+))?:(?P<kind>[a-z]+)(=(?P<amount>\d+(\.\d+)?))?")


@dataclass(frozen=True)
class Fault:
    """``kind`` befalls ``party`` at the first frame that it sends in wave ``wave`` or later; with ``frame``, at that frame.

    ``peer`` narrows it to frames to one peer. ``str`` and ``parse`` are inverse.
    """

    party: str
    wave: int
    kind: FaultKind
    amount: float = 0.0
    peer: str = ""
    frame: bool = False
    """``wave`` is the number of a frame of its channel instead, from 0, the hello not counted."""

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """The fault of a line. Raises ConfigError."""
        found = _TEXT.fullmatch(text.strip())
        if found is None or found["kind"] not in list(FaultKind):
            raise ConfigError(f"{text!r} is no fault; write it like alice@17:drop, with one of {', '.join(FaultKind)}")
        kind = FaultKind(found["kind"])
        amount = float(found["amount"]) if found["amount"] else DEFAULTS.get(kind, 0.0)
        return cls(found["party"], int(found["at"]), kind, amount, found["peer"] or "", found["by"] == "#")

    def __str__(self) -> str:
        peer = f">{self.peer}" if self.peer else ""
        amount = f"={self.amount:g}" if self.amount else ""
        return f"{self.party}{'#' if self.frame else '@'}{self.wave}{peer}:{self.kind}{amount}"

    def strikes(self, peer: str, kind: Kind, wave: int, number: int) -> bool:
        """Whether it is the turn of this frame: to ``peer``, of ``kind``, in ``wave``, the ``number``-th of its channel."""
        if self.peer not in ("", peer):
            return False
        return number == self.wave if self.frame else kind is not Kind.CONTROL and wave >= self.wave


def fault(party: str, wave: int, kind: str, *, peer: str = "", amount: float | None = None) -> Fault:
    """``fault("alice", 17, "drop")``. Raises ConfigError on an unknown kind."""
    end = "" if amount is None else f"={amount:g}"
    return Fault.parse(f"{party}@{wave}{f'>{peer}' if peer else ''}:{kind}{end}")


class Injector:
    """Commits the faults of one party. ``wrap`` is the channel seam of ``serve`` and ``open_session``.

    ``source`` is asked for faults whenever a session opens; each strikes once in every session that opened with it.
    ``tell`` gets one line for every strike.
    """

    def __init__(self, party: str, source: Callable[[], Iterable[Fault]], tell: Callable[[str], None]) -> None:
        self._party, self._source, self._tell = party, source, tell
        self._sessions: dict[bytes, list[Fault]] = {}
        self._channels: list[Channel] = []
        self._turn = threading.Lock()

    def wrap(self, link: Link, purpose: str) -> Link:
        """The link itself, or one that will misbehave."""
        session = link.hello.session[-16:]  # the owner's locator, on whatever channel
        with self._turn:
            if session not in self._sessions:
                self._sessions[session] = [one for one in self._source() if one.party == self._party]
                self._mend()
            if not self._sessions[session]:
                return link
            assert isinstance(link, Channel), "faults stand next to the channel"
            self._channels.append(link)
        return FaultyChannel(link, lambda *frame: self._due(session, *frame), self._cut)

    def _due(self, session: bytes, peer: str, kind: Kind, wave: int, number: int) -> Fault | None:
        with self._turn:
            pending = self._sessions[session]
            found = next((one for one in pending if one.strikes(peer, kind, wave, number)), None)
            if found is not None:
                pending.remove(found)
        if found is not None:
            self._tell(f"commits the fault {found} at {kind.name} frame {number} to {peer}, wave {wave}")
        return found

    def _cut(self) -> None:
        with self._turn:
            for channel in self._channels:
                channel.fall_silent()

    def _mend(self) -> None:
        """A partition lasts until the next session opens."""
        ended = [channel for channel in self._channels if channel.closed]
        for channel in ended:
            channel.mend()
            self._channels.remove(channel)


class FaultyChannel:
    """A ``Link`` over ``channel`` that is faithful except where ``due`` names a fault for a frame."""

    def __init__(self, channel: Channel, due: Callable[[str, Kind, int, int], Fault | None], cut: Callable[[], None] | None = None) -> None:
        self._channel, self._due = channel, due
        self._cut = cut or channel.fall_silent
        self._sent = 0

    @classmethod
    def once(cls, channel: Link, text: str) -> "FaultyChannel":
        """A channel that commits one fault, whoever the party is: ``once(channel, "client#3:lie=40")``."""
        assert isinstance(channel, Channel), "faults stand next to the channel"
        pending = [Fault.parse(text)]
        return cls(channel, lambda *frame: pending.pop() if pending and pending[0].strikes(*frame) else None)

    @property
    def peer(self) -> str:
        return self._channel.peer

    @property
    def hello(self) -> Hello:
        return self._channel.hello

    @property
    def nonce(self) -> Nonces:
        return self._channel.nonce

    @property
    def counters(self) -> Counters:
        return self._channel.counters

    def send(self, kind: Kind, parts: Sequence["Buffer"], *, wave: int = 0, layout: int = 0) -> None:
        """Send, or misbehave if it is this frame's turn. Raises as ``Channel.send``; IndexError for a lie past the frame."""
        struck = self._due(self.peer, kind, wave, self._sent)
        self._sent += 1
        match None if struck is None else struck.kind:
            case FaultKind.CLOSE:
                self._channel.close()
            case FaultKind.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case FaultKind.PARTITION:
                self._cut()
        if struck is None or struck.kind is FaultKind.PARTITION:
            self._channel.send(kind, parts, wave=wave, layout=layout)
        elif struck.kind is not FaultKind.CLOSE:
            self._misbehave(struck, b"".join(self._channel.encode(kind, parts, wave, layout)))

    def _misbehave(self, struck: Fault, frame: bytes) -> None:
        match struck.kind:
            case FaultKind.DROP:
                pass
            case FaultKind.DELAY:
                time.sleep(struck.amount)
                self._channel.transmit([frame])
            case FaultKind.DUPLICATE:
                self._channel.transmit([frame])
                self._channel.transmit([frame])
            case FaultKind.ALTER:
                self._channel.transmit_altered(frame)
            case FaultKind.LIE:
                lie = bytearray(frame)
                lie[int(struck.amount)] ^= 1
                self._channel.transmit([bytes(lie)])
            case FaultKind.TRUNCATE:
                self._channel.transmit([frame[: int(struck.amount)]])

    def flush(self, deadline_s: float) -> None:
        self._channel.flush(deadline_s)

    def receive(self, kind: Kind, nbytes: int, *, wave: int = 0, layout: int = 0, deadline_s: float, awaited: str) -> bytearray:
        return self._channel.receive(kind, nbytes, wave=wave, layout=layout, deadline_s=deadline_s, awaited=awaited)

    def receive_into(
        self, kind: Kind, buffers: Sequence["Buffer"], *, wave: int = 0, layout: int = 0, deadline_s: float, awaited: str
    ) -> None:
        self._channel.receive_into(kind, buffers, wave=wave, layout=layout, deadline_s=deadline_s, awaited=awaited)

    def receive_message(self, kind: Kind, *, deadline_s: float, awaited: str, limit_bytes: int = 65536) -> bytes:
        return self._channel.receive_message(kind, deadline_s=deadline_s, awaited=awaited, limit_bytes=limit_bytes)

    def watched(self, watch: Watch) -> None:
        self._channel.watched(watch)

    def abort(self, code: str, message: str) -> None:
        self._channel.abort(code, message)

    def close(self) -> None:
        self._channel.close()

    def wire_bytes(self) -> tuple[int, int]:
        return self._channel.wire_bytes()
