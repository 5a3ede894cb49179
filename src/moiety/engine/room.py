"""Memory for weights that are still to come.

The first touch of a page costs more than all that is done with its words: the system has to find and clear it, under a virtual machine
often the host, too. So a party does that while the weights' owner compiles.
"""

import contextlib
import mmap
import threading
from collections.abc import Callable, Iterator
from math import prod
from typing import Final

import numpy as np

from moiety import ring
from moiety.engine.limits import Memory
from moiety.errors import LimitReached
from moiety.mpc.rounds import Words

Place = Callable[[tuple[int, ...]], Words]
"""What makes an array of undefined words, of this shape."""
STEP_WORDS: Final = 1 << 20
"""What is touched before it is asked again whether to go on."""
PAGE_WORDS: Final = mmap.PAGESIZE // 8
LINE_WORDS: Final = 8


class Room:
    """So many bytes, touched by a thread of its own until somebody takes of them. ``close`` it in the end."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._pages = mmap.mmap(-1, max(nbytes, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._pages.madvise(mmap.MADV_HUGEPAGE)
        self._words = np.frombuffer(self._pages, np.uint64, nbytes // 8)
        self._taken = 0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="moiety-room", daemon=True)
        self._thread.start()

    def _touch(self) -> None:
        for begin in range(0, self._words.size, STEP_WORDS):
            if self._enough.is_set():
                return
            self._words[begin : begin + STEP_WORDS : PAGE_WORDS] = 0

    def words(self, shape: tuple[int, ...]) -> Words:
        """An array of undefined words, as ``ring.aligned``: from here as long as there is room. It stays good when the room is closed."""
        self._settle()
        begin, size = self._taken, prod(shape)
        if begin + size > self._words.size:
            return ring.aligned(shape)
        self._taken = begin + -(-size // LINE_WORDS) * LINE_WORDS
        return self._words[begin : begin + size].reshape(shape)

    def close(self) -> None:
        """What nobody took goes back to the system at once, the rest with the last array."""
        self._settle()
        begin = -(-8 * self._taken // mmap.PAGESIZE) * mmap.PAGESIZE
        if begin < len(self._pages):
            self._pages.madvise(mmap.MADV_DONTNEED, begin, len(self._pages) - begin)

    def _settle(self) -> None:
        self._enough.set()
        self._thread.join()


class Expected:
    """The room of one session, in its party's account until something is placed there."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._room: Room | None = None

    def expect(self, nbytes: int, what: str) -> None:
        """Set so much aside in place of what was before; nothing if it is not to be had now."""
        self.close()
        if not nbytes:
            return
        with contextlib.suppress(LimitReached):
            self._memory.take(nbytes, what)
            self._room = Room(nbytes)

    @contextlib.contextmanager
    def placing(self, nbytes: int, what: str) -> Iterator[Place]:
        """As ``Memory.held``; gives what makes arrays, in the room as long as it lasts."""
        room = self._left()
        try:
            with self._memory.held(nbytes, what):
                yield ring.aligned if room is None else room.words
        finally:
            if room is not None:
                room.close()

    def close(self) -> None:
        """Expect nothing any more. May be called twice."""
        room = self._left()
        if room is not None:
            room.close()

    def _left(self) -> Room | None:
        room, self._room = self._room, None
        if room is not None:
            self._memory.give(room.nbytes)
        return room
