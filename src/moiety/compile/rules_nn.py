"""Lowering of layers: linear, embedding, norms."""

import math
from dataclasses import replace
from typing import Any

import torch

from moiety.compile.builder import LARGE, ROOM, Builder
from moiety.compile.known import described, known, reach
from moiety.compile.later import Later, made
from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_arithmetic import added, room_in_sum, scaled, times_owned
from moiety.compile.rules_shape import as_secret, one_hot_input
from moiety.compile.values import Index, Layer, Owned, Public, Secret
from moiety.errors import InputError, UnsupportedOp


@rule(aten.linear.default)
def linear(call: Call) -> Secret | Layer:
    """A linear layer; its weights are the model owner's, or a secret like any other."""
    x, w, bias = call.args[0], as_owned(call.args[1]), as_owned(call.arg(2, "bias"))
    if not isinstance(x, Secret) or not isinstance(w, Owned) or isinstance(bias, Secret):
        return _affine_map(call, x, _turned(call.builder, w), bias)

    def lower(w: Owned, bias: Owned | None, bound: float) -> Secret:
        return _linear(call, x, Owned(w.tensor.T, f"{w.name}.T"), bias, bound)

    if normalised(call, channel=len(call.shape) - 1):
        return Layer(call.builder.module, w, bias, lower)
    return lower(w, bias, call.bound)


def _turned(b: Builder, w: Secret | Owned) -> Secret | Owned:
    if isinstance(w, Owned):
        return Owned(w.tensor.T, f"{w.name}.T")
    w = b.plain(w)
    return replace(w, node=b.emit("permute", w.node, dims=(1, 0)), shape=w.shape[::-1])


@rule(aten.addmm.default, aten.addmv.default, aten.baddbmm.default)
def product_and_sum(call: Call) -> Secret:
    """beta * bias + alpha * x @ y."""
    bias, x, y = call.args[0], call.args[1], as_owned(call.args[2])
    beta, alpha = (float(call.kwargs.get(name, 1)) for name in ("beta", "alpha"))
    if (beta, alpha) == (1, 1):
        return _affine_map(call, x, y, bias)
    b = call.builder
    found = _product(call, x, y, _bound_of_product(x, y))
    found = scaled(b, found, alpha, found.shape, found.bound * alpha)
    if beta == 0:
        return found
    scaled_bias = (
        scaled(b, bias, beta, bias.shape, bias.bound * beta) if isinstance(bias, Secret) else known(f"{beta}*", lambda v: beta * v, bias)
    )
    return added(b, found, scaled_bias, call.shape, call.bound)


def _affine_map(call: Call, x: Any, y: Any, bias: Any) -> Secret:
    """x @ y + bias: a layer where the owner knows y and bias, else a product and a sum."""
    owned = as_owned(bias)
    if isinstance(x, Secret) and isinstance(y, Owned) and y.tensor.ndim == 2 and (owned is None or isinstance(owned, Owned)):
        return _linear(call, x, y, owned, call.bound)
    if bias is None:
        return _product(call, x, y, call.bound)
    return added(call.builder, _product(call, x, y, _bound_of_product(x, y)), bias, call.shape, call.bound)


def _bound_of_product(x: Any, y: Any) -> float:
    """Of a product in the middle of an operation, which calibration does not see."""
    inner = (x.shape if isinstance(x, Secret) else _tensor(x).shape)[-1]
    return float(inner) * math.prod(v.bound if isinstance(v, Secret) else reach(v) for v in (x, y))


def _tensor(x: Public | Owned) -> torch.Tensor:
    return x.tensor if isinstance(x, Owned) else torch.as_tensor(x.value)


