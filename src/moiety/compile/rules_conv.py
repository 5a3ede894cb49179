"""Lowering of convolutions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_nn import as_owned, normalised
from moiety.compile.values import Layer, Owned, Secret
from moiety.errors import UnsupportedOp

Pads = list[tuple[int, int]]


@rule(aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding)
def convolution(call: Call) -> Secret | Layer:
    """A convolution with weights of the model owner."""
    return _convolution(call, stride=call.arg(3, "stride", 1), padding=call.arg(4, "padding", 0), dilation=call.arg(5, "dilation", 1))


@rule(aten.convolution.default)
def any_convolution(call: Call) -> Secret | Layer:
    """The general form, in which a convolution may be transposed."""
    if call.args[6]:
        raise UnsupportedOp(f"the transposed convolution in {call.builder.module} has no private form; upsample and convolve instead")
    return _convolution(call, stride=call.args[3], padding=call.args[4], dilation=call.args[5])


def _convolution(call: Call, *, stride: Any, padding: Any, dilation: Any) -> Secret | Layer:
    x, w, bias = call.args[0], as_owned(call.args[1]), as_owned(call.arg(2, "bias"))
    if not isinstance(x, Secret) or not isinstance(w, Owned) or not (bias is None or isinstance(bias, Owned)):
        raise UnsupportedOp(f"a convolution in {call.builder.module} whose weight is not a parameter of the model")
    kernel = tuple(w.tensor.shape[2:])
    if len(x.shape) == len(kernel) + 1:  # one example without its batch axis
        shape = (1, *x.shape)
        x = replace(call.builder.plain(x), node=call.builder.emit("reshape", call.builder.plain(x).node, shape=shape), shape=shape)
    steps = per_axis(stride, len(kernel)), per_axis(dilation, len(kernel))
    pads = _pads(padding, kernel, steps[1])

    def lower(w: Owned, bias: Owned | None, bound: float) -> Secret:
        return _convolved(call, x, w, bias, bound, pads, *steps)

    if normalised(call, channel=len(call.shape) - len(kernel) - 1):
        return Layer(call.builder.module, w, bias, lower)
    return lower(w, bias, call.bound)


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """A setting for each axis: given so, or once for all."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * axes if len(given) == 1 else given


def _pads(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Pads:
    """Zeros before and after each axis. ``same`` puts an odd one behind."""
    if padding == "same":
        missing = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(n // 2, n - n // 2) for n in missing]
    return [(n, n) for n in per_axis(0 if padding == "valid" else padding, len(kernel))]


def _convolved(
    call: Call,
    x: Secret,
    w: Owned,
    bias: Owned | None,
    bound: float,
    pads: Pads,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Secret:
    b, kernel = call.builder, tuple(w.tensor.shape[2:])
    fraction = b.weight_fraction(_least_channel(w))
    x = b.fitting_weight(b.plain(x), fraction, bound)
    product = x.fraction + fraction
    terms = [] if bias is None else [b.weight(bias, product, packed=False, factor=x.factor)]
    dense = w.tensor.shape[1] == x.shape[1]
    held = Owned(w.tensor.flatten(1).T, f"{w.name}.rows") if dense else w
    given = x.node
    if any(map(any, pads)):
        given = b.emit("pad", given, before=tuple(n for n, _ in pads), after=tuple(n for _, n in pads))
    factor = b.weight(held, fraction, packed=dense)
    node = b.emit("convolution", given, factor, *terms, kernel=kernel, stride=stride, dilation=dilation)
    if len(call.shape) == len(kernel) + 1:
        node = b.emit("reshape", node, shape=call.shape)
    return Secret(node, call.shape, product, bound, x.factor)


def _least_channel(w: Owned) -> Owned:
    """The largest weight of the channel with the smallest ones: a folded norm makes channels differ, and each must keep its digits."""
    largest = w.tensor.flatten(1).abs().amax(1)
    return replace(w, tensor=largest[largest > 0].min() if bool((largest > 0).any()) else largest)
