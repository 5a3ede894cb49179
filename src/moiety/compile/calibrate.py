"""Ranges of every value, measured in float on public example inputs.

A table wraps to nonsense outside its window, so ranges are part of a plan. They are kept by *site* (module, operation, ordinal
within the module), which is the same for every shape of a model: a decode plan uses what a prefill measured.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import fx

from moiety.compile.capture import Captured, evaluate

LAYER_NORM = torch.ops.aten.layer_norm.default
SDPA = torch.ops.aten.scaled_dot_product_attention.default


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
    last = _last_uses(captured.graph)
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(captured, node.name, given)
            if node.name in given:
                yield node, "", values[node]
        elif node.op == "call_function":
            if node.target is SDPA:
                yield node, "|scores", _scores(node, values)
            if node.target is LAYER_NORM:
                yield node, "|variance", values[node.args[0]].var(-1, correction=0)
            values[node] = evaluate(node, values)
            yield node, "", values[node]
        for dead in last.get(node, ()):
            del values[dead]


def _placeholder(captured: Captured, name: str, given: Mapping[str, Any]) -> Any:
    if name in captured.owned:
        return captured.owned[name][1]
    return captured.public[name] if name in captured.public else given[name]


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
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
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() == 0:
        return None
    low, high = torch.aminmax(value.detach())
    return Range(float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


def valid_pairs(mask: torch.Tensor) -> torch.Tensor:
    """Which pairs an attention mask lets count: of a float mask, those that it does not push far down."""
    return mask if mask.dtype is torch.bool else mask > LOWEST


def _scores(node: fx.Node, values: Mapping[fx.Node, Any]) -> Range:
    """Range of attention scores that count, and how far below its row's maximum any of them lies."""
    mapped: Any = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    args, kwargs = mapped
    query, key = args[0], args[1]
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    causal = args[5] if len(args) > 5 else kwargs.get("is_causal", False)
    if query.dim() == 4 and key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scale = kwargs.get("scale")
    scores = query @ key.transpose(-1, -2) * (scale if scale is not None else query.shape[-1] ** -0.5)
    valid = torch.ones(scores.shape, dtype=torch.bool)
    if causal:
        valid = valid.tril()
    if mask is not None:
        valid = valid & valid_pairs(mask)
        if mask.dtype is not torch.bool:
            scores = scores + mask.where(valid_pairs(mask), 0.0)
    top = scores.masked_fill(~valid, -math.inf).amax(-1, keepdim=True)
    spread = (top - scores).masked_fill(~valid, 0).amax()
    seen = scores[valid.expand_as(scores)]
    return Range(float(seen.min()), float(seen.max()), float(spread))
