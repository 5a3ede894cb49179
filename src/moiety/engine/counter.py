"""A party's monotone counter: one number for every session it ever took part in, durable before it is used.

It goes into the session id beside fresh nonces. So a repeated id needs a repeated nonce and a repeated counter, and restoring
an old copy of the folder alone cannot bring masks back.
"""

import contextlib
import fcntl
import os
import stat
import threading
from pathlib import Path
from typing import Final

from moiety.errors import ConfigError, ReuseRefused

COUNTER_FILE: Final = "counter"
LOCK_FILE: Final = "lock"


class Counter:
    """The counter in ``folder``. Holding it locks the folder: a second process there gets ConfigError."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._path = Path(folder) / COUNTER_FILE
        self._turn = threading.Lock()
        self._last = self._stored()
        self._held = _lock(Path(folder))

    def advance(self) -> int:
        """The next number, on disk before this returns. Raises ReuseRefused when the file went backwards under this process."""
        with self._turn:
            stored = self._stored()
            if stored < self._last:
                raise ReuseRefused(
                    f"the counter file of this party holds {stored}, but {self._last} was already used: an old copy was put in its place; "
                    "stop the party, make sure that it is the only one with its identity, and start it again"
                )
            return self._claim(stored, stored + 1)

    def claim(self, value: int) -> int:
        """Use ``value`` itself. Raises ReuseRefused unless it is higher than every number used before."""
        with self._turn:
            return self._claim(max(self._stored(), self._last), value)

    def close(self) -> None:
        """Unlock the folder."""
        with contextlib.suppress(OSError):
            os.close(self._held)

    def _claim(self, stored: int, value: int) -> int:
        if value <= stored:
            raise ReuseRefused(f"number {value} is not higher than {stored}, which was already used; masks could repeat")
        draft = self._path.with_name(COUNTER_FILE + ".new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, f"{value}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.replace(self._path)
        _sync_folder(self._path.parent)
        self._last = value
        return value

    def _stored(self) -> int:
        try:
            if stat.S_IMODE(self._path.stat().st_mode) & 0o077:
                raise ConfigError(
                    f"the file {COUNTER_FILE} of this party can be opened by others; run in its folder: chmod 600 {COUNTER_FILE}"
                )
            return int(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except ValueError:
            raise ConfigError(
                f"the file {COUNTER_FILE} of this party is damaged; remove it only if this identity will never be used again"
            ) from None


def _lock(folder: Path) -> int:
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ConfigError(f"another process already runs the party in {folder}; stop it, or give this party a folder of its own") from None
    return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
