"""Lowering of pooling, padding and upsampling: sums over windows are local, maxima compare."""

from dataclasses import replace
from math import ceil, log2, prod
from typing import Any

import torch

from moiety.compile.builder import Builder
from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_arithmetic import scaled
from moiety.compile.rules_conv import per_axis
from moiety.compile.values import Public, Secret
from moiety.errors import UnsupportedOp

Windows = list[list[int]]
"""The places of one axis that each window covers, those outside of it left out."""


def windows(size: int, kernel: int, stride: int, padding: int, dilation: int, count: int) -> Windows:
    """``count`` windows at a stride over an axis that is padded at both ends."""
    starts = (i * stride - padding for i in range(count))
    return [[p for p in range(start, start + dilation * kernel, dilation) if 0 <= p < size] for start in starts]


def adaptive(size: int, count: int) -> Windows:
    """``count`` windows that cover an axis, of sizes as equal as can be."""
    return [list(range(i * size // count, -(-(i + 1) * size // count))) for i in range(count)]


def _axes(call: Call) -> int:
    """How many of the last axes an operation is about: its name says so."""
    return 2 if "2d" in str(call.node.target) else 1


def _of_kernel(call: Call, *, dilation: bool) -> list[Windows]:
    """The windows of each axis that a pooling names by its kernel, stride, padding and, for a maximum, dilation."""
    axes = _axes(call)
    wide = per_axis(call.args[1], axes)
    stride = per_axis(call.arg(2, "stride") or wide, axes)
    padding = per_axis(call.arg(3, "padding", 0), axes)
    apart = per_axis(call.arg(4, "dilation", 1) if dilation else 1, axes)
    sizes, counts = call.args[0].shape[-axes:], call.shape[-axes:]
    return [windows(*settings) for settings in zip(sizes, wide, stride, padding, apart, counts, strict=True)]


def _of_output(call: Call) -> list[Windows]:
    """Windows that cover each axis."""
    axes = _axes(call)
    return [adaptive(size, count) for size, count in zip(call.args[0].shape[-axes:], call.shape[-axes:], strict=True)]


@rule(aten.avg_pool1d.default, aten.avg_pool2d.default)
def mean_of_windows(call: Call) -> Secret:
    """A mean over windows: local."""
    return _mean(call, _of_kernel(call, dilation=False))


@rule(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default)
def adaptive_mean(call: Call) -> Secret:
    """A mean over windows that cover the whole: local."""
    return _mean(call, _of_output(call))


def _mean(call: Call, found: list[Windows]) -> Secret:
    """Sums over windows, divided by what PyTorch divides by: it is asked on ones."""
    b, axes = call.builder, len(found)
    ones = torch.ones(1, 1, *call.args[0].shape[-axes:])
    counts = torch.ones(1, 1, *(1 for _ in found))
    for axis, covered in enumerate(found):
        counts = counts * torch.tensor([float(len(window)) for window in covered]).reshape(
            [-1 if a == axis + 2 else 1 for a in range(axes + 2)]
        )
    with torch.no_grad():
        share = (call.node.target(ones, *call.args[1:], **call.kwargs) / counts.clamp(min=1)).double()  # type: ignore[operator]
    x = b.fitting_weight(b.plain(call.args[0]), 0, call.bound / float(share.min()))
    for axis, covered in enumerate(found):
        x = _summed(b, x, len(x.shape) - axes + axis, covered)
    by = share.flatten()[0] if bool((share == share.flatten()[0]).all()) else share.reshape(share.shape[2:])
    return replace(scaled(b, x, Public(by), call.shape, call.bound), bound=call.bound)


def _summed(b: Builder, x: Secret, axis: int, covered: Windows) -> Secret:
    """The sum of every window of an axis; a short window is filled up with a zero behind the axis."""
    wide, size, node = max(map(len, covered)), x.shape[axis], x.node
    if any(len(window) < wide for window in covered):
        last = tuple(int(a == axis) for a in range(len(x.shape)))
        node = b.emit("pad", node, before=(0,) * len(last), after=last)
    node, shape = _apart(b, node, x.shape, axis, [window + [size] * (wide - len(window)) for window in covered])
    if wide > 1:
        node = b.emit("total", node, axes=(axis + 1,), keepdims=False)
    else:
        node = b.emit("reshape", node, shape=(*shape[: axis + 1], *shape[axis + 2 :]))
    return replace(x, node=node, shape=(*shape[: axis + 1], *shape[axis + 2 :]))


def _apart(b: Builder, node: int, shape: tuple[int, ...], axis: int, covered: Windows) -> tuple[int, tuple[int, ...]]:
    """Windows of equal width laid side by side: the axis becomes (windows, width)."""
    places = [place for window in covered for place in window]
    if places != list(range(shape[axis])):
        node = b.emit("take", node, axis=axis, indices=tuple(places))
    shape = (*shape[:axis], len(covered), len(covered[0]), *shape[axis + 1 :])
    return b.emit("reshape", node, shape=shape), shape


@rule(aten.max_pool1d.default, aten.max_pool2d.default)
def max_of_windows(call: Call) -> Secret:
    """A maximum over windows, by exact comparisons."""
    return _max(call, _of_kernel(call, dilation=True))


@rule(aten.max_pool2d_with_indices.default)
def max_with_places(call: Call) -> Any:
    """The same, where the form names the places too."""
    return _alone(call, _of_kernel(call, dilation=True))


@rule(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default)
def adaptive_max(call: Call) -> Any:
    """A maximum over windows that cover the whole."""
    return _alone(call, _of_output(call))


def _alone(call: Call, found: list[Windows]) -> Any:
    """The maximum without its places, which nothing may use."""
    if any(user.args[1] != 0 and user.users for user in call.node.users):
        raise UnsupportedOp(f"the places of the maxima in {call.builder.module} have no private form; only their values do")
    return _max(call, found), None


TOGETHER = 4
"""Windows of so many places are compared in one level; of more, axis by axis takes as many rounds and fewer comparisons."""


def _max(call: Call, found: list[Windows]) -> Secret:
    """Places outside are never compared: a short window repeats its first place, and a maximum does not mind."""
    b, axes = call.builder, len(found)
    if not all(window for covered in found for window in covered):
        raise UnsupportedOp(f"a window of the max pooling in {b.module} covers padding alone, whose maximum is no number")
    x = b.settled(call.args[0])
    low, high = call.input_range()
    reach = max((high - low) * b.options.margin, 1e-3)
    b.check(x, (low + high - reach) / 2, (low + high + reach) / 2)
    bits = min(64, max(8, ceil(log2(reach * 2.0**x.fraction + 1)) + 1))
    wide = [max(map(len, covered)) for covered in found]
    filled = [[window + window[:1] * (n - len(window)) for window in covered] for covered, n in zip(found, wide, strict=True)]
    node, shape, first = x.node, x.shape, len(x.shape) - axes
    if prod(wide) <= TOGETHER:
        for axis in range(axes):
            node, shape = _apart(b, node, shape, first + 2 * axis, filled[axis])
        order = (*range(first), *range(first, first + 2 * axes, 2), *range(first + 1, first + 2 * axes, 2))
        node = b.emit("permute", node, dims=order)
        shape = (*shape[:first], *(len(covered) for covered in found))
        node = _largest(b, node, (*shape, prod(wide)), bits)
    else:
        for axis in range(axes):
            node, shape = _apart(b, node, shape, first + axis, filled[axis])
            order = (*(a for a in range(len(shape)) if a != first + axis + 1), first + axis + 1)
            shape = tuple(shape[a] for a in order)
            node = _largest(b, b.emit("permute", node, dims=order), shape, bits)
            shape = shape[:-1]
    return replace(x, node=node, shape=shape, bound=min(x.bound, call.bound))


def _largest(b: Builder, node: int, shape: tuple[int, ...], bits: int) -> int:
    return b.emit("largest", b.emit("reshape", node, shape=shape), bits=bits)


@rule(aten.constant_pad_nd.default)
def padded(call: Call) -> Secret:
    """A public number around the last axes; negative widths cut."""
    return _padded(call, call.args[1], call.arg(2, "value", 0) or 0)


def _padded(call: Call, widths: list[int], value: float) -> Secret:
    b, x = call.builder, call.builder.plain(call.args[0])
    pairs = [tuple(widths[i : i + 2]) for i in range(0, len(widths), 2)][::-1]
    first = len(x.shape) - len(pairs)
    for axis, (before, after) in enumerate(pairs, first):
        if min(before, after) < 0:
            start, stop = max(0, -before), x.shape[axis] - max(0, -after)
            shape = (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])
            x = replace(x, node=b.emit("cut", x.node, axis=axis, start=start, stop=stop, step=1), shape=shape)
    ahead, behind = (tuple(max(0, pair[side]) for pair in pairs) for side in (0, 1))
    node = b.emit("pad", x.node, before=ahead, after=behind) if any(ahead + behind) else x.node
    if value:
        inside = tuple(slice(n, n + size) for n, size in zip(ahead, x.shape[first:], strict=True))
        frame = torch.full(call.shape[first:], float(value), dtype=torch.double)
        frame[inside] = 0.0
        node = b.emit("add_public", node, b.encoded(Public(frame), x.fraction, x.factor))
    return replace(x, node=node, shape=call.shape, bound=max(x.bound, abs(value)))


@rule(aten.pad.default)
def pad(call: Call) -> Secret:
    """Padding of any mode."""
    if call.arg(2, "mode", "constant") != "constant":
        return _taken(call, len(call.args[1]) // 2)
    return _padded(call, call.args[1], call.arg(3, "value", None) or 0)


@rule(aten.reflection_pad1d.default, aten.replication_pad1d.default, aten.upsample_nearest1d.default, aten.upsample_nearest1d.vec)
@rule(aten.reflection_pad2d.default, aten.replication_pad2d.default, aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec)
def repeated(call: Call) -> Secret:
    """Elements repeated along the last axes."""
    return _taken(call, _axes(call))


def _taken(call: Call, axes: int) -> Secret:
    """An operation that takes every element from a place of each axis: PyTorch says which, on the numbers of the places."""
    b, x = call.builder, call.builder.plain(call.args[0])
    node, first = x.node, len(x.shape) - axes
    for axis in range(first, len(x.shape)):
        ramp = torch.arange(x.shape[axis], dtype=torch.float64).reshape([-1 if a == axis else 1 for a in range(len(x.shape))])
        with torch.no_grad():
            made = call.node.target(ramp.expand(x.shape).contiguous(), *call.args[1:], **call.kwargs)  # type: ignore[operator]
        places = made[tuple(slice(None) if a == axis else 0 for a in range(made.ndim))].round().int().tolist()
        if places != list(range(x.shape[axis])):
            node = b.emit("take", node, axis=axis, indices=tuple(places))
    return replace(x, node=node, shape=call.shape)
