"""Lowering of layers: linear, embedding, norms."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from moiety.compile.builder import ROOM, Index, Layer, Owned, Public, Secret
from moiety.compile.lower import Call, _describe, aten, rule, takes_index
from moiety.compile.plan import Input
from moiety.compile.rules_arithmetic import times_owned
from moiety.compile.rules_functions import inverse_roots
from moiety.compile.rules_shape import as_secret
from moiety.errors import InputError, UnsupportedOp


@rule(aten.linear.default)
def linear(call: Call) -> Secret | Layer:
    """A linear layer with weights of the model owner."""
    x, w, bias = call.args[0], as_owned(call.args[1]), as_owned(call.arg(2, "bias"))
    if not isinstance(w, Owned) or isinstance(bias, Secret):
        raise UnsupportedOp(f"a linear layer in {call.builder.module} whose weight is not a parameter of the model")

    def lower(w: Owned, bias: Owned | None, bound: float) -> Secret:
        return _linear(call, x, Owned(w.tensor.T, f"{w.name}.T"), bias, bound)

    if normalised(call, channel=len(call.shape) - 1):
        return Layer(w, bias, lower)
    return lower(w, bias, call.bound)


@rule(aten.addmm.default)
def addmm(call: Call) -> Secret:
    """The functional form of a linear layer."""
    bias, x, w = as_owned(call.args[0]), call.args[1], as_owned(call.args[2])
    if not isinstance(w, Owned) or not isinstance(bias, Owned):
        raise UnsupportedOp(f"addmm in {call.builder.module} needs weights that are parameters of the model")
    return _linear(call, x, w, bias, call.bound)


@rule(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul(call: Call) -> Secret:
    """Product of two secrets, or of a secret and a weight."""
    x, y = (as_owned(value) for value in call.args[:2])
    if isinstance(x, Secret) and isinstance(y, Owned) and y.tensor.ndim == 2:
        return _linear(call, x, y, None, call.bound)
    secret = x if isinstance(x, Secret) else y
    x, y = (as_secret(call, value, secret) for value in (x, y))
    if min(len(x.shape), len(y.shape)) < 2:
        raise UnsupportedOp(f"matmul in {call.builder.module} of shapes {x.shape} and {y.shape}; a vector has no private form there")
    return call.builder.multiply(x, y, call.shape, call.bound, "matmul")


def as_owned(value: Any) -> Any:
    """A public tensor, dealt with like one of the owner's: the rules for layers then need no second form."""
    if isinstance(value, Public) and isinstance(value.value, torch.Tensor) and value.value.is_floating_point():
        return Owned(value.value, f"public {_describe(value)} {tuple(value.value.shape)}")
    return value


def _linear(call: Call, x: Secret, w: Owned, bias: Owned | None, bound: float) -> Secret:
    """x @ w + bias, with a pending gain and shift of x folded into the weights by their owner."""
    b = call.builder
    if x.shift is not None:
        moved = Owned(x.shift.tensor @ w.tensor, f"({x.shift.name})@({w.name})")
        bias = moved if bias is None else Owned(bias.tensor + moved.tensor, f"{bias.name}+{moved.name}")
    if x.gain is not None:
        w = Owned(x.gain.tensor[:, None] * w.tensor, f"({x.gain.name})*({w.name})")
    x = replace(x, gain=None, shift=None)
    fraction = b.weight_fraction(w)
    x = b.fitting_weight(x, fraction, bound)
    product = x.fraction + fraction
    terms = [] if bias is None else [b.weight(bias, product, packed=False, factor=x.factor)]
    node = b.emit("linear", x.node, b.weight(w, fraction, packed=True), *terms)
    return Secret(node, call.shape, product, bound, x.factor)


@rule(aten.embedding.default)
@takes_index
def embedding(call: Call) -> Secret:
    """Rows of the owner's table at secret places: the client shares each place as a one-hot."""
    w, index = call.args[:2]
    if not isinstance(index, Index) or not isinstance(w, Owned):
        raise InputError(f"{call.builder.module}: only integers given by the data owner can index an embedding of the model")
    b, classes = call.builder, w.tensor.shape[0]
    known = {i.name: i for i in b.inputs}
    if index.input not in known:
        b.inputs.append(Input(index.input, call.lowering.given_shape(index.input), "one_hot", 0, 1.0, classes))
    elif known[index.input].classes != classes:
        raise UnsupportedOp(f"input {index.input} indexes embeddings of {known[index.input].classes} and of {classes} rows")
    position = next(i for i, given in enumerate(b.inputs) if given.name == index.input)
    fraction = b.activation_fraction(float(w.tensor.abs().max()))
    one_hot = b.emit("input", index=position)
    node = b.emit("linear", one_hot, b.weight(w, fraction, packed=True))
    if index.shape != b.inputs[position].shape:
        node = b.emit("reshape", node, shape=call.shape)
    return Secret(node, call.shape, fraction, call.bound)


@rule(aten.layer_norm.default)
def layer_norm(call: Call) -> Secret:
    """Rounds: spread 1, inverse root 2 (more for a wide range), product and truncation 2. Gain and shift stay pending."""
    x, shape = call.args[0], call.args[1]
    if len(shape) != 1:
        raise UnsupportedOp(f"layer_norm over {len(shape)} axes in {call.builder.module}; only the last axis has a private form")
    b, n = call.builder, shape[0]
    low, high = _variance_range(call)
    margin, eps = 2 * b.options.margin, float(call.arg(4, "eps", 1e-5))
    low, high = (low + eps) / margin, (high + eps) * margin
    x = b.settled(x, min(b.activation_fraction(x.bound), int((ROOM - np.log2(high * n**2)) / 2)))  # n^2 var stays within the ring
    spread = b.emit("spread", x.node)
    eps_words = b.encoded(Public(eps * n**2), 2 * x.fraction)
    shifted = Secret(b.emit("add_public", spread, eps_words), (*x.shape[:-1], 1), 2 * x.fraction, high * n**2)
    # 1 / (n sigma): with n (x - mean) the factor n cancels, and |x - mean| / sigma <= sqrt(n)
    fraction = int(min(ROOM - 1 - x.fraction - np.log2(n) / 2, ROOM - 2 + np.log2(n * low**0.5)))
    inverse = inverse_roots(b, shifted, low * n**2, high * n**2, fraction, 1 / (n * low**0.5))
    total = b.emit("total", x.node, axes=(len(x.shape) - 1,), keepdims=True)
    centred = b.emit("subtract", b.emit("scale", x.node, factor=n, fraction=0), total)
    normal = b.settled(b.multiply(Secret(centred, x.shape, x.fraction, 2 * n * x.bound), inverse, x.shape, n**0.5))
    gain, shift = (as_owned(call.arg(place, name)) for place, name in ((2, "weight"), (3, "bias")))
    if any(value is not None and not isinstance(value, Owned) for value in (gain, shift)):
        raise UnsupportedOp(f"layer_norm in {b.module} whose gain or shift depends on a secret or on the position")
    return replace(normal, gain=gain, shift=shift, bound=call.bound)


def _variance_range(call: Call) -> tuple[float, float]:
    found = call.builder.range_of(call.site + "|variance")
    return found.low, found.high


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
        return _folded(x, gain, shift, call.bound), None, None
    b = call.builder
    if len(x.shape) == 2:
        return replace(times_owned(call, b.plain(x), gain), shift=shift), None, None
    shape = (-1, *(1 for _ in x.shape[2:]))
    gain, shift = (Owned(value.tensor.reshape(shape), f"{value.name}.reshape{shape}") for value in (gain, shift))
    y = times_owned(call, x, gain)
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
