"""What a plan costs by the modules of the user's model, as their tree."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from moiety.compile import program
from moiety.compile.plan import Lookup, Plan
from moiety.engine.cost import Contribution, contributions
from moiety.engine.effort import Effort
from moiety.engine.timing import WAVE_S
from moiety.mpc import rep3
from moiety.net import Net


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """A module with all that is below it. ``rounds`` in which any of it speaks; modules share rounds, so these do not add up, and
    nor does ``alone_s``, the seconds that it would take by itself. Bytes do: ``spoken`` by evaluators and client, ``dealt`` by P0."""

    name: str
    rounds: int
    spoken_bytes: int
    dealt_bytes: int
    products: int
    """Multiply-adds of an evaluator."""
    alone_s: float
    lookups: tuple[Lookup, ...] = ()
    parts: tuple["Branch", ...] = ()


def tree(plan: Plan, net: Net, efforts: Sequence[Effort], depth: int = 3) -> Branch:
    """The whole plan as a branch, with ``depth`` levels of parts; what lies deeper counts for the last level."""
    steps = zip(contributions(plan, program.costs(plan)), products(plan), efforts, strict=True)
    nodes = [_Node(one.module.split("."), one, count, sum(effort.evaluator_s)) for one, count, effort in steps]
    lookups = [(lookup.module.split("."), lookup) for lookup in plan.lookups]
    return _branch("", nodes, lookups, net, depth)


def products(plan: Plan) -> list[int]:
    """Multiply-adds of an evaluator in every node's matrix products."""
    shapes = program.shapes(plan)
    out = []
    for i, node in enumerate(plan.nodes):
        if node.op == "matmul":  # whole, even where few places of the result are wanted
            x, y = (shapes[j] for j in node.inputs[:2])
            out.append(2 * math.prod(rep3.MATMUL.shape(x, y)) * x[-1])
        else:
            out.append(2 * math.prod(shapes[i]) * (shapes[node.inputs[1]][0] if node.op == "linear" else 0))
    return out


class _Node(NamedTuple):
    """``path``: the module's name, in parts."""

    path: list[str]
    cost: Contribution
    products: int
    compute_s: float


def _branch(name: str, nodes: list[_Node], lookups: list[tuple[list[str], Lookup]], net: Net, depth: int) -> Branch:
    waves = set[int]().union(*(node.cost.waves for node in nodes))
    spoken, dealt = sum(node.cost.spoken_bytes for node in nodes), sum(node.cost.dealt_bytes for node in nodes)
    compute = sum(node.compute_s for node in nodes)
    seconds = len(waves) * (net.delay_s + WAVE_S) + spoken / 2 / net.bytes_per_s + compute  # both directions at once
    parts: list[Branch] = []
    for head in _heads(node.path for node in nodes) if depth else ():
        inner = [node._replace(path=node.path[1:]) for node in nodes if node.path[:1] == [head]]
        tables = [(path[1:], lookup) for path, lookup in lookups if path[:1] == [head]]
        parts.append(_branch(head, inner, tables, net, depth - 1))
    return Branch(
        name=name,
        rounds=len(waves),
        spoken_bytes=spoken,
        dealt_bytes=dealt,
        products=sum(node.products for node in nodes),
        alone_s=seconds,
        lookups=tuple(lookup for path, lookup in lookups if not (path and depth)),
        parts=tuple(part for part in parts if part.rounds or part.dealt_bytes),
    )


def _heads(paths: Iterable[list[str]]) -> list[str]:
    """First names, each once, in the order of the model."""
    return list(dict.fromkeys(path[0] for path in paths if path))
