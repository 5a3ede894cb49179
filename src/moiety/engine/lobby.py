"""Connections of other compute parties that wait for the session they belong to: parties may hear of a session in any order."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from moiety.errors import ChannelError, DeadlineExceeded
from moiety.net import Link

MAX_WAITING: Final = 256
PATIENCE_S: Final = 60.0
LOOK_S: Final = 0.1

Place = tuple[str, str, bytes]  # peer, purpose, session locator


class Lobby:
    """Any thread may put and take. What nobody takes within a minute is closed."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Place, tuple[float, Link]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, link: Link) -> None:
        """Let ``link`` wait; the oldest leave when it gets crowded."""
        place = (link.peer, link.hello.purpose, link.hello.session)
        with self._changed:
            late = [old for old, (since, _) in self._waiting.items() if since < time.monotonic() - PATIENCE_S]
            crowd = [next(iter(self._waiting))] if len(self._waiting) >= MAX_WAITING else []
            leaving = [self._waiting.pop(old)[1] for old in {*late, *crowd, place} if old in self._waiting]
            if self._closed:
                leaving.append(link)
            else:
                self._waiting[place] = (time.monotonic(), link)
            self._changed.notify_all()
        for old in leaving:
            old.close()

    def take(self, peer: str, purpose: str, locator: bytes, deadline_s: float, look: Callable[[], None]) -> Link:
        """The connection that ``peer`` makes for this session. Raises DeadlineExceeded, ChannelError when the party stops.

        ``look`` is called now and then while waiting; what it raises ends the wait.
        """
        place, deadline = (peer, purpose, locator), time.monotonic() + deadline_s
        while (link := self._take(place)) is None:
            if deadline <= time.monotonic():
                raise DeadlineExceeded(f"{peer} did not make its {purpose} connection within {deadline_s:.3g} s; check that it is up")
            look()
        return link

    def _take(self, place: Place) -> Link | None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or place in self._waiting, LOOK_S):
                return None
            if self._closed:
                raise ChannelError(f"this party stopped while the {place[1]} connection of {place[0]} was awaited")
            return self._waiting.pop(place)[1]

    def close(self) -> None:
        """Close everything that waits, and wake everybody."""
        with self._changed:
            self._closed = True
            leaving = [link for _, link in self._waiting.values()]
            self._waiting.clear()
            self._changed.notify_all()
        for link in leaving:
            link.close()
