"""Lowering of norms by mean and variance, and of the statistics themselves."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from moiety.compile.bounds import Claim
from moiety.compile.builder import ROOM, Builder
from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_arithmetic import added, times_owned
from moiety.compile.rules_compare import gathered_axes
from moiety.compile.rules_nn import as_owned
from moiety.compile.rules_powers import inverse_roots, roots
from moiety.compile.squares import truncated_squares
from moiety.compile.values import Owned, Public, Secret
from moiety.errors import UnsupportedOp

NEAR = 1.01
"""Above what tables of relative error 2^-11 make of a quotient that is 1."""


@rule(aten.layer_norm.default)
def layer_norm(call: Call) -> Secret:
    """Over the last axes. Rounds: truncation 1, squares 1, inverse root 2 (more for a wide range), product 1. Where it is one axis, gain
    and shift stay pending."""
    b, x, inner = call.builder, call.args[0], tuple(call.args[1])
    gain, shift = (as_owned(call.arg(place, name)) for place, name in ((2, "weight"), (3, "bias")))
    if any(value is not None and not isinstance(value, Owned) for value in (gain, shift)):
        raise UnsupportedOp(f"layer_norm in {b.module} whose gain or shift depends on a secret or on the position")
    if len(inner) > 1:
        x = b.plain(x)
        shape = (*x.shape[: -len(inner)], math.prod(inner))
        x = replace(x, node=b.emit("reshape", x.node, shape=shape), shape=shape)
        gain, shift = (value and Owned(value.tensor.reshape(-1), f"({value.name}).flat") for value in (gain, shift))
    normal = replace(_normal(call, x, float(call.arg(4, "eps", 1e-5))), gain=gain, shift=shift, bound=call.bound)
    if len(inner) > 1:
        normal = b.plain(normal)
        normal = replace(normal, node=b.emit("reshape", normal.node, shape=call.shape), shape=call.shape)
    return normal


def _normal(call: Call, x: Secret, eps: float) -> Secret:
    """(x - mean) / sqrt(var + eps) over the last axis, its variance as calibrated at this operation.

    What is normalised is ``gain * (x - mean)``, which the sums give exactly: the result is the same.
    """
    b, n, found = call.builder, x.shape[-1], call.builder.range_of(call.site + "|variance")
    margin = 2 * b.options.margin
    low, high = (found.low + eps) / margin, (found.high + eps) * margin
    centred, gain = _centred(b, x, min(2 * x.bound, (n * high) ** 0.5))
    low, high, eps = low * gain**2, high * gain**2, eps * gain**2
    # a unit is 2^-14 of the least deviation
    fine = b.options.activation_fraction - math.floor(math.log2(low) / 2)
    centred, squares = truncated_squares(b, centred, min(fine, math.floor((ROOM - math.log2(n * high)) / 2)))
    variance = Secret(squares, (*x.shape[:-1], 1), 2 * centred.fraction, high, 1 / n)
    words = b.encoded(Public(eps), variance.fraction, variance.factor)
    variance = replace(variance, node=b.emit("add_public", squares, words))
    inverse = inverse_roots(b, variance, low, high, b.options.row_fraction, low**-0.5)
    normal = b.multiply(centred, inverse, x.shape, n**0.5)
    longest = NEAR * n**0.5 / normal.unit  # a row's squares add up to n times the variance, whose root was checked and is near
    b.claims[normal.node] = Claim(longest, longest)
    reach = max(normal.bound, call.bound)  # by which it goes on, with a gain and shift that are still pending
    return b.rescaled(normal, math.floor(ROOM - math.log2(reach / normal.factor)))


def _centred(b: Builder, x: Secret, bound: float) -> tuple[Secret, float]:
    """``gain * (x - mean)`` over the last axis, of factor 1, and that gain; x - mean is within ``bound``.

    ``n x - sum x`` is exact, and the bits that it has more than x are left over.
    """
    x, n = b.plain(x), x.shape[-1]
    excess = math.ceil(math.log2(max(bound, 1e-9) * n / x.factor) + x.fraction - ROOM)
    x = b.rescaled(x, x.fraction - max(0, excess))
    fraction = x.fraction + n.bit_length() - 1
    total = b.emit("as_fraction", b.emit("total", x.node, axes=(len(x.shape) - 1,), keepdims=True), fraction=fraction)
    node = b.emit("subtract", b.emit("scale", x.node, factor=n, fraction=fraction - x.fraction), total)
    gain = n * 2.0 ** (x.fraction - fraction) / x.factor
    return Secret(node, x.shape, fraction, bound * gain), gain


@rule(aten.group_norm.default)
def group_norm(call: Call) -> Secret:
    """Over groups of channels (the second axis) and all axes behind them."""
    return _grouped(call, int(call.args[1]), (2, "weight"), (3, "bias"), float(call.arg(4, "eps", 1e-5)))


@rule(aten.instance_norm.default)
def instance_norm(call: Call) -> Secret:
    """Over all axes behind the channels, each channel by itself."""
    if not call.arg(5, "use_input_stats", True):
        raise UnsupportedOp(f"instance_norm in {call.builder.module} by kept statistics; take batch_norm, or statistics of the input")
    return _grouped(call, call.shape[1], (1, "weight"), (2, "bias"), float(call.arg(7, "eps", 1e-5)))


def _grouped(call: Call, groups: int, weight: tuple[int, str], bias: tuple[int, str], eps: float) -> Secret:
    b, x = call.builder, call.builder.plain(call.args[0])
    gain, shift = (as_owned(call.arg(*place)) for place in (weight, bias))
    if any(value is not None and not isinstance(value, Owned) for value in (gain, shift)):
        raise UnsupportedOp(f"{call.node.target} in {b.module} whose gain or shift depends on a secret or on the position")
    rows = (x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    normal = _normal(call, replace(x, node=b.emit("reshape", x.node, shape=rows), shape=rows), eps)
    out = replace(normal, node=b.emit("reshape", normal.node, shape=x.shape), shape=x.shape, bound=call.bound)
    if gain is not None:
        out = times_owned(b, out, _by_channel(gain, len(x.shape)), x.shape, call.bound)
    return out if shift is None else added(b, out, _by_channel(shift, len(x.shape)), x.shape, call.bound)


def _by_channel(value: Owned, rank: int) -> Owned:
    shape = (-1, *(1 for _ in range(rank - 2)))
    return value if rank == 2 else Owned(value.tensor.reshape(shape), f"({value.name}).channel{rank}")


@rule(aten.var.correction)
def variance(call: Call) -> Secret:
    """1 round for the spread of a row."""
    return _variance(call, call.bound)


@rule(aten.var_mean.correction)
def variance_and_mean(call: Call) -> tuple[Secret, Secret]:
    """Both; the mean is local."""
    b, rows = call.builder, gathered_axes(call.builder, call.args[0], call.arg(1, "dim"))
    total = b.emit("total", rows.node, axes=(len(rows.shape) - 1,), keepdims=False)
    mean = replace(rows, node=b.emit("reshape", total, shape=call.shape), shape=call.shape, factor=rows.factor / rows.shape[-1])
    return _variance(call, rows.bound**2), mean


def _variance(call: Call, bound: float) -> Secret:
    b, rows = call.builder, gathered_axes(call.builder, call.args[0], call.arg(1, "dim"))
    n, correction = rows.shape[-1], call.kwargs.get("correction")
    factor = 1 / (n * (n - (1 if correction is None else float(correction))))
    rows = b.settled(rows, min(b.activation_fraction(rows.bound), int((ROOM - np.log2(max(bound, 1e-9) * n**2)) / 2)))
    node = b.emit("reshape", b.emit("spread", rows.node), shape=call.shape)
    return Secret(node, call.shape, 2 * rows.fraction, bound, factor)


@rule(aten.linalg_vector_norm.default)
def vector_norm(call: Call) -> Any:
    """The length of a vector (order 2), the sum of its magnitudes (1)."""
    b, order = call.builder, float(call.arg(1, "ord", 2))
    if order == 1:
        raise UnsupportedOp(f"a norm of order 1 in {b.module}; write x.abs().sum(...)")
    if order != 2:
        raise UnsupportedOp(f"a norm of order {order:g} in {b.module}; order 2 has a private form, and x.abs().amax(...) for infinity")
    found = b.range_of(call.site)
    rows = room_for_squares(b, gathered_axes(b, call.args[0], call.arg(2, "dim")), call.bound**2)
    node = b.emit("reshape", b.emit("sum_of_squares", rows.node), shape=call.shape)
    squares = Secret(node, call.shape, 2 * rows.fraction, call.bound**2, rows.factor**2)
    return roots(b, squares, found.low**2, found.high**2, call.bound)


def room_for_squares(b: Builder, x: Secret, bound: float) -> Secret:
    """x at a fraction whose sum of squares, within ``bound``, stays in the ring."""
    x = b.rescaled(b.plain(x), b.activation_fraction(x.bound))
    bits = np.log2(max(bound, 1e-9) / x.factor**2) + 2 * x.fraction
    return b.rescaled(x, x.fraction - max(0, int(np.ceil((bits - ROOM) / 2))))
