"""Run a plan by all roles in this process, with everything in sight: for comparing and testing, never for real data.

Masks come from seeded streams, or are all zero: then the same protocols compute on the integers themselves, rounding always down and
finding each value in its own cell of a table, which is the plan's fixed-point meaning without the small change that masks bring.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from moiety import ring
from moiety.compile import program
from moiety.compile.plan import Plan
from moiety.mpc import lockstep, matrix
from moiety.mpc.lockstep import Transcript, share_out, test_draws
from moiety.mpc.party import Draws, Key, Party
from moiety.mpc.rounds import Address, Role, Schedule, Spec, Words
from moiety.mpc.share import Share, dtype_of

States = Mapping[str, Mapping[Role, Share]]
Note = Callable[[Role, int, Any], None]


class NoMasks:
    """Streams of zeros."""

    def words(self, key: Key, address: Address, spec: Spec) -> Words:
        """Zeros."""
        return np.zeros(spec.shape, dtype_of(spec.bits))


class Sources:
    """What every role reads. A weight is shared once, and forgotten when all roles have their part of it."""

    def __init__(
        self, plan: Plan, weights: Mapping[str, Any], words: Sequence[Words], position: int, states: States, masked: bool = True
    ) -> None:
        self._plan, self._weights, self._words, self._masked = plan, weights, words, masked
        self._position, self._states = position, states
        self._shared: dict[int, dict[Role, Share]] = {}

    def at(self, party: Party) -> "_At":
        """The sources of one role."""
        return _At(self, party)

    def constant(self, index: int) -> Words:
        """At the run's position."""
        found = self._plan.constants[index]
        return found.words()[self._position - self._plan.first_position] if found.by_position else found.words()

    def share(self, index: int, role: Role) -> Share:
        """One role's part of a weight."""
        spec = self._plan.weights[index]
        if index not in self._shared:
            words = ring.encode(_made(self._weights[spec.name]).double().numpy(), spec.fraction)
            assert words.shape == spec.shape, "a plan's weights have its shapes"
            self._shared[index] = share_out(words, spec.fraction, seed=index) if self._masked else _bare(words, spec.fraction)
        found = self._shared[index].pop(role)
        if not self._shared[index]:
            del self._shared[index]
        return found


def _made(source: Any) -> Any:
    return source() if callable(source) else source


def _bare(words: Words, fraction: int) -> dict[Role, Share]:
    zero = np.zeros_like(words)
    return {
        Role.P0: Share(words.shape, fraction, 64, None, zero),
        Role.P1: Share(words.shape, fraction, 64, words, zero),
        Role.P2: Share(words.shape, fraction, 64, words, zero),
        Role.CLIENT: Share(words.shape, fraction),
    }


class _At:
    def __init__(self, sources: Sources, party: Party) -> None:
        self._sources, self._party = sources, party

    def input(self, index: int) -> Words | None:
        return self._sources._words[index] if self._party.role is Role.CLIENT else None

    def constant(self, index: int) -> Words:
        return self._sources.constant(index)

    def weight(self, index: int) -> matrix.Weight | Share:
        share = self._sources.share(index, self._party.role)
        return matrix.pack(self._party, share) if self._sources._plan.weights[index].packed else share

    def state(self, index: int) -> Share:
        return self._sources._states[self._sources._plan.states[index].name][self._party.role]


def rehearse(
    plan: Plan,
    weights: Mapping[str, Any],
    words: Sequence[Words],
    *,
    position: int = 0,
    states: States | None = None,
    masked: bool = True,
    note: Note | None = None,
) -> Transcript:
    """Run the plan at all roles. ``note`` is told every role's result of every node; without ``masked`` all masks are zero."""
    sources, prepared = Sources(plan, weights, words, position, states or {}, masked), program.prepare(plan)

    def start(party: Party) -> Any:
        made = prepared.steps(party, sources.at(party))
        if note is not None:
            made = program.noting(made, lambda i, result: note(party.role, i, result))
        return Schedule(party, made, prepared.graph).run()

    draws: Callable[[Role], Draws] = test_draws if masked else lambda role: NoMasks()
    return lockstep.run(start, draws=draws)
