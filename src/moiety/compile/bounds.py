"""Hard bounds: how large the words of a plan can become, whatever is put in within the inputs' bounds.

Calibrated ranges say what examples reached; a bound here holds for every input that the client may give, as long as no range check of the
run fails. Only the owner can find it, from the weights. By it a product, a truncation or a range check may use a ring of fewer than 64 bits
without ever wrapping: reduction mod 2^w loses nothing of a value below 2^(w-1). Where nothing is known the bound is infinite.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from moiety.compile.later import Later, made
from moiety.compile.plan import Node, Plan

SAFE: float = 1.0001
"""What sums in floating point may be short of."""
VIEWS = ("cut", "permute", "reshape", "take")
"""Nodes that only choose and arrange elements."""


class Bound(NamedTuple):
    """Of words as signed integers: the largest magnitude of an element, and the greatest length of a row (last axis) as a vector."""

    peak: float
    norm: float

    def on(self, shape: tuple[int, ...]) -> "Bound":
        """Each as tight as the other makes it for rows of this shape."""
        columns = shape[-1] if shape else 1
        return Bound(min(self.peak, self.norm), min(self.norm, self.peak * math.sqrt(columns) * SAFE))

    def times(self, factor: float) -> "Bound":
        return Bound(self.peak * factor, self.norm * factor) if factor else NOTHING


UNKNOWN = Bound(math.inf, math.inf)
NOTHING = Bound(0.0, 0.0)


class Claim(NamedTuple):
    """What a rule knows of a value beyond what its operations tell: a bound in words, or as many times that of a node. It may rely on
    the range checks of what it was computed from."""

    peak: float
    norm: float = math.inf
    of: int | None = None


class Bounds(NamedTuple):
    """Of every node: before and after the run's range checks are taken to have passed."""

    free: list[Bound]
    checked: list[Bound]


def find(
    plan: Plan,
    shapes: Sequence[tuple[int, ...]],
    tensors: Mapping[str, torch.Tensor | Later],
    drops: Mapping[int, int],
    claims: Mapping[int, Claim],
    slacks: Mapping[int, int],
) -> Bounds:
    """``drops``: fraction bits that rescale nodes drop; ``slacks``: how far beyond its ends a check may let a value go."""
    return _Finder(plan, shapes, tensors, drops).run(claims, slacks)


class _Finder:
    def __init__(
        self, plan: Plan, shapes: Sequence[tuple[int, ...]], tensors: Mapping[str, torch.Tensor | Later], drops: Mapping[int, int]
    ) -> None:
        self.plan, self.shapes, self.tensors, self.drops = plan, shapes, tensors, drops
        self.found: list[Bound] = []

    def run(self, claims: Mapping[int, Claim], slacks: Mapping[int, int]) -> Bounds:
        checks: dict[int, float] = {}
        for i, slack in slacks.items():
            node = self.plan.nodes[i]
            [x] = node.inputs
            checks[x] = min(checks.get(x, math.inf), max(abs(node.params["low"]), abs(node.params["high"])) + slack)
        free: list[Bound] = []
        for i, node in enumerate(self.plan.nodes):
            rule = _RULES.get(node.op)
            bound = rule(self, node, i) if rule and not node.params.get("drop") else UNKNOWN  # what may fail grossly has no bound
            if i in claims:
                bound = _meet(bound, self._claimed(claims[i]))
            bound = bound.on(self.shapes[i])
            free.append(bound)
            self.found.append(_meet(bound, Bound(checks.get(i, math.inf), math.inf)).on(self.shapes[i]))
        return Bounds(free, self.found)

    def _claimed(self, claim: Claim) -> Bound:
        factor = 1.0 if claim.of is None else self.found[claim.of].peak
        return Bound(claim.peak * factor, claim.norm * factor)

    def of(self, node: Node, place: int = 0) -> Bound:
        return self.found[node.inputs[place]]

    def shape(self, node: Node, place: int = 0) -> tuple[int, ...]:
        return self.shapes[node.inputs[place]]

    def words(self, node: Node, place: int) -> np.ndarray[Any, Any]:
        """Magnitudes of the constant that a node reads."""
        constant = self.plan.constants[self.plan.nodes[node.inputs[place]].params["index"]].words()
        magnitudes: np.ndarray[Any, Any] = np.abs(constant.view(np.int64).astype(np.float64))
        return magnitudes

    def tensor(self, node: Node, place: int) -> tuple[torch.Tensor, float] | None:
        """The owner's tensor that a node reads, and its scale; None where a node reads something else."""
        source = self.plan.nodes[node.inputs[place]]
        if source.op != "weight":
            return None
        weight = self.plan.weights[source.params["index"]]
        return made(self.tensors[weight.name]).detach(), 2.0**weight.fraction


def _meet(a: Bound, b: Bound) -> Bound:
    return Bound(min(a.peak, b.peak), min(a.norm, b.norm))


