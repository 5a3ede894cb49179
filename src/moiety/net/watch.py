"""Several links that one thread serves: while it waits for one of them, it notices that another ends the run.

A party that fails tells everybody, but who waits for somebody else would read the notice only at its own deadline. A watch polls
all links now and then. It looks at the header of a frame that nobody waits for yet, and leaves it where it is unless it is an abort.
"""

import contextlib
import select
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moiety.net.reader import FrameReader


ALONE_S: Final = 0.01
"""For so long after a look at all links waits look at their own only. A wave mostly takes less, and a look at all links each time,
with what the dealer has sent ahead on one of them, would cost as much as receiving; an abort is heard so much later."""


class Watch:
    """Links add themselves with ``Link.watched``. One thread waits; it is the one that receives on all of them.

    ``strict``: that another peer is gone without a word ends a wait too, as an abort does. Only for who decides when a session
    ends (its owner): others may see peers leave in good order while they wait for their own word to leave.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict, self._attentive, self._looked = strict, True, 0.0
        self._poller = select.poll()
        self._alone: dict[int, select.poll] = {}
        self._readers: dict[int, FrameReader] = {}
        self._busy: dict[int, int] = {}  # a frame with this number waits there, so that nothing behind it can be seen

    def add(self, descriptor: int, reader: "FrameReader") -> None:
        """Watch one more link."""
        self._readers[descriptor] = reader
        self._alone[descriptor] = _only(descriptor)
        self._poller.register(descriptor, select.POLLIN)

    def wait(self, descriptor: int, deadline: float) -> None:
        """Return when this link can be read. Raises TimeoutError, or what ended another link."""
        now = time.monotonic()
        if now - self._looked < ALONE_S and self._alone[descriptor].poll(1000.0 * max(0.0, min(ALONE_S, deadline - now))):
            return
        self._looked = now
        if self._busy.pop(descriptor, None) is not None:
            self._poller.register(descriptor, select.POLLIN)
        self._resume()
        poller = self._poller if self._attentive else self._alone[descriptor]
        while True:
            left = deadline - time.monotonic()
            # Even past the deadline look once: what has already come is not late.
            ready = [found for found, _ in poller.poll(max(0.0, left * 1000.0))]
            if descriptor in ready:
                return
            if not ready and left <= 0:
                raise TimeoutError
            self._glance(ready)

    @contextlib.contextmanager
    def inattentive(self) -> Iterator[None]:
        """Within the block a wait ends by its own link alone: for who is asked something and shall answer for itself."""
        self._attentive = False
        try:
            yield
        finally:
            self._attentive = True

    def look(self) -> None:
        """As ``wait``, without waiting: raises what ended a link."""
        self._resume()
        self._glance([found for found, _ in self._poller.poll(0)])

    def _resume(self) -> None:
        """Watch links again whose waiting frame was taken in the meantime, without a wait where all of it had come. What is behind it
        may be in our own buffer already, where no poll sees it."""
        if not self._attentive:
            return
        for descriptor in [found for found, number in self._busy.items() if self._readers[found].number != number]:
            del self._busy[descriptor]
            self._poller.register(descriptor, select.POLLIN)
            self._glance([descriptor])

    def _glance(self, ready: Iterable[int]) -> None:
        for descriptor in ready:
            if self._readers[descriptor].glance(strict=self._strict):
                self._poller.unregister(descriptor)
                self._busy[descriptor] = self._readers[descriptor].number


def _only(descriptor: int) -> select.poll:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return poller
