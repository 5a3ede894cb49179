"""What a plan costs by the modules of the user's model, as their tree."""

from collections.abc import Iterable

import msgspec

from moiety.compile import program
from moiety.compile.plan import Lookup, Plan
from moiety.engine.cost import Contribution, contributions
from moiety.engine.timing import Net, Rates, Work, work


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


def tree(plan: Plan, net: Net, rates: Rates, depth: int = 3) -> Branch:
    """The whole plan as a branch, with ``depth`` levels of parts; what lies deeper counts for the last level."""
    nodes = [(one.module.split("."), one, done) for one, done in zip(contributions(plan, program.costs(plan)), work(plan), strict=True)]
    lookups = [(lookup.module.split("."), lookup) for lookup in plan.lookups]
    return _branch("", nodes, lookups, net, rates, depth)


_Node = tuple[list[str], Contribution, Work]


def _branch(name: str, nodes: list[_Node], lookups: list[tuple[list[str], Lookup]], net: Net, rates: Rates, depth: int) -> Branch:
    waves = set[int]().union(*(one.waves for _, one, _ in nodes))
    spoken, dealt = sum(one.spoken_bytes for _, one, _ in nodes), sum(one.dealt_bytes for _, one, _ in nodes)
    done = sum((done for _, _, done in nodes), Work())
    seconds = len(waves) * net.rtt_s / 2 + spoken / 2 / net.bytes_per_s + rates.seconds(done)  # both directions at once
    parts: list[Branch] = []
    for head in _heads(path for path, _, _ in nodes) if depth else ():
        inner = [(path[1:], one, work) for path, one, work in nodes if path[:1] == [head]]
        tables = [(path[1:], lookup) for path, lookup in lookups if path[:1] == [head]]
        parts.append(_branch(head, inner, tables, net, rates, depth - 1))
    return Branch(
        name=name,
        rounds=len(waves),
        spoken_bytes=spoken,
        dealt_bytes=dealt,
        products=done.products,
        alone_s=seconds,
        lookups=tuple(lookup for path, lookup in lookups if not (path and depth)),
        parts=tuple(part for part in parts if part.rounds or part.dealt_bytes),
    )


def _heads(paths: Iterable[list[str]]) -> list[str]:
    """First names, each once, in the order of the model."""
    return list(dict.fromkeys(path[0] for path in paths if path))