_Rule = Callable[[_Finder, Node, int], Bound]
_RULES: dict[str, _Rule] = {}


def _rule(*ops: str) -> Callable[[_Rule], _Rule]:
    def register(f: _Rule) -> _Rule:
        _RULES.update(dict.fromkeys(ops, f))
        return f

    return register


@_rule("input")
def _input(finder: _Finder, node: Node, i: int) -> Bound:
    spec = finder.plan.inputs[node.params["index"]]
    if spec.form == "one_hot":
        return Bound(1.0, 1.0)
    return Bound(spec.bound * 2.0**spec.fraction + 1 if spec.bound else math.inf, math.inf)


@_rule("weight")
def _weight(finder: _Finder, node: Node, i: int) -> Bound:
    weight = finder.plan.weights[node.params["index"]]
    if weight.packed:
        return UNKNOWN
    held, scale = made(finder.tensors[weight.name]).detach(), 2.0**weight.fraction
    if not held.numel():
        return NOTHING
    rows = held.reshape(-1, held.shape[-1]) if held.ndim else held.reshape(1, 1)
    norm = float(torch.linalg.vector_norm(rows.float(), dim=1).max())
    return Bound(float(held.abs().max()) * scale * SAFE + 1, norm * scale * SAFE + math.sqrt(rows.shape[-1]))


@_rule("add", "subtract")
def _sum(finder: _Finder, node: Node, i: int) -> Bound:
    x, y = finder.of(node), finder.of(node, 1)
    columns = finder.shapes[i][-1:]
    alike = all(finder.shape(node, place)[-1:] == columns for place in (0, 1))
    return Bound(x.peak + y.peak, x.norm + y.norm if alike else math.inf)


@_rule("negate", "as_fraction")
def _same(finder: _Finder, node: Node, i: int) -> Bound:
    return finder.of(node)


@_rule("permute")
def _permuted(finder: _Finder, node: Node, i: int) -> Bound:
    x, dims = finder.of(node), node.params["dims"]
    return x if dims and dims[-1] == len(dims) - 1 else Bound(x.peak, math.inf)


@_rule("cut", "take")
def _chosen(finder: _Finder, node: Node, i: int) -> Bound:
    x = finder.of(node)
    twice = node.op == "take" and node.params["axis"] == len(finder.shape(node)) - 1
    return Bound(x.peak, math.inf if twice else x.norm)


@_rule("reshape")
def _reshaped(finder: _Finder, node: Node, i: int) -> Bound:
    x, before, after = finder.of(node), finder.shape(node)[-1:], finder.shapes[i][-1:]
    if not before or not after or not after[0] or not before[0]:
        return Bound(x.peak, math.inf)
    if before[0] % after[0] == 0:  # rows become parts of rows
        return x
    whole, rest = divmod(after[0], before[0])
    return Bound(x.peak, math.inf if rest else x.norm * math.sqrt(whole))


@_rule("expand", "gather", "row", "pad", "concat")
def _peak_alone(finder: _Finder, node: Node, i: int) -> Bound:
    shares = node.inputs if node.op == "concat" else node.inputs[:1]
    return Bound(max(finder.found[j].peak for j in shares), math.inf)


@_rule("pile")
def _piled(finder: _Finder, node: Node, i: int) -> Bound:
    places = finder.plan.constants[finder.plan.nodes[node.inputs[1]].params["index"]].words()
    once = bool((places.ravel()[1:] > places.ravel()[:-1]).all())  # as those of a mask are
    most = 1 if once else int(np.unique(places, return_counts=True)[1].max(initial=0))
    return Bound(finder.of(node).peak * most, math.inf)


@_rule("zeros_like")
def _zeros(finder: _Finder, node: Node, i: int) -> Bound:
    return NOTHING


@_rule("add_public")
def _plus_public(finder: _Finder, node: Node, i: int) -> Bound:
    return Bound(finder.of(node).peak + float(finder.words(node, 1).max(initial=0.0)), math.inf)


@_rule("multiply_public")
def _times_public(finder: _Finder, node: Node, i: int) -> Bound:
    found = finder.of(node).times(float(finder.words(node, 1).max(initial=0.0)))
    return found if finder.shape(node)[-1:] == finder.shapes[i][-1:] else Bound(found.peak, math.inf)


@_rule("scale")
def _scaled(finder: _Finder, node: Node, i: int) -> Bound:
    return finder.of(node).times(abs(node.params["factor"]))


@_rule("total")
def _total(finder: _Finder, node: Node, i: int) -> Bound:
    x, shape = finder.of(node), finder.shape(node)
    count = math.prod(shape[axis] for axis in node.params["axes"])
    along = math.sqrt(shape[-1]) * x.norm if tuple(node.params["axes"]) == (len(shape) - 1,) else math.inf
    return Bound(min(x.peak * count, along), math.inf)


