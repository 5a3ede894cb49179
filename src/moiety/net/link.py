"""The seam between the engine and the net: what a channel is, whatever stands behind it (TLS, faults, a shaped link)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import msgspec

from moiety.net.frames import Kind
from moiety.net.watch import Watch

if TYPE_CHECKING:
    from typing_extensions import Buffer

PROTOCOL: int = 1
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Hello(msgspec.Struct, frozen=True):
    """The first frame in each direction: who speaks to whom, what for, and 32 fresh random bytes of the sender."""

    protocol: int
    sender: Name
    receiver: Name
    purpose: Annotated[str, msgspec.Meta(max_length=256)]
    session: Annotated[bytes, msgspec.Meta(max_length=1024)]
    nonce: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Nonces(NamedTuple):
    """The random bytes of both ends of a channel, for run ids to which each party contributes."""

    mine: bytes
    theirs: bytes


@dataclass
class Counters:
    """What went over a channel: frames, and payload bytes without headers."""

    frames_sent: int = 0
    frames_received: int = 0
    payload_sent: int = 0
    payload_received: int = 0


class Link(Protocol):
    """A connection to one peer. ``Channel`` says what each method promises."""

    @property
    def peer(self) -> str: ...
    @property
    def hello(self) -> Hello: ...
    @property
    def nonce(self) -> Nonces: ...
    @property
    def counters(self) -> Counters: ...

    def send(self, kind: Kind, parts: Sequence["Buffer"], *, wave: int = 0, layout: int = 0) -> None: ...
    def flush(self, deadline_s: float) -> None: ...
    def receive(self, kind: Kind, nbytes: int, *, wave: int = 0, layout: int = 0, deadline_s: float, awaited: str) -> bytearray: ...
    def receive_into(
        self, kind: Kind, buffers: Sequence["Buffer"], *, wave: int = 0, layout: int = 0, deadline_s: float, awaited: str
    ) -> None: ...
    def receive_message(self, kind: Kind, *, deadline_s: float, awaited: str, limit_bytes: int = 65536) -> bytes: ...
    def watched(self, watch: Watch) -> None: ...
    def abort(self, code: str, message: str) -> None: ...
    def close(self) -> None: ...
    def wire_bytes(self) -> tuple[int, int]: ...
