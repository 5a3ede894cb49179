"""Faults and slow links for a whole process, as its own command line says. For tests, ``moiety chaos`` and measurements."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from moiety.engine.session import Wrap, unchanged
from moiety.net.faults import Fault, Injector
from moiety.net.link import Link
from moiety.net.shape import Shaper, net


def read_faults(file: Path) -> list[Fault]:
    """One fault a line; none when the file is not there. Raises ConfigError."""
    try:
        lines = file.read_text(encoding="ascii").split("\n")
    except FileNotFoundError:
        return []
    return [Fault.parse(line) for line in lines if line.strip()]


def write_faults(file: Path, faults: Iterable[Fault]) -> None:
    """What sessions that open from now on suffer; at once as a whole."""
    draft = file.with_name(file.name + ".new")
    draft.write_text("".join(f"{one}\n" for one in faults), encoding="ascii")
    draft.replace(file)


def injector(file: str | os.PathLike[str], party: str) -> Injector:
    """An injector that reads ``file`` whenever a session opens. Says loudly that it is there. Raises ConfigError."""
    place = Path(file)
    read_faults(place)
    tell = _teller(party)
    tell(f"*** THIS PARTY FAILS ON PURPOSE, as {place} says: it is for tests, give it nothing that matters ***")
    return Injector(party, lambda: read_faults(place), tell)


def shaping(link: str | None) -> Wrap:
    """The wrapper of a process that sends as slowly as a link like ``wan`` or ``20ms,100Mbit``. Raises ConfigError.

    ``loopback`` is what there is without it.
    """
    found = net("loopback" if link is None else link)
    return unchanged if found.shared else Shaper(found).wrap


def seam(party: str, *, faults: str | os.PathLike[str] | None = None, link: str | None = None) -> Wrap:
    """The wrapper of a party's process; faults stand above a slow link. Says loudly what it does. Raises ConfigError."""
    slow = shaping(link)
    if slow is not unchanged:
        _teller(party)(f"*** THIS PARTY SENDS AS SLOWLY AS THE LINK {link}: it is for tests and measurements ***")
    if faults is None:
        return slow
    faulty = injector(faults, party)

    def both(channel: Link, purpose: str) -> Link:
        return faulty.wrap(slow(channel, purpose), purpose)

    return both


def _teller(party: str) -> Callable[[str], None]:
    def tell(text: str) -> None:
        sys.stderr.write(f"{party} {text}\n")
        sys.stderr.flush()

    return tell
