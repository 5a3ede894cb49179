"""A word to who waits for a run in which a party does not answer: the deadline that ends it comes minutes later."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Final

from moiety.engine.directory import Directory
from moiety.engine.status import look
from moiety.errors import ChannelError
from moiety.net import Identity

AFTER_S: Final = 10.0
ANSWER_S: Final = 3.0
LOST: Final = ChannelError.code[:-1]
"""How the codes of lost connections and deadlines begin."""
LOG: Final = logging.getLogger("moiety")


@contextlib.contextmanager
def noticed(directory: Directory, identity: Identity, what: str) -> Iterator[None]:
    """Where the block lasts longer than ``AFTER_S``, ask all parties for their status, and log a warning that names the silent ones."""
    ended = threading.Event()
    threading.Thread(target=_watch, args=(ended, directory, identity, what), name="moiety-notice", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(ended: threading.Event, directory: Directory, identity: Identity, what: str) -> None:
    if ended.wait(AFTER_S):
        return
    silent = [reach.name for reach in look(directory, identity, deadline_s=ANSWER_S) if reach.code.startswith(LOST)]
    if silent and not ended.is_set():
        LOG.warning(
            "%s has not ended after %.0f s: %s does not answer; still waiting, until the deadline", what, AFTER_S, " nor ".join(silent)
        )
