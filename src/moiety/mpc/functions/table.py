"""Any smooth function of a secret by one table look-up: 2 rounds, whatever the function (one-hot form).

The table has ``2^n`` cells of width ``2^s`` units; in cell i the function is a polynomial in the local coordinate t. The masked
value splits publicly, ``m = 2^s mh + ml``, its mask at P0 alike, ``l = 2^s lh + ll``. Then the cell is ``mh - lh`` and ``t = ml - ll``
as plain integers, whatever the carry: the index is floor(x/h) or floor(x/h) + 1 and t makes up for it, so every cell's polynomial
is fitted on twice its width. P0 deals the one-hot of lh as xor shares; where they agree the sums of P1 and P2 cancel, and a secret
sign sigma (known to P0 alone) remains, which dealt words repair.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.mpc.party import Kind, Party
from moiety.mpc.rep3 import reshare
from moiety.mpc.rounds import Spec, Words
from moiety.mpc.share import Share, wrap

Real = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Window(NamedTuple):
    """Which bits of a value address a table: ``drop`` low bits are cut, the next ``cell_bits`` are t, the next ``index_bits`` the cell.

    Values must lie in ``[low, low + (2^index_bits - 1) * 2^(cell_bits + drop))`` units; outside, the look-up wraps to nonsense.
    """

    low: int
    drop: int
    cell_bits: int
    index_bits: int

    @property
    def cell(self) -> int:
        """Width of a cell in units of the input."""
        return 1 << (self.drop + self.cell_bits)

    @property
    def bits(self) -> int:
        """Bits of the value that are read."""
        return self.drop + self.cell_bits + self.index_bits

    @property
    def high(self) -> int:
        """First unit value that is not covered."""
        return self.low + ((1 << self.index_bits) - 1) * self.cell


class Table(NamedTuple):
    """Coefficients (degree + 1, cells) as ring elements; the looked-up value has ``fraction`` fraction bits."""

    coefficients: Words
    fraction: int


def fit(f: Real, window: Window, unit: float, fraction: int, degree: int = 2) -> Table:
    """Interpolate ``f`` (of a real argument) in every cell, at Chebyshev nodes over twice the cell. ``unit``: real size of one unit.

    Error of the polynomial: quadratic ``(2h)^3 max|f'''| / 192``, linear ``(2h)^2 max|f''| / 16`` for cell width h.
    """
    cells = np.arange(1 << window.index_bits)
    centre = (window.low + cells * window.cell) * unit
    nodes = np.cos((2 * np.arange(degree + 1) + 1) * np.pi / (2 * degree + 2))
    values = f(centre[:, None] + nodes * window.cell * unit)
    if not np.isfinite(values).all():
        raise ProtocolMisuse("the function is not finite on the whole table; narrow the window or clip the function")
    local = np.linalg.solve(np.vander(nodes, increasing=True), values.T)  # in units of the cell width
    scale = 2.0 ** (fraction - window.cell_bits * np.arange(degree + 1))[:, None]
    words = np.round(local * scale)
    if np.abs(words).max() >= 2.0**62:
        raise ProtocolMisuse(f"table values do not fit the ring at {fraction} fraction bits; choose fewer")
    return Table(words.astype(np.int64).view(np.uint64), fraction)


def values(table: Table, window: Window, units: NDArray[np.int64], ahead: int = 0) -> NDArray[np.float64]:
    """The table in the clear at integer inputs, as if the carry had put them ``ahead`` (0 or 1) cells further on."""
    offset = (units - window.low) >> window.drop
    index = (offset >> window.cell_bits) + ahead
    local = (offset - (index << window.cell_bits)).astype(np.float64)
    coefficients = table.coefficients.view(np.int64)[:, index & ((1 << window.index_bits) - 1)]
    return sum(c * local**k for k, c in enumerate(coefficients)) / 2.0**table.fraction  # type: ignore[no-any-return]


async def lookup(party: Party, x: Share, window: Window, tables: Sequence[Table], bits: int | None = None) -> list[Share]:
    """Evaluate several tables of one window at the secret x, in its ring or in another one of ``bits``. 2 rounds.

    Bytes an element, for words of B bytes (8 of 64 bits): ``2^n / 8`` dealt for the one-hot, ``B (d + 1)`` dealt for sigma ll^j, and for
    each table ``B`` dealt, ``2 B (d + 1)`` and ``2 B`` exchanged. Nothing is revealed; see ``docs/security/table.md``.
    """
    bits = bits or x.bits
    return await masked(party, await lookup_shares(party, x, window, tables, bits), x.shape, tables, bits)


async def masked(party: Party, found: Words | None, shape: tuple[int, ...], tables: Sequence[Table], bits: int) -> list[Share]:
    """What was looked up in each table, additive shares (tables, *shape), under fresh masks: 1 round for all."""
    out = await reshare(party, found, (len(tables), *shape), 0, bits)
    return [out.map(lambda part, i=i: part[i]).as_fraction(t.fraction) for i, t in enumerate(tables)]  # type: ignore[misc]


async def lookup_shares(party: Party, x: Share, window: Window, tables: Sequence[Table], bits: int) -> Words | None:
    """As :func:`lookup`, but additive shares (tables, *x.shape), None where this role has none: 1 round."""
    count = math.prod(x.shape)
    said, powers, corrections = _spoken(party, x, window, tables, bits)
    theirs = await party.swap(*said, specs=tuple(Spec((len(powers), count), bits) for _ in tables))
    if not party.evaluates:
        return None
    out = np.empty((len(tables), count), np.uint64)
    for total, mine, their, correction in zip(out, said, theirs, corrections, strict=True):
        np.add(correction, _inner(powers, (m + t for m, t in zip(mine, their, strict=True))), out=total)  # type: ignore[arg-type]
    return wrap(out, bits).reshape(len(tables), *x.shape)


class Begun(NamedTuple):
    """A look-up before its words are exchanged. ``signed``: ``sigma ll^j`` at P0; ``powers``: their dealt shares; for each table
    ``pads``, and what an evaluator says."""

    said: list[Words | None]
    pads: list[Words | None]
    powers: list[Words | None]
    signed: list[Words]


def begin(party: Party, x: Share, window: Window, tables: Sequence[Table], bits: int) -> Begun:
    """Deal the one-hot of x's mask and its sign, and sum the tables' cells: 0 rounds. The selectors end with this function."""
    degree = len(tables[0].coefficients) - 1
    count = math.prod(x.shape)
    part = Split.of(x, window, bits)
    selectors = party.deal((count, (1 << window.index_bits) // 8), part.one_hot, 8, kind=Kind.ONE_HOT, xor=True)
    signed = part.signed_powers(selectors, degree) if party.helps and selectors is not None else []

    pads = [party.draw(Kind.TABLE_PAD, (degree + 1, count), bits) for _ in tables]
    powers = [party.deal((count,), lambda j=j: wrap(signed[j], bits), bits) for j in range(degree + 1)]  # type: ignore[misc]
    said: list[Words | None] = [None] * len(tables)
    if party.evaluates and selectors is not None:
        said = [wrap(part.local_sums(selectors, t, party.leads) + pad, bits) for t, pad in zip(tables, pads, strict=True)]
    return Begun(said, pads, powers, signed)


def _spoken(
    party: Party, x: Share, window: Window, tables: Sequence[Table], bits: int
) -> tuple[list[Words | None], list[Words | None], list[Words | None]]:
    """What an evaluator says of each table, and what is dealt: shares of sigma ll^j, and the correction of each table.

    Pads, much of what a look-up draws, end with this function: they are not held over the exchange.
    """
    said, pads, powers, signed = begin(party, x, window, tables, bits)
    count = math.prod(x.shape)
    corrections = [party.deal((count,), lambda pad=pad: wrap(-_inner(signed, pad), bits), bits) for pad in pads]  # type: ignore[misc]
    return said, powers, corrections


def _inner(left: Iterable[Words], right: Iterable[Words]) -> Words:
    """The sum of products, one pair at a time."""
    total: Words | None = None
    for a, b in zip(left, right, strict=True):
        term = a * b
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None, "a table has a coefficient"
    return total


class Split(NamedTuple):
    """High and low bits of what a role holds: of the public m at P1 and P2, of the mask l at P0."""

    high: Words | None
    low: Words | None
    cells: int

    @classmethod
    def of(cls, x: Share, window: Window, bits: int) -> "Split":
        """Of x within the window, for a look-up into a ring of ``bits``."""
        if window.bits > x.bits or not 1 <= bits <= 64:
            raise ProtocolMisuse(f"{x!r} does not hold the {window.bits} bits that a window reads, or {bits} bits are no ring")
        x = x.plus_public(np.asarray(-window.low, np.int64).astype(np.uint64))
        held = x.masked if x.masked is not None else x.mask
        if held is None:
            return cls(None, None, 1 << window.index_bits)
        flat = (held >> np.uint64(window.drop)).ravel()
        cell, index = np.uint64(window.cell_bits), np.uint64((1 << window.index_bits) - 1)
        return cls((flat >> cell) & index, flat & ((np.uint64(1) << cell) - np.uint64(1)), 1 << window.index_bits)

    def one_hot(self) -> Words:
        """P0: rows with the single bit lh set."""
        if self.high is None:
            raise ProtocolMisuse("only the dealer makes a one-hot")
        return ring.flip(np.zeros((self.high.size, self.cells // 8), np.uint8), self.high)

    def signed_powers(self, selectors: Words, degree: int) -> list[Words]:
        """P0: sigma * ll^j, where sigma = +1 if P1's selector bit at lh is set, else -1."""
        if self.high is None or self.low is None:
            raise ProtocolMisuse("only the dealer knows sigma")
        powers = [ring.picked(selectors, self.high) * np.uint64(2) - np.uint64(1)]
        for _ in range(degree):
            powers.append(powers[-1] * self.low)
        return powers

    def local_sums(self, selectors: Words, table: Table, lead: bool) -> Words:
        """P1, P2: shares of sigma c_j with ``sum_j ll^j c_j = sum_k T_k (ml - ll)^k``: (degree + 1, N)."""
        if self.high is None or self.low is None:
            raise ProtocolMisuse("only evaluators sum tables")
        sums = ring.table_sums(selectors, self.high, table.coefficients)
        for first in range(len(sums) - 1):  # the polynomial about ml, by repeated synthetic division
            for j in range(len(sums) - 2, first - 1, -1):
                sums[j] += self.low * sums[j + 1]
        for j, row in enumerate(sums):
            if (j % 2 == 1) == lead:  # in powers of -ll; and P2's share is the negative
                np.negative(row, out=row)
        return sums
