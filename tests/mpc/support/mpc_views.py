"""Exact views: run the real protocol on every assignment of the draws that one party does not hold, one array element each.

Fix the secrets and the observed party's own draws. If the joint histogram of all that the party receives is then the same for all
secrets, for these own draws, then its view carries no information on them. Rings have few bits, so that all assignments fit an array;
the code under test is the real one, with real shapes, packing and addresses.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpc_runs import received

from moiety.mpc import lockstep
from moiety.mpc.functions.bits import BitShare
from moiety.mpc.party import Key, Party
from moiety.mpc.rounds import Address, Role, Scope, Spec, Words
from moiety.mpc.share import Share, dtype_of, wrap

UNKNOWN_TO = {Role.P1: Key.B, Role.P2: Key.A}
LEAST = 10
"""At least 2^10 elements, so that an axis of elements is never mistaken for another."""


def element_bits(spec: Spec, count: int) -> tuple[str, int, int]:
    """How a spec holds the elements: ring words or packed bits, how many of them an element, and their width."""
    if count in spec.shape:
        rest = int(np.prod(spec.shape, dtype=np.int64)) // count
        return "words", rest, spec.bits
    if spec.bits == 8 and spec.shape and spec.shape[-1] == count // 8:
        return "packed", int(np.prod(spec.shape[:-1], dtype=np.int64)), 1
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
    """What a negative twin gets wrong: draws moved to other addresses, or altered, (pieces, count) at a time.

    ``enumerate`` says which unknown draws are varied; the others may stay fixed when nothing that is looked at depends on them.
    """

    move: Callable[[Address], Address] = lambda address: address
    spoil: Callable[[Address, Words], Words] = lambda address, values: values
    enumerate: Callable[[Address], bool] = lambda address: True


SOUND = Flaw()


@dataclass
class Book:
    """All draws of one experiment: an element's number, read in mixed radix, assigns the draws that are unknown to the observer."""

    observer: Role
    bits: int = LEAST
    own_seed: int = 0
    flaw: "Flaw" = field(default_factory=lambda: SOUND)
    used: int = 0
    values: dict[tuple[Key, Address], Words] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return 1 << self.bits

    def unknown(self, pieces: int, width: int) -> Words:
        """The next ``pieces * width`` bits of the element's number, as (pieces, count) words."""
        numbers = np.arange(self.count, dtype=np.uint64)
        out = np.empty((pieces, self.count), np.uint64)
        for piece in out:
            piece[:] = (numbers >> np.uint64(min(self.used, 63))) & np.uint64((1 << width) - 1)
            self.used += width
        return out

    def words(self, key: Key, address: Address, spec: Spec) -> Words:
        address = self.flaw.move(address)
        if (key, address) not in self.values:
            _, pieces, width = element_bits(spec, self.count)
            if key == UNKNOWN_TO[self.observer] and self.flaw.enumerate(address):
                fresh = self.unknown(pieces, width)
            else:
                fixed = np.random.default_rng((self.own_seed, key, *address.path, address.kind, address.serial))
                fresh = np.repeat(fixed.integers(0, 1 << width, (pieces, 1), np.uint64), self.count, 1)
            self.values[key, address] = spread(self.flaw.spoil(address, fresh), spec, self.count)
        return self.values[key, address].copy()

    def share(self, secret: int, bits: int, fraction: int = 0) -> dict[Role, Share]:
        """A ring element under a mask of which the observer holds a fixed part and not the other."""
        own = int(np.random.default_rng((self.own_seed, 77, self.used)).integers(0, 1 << bits))
        held = np.full(self.count, own, dtype_of(bits))
        other = self.unknown(1, bits)[0].astype(dtype_of(bits))
        one, two = (held, other) if self.observer is Role.P1 else (other, held)
        masked = wrap(one + two + dtype_of(bits)(secret % (1 << bits)), bits)
        parts = {Role.P0: (None, wrap(one + two, bits)), Role.P1: (masked, one), Role.P2: (masked, two), Role.CLIENT: (None, None)}
        return {role: Share((self.count,), fraction, bits, *part) for role, part in parts.items()}

    def bit(self, secret: int) -> dict[Role, BitShare]:
        """A bit under such a mask."""
        own = int(np.random.default_rng((self.own_seed, 78, self.used)).integers(0, 2))
        held, other = np.full(self.count, own, np.uint8), self.unknown(1, 1)[0].astype(np.uint8)
        one, two = (np.packbits(p, bitorder="little") for p in ((held, other) if self.observer is Role.P1 else (other, held)))
        masked = one ^ two ^ np.uint8(0xFF * secret)
        parts = {Role.P0: (None, one ^ two), Role.P1: (masked, one), Role.P2: (masked, two), Role.CLIENT: (None, None)}
        return {role: BitShare((self.count,), *part) for role, part in parts.items()}


Inputs = Callable[[Book, Any], Sequence[dict[Role, Any]]]
Keep = Callable[[int], bool]


def view(op: Callable[..., Any], inputs: Inputs, secret: Any, book: Book, node: int = 0, keep: Keep | None = None) -> tuple[Words, int]:
    """The sorted codes of all the observer receives, the masked inputs included, one for each assignment; and the bits of a code."""
    given = inputs(book, secret)

    async def protocol(party: Party) -> Any:
        party.scope = Scope((node,))
        return await op(party, *(x[party.role] for x in given))

    transcript = lockstep.run(protocol, draws=lambda role: book, roles=(Role.P0, Role.P1, Role.P2))
    assert not list(received(transcript, Role.P0))
    pieces = [_input_bits(x[book.observer]) for x in given]
    got = received(transcript, book.observer)
    pieces += [gather(word.value, word.spec.bits, book.count) for i, word in enumerate(got) if keep is None or keep(i)]
    code, used = np.zeros(book.count, np.uint64), 0
    for values, width in pieces:
        for piece in values:
            code |= piece.astype(np.uint64) << np.uint64(used)
            used += width
    assert used <= 64, "the view does not fit a code"
    return np.sort(code), used


def _input_bits(x: Share | BitShare) -> tuple[Words, int]:
    if isinstance(x, BitShare):
        return np.unpackbits(x.masked, bitorder="little")[None], 1
    return wrap(x.masked, x.bits)[None], x.bits


def views(
    op: Callable[..., Any],
    inputs: Inputs,
    secrets: Iterable[Any],
    observer: Role,
    *,
    node: int = 0,
    own_seed: int = 0,
    flaw: Flaw = SOUND,
    keep: Keep | None = None,
    most: int = 21,
) -> list[Words]:
    """One sorted view for each secret. ``keep`` chooses which of the received arrays are looked at."""
    secrets = list(secrets)
    trial = Book(observer, LEAST, own_seed, flaw)
    view(op, inputs, secrets[0], trial, node, keep)  # how many unknown bits are there?
    bits = max(LEAST, trial.used)
    assert bits <= most, f"{bits} unknown bits are too many to enumerate"
    out = []
    for secret in secrets:
        book = Book(observer, bits, own_seed, flaw)
        out.append(view(op, inputs, secret, book, node, keep)[0])
        assert book.used == trial.used
    return out


def alike(found: Sequence[Words]) -> bool:
    """Whether all joint histograms are the same, exactly."""
    return all(np.array_equal(found[0], other) for other in found[1:])
