"""Ten thousand runs on one fixed input, and the balance of every bit that they transmit.

A case is repeated along its first axis, the same secrets under the same input masks in every copy, so that one run holds thousands of
independent ones. Where the copies lie in an array that travels (before, between or behind its other axes) follows from the op; all
ways are tried: in the true one every sum is one bit of one message, and in the others it is a sum of independent fair bits too.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from mpc_runs import Op, Parts, run
from numpy.typing import NDArray

from moiety.mpc import lockstep
from moiety.mpc.functions import points
from moiety.mpc.functions.bits import BitShare
from moiety.mpc.party import Party
from moiety.mpc.rounds import Role, Spec, Words, together
from moiety.mpc.share import Share

COPIES = 10_000
KEY = Spec((points.KEY_OCTETS,), 8)
"""One for all copies, told as it was drawn."""
FAR = 7.6
"""In standard deviations. By Hoeffding a fair bit is further off with a probability of at most 2 exp(-7.6^2 / 2) = 6e-13."""


class Balance(NamedTuple):
    """How many sums of COPIES transmitted bits were looked at, and how far from COPIES / 2 the worst was, in standard deviations."""

    sums: int
    worst: float


def tiled(inputs: Any) -> list[dict[Role, Any]]:
    """A case's inputs; of those that grow with it, the first row COPIES times."""
    return [_tile(x) if x[Role.P0].shape != more[Role.P0].shape else x for x, more in zip(inputs(1), inputs(1, 2), strict=True)]


def _tile(parts: Parts) -> Parts:
    return {role: _tile_bits(x) if isinstance(x, BitShare) else _tile_share(x) for role, x in parts.items()}


def _tile_share(x: Share) -> Share:
    return x.map(lambda part: np.repeat(part[:1], COPIES, 0))


def _tile_bits(x: BitShare) -> BitShare:
    def tile(part: Words | None) -> Words | None:
        return None if part is None else np.packbits(np.repeat(x.unpacked(part, 8)[:1], COPIES, 0).ravel(), bitorder="little")

    return BitShare((COPIES, *x.shape[1:]), tile(x.masked), tile(x.mask))


def copies(op: Op) -> Op:
    """The op itself COPIES times side by side, for one that sends a digest of its whole input."""

    async def many(party: Party, *inputs: Any) -> Any:
        return await together(party, *(op(party, *inputs) for _ in range(COPIES)))

    return many


def balance(op: Op, inputs: Sequence[dict[Role, Any]], node: int = 0) -> Balance:
    """Sum up every bit that P1 and P2 receive over all copies."""
    sums, worst = 0, 0.0
    for array, bits in _messages(run(op, *inputs, node=node)):
        for ones in _sums(array, bits):
            sums += ones.size
            worst = max(worst, float(np.abs(ones - COPIES / 2).max()) / (COPIES**0.5 / 2))
    return Balance(sums, worst)


def _messages(transcript: lockstep.Transcript) -> Iterator[tuple[Words, int]]:
    """All words from one role to another in one wave that are alike, stacked, with the width of their ring."""
    for words in (transcript.dealt, *transcript.waves):
        alike: dict[tuple[Role, Role, Spec], list[Words]] = {}
        for word in words:
            if word.receiver in (Role.P1, Role.P2) and word.spec != KEY:
                alike.setdefault((word.sender, word.receiver, word.spec), []).append(word.value)
        yield from ((np.stack(values), spec.bits) for (_, _, spec), values in alike.items())


def _sums(array: Words, bits: int) -> Iterator[NDArray[np.int64]]:
    """Ones over all copies, for every arrangement of the copies that fits the array; octets may be packed bits, or words of 8 bits."""
    axes = [axis for axis, size in enumerate(array.shape) if size % COPIES == 0]
    packed = array.shape[-1] * 8 % COPIES == 0 and bits == 8
    assert axes or packed, f"no axis of {array.shape} holds the copies"
    if axes:
        axis = axes[0]
        octets = np.ascontiguousarray(np.moveaxis(array, axis, 0)).reshape(array.shape[axis], -1).view(np.uint8)
        planes = np.unpackbits(octets, axis=1, bitorder="little").reshape(len(octets), -1, 8 * array.itemsize)[..., :bits]
        yield from _arrangements(planes.reshape(len(octets), -1))
    if packed:
        planes = np.unpackbits(array, axis=-1, bitorder="little")
        yield from _arrangements(np.moveaxis(planes, -1, 0).reshape(planes.shape[-1], -1))


def _arrangements(planes: Words) -> Iterator[NDArray[np.int64]]:
    """Sums over the copies of (outer, COPIES, inner) rows, for every such split of the first axis."""
    rest = len(planes) // COPIES
    for outer in (d for d in range(1, rest + 1) if rest % d == 0):
        yield planes.reshape(outer, COPIES, -1).sum(1, dtype=np.int64)
