"""Look-ups in one round, by distributed point functions: for more dealt bytes and more work than those of :mod:`.table`.

In its setting, P0 knows l, the mask of x, and deals the evaluators keys of the function f that is ``(1, ll, ll^2 ...)`` at the cell lh
and zero elsewhere (:mod:`~moiety.ring.points`). Its values are shares of numbers, not of bits as a one-hot's, so no sign is left to be
repaired: with the public ``m = 2^s mh + ml`` the evaluators add up ``T[mh - j] f(j)`` over all cells j, which is ``T[i] (1, ll, ll^2 ...)``
in the cell i of x, and turn powers of ll into those of ``t = ml - ll``, all of it locally.
"""

import math
from collections.abc import Sequence

import numpy as np

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.table import Split, Table, Window, masked
from moiety.mpc.party import Kind, Party
from moiety.mpc.rounds import Role, Words
from moiety.mpc.share import Share, wrap

KEY_OCTETS = 16


async def lookup(party: Party, x: Share, window: Window, tables: Sequence[Table], bits: int | None = None) -> list[Share]:
    """Evaluate several tables of one window and degree d at the secret x, in its ring or in another one of ``bits``. 1 round.

    Bytes an element, for 2^n cells and words of B bytes (8 of 64 bits): ``2 (16 (n - 1) + 2 B (d + 1))`` dealt for the window, and for each
    table ``2 B`` exchanged; 32 more dealt for the look-up as a whole. About ``2^n (3 + d) / 2`` blocks of AES an element at each evaluator.
    Results are exactly those of :func:`.table.lookup`. Nothing is revealed, if AES is an ideal cipher; see ``docs/security/points.md``.
    """
    bits = bits or x.bits
    return await masked(party, lookup_shares(party, x, window, tables, bits), x.shape, tables, bits)


def lookup_shares(party: Party, x: Share, window: Window, tables: Sequence[Table], bits: int) -> Words | None:
    """As :func:`lookup`, but additive shares (tables, *x.shape), None where this role has none: 0 rounds."""
    parts, count = len(tables[0].coefficients), math.prod(x.shape)
    if parts > ring.MOST_WORDS or any(len(table.coefficients) != parts for table in tables):
        raise ProtocolMisuse(f"tables that share point functions have polynomials of one degree, below {ring.MOST_WORDS}")
    split, depth = Split.of(x, window, bits), window.index_bits - 1
    roots = party.draw_each(Kind.POINT_ROOT, (count, 2))
    drawn = party.draw_for(Role.P1, Kind.POINT_KEY, (KEY_OCTETS,), 8)
    key = party.deal_alike(Kind.POINT_KEY, (KEY_OCTETS,), lambda: drawn, 8)  # type: ignore[arg-type,return-value]
    made = _corrections(key, roots, split, window, parts) if party.helps else None
    steps = party.deal_alike(Kind.POINT_CORRECTION, (count, depth, 2), lambda: made[0])  # type: ignore[index]
    last = party.deal_alike(Kind.POINT_CORRECTION, (count, parts, 2), lambda: wrap(made[1], bits), bits)  # type: ignore[index]
    if not party.evaluates:
        return None
    cells = np.stack([table.coefficients for table in tables])
    given = (key, roots[0 if party.leads else 1], (steps, last), split.high, split.low)
    found = ring.point_sums(*given, cells, party.leads)  # type: ignore[arg-type]
    return wrap(found, bits).reshape(len(tables), *x.shape)


def _corrections(
    key: Words | None, roots: tuple[Words | None, Words | None], split: Split, window: Window, parts: int
) -> tuple[Words, Words]:
    """P0: what the evaluators need in common."""
    one, two = roots
    if key is None or one is None or two is None or split.high is None or split.low is None:
        raise ProtocolMisuse("only the dealer makes the keys of point functions")
    powers = np.stack([split.low ** np.uint64(power) for power in range(parts)])
    return ring.point_keys(key, (one, two), split.high, powers, window.index_bits)
