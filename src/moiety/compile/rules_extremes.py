"""Lowering of maxima and minima: of two values, between bounds, along axes; exact, by comparisons."""

from dataclasses import replace
from typing import Any

from moiety.compile.builder import Builder
from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_arithmetic import added, negative
from moiety.compile.rules_compare import gathered_axes, largest_magnitude, width
from moiety.compile.rules_piecewise import held, positive_part
from moiety.compile.values import Secret


@rule(aten.maximum.default, aten.fmax.default)
def maximum(call: Call) -> Secret:
    """The larger of two, exactly: ``y + max(x - y, 0)``."""
    x, y = call.args
    return beyond(call.builder, x, y, 1, call.shape, call.bound)


@rule(aten.minimum.default, aten.fmin.default)
def minimum(call: Call) -> Secret:
    """The smaller of two, exactly: ``y - max(y - x, 0)``."""
    x, y = call.args
    return beyond(call.builder, x, y, -1, call.shape, call.bound)


def beyond(b: Builder, x: Any, y: Any, sign: int, shape: tuple[int, ...], bound: float) -> Secret:
    """The larger (sign 1) or the smaller (sign -1) of two."""
    if isinstance(x, Secret) and isinstance(y, Secret):
        fraction = b.activation_fraction(max(x.bound, y.bound))
        x, y = b.settled(x, fraction), b.settled(y, fraction)
    excess = added(b, x, y, shape, largest_magnitude(x) + largest_magnitude(y), -1)
    excess = positive_part(b, excess if sign > 0 else negative(b, excess))
    return added(b, y, excess, shape, bound, sign)


@rule(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)
def clamp(call: Call) -> Secret:
    """x between public numbers. A lower end below the resolution of what was never negative (the guard of a norm) needs nothing."""
    only_max = call.node.target is aten.clamp_max.default
    low, high = (None, call.args[1]) if only_max else (call.arg(1, "min"), call.arg(2, "max"))
    if low is not None and 0 < low < 2.0**-20 and call.input_range()[0] >= 0:
        low = None
    return held(call, low, high)


@rule(aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor)
def clamp_by_tensors(call: Call) -> Any:
    """x between two tensors, public, owned or secret."""
    only_max = call.node.target is aten.clamp_max.Tensor
    low, high = (None, call.args[1]) if only_max else (call.arg(1, "min"), call.arg(2, "max"))
    x, b, shape = call.args[0], call.builder, call.shape
    if low is not None:
        x = beyond(b, x, low, 1, shape, largest_magnitude(x) + largest_magnitude(low))
    return x if high is None else beyond(b, x, high, -1, shape, call.bound)


@rule(aten.amax.default, aten.amin.default, aten.max.default, aten.min.default)
def largest(call: Call) -> Secret:
    """The largest (smallest) value along axes, exactly, by a tournament."""
    return _largest(call, call.arg(1, "dim"), call.node.target in (aten.amin.default, aten.min.default))


@rule(aten.max.dim, aten.min.dim)
def largest_and_place(call: Call) -> tuple[Secret, Secret]:
    """The largest (smallest) value along an axis and the first place where it is."""
    smallest = call.node.target is aten.min.dim
    return _largest(call, call.args[1], smallest), _place(call, call.args[1], smallest)


@rule(aten.argmax.default, aten.argmin.default)
def place(call: Call) -> Secret:
    """The first place of the largest (smallest) value along an axis, or in all of x."""
    return _place(call, call.arg(1, "dim"), call.node.target is aten.argmin.default)


def _largest(call: Call, dims: Any, smallest: bool) -> Secret:
    b, shape = call.builder, _first_shape(call)
    rows = gathered_axes(b, call.args[0], dims)
    rows = negative(b, rows) if smallest else rows
    node = b.emit("reshape", b.emit("largest", rows.node, bits=width(b, rows)), shape=shape)
    found = replace(rows, node=node, shape=shape)
    return negative(b, found) if smallest else found


def _place(call: Call, dims: Any, smallest: bool) -> Secret:
    b, shape = call.builder, _first_shape(call)
    rows = gathered_axes(b, call.args[0], dims)
    rows = negative(b, rows) if smallest else rows
    node = b.emit("reshape", b.emit("argmax", rows.node, bits=width(b, rows)), shape=shape)
    return Secret(node, shape, 0, float(rows.shape[-1]))


def _first_shape(call: Call) -> tuple[int, ...]:
    value = call.node.meta["val"]
    return tuple(int(n) for n in (value[0] if isinstance(value, tuple | list) else value).shape)
