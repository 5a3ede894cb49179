"""Ranges of every value, measured in float on public example inputs.

A table wraps to nonsense outside its window, so ranges are part of a plan. They are kept by *site* (module, operation, ordinal
within the module), which is the same for every shape of a model: a decode plan uses what a prefill measured.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import fx

from moiety.compile import recurrent
from moiety.compile.capture import Captured, evaluate

aten = torch.ops.aten
SOFTMAX = (aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default, aten.logsumexp.default)

LOWEST = -1e4
"""At or below this, an additive attention mask means: this pair does not count."""


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Smallest and largest value seen; ``spread``: for attention scores, the widest distance from a row's maximum."""

    low: float
    high: float
    spread: float = 0.0

    def join(self, other: "Range") -> "Range":
        return Range(min(self.low, other.low), max(self.high, other.high), max(self.spread, other.spread))

    @property
    def bound(self) -> float:
        return max(abs(self.low), abs(self.high))


Ranges = dict[str, Range]


def sites(captured: Captured) -> dict[fx.Node, str]:
    """A name for every operation that does not depend on shapes or on the position in the graph."""
    seen: Counter[tuple[str, str]] = Counter()
    out = {}
    for node in captured.graph.nodes:
        if node.op == "call_function":
            key = (captured.modules.get(node.name, ""), str(node.target))
            out[node] = f"{key[0]}|{key[1]}|{seen[key]}"
            seen[key] += 1
    return out


def calibrate(captured: Captured, examples: Iterable[Sequence[Any]]) -> Ranges:
    """Run the graph in float on each example (flattened inputs) and join the ranges of all operations by site."""
    ranges = Ranges()
    for found in calibrate_each(captured, examples):
        ranges = join(ranges, found)
    return ranges


def calibrate_each(captured: Captured, examples: Iterable[Sequence[Any]]) -> Iterator[Ranges]:
    """As :func:`calibrate`, of every example by itself."""
    names = sites(captured)
    for example in examples:
        ranges = Ranges()
        for node, what, value in evaluate_all(captured, example):
            found = _range(value)
            if found is not None:
                ranges[names.get(node, node.name) + what] = found
        yield ranges


def join(found: Ranges, known: Ranges) -> Ranges:
    """Ranges of both, joined by site."""
    return {site: found[site].join(known[site]) if site in found and site in known else (found | known)[site] for site in found | known}


def evaluate_all(captured: Captured, inputs: Sequence[Any]) -> Iterable[tuple[fx.Node, str, Any]]:
    """Every node with its value in float, in order; with a name (``|scores``), the range of something within an operation instead."""
    given = dict(zip(captured.inputs, inputs, strict=True))
    values: dict[fx.Node, Any] = {}
    last = last_uses(captured.graph)
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            values[node] = placeholder(captured, node.name, given)
            if node.name in given:
                yield node, "", values[node]
        elif node.op == "call_function":
            for what, inner in _inside(node, values):
                yield node, what, inner
            values[node] = evaluate(node, values)
            yield node, "", values[node]
        for dead in last.get(node, ()):
            del values[dead]


def _inside(node: fx.Node, values: Mapping[fx.Node, Any]) -> Iterable[tuple[str, Any]]:
    """What the lowering of an operation needs to know of values inside it, by name."""
    probe = PROBES.get(node.target)
    if probe is None:
        return ()
    mapped: Any = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    args, kwargs = mapped
    with torch.no_grad():
        return list(probe(*args, **kwargs).items())


def placeholder(captured: Captured, name: str, given: Mapping[str, Any]) -> Any:
    """What stands at an input of the graph: the owner's, what is public, or what is given."""
    if name in captured.owned:
        return captured.owned[name][1]
    return captured.public[name] if name in captured.public else given[name]


def last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Node -> the nodes that nothing reads after it, outputs of the graph left out."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for used in node.all_input_nodes:
            last[used] = node
    out: dict[fx.Node, list[fx.Node]] = {}
    for used, user in last.items():
        if user.op != "output":
            out.setdefault(user, []).append(used)
    return out


def _range(value: Any) -> Range | None:
    if isinstance(value, Range):
        return value
    if isinstance(value, tuple | list):
        return next(filter(None, map(_range, value)), None)
    if not isinstance(value, torch.Tensor) or value.is_complex() or value.numel() == 0:
        return None
    low, high = torch.aminmax(value.detach() if value.is_floating_point() else value.detach().double())
    return Range(float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


def valid_pairs(mask: torch.Tensor) -> torch.Tensor:
    """Which pairs an attention mask lets count: of a float mask, those that it does not push far down."""
    return mask if mask.dtype is torch.bool else mask > LOWEST


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> dict[str, Range]:
    if query.dim() == 4 and key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(-1, -2) * (scale if scale is not None else query.shape[-1] ** -0.5)
    valid = torch.ones(scores.shape, dtype=torch.bool)
    if is_causal:
        valid = valid.tril()
    if attn_mask is not None:
        valid = valid & valid_pairs(attn_mask)
        if attn_mask.dtype is not torch.bool:
            scores = scores + attn_mask.where(valid_pairs(attn_mask), 0.0)
    return {"|scores": _counting(scores, valid, -1)}


def _counting(scores: torch.Tensor, valid: torch.Tensor, dim: int) -> Range:
    """Range of the scores that count, and how far below its row's maximum any of them lies."""
    top = scores.masked_fill(~valid, -math.inf).amax(dim, keepdim=True)
    spread = (top - scores).masked_fill(~valid, 0).amax()
    seen = scores[valid.expand_as(scores)]
    if not seen.numel():
        return Range(0.0, 0.0)
    return Range(float(seen.min()), float(seen.max()), float(spread))


def _softmax(x: torch.Tensor, dim: int | list[int], *_: Any, **__: Any) -> dict[str, Range]:
    axis = dim[0] if isinstance(dim, list) else dim
    return {"|scores": _counting(x, x > LOWEST, axis)}


def _layer_norm(x: torch.Tensor, shape: Sequence[int], *_: Any, **__: Any) -> dict[str, torch.Tensor]:
    return {"|variance": x.flatten(-len(shape)).var(-1, correction=0)}


def _group_norm(x: torch.Tensor, groups: int, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
    return {"|variance": x.reshape(x.shape[0], groups, -1).var(-1, correction=0)}


def _instance_norm(x: torch.Tensor, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
    return {"|variance": x.flatten(2).var(-1, correction=0)}


PROBES: dict[Any, Callable[..., Mapping[str, Any]]] = {
    aten.scaled_dot_product_attention.default: _attention,
    **dict.fromkeys(SOFTMAX, _softmax),
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    **{layer: recurrent.probe(step) for layer, step in recurrent.STEPS.items()},
}
"""Operations inside which further values are measured, from the operation's own arguments."""