@_rule("multiply")
def _multiplied(finder: _Finder, node: Node, i: int) -> Bound:
    x, y, columns = finder.of(node), finder.of(node, 1), finder.shapes[i][-1:]
    norms = [
        one.norm * other.peak for one, other, place in ((x, y, 0), (y, x, 1)) if finder.shape(node, place)[-1:] == columns and other.peak
    ]
    return Bound(_product(x.peak, y.peak), min(norms, default=math.inf))


@_rule("matmul")
def _matmul(finder: _Finder, node: Node, i: int) -> Bound:
    x, y, depth = finder.of(node), finder.of(node, 1), finder.shape(node)[-1]
    return Bound(min(_product(x.norm, math.sqrt(depth) * y.peak), _product(x.peak, depth * y.peak)) * SAFE, math.inf)


@_rule("linear")
def _linear(finder: _Finder, node: Node, i: int) -> Bound:
    x, held = finder.of(node), finder.tensor(node, 1)
    if held is None:
        return UNKNOWN
    return _by_columns(finder, node, x, held[0].flatten(1) if held[0].ndim > 2 else held[0], 0, held[1])


@_rule("convolution")
def _convolution(finder: _Finder, node: Node, i: int) -> Bound:
    x, held = finder.of(node), finder.tensor(node, 1)
    if held is None:
        return UNKNOWN
    dense = finder.plan.weights[finder.plan.nodes[node.inputs[1]].params["index"]].packed
    weights = held[0] if dense else held[0].flatten(1)
    return _by_columns(finder, node, Bound(x.peak, math.inf), weights, 0 if dense else 1, held[1])


def _by_columns(finder: _Finder, node: Node, x: Bound, weights: torch.Tensor, axis: int, scale: float) -> Bound:
    """Of sums over ``axis`` of weights times what lies within x: the better of the inequalities of Hoelder and Cauchy for each sum."""
    depth = weights.shape[axis]
    if not weights.numel():
        return UNKNOWN
    sums = torch.linalg.vector_norm(weights.float(), 1, dim=axis).double() * scale * SAFE + depth
    lengths = torch.linalg.vector_norm(weights.float(), 2, dim=axis).double() * scale * SAFE + math.sqrt(depth)
    each = torch.minimum(sums * x.peak, lengths * x.norm) if math.isfinite(x.peak) else torch.full_like(sums, math.inf)
    bias = finder.of(node, 2).peak if len(node.inputs) > 2 else 0.0
    return Bound(float(each.max()) * SAFE + bias, float(torch.linalg.vector_norm(each)) * SAFE + bias * math.sqrt(len(each)))


def _product(a: float, b: float) -> float:
    return a * b if a and b else 0.0


@_rule("rescale")
def _rescaled(finder: _Finder, node: Node, i: int) -> Bound:
    if i not in finder.drops:
        return UNKNOWN
    x, columns = finder.of(node).times(2.0 ** -finder.drops[i]), (finder.shapes[i] or (1,))[-1]
    return Bound(x.peak + 2, x.norm + 2 * math.sqrt(columns))


@_rule("spread", "sum_of_squares")
def _squares(finder: _Finder, node: Node, i: int) -> Bound:
    count, norm = finder.shape(node)[-1] if node.op == "spread" else 1, finder.of(node).norm
    return Bound(count * norm * norm * SAFE, math.inf)  # infinite where a power would raise an error


@_rule("table")
def _table(finder: _Finder, node: Node, i: int) -> Bound:
    """What the polynomials can yield, in whichever cell, and beyond it as far as a value may lie: unconditional."""
    peak = 0.0
    for level in range(1, len(node.inputs)):
        coefficients, cell_bits = finder.words(node, level), node.params["windows"][4 * (level - 1) + 2]
        peak += float((coefficients * 2.0 ** (cell_bits * np.arange(len(coefficients)))[:, None]).sum(0).max())
    return Bound(peak * SAFE, math.inf)


@_rule("row_max")
def _row_max(finder: _Finder, node: Node, i: int) -> Bound:
    """A value of eight bits and what a table of relu adds to it: unconditional."""
    return Bound(2.0 ** (9 + node.params["step_bits"]), math.inf)


@_rule("relu", "largest")
def _no_larger(finder: _Finder, node: Node, i: int) -> Bound:
    return Bound(finder.of(node).peak, math.inf)


@_rule("clamp")
def _clamped(finder: _Finder, node: Node, i: int) -> Bound:
    low, high = node.params.get("low"), node.params.get("high")
    ends = [abs(end) for end in (low, high) if end is not None]
    return Bound(float(max(ends)) if len(ends) == 2 else max(finder.of(node).peak, *ends), math.inf)


@_rule("is_negative", "is_zero", "one_hot")
def _bits(finder: _Finder, node: Node, i: int) -> Bound:
    return Bound(1.0, math.inf)
