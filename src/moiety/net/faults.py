"""A link that misbehaves on purpose at a chosen frame, for tests and chaos runs.

It stands at the sender's own end and so sees only what its party sends anyway: no fault needs the plaintext of a pair
to which the party does not belong.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from moiety.net.channel import Channel
from moiety.net.frames import Kind
from moiety.net.link import Counters, Hello, Nonces

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Action(StrEnum):
    """What happens to the chosen frame."""

    DROP = "drop"  # it takes its number but is not sent
    DELAY = "delay"  # it is sent ``seconds`` later
    DUPLICATE = "duplicate"  # it is sent twice
    ALTER = "alter"  # one bit of the byte ``at`` is flipped, counting from the header's first byte
    TRUNCATE = "truncate"  # only its first ``at`` bytes are sent
    CLOSE = "close"  # the connection is closed in its place


@dataclass(frozen=True)
class Fault:
    """Do ``action`` to the ``frame``-th frame that is sent through the wrapper (from 0)."""

    action: Action
    frame: int = 0
    at: int = 0
    seconds: float = 0.0


class FaultyChannel:
    """A ``Link`` over ``channel`` that commits ``fault`` once and is faithful otherwise."""

    def __init__(self, channel: Channel, fault: Fault) -> None:
        self._channel, self._fault = channel, fault
        self._sent = 0

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
        """Send, or misbehave if it is this frame's turn. Raises as ``Channel.send``; IndexError for ``at`` past the frame."""
        turn = self._sent == self._fault.frame
        self._sent += 1
        if not turn:
            self._channel.send(kind, parts, wave=wave, layout=layout)
        elif self._fault.action is Action.CLOSE:
            self._channel.close()
        else:
            self._misbehave(b"".join(self._channel.encode(kind, parts, wave, layout)))

    def _misbehave(self, frame: bytes) -> None:
        fault = self._fault
        match fault.action:
            case Action.DELAY:
                time.sleep(fault.seconds)
                self._channel.transmit([frame])
            case Action.DUPLICATE:
                self._channel.transmit([frame])
                self._channel.transmit([frame])
            case Action.ALTER:
                altered = bytearray(frame)
                altered[fault.at] ^= 1
                self._channel.transmit([bytes(altered)])
            case Action.TRUNCATE:
                self._channel.transmit([frame[: fault.at]])

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

    def abort(self, code: str, message: str) -> None:
        self._channel.abort(code, message)

    def close(self) -> None:
        self._channel.close()

    def wire_bytes(self) -> tuple[int, int]:
        return self._channel.wire_bytes()
