"""What one party is willing to hold and to do for owners, and the account of the memory that it gives them.

``[limits]`` of the federation file has these keys. They bound what members that may deploy and query can take of a party, so
they are each party's own: its copy of the file need not have the others' numbers.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from moiety.errors import ConfigError, LimitReached

Positive = Annotated[int, msgspec.Meta(ge=1)]


def machine_share() -> int:
    """Three quarters of this machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The most of everything. Sizes in bytes."""

    sessions: Positive = 64
    """Sessions at once."""
    sessions_per_owner: Positive = 32
    """Sessions at once of one owner."""
    memory_bytes: Positive = msgspec.field(default_factory=machine_share)
    """What is held for owners: weights, plans, caches, and what deployments and runs under way need. Default: 3/4 of the machine's."""
    models: Positive = 64
    """Names under which something is deployed."""
    plans: Positive = 256
    """Plans of one model."""
    plan_bytes: Positive = 1 << 30
    """One plan as it travels."""
    plan_nodes: Positive = 1 << 18
    """Operations of one plan: checking one takes time in proportion."""


MODEST: Final = Limits()


UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "B": 1, "": 1}


def in_bytes(size: int | str) -> int:
    """Bytes of a size as people write it: ``6442450944``, ``"6GiB"``, ``"500 MB"``. Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if match is None or match[2].upper() not in UNITS:
        raise ConfigError(f"{size!r} is no size; write a number of bytes, or one with KiB, MiB, GiB, KB, MB or GB")
    return int(float(match[1]) * UNITS[match[2].upper()])


class Memory:
    """Bytes that this party holds for owners, against their limit: taken before anything is allocated, given back when it is dropped.

    An account, not a measurement: the process itself, frames on their way and passing values within an operation are not in it.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0
        self._turn = threading.Lock()

    def take(self, nbytes: int, what: str) -> None:
        """Raises LimitReached when ``what`` does not fit beside all that is held."""
        with self._turn:
            if self.taken + nbytes > self.limit:
                raise LimitReached(
                    f"{what} needs {nbytes:,} bytes, but this party holds {self.taken:,} of the {self.limit:,} that its limits allow; "
                    "try again when others have ended, or let the party raise memory_bytes in its federation file"
                )
            self.taken += nbytes

    def give(self, nbytes: int) -> None:
        """Back to the account."""
        self.settle(-nbytes)

    def settle(self, nbytes: int) -> None:
        """Account for a change of what is held that cannot be refused any more, growth (positive) or not."""
        with self._turn:
            self.taken += nbytes

    @contextlib.contextmanager
    def held(self, nbytes: int, what: str) -> Iterator[None]:
        """As ``take``, until the block ends."""
        self.take(nbytes, what)
        try:
            yield
        finally:
            self.give(nbytes)
