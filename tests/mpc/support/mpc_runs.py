"""Running a protocol in lockstep and on shapes, and looking at what was said."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from moiety import ring
from moiety.mpc import lockstep
from moiety.mpc.cost import Costs, Link, drive_on_shapes
from moiety.mpc.functions import compare
from moiety.mpc.functions.bits import BitShare, Planes, open_shares, to_planes
from moiety.mpc.matrix import Held
from moiety.mpc.party import Draws, Party
from moiety.mpc.rounds import Role, Scope, Word, Words
from moiety.mpc.share import Share, wrap

Op = Callable[..., Any]
Parts = dict[Role, Share]
BY_ROLE = (Role.P0, Role.P1, Role.P2)


def share(values: Any, fraction: int = 0, bits: int = 64, seed: int = 0) -> Parts:
    """Shares of integers."""
    return lockstep.share_out(np.asarray(values).astype(np.int64).view(np.uint64), fraction, bits, seed)


def held(matrix: Any, fraction: int = 0, kind: Any = np.int32, *, bits: int = 64, seed: int = 0) -> dict[Role, Held]:
    """A matrix (in, out) that P1 knows, as integers of that kind. What P2 has of it is the same for every matrix."""
    words = np.asarray(matrix).astype(np.int64).view(np.uint64)
    masked = wrap(np.random.default_rng(seed).integers(0, 2**64, words.shape, np.uint64), bits)
    clear = ring.packed(words.shape, ring.pack(words).panels.view(np.int64).astype(kind))
    parts = {Role.P0: ring.pack(masked - words), Role.P1: clear, Role.P2: ring.pack(masked), Role.CLIENT: None}
    return {role: Held(words.shape, fraction, np.dtype(kind).itemsize, part) for role, part in parts.items()}


def share_bits(bits: Any, seed: int = 0) -> dict[Role, BitShare]:
    """Shares of bits with seeded masks."""
    bits = np.asarray(bits, np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little")
    one, two = np.random.default_rng(seed).integers(0, 256, (2, packed.size), np.uint8)
    masked = packed ^ one ^ two
    parts = {Role.P0: (None, one ^ two), Role.P1: (masked, one), Role.P2: (masked, two), Role.CLIENT: (None, None)}
    return {role: BitShare(bits.shape, *part) for role, part in parts.items()}


def run(
    op: Op, *inputs: Any, seed: int = 0, node: int = 0, draws: Callable[[Role], Draws] | None = None, **options: Any
) -> lockstep.Transcript:
    """``op(party, inputs of that role, **options)`` at every role, at plan node ``node`` (its parity turns the dealing round)."""

    async def protocol(party: Party) -> Any:
        party.scope = Scope((node,))
        return await op(party, *(x[party.role] for x in inputs), **options)

    return lockstep.run(protocol, draws=draws or (lambda role: lockstep.test_draws(role, seed)))


def shapes(op: Op, *inputs: Any, node: int = 0, **options: Any) -> tuple[Any, Costs]:
    """The same on shapes; inputs may be dictionaries of parts."""

    async def protocol(party: Party) -> Any:
        party.scope = Scope((node,))
        return await op(party, *(bare(x) for x in inputs), **options)

    return drive_on_shapes(protocol)


def bare(x: Any) -> Any:
    """A share without parts, of the same shape."""
    x = x[Role.CLIENT] if isinstance(x, dict) else x
    if isinstance(x, Held):
        return x
    return BitShare(x.shape) if isinstance(x, BitShare) else Share(x.shape, x.fraction, x.bits)


def opened(transcript: lockstep.Transcript, pick: Callable[[Any], Share] = lambda x: x) -> Words:
    """The result as signed integers; checks that P1 and P2 agree and that the masks add up."""
    parts = {role: pick(transcript.results[role]) for role in BY_ROLE}
    words = lockstep.opened(parts)
    bits = parts[Role.P1].bits
    signed = words.astype(np.int64)
    return signed if bits == 64 else signed - ((signed >> (bits - 1)) << bits)


def opened_bits(transcript: lockstep.Transcript, pick: Callable[[Any], BitShare] = lambda x: x) -> Words:
    """The resulting bits; checks that P1 and P2 agree and that the masks add up."""
    zero, one, two = (pick(transcript.results[role]) for role in BY_ROLE)
    assert np.array_equal(one.masked, two.masked)
    assert np.array_equal(one.mask ^ two.mask, zero.mask)
    return one.unpacked(one.masked ^ zero.mask).astype(bool)


@contextmanager
def openings() -> Iterator[dict[int, tuple[Words, Words]]]:
    """The xor shares that are sent to open bits meanwhile, by the identity of the array, each with the bits that it opens."""
    found: dict[int, tuple[Words, Words]] = {}

    async def noted(party: Party, shares: Words | None, shape: tuple[int, ...]) -> Planes:
        planes = await open_shares(party, shares, shape)
        if shares is not None:
            found[id(shares)] = (shares, planes.masked)
        return planes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "open_shares", noted)
        yield found


def understood(word: Word, opened: dict[int, tuple[Words, Words]]) -> Word:
    """A word as it counts for its receiver: of a share that opens bits, the bits. They and its own share say what it received."""
    return word._replace(value=opened[id(word.value)][1]) if id(word.value) in opened else word


def links_by_wave(transcript: lockstep.Transcript) -> list[Counter[Link]]:
    """Bytes on every link in every wave of a real run, values dealt after the last exchange in one of their own."""
    out, done = [], 0
    marks = [*transcript.dealt_by, len(transcript.dealt)]
    for wave, mark in zip([*transcript.waves, []], marks, strict=True):
        links: Counter[Link] = Counter()
        for word in (*wave, *transcript.dealt[done:mark]):
            links[word.sender, word.receiver] += word.spec.nbytes
        done = mark
        out.append(links)
    return out if out[-1] else out[:-1]


def received(transcript: lockstep.Transcript, role: Role) -> Iterator[Word]:
    """All that a role got: what was dealt to it, then what was said to it."""
    yield from (word for words in (transcript.dealt, *transcript.waves) for word in words if word.receiver is role)


def told_alike(transcript: lockstep.Transcript) -> set[int]:
    """Identities of the words that P0 told both evaluators: corrections and keys of point functions, which have no pads."""
    return {value for value, count in Counter(id(word.value) for word in transcript.dealt).items() if count > 1}


def frame(transcript: lockstep.Transcript, role: Role) -> Words:
    """All bits that a role received, end to end: of a word as many as its ring has, plane by plane."""
    parts = [_bits(np.ascontiguousarray(word.value), word.spec.bits) for word in received(transcript, role)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _bits(words: Words, bits: int) -> Words:
    whole = bits == 8 * words.dtype.itemsize
    return words.view(np.uint8).ravel() if whole else to_planes(words, bits)[:, : max(1, words.size // 8)].ravel()
