"""Exact equality with zero: all bits of the masked word are those of its mask, a conjunction in a radix-4 tree.

P1 and P2 know m, P0 knows l, and x = 0 exactly if no bit of m differs from that of l. In the lowest level m is public to P1 and P2, so
the conjunction of four ``not (m_i xor l_i)`` is a sum of dealt products of mask bits: the pass-on bit of a comparison
(:mod:`.compare`), without the borrows. Higher levels are conjunctions of four masked bits.
"""

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.functions.bits import BitShare, Planes, join, polynomial_shares, remask, size, stack, to_planes
from moiety.mpc.functions.compare import RADIX, Subtraction, group_shares
from moiety.mpc.party import Party
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share


async def is_zero(party: Party, x: Share, bits: int) -> BitShare:
    """The secret bit [x = 0], exact for ``-2^(bits-1) <= x < 2^(bits-1)`` raw units; bits 2 to 64.

    Rounds: 1 for bits <= 4, 2 for bits <= 16, else 3. Bits an element (in octets of eight elements), for example 16: 71 dealt and 10
    exchanged; 64: 295 dealt and 42 exchanged. P1 and P2 see padded bits, P0 nothing.
    """
    if not 2 <= bits <= x.bits:
        raise ProtocolMisuse(f"cannot compare on {bits} bits in a ring of {x.bits}; take 2 to {x.bits}")
    values = None if x.masked is None else to_planes(x.masked, bits)[None]
    mask = to_planes(x.mask, bits) if party.helps and x.mask is not None else None
    task = Subtraction(1, size(x.shape), bits, values, mask)
    nodes = sum(count for _, _, count in task.batches())
    found, task = group_shares(party, task), task.without_bits()
    level = await remask(party, None if found is None else found[1][0], (nodes, task.octets))
    while nodes > 1:
        level, nodes = await _combine(party, level, nodes, task.octets)
    alike = level.at(0)
    return BitShare(x.shape, alike.masked, alike.mask)


async def _combine(party: Party, level: Planes, nodes: int, octets: int) -> tuple[Planes, int]:
    """Four nodes become one; a single node left over is passed on as it is. 1 round."""
    full, rest = divmod(nodes, RADIX)
    batches = [(slice(0, RADIX * full), RADIX, full), (slice(RADIX * full, nodes), rest, 1)]
    parts: list[Words | None] = []
    made = 0
    for place, width, count in batches:
        if width > 1 and count:
            group = level.at(place)
            planes = stack([group.at(slice(j, None, width)) for j in range(width)])
            shares = polynomial_shares(party, planes, (count, octets), ((tuple(range(width)),),))
            parts.append(None if shares is None else shares[0])
            made += count
    held = [part for part in parts if part is not None]
    fresh = await remask(party, np.concatenate(held) if held else None, (made, octets))
    if rest == 1:
        fresh = join([fresh, level.at(slice(nodes - 1, nodes))], 0)
    return fresh, made + (rest == 1)
