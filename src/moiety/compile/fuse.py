"""Element-wise operations on one secret, looked up as the one function that they are.

Models write activations out: ``x * sigmoid(1.702 * x)``, or ``0.5 * x * (1 + tanh(...))`` with a cube inside. Operation by operation
that costs a table, products and truncations; as one function of one number it is one look-up.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from moiety.compile.capture import Captured

aten = torch.ops.aten

FREE = {
    aten.add.Tensor,
    aten.add.Scalar,
    aten.sub.Tensor,
    aten.sub.Scalar,
    aten.rsub.Scalar,
    aten.neg.default,
    aten.div.Scalar,
    aten.mul.Scalar,
}
"""Operations that cost nothing by themselves: with numbers, or with another value of the same secret."""
PRODUCTS = {aten.mul.Tensor, aten.div.Tensor, aten.square.default, aten.pow.Tensor_Scalar}
"""One round and a truncation where both operands are secret."""
TABLES = {
    aten.exp.default,
    aten.erf.default,
    aten.gelu.default,
    aten.mish.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.softplus.default,
    aten.tanh.default,
}
"""Smooth functions that are tables already, defined everywhere."""


class Place(NamedTuple):
    """The value of an earlier step; -1 is the argument itself."""

    step: int


class Step(NamedTuple):
    """One operation of a composed function, on numbers and on places."""

    target: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Composed:
    """A function of real numbers, element by element, in float64. Equal steps make equal functions."""

    steps: tuple[Step, ...]

    @property
    def __name__(self) -> str:
        costly = [step.target for step in self.steps if step.target not in FREE]
        return "+".join(dict.fromkeys(target.name().removeprefix("aten::").partition(".")[0] for target in costly))

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        given = torch.from_numpy(np.ascontiguousarray(x, np.float64))
        values: list[torch.Tensor] = []

        def real(value: Any) -> Any:
            return value if not isinstance(value, Place) else given if value.step < 0 else values[value.step]

        for step in self.steps:
            values.append(step.target(*map(real, step.args), **{name: real(value) for name, value in step.kwargs}))
        return np.asarray(values[-1].numpy())


@dataclass(frozen=True, slots=True)
class Chain:
    """All operations between a secret, ``root``, and ``nodes[-1]``, which depends on nothing else."""

    root: fx.Node
    nodes: tuple[fx.Node, ...]
    function: Composed


def chains(captured: Captured, secret: Collection[fx.Node]) -> dict[fx.Node, Chain]:
    """What is worth a look-up of its own, by its last node: it saves at least one table and one more operation that costs something."""
    roots = dict(_roots(captured, secret))
    ends = [node for node in roots if any(user not in roots for user in node.users)]
    found = {}
    for end in ends:
        nodes = _between(end, roots)
        costly = [n for n in _only_for(nodes) if n.target in TABLES or (n.target in PRODUCTS and not _by_number(n))]
        if len(costly) > 1 and any(n.target in TABLES for n in costly):
            found[end] = Chain(roots[end], nodes, _composed(roots[end], nodes))
    return found


def _only_for(nodes: tuple[fx.Node, ...]) -> list[fx.Node]:
    """The last of these operations, and those that serve nothing but it."""
    out = [nodes[-1]]
    for node in reversed(nodes[:-1]):
        if all(user in out for user in node.users):
            out.append(node)
    return out


def inside(found: Mapping[fx.Node, Chain]) -> set[fx.Node]:
    """Operations that only serve chains, so that nothing else asks for their values."""
    served = {node for chain in found.values() for node in chain.nodes}
    return {node for node in served if node not in found and served.issuperset(node.users)}


def _roots(captured: Captured, secret: Collection[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Each element-wise operation with the one secret that it is a function of."""
    known: dict[fx.Node, fx.Node] = {}
    for node in captured.graph.nodes:
        if node not in secret or node.target not in FREE | PRODUCTS | TABLES:
            continue
        origins = {known.get(n, n) for n in node.all_input_nodes}
        if len(origins) == 1:
            [origin] = origins
            if origin in secret and origin.meta["val"].shape == node.meta["val"].shape and origin.meta["val"].is_floating_point():
                known[node] = origin
                yield node, origin


def _by_number(node: fx.Node) -> bool:
    """Whether a product or quotient has a number on one side."""
    return node.target in (aten.mul.Tensor, aten.div.Tensor) and not all(isinstance(n, fx.Node) for n in node.args[:2])


def _between(end: fx.Node, roots: Mapping[fx.Node, fx.Node]) -> tuple[fx.Node, ...]:
    """The operations that lead from the root to ``end``, in the order of the graph."""
    wanted, pending = set(), [end]
    while pending:
        node = pending.pop()
        if node in roots and roots[node] is roots[end] and node not in wanted:
            wanted.add(node)
            pending += node.all_input_nodes
    return tuple(node for node in roots if node in wanted)


def _composed(root: fx.Node, nodes: tuple[fx.Node, ...]) -> Composed:
    places: dict[fx.Node, Any] = {root: Place(-1)} | {node: Place(i) for i, node in enumerate(nodes)}

    def plain(value: Any) -> Any:
        return value if not isinstance(value, fx.Node) else places[value]

    return Composed(
        tuple(
            Step(node.target, tuple(map(plain, node.args)), tuple((name, plain(value)) for name, value in node.kwargs.items()))
            for node in nodes
        )
    )
