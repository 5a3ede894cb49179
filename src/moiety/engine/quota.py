"""How often an owner may ask: runs within a minute, and answers within a day, by owner and model.

Every party counts for itself, so a client cannot gain by what it tells the others. A run is counted when it begins: one that
is cut off may have given its answer.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from moiety.engine.directory import Rules
from moiety.errors import LimitReached

MINUTE_S: Final = 60.0

Asker = tuple[str, str]  # owner, model


def today() -> str:
    """The day in UTC, as answers are counted by."""
    return datetime.now(UTC).date().isoformat()


class Quotas:
    """Counts of one party; any thread may charge them. ``clock`` (seconds) and ``day`` are seams for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, day: Callable[[], str] = today) -> None:
        self._clock, self._day = clock, day
        self._recent: dict[Asker, deque[float]] = {}
        self._answers: dict[Asker, tuple[str, int]] = {}
        self._turn = threading.Lock()

    def charge(self, rules: Rules, owner: str, model: str, *, answers: bool) -> None:
        """Count a run; ``answers`` when it opens something to its client. Raises LimitReached, and counts nothing, above a quota."""
        asker, now, day = (owner, model), self._clock(), self._day()
        with self._turn:
            self._check_minute(rules.runs_per_minute, asker, now)
            if answers and rules.answers_per_day is not None and self._today(asker, day) >= rules.answers_per_day:
                raise LimitReached(
                    f"{owner} had {rules.answers_per_day} answers of the model {model!r} on {day} (UTC), "
                    "as many as the federation file allows in a day; ask again tomorrow"
                )
            if rules.runs_per_minute is not None:
                self._recent[asker].append(now)
            if answers:
                self._answers[asker] = (day, self._today(asker, day) + 1)

    def restore(self, owner: str, model: str, day: str) -> None:
        """Count an answer that was given before this process began."""
        with self._turn:
            self._answers[owner, model] = (day, self._today((owner, model), day) + 1)

    def _check_minute(self, most: int | None, asker: Asker, now: float) -> None:
        if most is None:
            return
        recent = self._recent.setdefault(asker, deque())
        while recent and recent[0] <= now - MINUTE_S:
            recent.popleft()
        if len(recent) >= most:
            raise LimitReached(
                f"{asker[0]} started {len(recent)} runs of the model {asker[1]!r} within a minute, "
                f"as many as the federation file allows; try again in {recent[0] + MINUTE_S - now:.0f} s"
            )

    def _today(self, asker: Asker, day: str) -> int:
        counted, count = self._answers.get(asker, (day, 0))
        return count if counted == day else 0