@rule(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def matmul(call: Call) -> Secret:
    """Product of two secrets, or of a secret and a weight; a vector is a row on the left and a column on the right."""
    return _product(call, call.args[0], call.args[1], call.bound)


def _product(call: Call, x: Any, y: Any, bound: float) -> Secret:
    b, x, y = call.builder, as_owned(x), as_owned(y)
    if isinstance(x, Secret) and isinstance(y, Owned) and y.tensor.ndim == 2:
        return _linear(call, x, y, None, bound)
    if isinstance(x, Secret) and isinstance(y, Owned) and y.tensor.ndim == 1:
        return _reshaped(b, _linear(call, x, Owned(y.tensor[:, None], f"({y.name}).column"), None, bound), x.shape[:-1])
    secret = x if isinstance(x, Secret) else y
    x, y = (b.plain(as_secret(call, value, secret)) for value in (x, y))
    rows, columns = x.shape[:-1], y.shape[-1:] if len(y.shape) > 1 else ()
    x = _reshaped(b, x, (1, *x.shape)) if len(x.shape) == 1 else x
    y = _reshaped(b, y, (*y.shape, 1)) if len(y.shape) == 1 else y
    lead = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    found = b.multiply(x, y, (*lead, x.shape[-2], y.shape[-1]), bound, "matmul")
    return _reshaped(b, found, (*lead, *rows[-1:], *columns))


def _reshaped(b: Builder, x: Secret, shape: tuple[int, ...]) -> Secret:
    return x if x.shape == shape else replace(x, node=b.emit("reshape", x.node, shape=shape), shape=shape)


def as_owned(value: Any) -> Any:
    """A public tensor, dealt with like one of the owner's: the rules for layers then need no second form."""
    if isinstance(value, Public) and isinstance(value.value, torch.Tensor) and value.value.is_floating_point():
        return Owned(value.value, f"public {described(value)} {tuple(value.value.shape)}")
    return value


MOVES = {
    aten.clone.default,
    aten.dropout.default,
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.transpose.int,
    aten.view.default,
}


def _room_behind(call: Call) -> int:
    """Fraction bits of a layer's result that leave what follows room: where all that happens to it is that another value is added, the
    sum and a norm of it."""
    node = call.node
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.target is aten.add.Tensor:
            bound = call.builder.range_of(call.lowering.sites[node]).bound * call.builder.options.margin
            return room_in_sum(bound, node.meta["val"].shape[-1:])
        if node.target not in MOVES:
            break
    return ROOM


def _linear(call: Call, x: Secret, w: Owned, bias: Owned | None, bound: float) -> Secret:
    """x @ w + bias, with a pending gain and shift of x folded into the weights by their owner."""
    b = call.builder
    if x.shift is not None:
        moved = Owned(x.shift.tensor @ w.tensor, f"({x.shift.name})@({w.name})")
        bias = moved if bias is None else Owned(bias.tensor + moved.tensor, f"{bias.name}+{moved.name}")
    if x.gain is not None:
        w = Owned(w.tensor, f"({x.gain.name})*({w.name})", x.gain.tensor)
        w = w if w.tensor.numel() > LARGE else Owned(made(Later(x.gain.tensor, w.tensor)), w.name)
    x = replace(x, gain=None, shift=None)
    fraction = b.weight_fraction(w)
    x = b.fitting_weight(x, fraction, bound)
    # small weights do without some of the bits that they have more than others
    fraction = min(fraction, max(b.options.weight_fraction, _room_behind(call) - x.fraction))
    product = x.fraction + fraction
    terms = [] if bias is None else [b.weight(bias, product, packed=False, factor=x.factor)]
    node = b.emit("linear", x.node, b.weight(w, fraction, packed=True), *terms)
    return Secret(node, (*x.shape[:-1], w.tensor.shape[1]), product, bound, x.factor)


def looked_up_by_client(call: Call, w: Any, index: Index) -> Secret:
    """Rows of the owner's table at places that the client shares as one-hots."""
    if not isinstance(w, Owned):
        raise InputError(f"{call.builder.module}: only integers given by the data owner can index an embedding of the model")
    b = call.builder
    fraction = b.activation_fraction(max(abs(float(end)) for end in torch.aminmax(w.tensor)))
    hot = one_hot_input(call, index, w.tensor.shape[0], reshaped=False)
    node = b.emit("linear", hot.node, b.weight(w, fraction, packed=True))
    if (*index.shape, w.tensor.shape[0]) != hot.shape:
        node = b.emit("reshape", node, shape=call.shape)
    return Secret(node, call.shape, fraction, call.bound)


NORM = aten._native_batch_norm_legit_no_training.default


def normalised(call: Call, channel: int) -> bool:
    """Whether all that happens to the result is a batch norm, and of the axis ``channel``."""
    users = list(call.node.users)
    return channel == 1 and len(users) == 1 and users[0].target is NORM and users[0].args[0] is call.node


@rule(NORM)
def batch_norm(call: Call) -> Any:
    """A batch norm with kept statistics: a gain and a shift of each channel."""
    x, *given = call.args[:5]
    weight, bias, mean, variance = map(as_owned, given)
    if any(not isinstance(value, Owned) for value in (weight, bias, mean, variance) if value is not None):
        raise UnsupportedOp(f"batch_norm in {call.builder.module} whose gain, shift or statistics depend on a secret or on the position")
    gain, shift = _affine(weight, bias, mean, variance, float(call.args[6]))
    if isinstance(x, Layer):
        call.builder.module = x.module  # whose cost it is
        return _folded(x, gain, shift, call.bound), None, None
    b = call.builder
    if len(x.shape) == 2:
        return replace(times_owned(b, b.plain(x), gain, call.shape, call.bound), shift=shift), None, None
    shape = (-1, *(1 for _ in x.shape[2:]))
    gain, shift = (Owned(value.tensor.reshape(shape), f"{value.name}.reshape{shape}") for value in (gain, shift))
    y = times_owned(b, x, gain, call.shape, call.bound)
    words = b.weight(shift, y.fraction, packed=False, factor=y.factor)
    return replace(y, node=b.emit("add", y.node, words)), None, None


def _affine(weight: Owned | None, bias: Owned | None, mean: Owned, variance: Owned, eps: float) -> tuple[Owned, Owned]:
    """The gain and shift that a batch norm comes down to, as its owner computes them."""
    parts = ", ".join("-" if value is None else value.name for value in (weight, bias, mean, variance))
    gain = (variance.tensor.double() + eps).rsqrt()
    gain = gain if weight is None else gain * weight.tensor
    shift = -mean.tensor * gain if bias is None else bias.tensor - mean.tensor * gain
    gain, shift = gain.to(mean.tensor.dtype), shift.to(mean.tensor.dtype)
    return Owned(gain, f"gain({parts}, {eps})"), Owned(shift, f"shift({parts}, {eps})")


def _folded(layer: Layer, gain: Owned, shift: Owned, bound: float) -> Secret:
    w, bias = layer.weight, layer.bias
    folded = Owned(w.tensor * gain.tensor.reshape(-1, *(1 for _ in w.tensor.shape[1:])), f"({w.name})*{gain.name}")
    if bias is not None:
        shift = Owned(shift.tensor + bias.tensor * gain.tensor, f"{shift.name}+({bias.name})*{gain.name}")
    return layer.lower(folded, shift, bound)
