"""A compute party that notes, beside its own work, a fingerprint of every draw it makes and of every frame it sends.

For tests alone: the hooks are set in this process, no production code knows of them. Into the federation's folder go
``draws-NAME`` (16 bytes for each key and address that masks were drawn from) and ``frames-NAME`` (16 bytes for each payload that
could hide something). A file ``planted`` beside the federation file plants the mistake that both must show: all runs of a plan have one id.
"""

import hashlib
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from moiety.engine import keys
from moiety.engine.party_main import main, parser
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.party import Key
from moiety.mpc.rounds import Address, Spec, Words
from moiety.net import Kind

FINGERPRINT = 16
MEANINGFUL = 32
"""Shorter payloads may be equal by chance."""


class Notes:
    """Fingerprints into one file, from any thread."""

    def __init__(self, path: Path) -> None:
        self._file, self._turn = path.open("ab", buffering=0), threading.Lock()

    def note(self, *parts: Any) -> None:
        out = hashlib.blake2b(digest_size=FINGERPRINT)
        for part in parts:
            out.update(part)
        with self._turn:
            self._file.write(out.digest())

    def close(self) -> None:
        self._file.close()


def repeated(path: Path) -> tuple[int, int]:
    """How many fingerprints a file holds, and how many of them are there more than once."""
    data = path.read_bytes()
    found = Counter(data[at : at + FINGERPRINT] for at in range(0, len(data), FINGERPRINT))
    return found.total(), sum(1 for count in found.values() if count > 1)


def record_draws(notes: Notes) -> None:
    """Note every key and address that words are drawn from in this process."""
    make, words = KeyedDraws.__init__, KeyedDraws.words

    def __init__(draws: KeyedDraws, held: Any) -> None:
        make(draws, held)
        draws.held = dict(held)  # type: ignore[attr-defined]

    def record(draws: KeyedDraws, key: Key, address: Address, spec: Spec) -> Words:
        notes.note(draws.held[key], address.nonce())  # type: ignore[attr-defined]
        return words(draws, key, address, spec)

    KeyedDraws.__init__ = __init__  # type: ignore[method-assign,assignment]
    KeyedDraws.words = record  # type: ignore[method-assign]


class RecordedLink:
    """A link whose outgoing words leave a fingerprint."""

    def __init__(self, link: Any, notes: Notes) -> None:
        self._link, self._notes = link, notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def send(self, kind: Kind, parts: Any, *, wave: int = 0, layout: int = 0) -> None:
        views = [memoryview(part).cast("B") if memoryview(part).nbytes else b"" for part in parts]
        if kind in (Kind.WAVE, Kind.DEALT, Kind.OUTPUT, Kind.INPUT) and sum(map(len, views)) >= MEANINGFUL:
            self._notes.note(*views)
        self._link.send(kind, parts, wave=wave, layout=layout)


def one_id_for_all() -> None:
    """The planted mistake, wherever it is called: the keys of a run depend on nothing that is its own."""

    def run_keys(role: Any, pairs: Any, streams: Any, session: bytes, number: int, plan: str) -> dict[Key, bytes]:
        return {key: keys.digest("planted", key.name, plan) for key in keys.KEYS_OF[role]}

    keys.run_keys = run_keys


if __name__ == "__main__":
    options = parser().parse_args()
    place = options.federation.parent
    record_draws(Notes(place / f"draws-{options.name}"))
    frames = Notes(place / f"frames-{options.name}")
    if (place / "planted").exists():
        one_id_for_all()
    sys.exit(main(wrap=lambda link, purpose: RecordedLink(link, frames)))
