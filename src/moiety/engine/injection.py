"""Faults for a whole process: a file names them, and the party commits those that are its own. For tests and ``moiety chaos``."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from moiety.net.faults import Fault, Injector


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


def _teller(party: str) -> Callable[[str], None]:
    def tell(text: str) -> None:
        sys.stderr.write(f"{party} {text}\n")
        sys.stderr.flush()

    return tell
