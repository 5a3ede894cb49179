"""The pad table of a run, checked: every word that travels is covered by a draw of its own, from a key its receiver does not hold."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from mpc_runs import openings, told_alike

from moiety.mpc import lockstep
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.party import Key, Kind, Party
from moiety.mpc.rounds import Address, Role, Scope, Spec, Words

PADS = (Kind.OUT_MASK, Kind.TABLE_PAD, Kind.BIT_PAD, Kind.SHUFFLE_PAD)
NOT_DEALT = (Kind.PERMUTATION, Kind.SHUFFLE_PAD, Kind.POINT_KEY)
DIGEST = Spec((32,), 8)


class Unpadded(AssertionError):
    """A word travelled without a fresh pad."""


@dataclass
class Recorder:
    """Draws of one role, noted with the number of waves spoken before."""

    role: Role
    inner: KeyedDraws
    waves: list[int]
    log: list[tuple[int, Key, Address, Spec]] = field(default_factory=list)

    def words(self, key: Key, address: Address, spec: Spec) -> Words:
        self.log.append((self.waves[0], key, address, spec))
        return self.inner.words(key, address, spec)


@dataclass
class Recorded:
    """A run with all draws of every role."""

    transcript: lockstep.Transcript
    draws: dict[Role, list[tuple[int, Key, Address, Spec]]]
    opened: frozenset[int] = frozenset()
    """Identities of the words that open bits to the evaluators: those have no pad."""


def record(op: Any, *inputs: Any, seed: int = 0, node: int = 0) -> Recorded:
    """Run an op and keep its draws."""
    waves = [0]
    recorders: dict[Role, Recorder] = {}

    def draws(role: Role) -> Recorder:
        recorders[role] = Recorder(role, lockstep.test_draws(role, seed), waves)
        return recorders[role]

    async def protocol(party: Party) -> Any:
        party.scope = Scope((node,))
        return await op(party, *(x[party.role] for x in inputs))

    deliver = lockstep._deliver

    def counted(said: Any) -> Any:
        waves[0] += 1
        return deliver(said)

    with pytest.MonkeyPatch.context() as patch, openings() as opened:
        patch.setattr(lockstep, "_deliver", counted)
        transcript = lockstep.run(protocol, draws=draws)
        return Recorded(transcript, {role: recorder.log for role, recorder in recorders.items()}, frozenset(opened))


def check_pads(found: Recorded) -> int:
    """Raise :class:`Unpadded` unless every word but those told alike has its pad; returns how many words were checked."""
    keys = defaultdict(set)
    for _, key, address, _ in found.draws[Role.P0]:
        keys[address].add(key)
    dealt = [(key, spec) for _, key, address, spec in found.draws[Role.P0] if len(keys[address]) == 1 and address.kind not in NOT_DEALT]
    _check_dealt(found, dealt)
    masks = {address for address, held in keys.items() if held == {Key.A, Key.B} or address.kind == Kind.SHUFFLE_PAD}
    checked = len(dealt)
    for number, wave in enumerate(found.transcript.waves):
        for sender in (Role.P1, Role.P2):
            free = [(k, s) for n, k, a, s in found.draws[sender] if n == number and a in masks and a.kind in PADS]
            for word in wave:
                if (
                    word.sender is sender
                    and word.receiver is not Role.CLIENT
                    and word.spec != DIGEST
                    and id(word.value) not in found.opened
                ):
                    _take(free, word.receiver, word.spec)
                    checked += 1
    return checked


def _check_dealt(found: Recorded, dealt: list[tuple[Key, Spec]]) -> None:
    alike = told_alike(found.transcript)
    words = [word for word in found.transcript.dealt if id(word.value) not in alike]
    if len(dealt) != len(words):
        raise Unpadded(f"{len(words)} dealt words, {len(dealt)} pads")
    for word, (key, spec) in zip(words, dealt, strict=True):
        if key in lockstep.KEYS_OF[word.receiver] or spec != word.spec:
            raise Unpadded(f"a dealt word of {word.spec} to {word.receiver.name} is padded by {key.name}")


def _take(free: list[tuple[Key, Spec]], receiver: Role, spec: Spec) -> None:
    for place, (key, drawn) in enumerate(free):
        if drawn == spec and key not in lockstep.KEYS_OF[receiver]:
            del free[place]
            return
    raise Unpadded(f"no pad of {spec} that {receiver.name} does not hold")
