"""Which look-ups a plan makes by point functions: those where the link carries the run sooner so.

A look-up that is no factor takes two rounds, by a one-hot; by point functions (:mod:`moiety.mpc.functions.points`) one, for several times
as many dealt bytes and work that grows with its cells. Results are the same. As in :mod:`.forms` all places alike take the same form, and
the whole run is played on the link: from none of them on with more of them, and from all of them on with fewer, for look-ups of two
kinds that share their rounds each seem to gain nothing alone.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from moiety.compile import program
from moiety.compile.choose import run_seconds
from moiety.compile.plan import Choice, Node, Plan
from moiety.net import Net

FAR_S = 5e-3
"""Delay of a link from which on point functions are weighed. On shorter ones they would save less than what the work of a round, here and
on other machines, is uncertain by; there every look-up stays free of any assumption but the generator's."""
BLOCK_S = 1.7e-9
"""Of a block of AES at an evaluator, with its part of the sums: 3.4 ns for a cell of a line, which takes two, on one core of a server."""
STEP = "look-up"
FEW, MANY = "by point functions", "by a one-hot"


def chosen(plan: Plan, link: Net) -> Plan:
    """A pruned plan whose look-ups are by point functions where that is faster; it says why (``choices``)."""
    if link.delay_s < FAR_S:
        return plan
    shapes = program.shapes(plan)
    kinds = _alike(plan, shapes)

    def seconds(points: frozenset[int]) -> float:
        return _seconds(plan, shapes, points, link)

    found = min(
        (_searched(start, kinds, seconds) for start in (frozenset[int](), frozenset[int]().union(*kinds))), key=lambda one: one.seconds
    )
    tried = zip(kinds, found.tried, strict=True)
    choices = [Choice(plan.modules[min(nodes)], STEP, link.name, took, len(nodes), whole=True) for nodes, took in tried]
    return msgspec.structs.replace(_by_points(plan, found.points), choices=(*plan.choices, *choices))


class _Found(NamedTuple):
    """Which look-ups are by point functions, the run's seconds, and what either form of every kind took when it was tried."""

    points: frozenset[int]
    seconds: float
    tried: list[dict[str, float]]


def _searched(points: frozenset[int], kinds: Sequence[frozenset[int]], seconds: Callable[[frozenset[int]], float]) -> _Found:
    """From ``points`` on, one kind of look-ups after another takes its other form if the run is sooner over so."""
    best, tried = seconds(points), []
    for nodes in kinds:
        now, other = (FEW, MANY) if nodes <= points else (MANY, FEW)
        took = seconds(points ^ nodes)
        tried.append({other: took, now: best} if took < best else {now: best, other: took})
        if took < best:
            points, best = points ^ nodes, took
    return _Found(points, best, tried)


def _seconds(plan: Plan, shapes: Sequence[tuple[int, ...]], points: Collection[int], link: Net) -> float:
    waves = program.wave_table(program.costs(_by_points(plan, points)))
    return run_seconds(link, waves) + BLOCK_S * sum(_blocks(plan, shapes, i) for i in points)


def _by_points(plan: Plan, points: Collection[int]) -> Plan:
    found = (Node(n.op, n.inputs, {**n.params, "points": True}) if i in points else n for i, n in enumerate(plan.nodes))
    return msgspec.structs.replace(plan, nodes=tuple(found))


def _blocks(plan: Plan, shapes: Sequence[tuple[int, ...]], i: int) -> float:
    """What an evaluator encrypts for a look-up: a block a cell for the tree, and half a one for each coefficient."""
    levels = [shapes[j] for j in plan.nodes[i].inputs[1:]]
    return math.prod(shapes[i]) * sum(cells * (1 + coefficients / 2) for coefficients, cells in levels)


def _alike(plan: Plan, shapes: Sequence[tuple[int, ...]]) -> list[frozenset[int]]:
    """Look-ups of the same shape in tables of the same size."""
    alike: dict[Any, list[int]] = {}
    for i, node in enumerate(plan.nodes):
        if node.op == "table":
            alike.setdefault((shapes[i], *(shapes[j] for j in node.inputs[1:])), []).append(i)
    return [frozenset(nodes) for nodes in alike.values()]
