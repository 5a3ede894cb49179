"""Session ids, pair keys and run keys: nothing that masks a secret can repeat.

The session id binds the names of the four members, a fresh nonce of each and the persisted counter of each party. Every party
put its own nonce and counter there, so the id is new to it whatever the others say; the comparison of ids only shows that all
mean the same session.

A pair key mixes 32 secret bytes sent inside the pair's own TLS channels with the nonces of those channels' hellos, which also
travel encrypted, so it is fresh if either side has good randomness, and no third member can know it.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from moiety import ring
from moiety.engine.messages import Roster
from moiety.mpc.party import Key
from moiety.mpc.rounds import Role

KEYS_OF: Final = {
    Role.P0: (Key.A, Key.B, Key.D, Key.E),
    Role.P1: (Key.A, Key.C, Key.D),
    Role.P2: (Key.B, Key.C, Key.E),
    Role.CLIENT: (Key.D, Key.E),
}
PAIR: Final = {
    frozenset({Role.P0, Role.P1}): Key.A,
    frozenset({Role.P0, Role.P2}): Key.B,
    frozenset({Role.P1, Role.P2}): Key.C,
}


def digest(label: str, *parts: bytes | str | int) -> bytes:
    """SHA-256 of a sequence of parts; different labels or sequences never meet."""
    out = hashlib.sha256()
    for part in (label, *parts):
        data = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.to_bytes(8, "little", signed=True)
        out.update(len(data).to_bytes(8, "little"))
        out.update(data)
    return out.digest()


def session_id(owner: str, parties: tuple[str, str, str], roster: Roster) -> bytes:
    """The id that all members of a session compute for themselves."""
    return digest("moiety session", owner, *parties, *roster.nonces, *roster.counters)


def pair_key(pair: Key, session: bytes, names: tuple[str, str], secrets: bytes, nonces: bytes) -> bytes:
    """The key that two parties share for one session. ``secrets`` and ``nonces`` in the same order at both."""
    return ring.derive(secrets + nonces, b"moiety pair", pair.name.encode(), session, *(name.encode() for name in names))


def run_key(key: bytes, session: bytes, number: int, plan: str) -> bytes:
    """The key of one run: a session runs a number once, so it masks once."""
    return ring.derive(key, b"moiety run", session, number.to_bytes(8, "little"), plan.encode())


def run_keys(
    role: Role, pairs: Mapping[Key, bytes], streams: Mapping[Key, bytes], session: bytes, number: int, plan: str
) -> dict[Key, bytes]:
    """All streams that a role holds for one run."""
    held = {**pairs, **streams}
    return {key: run_key(held[key], session, number, plan) for key in KEYS_OF[role]}


def deploy_key(key: bytes, session: bytes, number: int) -> bytes:
    """The key of one sharing of weights."""
    return ring.derive(key, b"moiety deploy", session, number.to_bytes(8, "little"))


def stream_digest(key: bytes, session: bytes) -> bytes:
    """What two holders of an input stream compare; tells nothing about the key."""
    return ring.derive(key, b"moiety stream digest", session)
