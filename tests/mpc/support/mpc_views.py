"""Exact views: run the real protocol on every assignment of the draws that one party does not hold, one array element each.

Fix the secrets and the observed party's own draws. If the joint histogram of all that the party receives is then the same for all
secrets, for these own draws, then its view carries no information on them. Rings have few bits, so that all assignments can be counted;
the code under test is the real one, with real shapes, packing and addresses. Where there are more unknown bits than can be counted,
words that have a pad to themselves are taken out first: see ``mpc_reduce.py``.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from mpc_reduce import Draw, Shift, Shifted, effects, eliminate
from mpc_runs import openings, received, understood

from moiety.mpc import lockstep
from moiety.mpc.functions.bits import BitShare
from moiety.mpc.matrix import Held
from moiety.mpc.party import Draws, Key, Kind, Party
from moiety.mpc.rounds import Address, Role, Scope, Spec, Word, Words
from moiety.mpc.share import Share, dtype_of, wrap

UNKNOWN_TO = {Role.P1: Key.B, Role.P2: Key.A}
LEAST = 10
"""At least 2^10 elements at once, so that an axis of elements is never mistaken for another."""
CHUNK = 16
"""At most 2^16, which a processor's cache holds."""


def element_bits(spec: Spec, count: int) -> tuple[str, int, int]:
    """How a spec holds the elements: ring words or packed bits, how many of them an element, and their width."""
    if count in spec.shape:
        rest = int(np.prod(spec.shape, dtype=np.int64)) // count
        return "words", rest, spec.bits
    if spec.bits == 8 and spec.shape and spec.shape[-1] % (count // 8) == 0:  # several in a row lie one behind the other
        return "packed", int(np.prod(spec.shape, dtype=np.int64)) * 8 // count, 1
    raise AssertionError(f"{spec} has no axis of {count} elements")


def spread(values: Words, spec: Spec, count: int) -> Words:
    """Element-wise values (pieces, count) in the layout of ``spec``."""
    kind, _, _ = element_bits(spec, count)
    if kind == "packed":
        return np.packbits(values.astype(np.uint8), axis=-1, bitorder="little").reshape(spec.shape)
    axis = spec.shape.index(count)
    rest = spec.shape[:axis] + spec.shape[axis + 1 :]
    return np.ascontiguousarray(np.moveaxis(values.reshape(*rest, count), -1, axis)).astype(dtype_of(spec.bits))


def gather(value: Words, bits: int, count: int) -> tuple[Words, int]:
    """The inverse of :func:`spread`: (pieces, count) and the width of a piece."""
    kind, pieces, width = element_bits(Spec(value.shape, bits), count)
    if kind == "packed":
        return np.unpackbits(value, axis=-1, bitorder="little").reshape(pieces, count), width
    return np.moveaxis(value, value.shape.index(count), -1).reshape(pieces, count), width


@dataclass(frozen=True)
class Flaw:
    """What a negative twin gets wrong: draws moved to other addresses, or altered, (pieces, count) at a time."""

    move: Callable[[Address], Address] = lambda address: address
    spoil: Callable[[Address, Words], Words] = lambda address, values: values


SOUND = Flaw()


@dataclass(frozen=True)
class Flawed:
    """Draws as a spoilt protocol would use them."""

    inner: Draws
    flaw: Flaw
    count: int

    def words(self, key: Key, address: Address, spec: Spec) -> Words:
        address = self.flaw.move(address)
        values, _ = gather(self.inner.words(key, address, spec), spec.bits, self.count)
        return spread(self.flaw.spoil(address, values), spec, self.count)


@dataclass
class Book:
    """All draws of one experiment.

    ``numbers``, one for each element, assign what is unknown to the observer, in mixed radix; its own draws are the same for all.
    Without numbers (``count`` elements) everything is random. ``fixed`` draws are taken out: they are the same for all elements too.
    """

    observer: Role
    numbers: Words | None
    own_seed: int = 0
    fixed: Collection[tuple[Key, Address]] = ()
    count: int = 1 << LEAST
    size: int = 1
    """Assignments so far."""
    drawn: list[Draw] = field(default_factory=list)
    values: dict[tuple[Key, Address], Words] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.count = self.count if self.numbers is None else len(self.numbers)

    def unknown(self, pieces: int, values: int) -> Words:
        """The next digits of the element's number, each below ``values``, as (pieces, count) words."""
        out = np.empty((pieces, self.count), np.uint64)
        for piece in out:
            if self.numbers is None:
                seed = (self.own_seed, 76, self.size.bit_length())
                piece[:] = np.random.default_rng(seed).integers(0, values, self.count, np.uint64)
            else:
                piece[:] = self.numbers // np.uint64(min(self.size, 1 << 63)) % np.uint64(values)
            self.size *= values
        return out

    def own(self, seed: Sequence[int], pieces: int, values: int) -> Words:
        """What the observer knows: the same for all elements, unless everything is random."""
        many = self.count if self.numbers is None else 1
        found = np.random.default_rng((self.own_seed, *seed)).integers(0, values, (pieces, many), np.uint64)
        return np.broadcast_to(found, (pieces, self.count))

    def words(self, key: Key, address: Address, spec: Spec) -> Words:
        if (key, address) not in self.values:
            pieces, values = self._range(address, spec)
            if key == UNKNOWN_TO[self.observer] and (key, address) not in self.fixed:
                self.drawn.append(Draw(key, address, spec, values**pieces))
                fresh = self.unknown(pieces, values)
            else:
                fresh = self.own((key, *address.path, address.kind, address.serial), pieces, values)
            if address.kind == Kind.PERMUTATION:
                fresh = _ranks(fresh[0], spec.shape[-1])
            self.values[key, address] = spread(fresh, spec, self.count)
        return self.values[key, address].copy()

    def _range(self, address: Address, spec: Spec) -> tuple[int, int]:
        """How many pieces a draw has and how many values each: a permutation is one piece, whatever words its order comes from."""
        if address.kind == Kind.PERMUTATION:
            return 1, math.factorial(spec.shape[-1])
        _, pieces, width = element_bits(spec, self.count)
        return pieces, 1 << width

    def share(self, secret: Any, bits: int, inner: tuple[int, ...] = ()) -> dict[Role, Share]:
        """Ring elements (a secret each, ``inner`` an element) under masks of which the observer holds one part and not the other."""
        pieces = math.prod(inner)
        held, other = self.own((77, self.size.bit_length()), pieces, 1 << bits), self.unknown(pieces, 1 << bits)
        return self._shared(self._secrets(secret, pieces), held, other, bits, inner)

    def seen(self, secret: Any, bits: int, inner: tuple[int, ...] = ()) -> dict[Role, Share]:
        """The same for one masked value: what is enumerated then is what follows once that has been seen."""
        pieces = math.prod(inner)
        held, masked = (self.own((kind,), pieces, 1 << bits) for kind in (79, 80))
        return self._shared(self._secrets(secret, pieces), held, masked - held - self._secrets(secret, pieces), bits, inner)

    def _secrets(self, secret: Any, pieces: int) -> Words:
        words = np.asarray(secret).astype(np.int64).view(np.uint64).reshape(pieces, -1)
        return np.broadcast_to(words, (pieces, self.count))

    def _shared(self, secrets: Words, held: Words, other: Words, bits: int, inner: tuple[int, ...]) -> dict[Role, Share]:
        one, two, value = (
            wrap(np.moveaxis(p, -1, 0).reshape(self.count, *inner).astype(dtype_of(bits)), bits)
            for p in (*self._sides(held, other), secrets)
        )
        masked = wrap(one + two + value, bits)
        parts = {Role.P0: (None, wrap(one + two, bits)), Role.P1: (masked, one), Role.P2: (masked, two), Role.CLIENT: (None, None)}
        return {role: Share((self.count, *inner), 0, bits, *part) for role, part in parts.items()}

    def bit(self, secret: Any) -> dict[Role, BitShare]:
        """A bit under such a mask."""
        held, other = self.own((78, self.size.bit_length()), 1, 2), self.unknown(1, 2)
        value = np.broadcast_to(np.asarray(secret), (1, self.count))
        one, two, plain = (np.packbits(p[0].astype(np.uint8), bitorder="little") for p in (*self._sides(held, other), value))
        masked = plain ^ one ^ two
        parts = {Role.P0: (None, one ^ two), Role.P1: (masked, one), Role.P2: (masked, two), Role.CLIENT: (None, None)}
        return {role: BitShare((self.count,), *part) for role, part in parts.items()}

    def _sides(self, held: Words, other: Words) -> tuple[Words, Words]:
        return (held, other) if self.observer is Role.P1 else (other, held)


def _ranks(numbers: Words, length: int) -> Words:
    """Words (2 * length, count) whose order is the permutation of this number."""
    orders = np.array(list(itertools.permutations(range(length))), np.uint64)
    ranks = orders[numbers.astype(np.intp)].T
    return np.concatenate([np.zeros_like(ranks), ranks])


Inputs = Callable[[Book, Any], Sequence[dict[Role, Any]]]


class Experiment(NamedTuple):
    """A protocol, how its inputs come from a secret, who looks, and at which plan node (which of P1, P2 receives what is dealt)."""

    op: Callable[..., Any]
    inputs: Inputs
    observer: Role
    node: int
    flaw: Flaw

    def run(self, book: Book, secret: Any, shift: Shift | None = None) -> tuple[list[tuple[Words, int]], list[Word]]:
        """The observer's masked inputs, (pieces, count) with their width, and all words that it receives."""
        given = self.inputs(book, secret)
        draws = Flawed(Shifted(book, shift), self.flaw, book.count)

        async def protocol(party: Party) -> Any:
            party.scope = Scope((self.node,))
            return await self.op(party, *(x[party.role] for x in given))

        with openings() as found:
            transcript = lockstep.run(protocol, draws=lambda role: draws, roles=(Role.P0, Role.P1, Role.P2))
        assert not list(received(transcript, Role.P0))
        return [_masked(x[self.observer]) for x in given if not isinstance(x[self.observer], Held)], [
            understood(word, found) for word in received(transcript, self.observer)
        ]


def _masked(x: Share | BitShare) -> tuple[Words, int]:
    if isinstance(x, BitShare):
        return np.unpackbits(x.masked, bitorder="little")[None], 1
    return np.moveaxis(wrap(x.masked, x.bits), 0, -1).reshape(-1, x.shape[0]), x.bits


class View(NamedTuple):
    """The sorted codes of all that was received, for each secret; how many unknown bits were counted and how many taken out."""

    codes: list[Words]
    counted: float
    reduced: float


def views(
    op: Callable[..., Any],
    inputs: Inputs,
    secrets: Iterable[Any],
    observer: Role,
    *,
    node: int = 0,
    own_seed: int = 0,
    flaw: Flaw = SOUND,
    most: int = 21,
) -> View:
    """The observer's view of every secret, over all assignments of at most ``most`` bits.

    Where more are unknown, words that have a pad to themselves are taken out of the view, with their pads, until that is so.
    """
    secrets, experiment = list(secrets), Experiment(op, inputs, observer, node, flaw)
    trial = Book(observer, None, own_seed)
    experiment.run(trial, secrets[0])
    fixed, gone = frozenset(), frozenset()
    if trial.size > 1 << most:
        found = effects(lambda shift: _at_random(experiment, secrets, own_seed, shift), trial.drawn)
        fixed, gone = eliminate(found, -(-trial.size >> most))
    counted = trial.size // math.prod(draw.size for draw in trial.drawn if (draw.key, draw.address) in fixed)
    assert counted <= 1 << most, f"{math.log2(counted):.1f} unknown bits are too many to count"
    codes = [
        np.sort(np.concatenate([_codes(experiment, book, secret, gone) for book in _chunks(experiment, counted, own_seed, fixed)]))
        for secret in secrets
    ]
    return View(codes, math.log2(counted), math.log2(trial.size // counted))


def _chunks(experiment: Experiment, size: int, own_seed: int, fixed: Collection[tuple[Key, Address]]) -> Iterator[Book]:
    """All assignments, few ones several times, a processor cache full at a time."""
    while size < 1 << LEAST or size % 8:
        size *= 2
    chunk = size
    while chunk > 1 << CHUNK and chunk % 16 == 0:
        chunk //= 2
    for start in range(0, size, chunk):
        yield Book(experiment.observer, np.arange(start, start + chunk, dtype=np.uint64), own_seed, fixed)


def _at_random(experiment: Experiment, secrets: list[Any], own_seed: int, shift: Shift | None) -> list[Word]:
    """What is received by elements with a random secret and random draws each, the observer's included."""
    book = Book(experiment.observer, None, own_seed)
    which = np.random.default_rng(own_seed).integers(0, len(secrets), book.count)
    return experiment.run(book, np.asarray(secrets)[which].T, shift)[1]


def _codes(experiment: Experiment, book: Book, secret: Any, gone: Collection[int]) -> Words:
    """The view of each assignment as one number."""
    pieces, words = experiment.run(book, secret)
    pieces += [gather(word.value, word.spec.bits, book.count) for i, word in enumerate(words) if i not in gone]
    code, used = np.zeros(book.count, np.uint64), 0
    for values, width in pieces:
        for piece in values:
            code |= piece.astype(np.uint64) << np.uint64(used)
            used += width
    assert used <= 64, "the view does not fit a code"
    return code.astype(np.uint32) if used <= 32 else code


def alike(found: View) -> bool:
    """Whether all joint histograms are the same, exactly."""
    return all(np.array_equal(found.codes[0], other) for other in found.codes[1:])
