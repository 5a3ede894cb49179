"""Diallers that have said nothing yet. An honest one speaks at once; the others cost a descriptor, and crowd nobody but each other."""

import select
import socket
import time
from typing import Final, NamedTuple

MAX_SILENT: Final = 256


class Dialler(NamedTuple):
    """A connection, where it comes from, and when it came (monotonic)."""

    connection: socket.socket
    address: str
    since: float


class SilentDiallers:
    """Connections in the order in which they came, registered with ``poller`` while they are silent. For one thread."""

    def __init__(self, poller: select.poll, patience_s: float) -> None:
        self._poller, self._patience_s = poller, patience_s
        self._held: dict[int, Dialler] = {}

    def add(self, connection: socket.socket, address: str) -> Dialler | None:
        """Let it wait; returns the one that has to leave for it, if any."""
        crowded = self.take(next(iter(self._held))) if len(self._held) >= MAX_SILENT else None
        self._held[connection.fileno()] = Dialler(connection, address, time.monotonic())
        self._poller.register(connection, select.POLLIN)
        return crowded

    def take(self, descriptor: int) -> Dialler | None:
        """The dialler with this descriptor, who waits no more."""
        found = self._held.pop(descriptor, None)
        if found is not None:
            self._poller.unregister(descriptor)
        return found

    def late(self) -> list[Dialler]:
        """Those who were silent too long; they wait no more."""
        began = time.monotonic() - self._patience_s
        return [found for descriptor, one in list(self._held.items()) if one.since <= began and (found := self.take(descriptor))]

    def patience_ms(self) -> float | None:
        """How long a poll may last before somebody is late."""
        oldest = next(iter(self._held.values()), None)
        return None if oldest is None else 1000.0 * max(0.0, oldest.since + self._patience_s - time.monotonic()) + 1.0

    def close(self) -> None:
        """Hang up on everybody."""
        for one in self._held.values():
            one.connection.close()
        self._held.clear()
