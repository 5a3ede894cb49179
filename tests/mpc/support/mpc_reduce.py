"""Words that have a pad to themselves may be left out of a view.

If a draw unknown to the observer is uniform, and changing it by d changes one received word by d and no other, then this word is
uniform and independent of all others: the view is as secret as what is left of it without that word. The draw is then without effect
on what is left, so it may be fixed, and the next draw may lose its second effect by that. That a change has this effect is tested on
the real code, for random changes of random assignments of everything else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moiety.mpc.party import Draws, Key
from moiety.mpc.rounds import Address, Spec, Word, Words
from moiety.mpc.share import dtype_of, wrap


class Draw(NamedTuple):
    """A draw that the observer does not know, and how many values it may have."""

    key: Key
    address: Address
    spec: Spec
    size: int


class Shift(NamedTuple):
    """A random change of one draw, by addition or by xor."""

    draw: Draw
    xor: bool

    def delta(self) -> Words:
        top = (1 << self.draw.spec.bits) - 1
        seeded = np.random.default_rng((*self.draw.address.path, self.draw.address.kind, self.draw.address.serial))
        return seeded.integers(0, top, self.draw.spec.shape, dtype_of(self.draw.spec.bits), endpoint=True)

    def apply(self, words: Words) -> Words:
        return words ^ self.delta() if self.xor else wrap(words + self.delta(), self.draw.spec.bits)

    def explains(self, before: Word, after: Word) -> bool:
        """Whether a word changed by exactly this, or by its negative."""
        if before.spec != self.draw.spec:
            return False
        if self.xor:
            return np.array_equal(before.value ^ after.value, self.delta())
        change = wrap(after.value - before.value, before.spec.bits)
        return any(np.array_equal(change, wrap(delta, before.spec.bits)) for delta in (self.delta(), -self.delta()))


@dataclass(frozen=True)
class Shifted:
    """Draws of which one is changed."""

    inner: Draws
    shift: Shift | None

    def words(self, key: Key, address: Address, spec: Spec) -> Words:
        found = self.inner.words(key, address, spec)
        changed = self.shift is not None and (key, address) == (self.shift.draw.key, self.shift.draw.address)
        return self.shift.apply(found) if changed else found


class Effect(NamedTuple):
    """Which received words a draw changes, and which of them by exactly its own change."""

    draw: Draw
    changed: frozenset[int]
    exactly: frozenset[int]


def effects(receive: Callable[[Shift | None], list[Word]], draws: Sequence[Draw]) -> list[Effect]:
    """Change every draw on its own; ``receive`` runs the protocol and says what the observer received."""
    before = receive(None)
    return [_effect(receive, before, draw) for draw in draws]


def _effect(receive: Callable[[Shift | None], list[Word]], before: list[Word], draw: Draw) -> Effect:
    changed: set[int] = set()
    exactly: set[int] = set()
    for xor in (False, True) if draw.spec.bits == 8 else (False,):  # octets may be packed bits
        shift = Shift(draw, xor)
        pairs = list(enumerate(zip(before, receive(shift), strict=True)))
        changed |= {i for i, (one, two) in pairs if not np.array_equal(one.value, two.value)}
        exactly |= {i for i, (one, two) in pairs if shift.explains(one, two)}
    return Effect(draw, frozenset(changed), frozenset(exactly))


def eliminate(found: Sequence[Effect], least: int) -> tuple[frozenset[tuple[Key, Address]], frozenset[int]]:
    """Take out draws of at least so many assignments, short ones first, each with the one word that it pads; returns draws and words.

    A draw that changes no word that is left goes without one. As many as can be are taken out if there are not enough.
    """
    fixed: set[tuple[Key, Address]] = set()
    gone: set[int] = set()
    out, open_ = 1, sorted(found, key=lambda effect: effect.draw.size)
    while out < least:
        ready = [e for e in open_ if not e.changed - gone or (len(e.changed - gone) == 1 and e.changed - gone <= e.exactly)]
        if not ready:
            break
        effect = ready[0]
        open_.remove(effect)
        gone |= effect.changed
        fixed.add((effect.draw.key, effect.draw.address))
        out *= effect.draw.size
    return frozenset(fixed), frozenset(gone)
