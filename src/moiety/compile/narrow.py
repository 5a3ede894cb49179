"""Rings as small as the values need: the last rewrite of a program before its waves are counted.

Every word that is dealt or exchanged belongs to a ring. A product computed modulo 2^w is right modulo 2^w, so a ring needs no more bits
than somebody reads of the value; and a truncation, a table or a comparison reads no more than its bound, which :mod:`.bounds` knows.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec

from moiety.compile.bounds import SAFE, VIEWS, Bounds
from moiety.compile.passes import PRODUCTS, Truncation
from moiety.compile.plan import Node, Plan

RING = 64
OCTET = 8
LEAST = 16
"""Bits of the smallest ring that a product may have."""


def octets_of(bits: int) -> int:
    """The next ring that is as wide and fills whole octets."""
    return min(RING, max(LEAST, -(-bits // OCTET) * OCTET))


def signed_bits(peak: float) -> int:
    """Bits in which integers of that magnitude stay below a quarter of the ring: so much a truncation needs. Too many if unbounded."""
    most = peak * SAFE + 2
    return math.ceil(math.log2(most)) + 2 if math.isfinite(most) else 2 * RING


def left_after(peak: float, drop: int) -> int:
    """Bits of the ring that holds a value after a truncation by ``drop``: all that a ring of 64 leaves, where the bound says no better."""
    return min(RING - drop, max(LEAST, -(-signed_bits(peak * 2.0**-drop + 2) // OCTET) * OCTET))


def cut_products(plan: Plan, truncations: Mapping[int, Truncation], bounds: Bounds) -> Plan:
    """Let products drop the bits that all who read them, through views, drop next. Where some drop more, a rescale of the rest is left."""
    nodes, users = list(plan.nodes), _users(plan)
    for i, node in enumerate(plan.nodes):
        if node.op not in PRODUCTS or "drop" in node.params:
            continue
        readers = _readers(plan, users, i)
        if not readers or any(plan.nodes[j].op != "rescale" or j not in truncations for j in readers):
            continue
        drop = min(truncations[j].drop for j in readers)
        nodes[i] = Node(node.op, node.inputs, {**node.params, "drop": drop, "width": left_after(bounds.checked[i].peak, drop)})
        for j in readers:
            if truncations[j].drop == drop:
                nodes[j] = Node("as_fraction", plan.nodes[j].inputs, plan.nodes[j].params)
    return msgspec.structs.replace(plan, nodes=tuple(nodes))


def _users(plan: Plan) -> list[list[int]]:
    users: list[list[int]] = [[] for _ in plan.nodes]
    for i, node in enumerate(plan.nodes):
        for j in set(node.inputs):
            users[j].append(i)
    for state in plan.states:
        if state.write >= 0:
            users[state.write].append(-1)  # it keeps what is written as it is
    return users


def _readers(plan: Plan, users: Sequence[Sequence[int]], i: int) -> list[int]:
    """The nodes that compute with the result of node i, itself or a view of it; -1 for a state."""
    out: list[int] = []
    for j in users[i]:
        out += _readers(plan, users, j) if j >= 0 and plan.nodes[j].op in VIEWS else [j]
    return out


def checks_needed(plan: Plan, bounds: Bounds, slacks: Mapping[int, int]) -> Plan:
    """Range checks in rings as small as the bounds allow, and none of values that cannot leave their range."""
    nodes = list(plan.nodes)
    vacuous = set()
    for i, slack in slacks.items():
        node = plan.nodes[i]
        low, high = node.params["low"], node.params["high"]
        peak = bounds.free[node.inputs[0]].peak * SAFE + 1
        if low <= -peak and peak < high:
            vacuous.add(i)
        drop = max(0, slack.bit_length() - 2)
        ends = max(abs(low), abs(high)) + (2 << drop)
        bits = math.ceil(math.log2((peak + ends) * 2.0**-drop + 4)) if math.isfinite(peak) else RING
        bits = min(RING - drop, max(bits, (ends >> drop).bit_length() + 3))
        nodes[i] = Node(node.op, node.inputs, {**node.params, "drop": drop, "bits": bits})
    for i, node in enumerate(nodes):
        if node.op == "any_flag":  # an answer says that it was checked, so one check is always left
            nodes[i] = Node(node.op, tuple(j for j in node.inputs if j not in vacuous) or node.inputs[:1], node.params)
    return msgspec.structs.replace(plan, nodes=tuple(nodes))


def narrow(plan: Plan, truncations: Mapping[int, Truncation], bounds: Bounds, wide: Collection[int] = ()) -> Plan:
    """Give every product, truncation and table the smallest ring that its readers can do with.

    ``needed`` are the bits of each node's words that anybody reads, found from the last node to the first. A product that is ``wide`` is
    computed, where 64 bits hold it, in a ring from which it need not be raised to its readers'.
    """
    needed = [0] * len(plan.nodes)
    nodes = list(plan.nodes)
    for state in plan.states:
        if state.write >= 0:
            needed[state.write] = RING
    for i in reversed(range(len(nodes))):
        node = nodes[i]
        if node.op == "reveal":
            needed[i] = octets_of(signed_bits(bounds.checked[node.inputs[0]].peak))
        if not needed[i]:
            continue
        bits = octets_of(needed[i])
        drop = truncations[i].drop if i in truncations else 0
        nodes[i] = node = _in_ring(node, bits, drop, bounds, i in wide)
        for place, j in enumerate(node.inputs):
            needed[j] = max(needed[j], _reads(node, place, needed[i], bits, drop))
    return msgspec.structs.replace(plan, nodes=tuple(nodes))


LINEAR = frozenset(VIEWS) | {
    "add",
    "add_public",
    "as_fraction",
    "concat",
    "expand",
    "gather",
    "multiply_public",
    "negate",
    "pad",
    "pile",
    "row",
    "running_total",
    "scale",
    "subtract",
    "total",
    "zeros_like",
}
"""Nodes whose result is right modulo 2^w if their operands are."""


EXACT = frozenset({"clamp", "relu"})
"""Nodes that compare an operand in a ring of their ``bits`` and yield it or something in its ring."""


def _in_ring(node: Node, bits: int, drop: int, bounds: Bounds, wide: bool) -> Node:
    """A node whose result has the ring of ``bits``, or a larger one; ``drop``: what a rescale drops."""
    params = dict(node.params)
    if node.op in PRODUCTS and "width" in params:
        room = bits + params["drop"] <= RING
        params["width"] = bits if wide and room else min(params["width"], bits)  # what a ring keeps is right without any bound
    if node.op in PRODUCTS and ("width" in params or "drop" not in params) and bits < RING:
        params["bits"] = bits
    elif node.op == "rescale" and drop > 0:
        width = min(bits, left_after(bounds.checked[node.inputs[0]].peak, drop))
        params |= {"width": width, "bits": bits} if width < RING - drop else {}
    elif node.op in ("table", "reveal") and bits < RING:
        params["bits"] = bits
    elif node.op in EXACT and (ring := octets_of(max(bits, params["bits"]))) < RING:
        params["ring"] = ring
    return Node(node.op, node.inputs, params)


def _reads(node: Node, place: int, needed: int, bits: int, drop: int) -> int:
    """How many low bits of an operand the node reads, if ``needed`` bits of its result are read and ``bits`` are its ring."""
    params = node.params
    if node.op in LINEAR:
        return needed
    if node.op in PRODUCTS:
        return params["width"] + params["drop"] if "width" in params else RING if "drop" in params else bits
    if node.op in ("spread", "sum_of_squares"):
        return needed
    if node.op in EXACT:
        return max(needed, int(params["bits"]))
    if node.op == "reveal":
        return needed
    if node.op == "rescale" and "width" in params:
        return int(params["width"]) + drop
    if node.op == "table":
        windows = params["windows"]
        return int(max(sum(windows[at + 1 : at + 4]) for at in range(0, len(windows), 4)))
    if node.op == "out_of_range":
        return int(params["drop"] + params["bits"])
    if node.op == "row_max" and place == 0:
        return int(params["step_bits"]) + OCTET
    return RING
