"""Sessions in which parties await weights of models that their owner is still compiling (``engine/room.py``)."""

import contextlib
from collections.abc import Callable

from moiety.engine.owner import OwnerSession
from moiety.errors import MoietyError


class Expecting:
    """An owner's, by the models' names. ``opened`` makes a session."""

    def __init__(self, opened: Callable[[], OwnerSession]) -> None:
        self._opened = opened
        self._sessions: dict[str, OwnerSession] = {}

    def begin(self, name: str, words: int, clear: int = 0) -> None:
        """Let the parties set aside what so many words take, which P1 is told in ``clear`` octets if not 0. Raises as ``opened``."""
        self.end(name)
        session = self._sessions[name] = self._opened()
        session.expect(name, words, clear)

    def session(self, name: str) -> OwnerSession:
        """The session in which these weights are expected, if it still stands, or a new one; the caller closes it."""
        session = self._sessions.pop(name, None)
        if session is not None:
            with contextlib.suppress(MoietyError):
                session.holding(name)
                return session
        return self._opened()

    def end(self, name: str) -> None:
        """Nothing is expected under this name any more."""
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """Nothing is expected any more."""
        for name in list(self._sessions):
            self.end(name)
