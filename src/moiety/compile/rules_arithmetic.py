"""Lowering of arithmetic: sums, products, means, powers, quotients."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from moiety.compile.builder import ROOM, Builder
from moiety.compile.calibrate import LOWEST
from moiety.compile.known import known, reach
from moiety.compile.lower import Call, aten, rule, takes_masked
from moiety.compile.masked import excluded, only_softmax
from moiety.compile.squares import truncated_squares
from moiety.compile.values import Masked, Owned, Public, Secret, Square
from moiety.errors import UnsupportedOp

PUBLIC_FRACTION = 14
"""Fraction bits of public factors (rotary angles, scales) that are not integers."""


@rule(aten.add.Tensor, aten.add.Scalar)
@takes_masked
def add(call: Call) -> Any:
    """Sum with a secret, an owned or a public operand; what pushes scores of a softmax far down says which do not count."""
    x, y = call.args[:2] if isinstance(call.args[0], Secret | Masked) else call.args[1::-1]
    if isinstance(x, Masked) or (not isinstance(y, Secret | Masked) and reach(y) >= -LOWEST and only_softmax(call.node)):
        return _masked_sum(call, x, y)
    return added(call.builder, call.args[0], call.args[1], call.shape, call.bound, call.arg(2, "alpha", 1))


@rule(aten.sub.Tensor, aten.sub.Scalar)
def subtract(call: Call) -> Secret:
    """Difference."""
    return added(call.builder, call.args[0], call.args[1], call.shape, call.bound, -call.arg(2, "alpha", 1))


@rule(aten.rsub.Scalar, aten.rsub.Tensor)
def subtract_from(call: Call) -> Secret:
    """Difference with exchanged operands."""
    return added(call.builder, call.args[1], call.args[0], call.shape, call.bound, -call.arg(2, "alpha", 1))


@rule(aten.neg.default)
def negate(call: Call) -> Secret:
    """The negative."""
    return negative(call.builder, call.args[0])


def negative(b: Builder, x: Secret) -> Secret:
    """Factors stay positive, so that a range keeps its ends and a sum of two secrets needs no truncation."""
    x = b.plain(x)
    return replace(x, node=b.emit("negate", x.node))


def _masked_sum(call: Call, x: Any, y: Any) -> Masked:
    """Scores plus a bias whose lowest entries exclude pairs. Which those are becomes public, even where the owner made the bias."""
    if isinstance(y, Secret | Masked):
        raise UnsupportedOp(f"{call.node.target} in {call.builder.module} adds a secret to scores that a mask excludes")
    scores = x.x if isinstance(x, Masked) else x
    bias = known("bias of kept", lambda v: v.where(v > LOWEST, 0.0), y)
    if reach(bias):
        scores = added(call.builder, scores, bias, call.shape, scores.bound + reach(bias))
    return excluded(call.builder, replace(x, x=scores) if isinstance(x, Masked) else scores, known("kept", lambda v: v > LOWEST, y))


def added(b: Builder, x: Any, y: Any, shape: tuple[int, ...], bound: float, sign: float = 1.0) -> Secret:
    """x + sign * y for any mixture of secret and other operands, one of them secret; the sum is within ``bound``."""
    if isinstance(y, Secret) and sign != 1:
        y = scaled(b, y, sign, y.shape, y.bound * abs(sign))
    elif sign != 1:
        y = known(f"{sign}*", lambda value: sign * value, y)
    if not isinstance(x, Secret):
        x, y = y, x
    if isinstance(y, Secret):
        first, second = aligned(b, x, y)
        return replace(first, node=b.emit("add", first.node, second.node), shape=shape, bound=bound)
    first = with_room(b, _fine_enough(b, b.plain(x), y, bound), bound)
    if isinstance(y, Owned):
        node = b.emit("add", first.node, b.weight(y, first.fraction, packed=False, factor=first.factor))
    else:
        node = b.emit("add_public", first.node, b.encoded(as_public(y), first.fraction, first.factor))
    return replace(first, node=node, shape=shape, bound=bound)


def _fine_enough(b: Builder, x: Secret, y: Any, bound: float) -> Secret:
    """x at a fraction at which y can be encoded: whole numbers have none."""
    fraction = b.activation_fraction(bound)
    whole = x.factor == 1 and x.fraction >= 0 and not isinstance(y, Owned) and _public_fraction(as_public(y)) == 0
    return x if whole or x.fraction + np.log2(1 / x.factor) >= fraction else b.settled(x, fraction)


def with_room(b: Builder, x: Secret, bound: float) -> Secret:
    """x at a fraction at which a sum within ``bound`` stays in the ring: a small value may have more bits than its summand has room for."""
    return b.rescaled(x, min(ROOM, int(np.floor(ROOM - np.log2(max(bound, 1e-9) / x.factor)))))


def aligned(b: Builder, x: Secret, y: Secret) -> tuple[Secret, Secret]:
    """Two secrets at one fraction and one factor, so that their words can be added: that of the finer one, if that leaves the sum room.

    Left-over bits of a product then stay until a consumer of the sum needs them gone, as a norm does anyway.
    """
    x, y = b.plain(x), b.plain(y)
    if x.factor != y.factor:
        x, y = b.of_factor_one(x), b.of_factor_one(y)
    low, fraction = sorted((x.fraction, y.fraction))
    bound = max(x.bound, y.bound)
    room = room_in_sum(bound / x.factor, max(x.shape[-1:], y.shape[-1:]))
    if fraction > room:
        least = b.activation_fraction(bound)
        fraction = low if least <= low <= room else least
    return b.at_fraction(x, fraction), b.at_fraction(y, fraction)


def room_in_sum(bound: float, width: tuple[int, ...]) -> int:
    """Fraction bits of a sum within ``bound`` that leave a norm over its last axis, of that width, room: it takes ``n x - sum x``."""
    return math.floor(ROOM - 1 - math.log2(max(bound, 1e-9) * max((1, *width))))


def as_public(value: Any) -> Public:
    """A number or a tensor as a value that everybody knows."""
    return value if isinstance(value, Public) else Public(value)


@rule(aten.mul.Tensor, aten.mul.Scalar)
def multiply(call: Call) -> Any:
    """Product: with another secret 1 round, with anything public none."""
    x, y = call.args[0], call.args[1]
    if not isinstance(x, Secret):
        x, y = y, x
    if isinstance(y, Secret) and _same(x, y) and _only_mean(call):
        return Square(x)
    return product(call.builder, x, y, call.shape, call.bound)


def product(b: Builder, x: Secret, y: Any, shape: tuple[int, ...], bound: float) -> Secret:
    """x times anything."""
    if isinstance(y, Secret):
        return b.multiply(x, y, shape, bound)
    return times_owned(b, x, y, shape, bound) if isinstance(y, Owned) else scaled(b, x, y, shape, bound)


def _same(x: Secret, y: Secret) -> bool:
    """Whether two values are one; pending gains and shifts are told apart by name, for they hold tensors."""
    names = [tuple(owned and owned.name for owned in (value.gain, value.shift)) for value in (x, y)]
    return (x.node, x.factor, names[0]) == (y.node, y.factor, names[1])


def times_owned(b: Builder, x: Secret, w: Owned, shape: tuple[int, ...], bound: float) -> Secret:
    """x times a tensor of the owner, which stays pending where a layer may take it in."""
    fraction = b.weight_fraction(w)
    if w.tensor.ndim == 1 and w.tensor.shape[:1] == x.shape[-1:] and x.gain is None and x.shift is None:
        if x.bits + fraction > ROOM:  # now, by its own bound: from here on the bound is that of the value with its gain
            x = b.rescaled(x, b.activation_fraction(x.bound))
        return replace(x, gain=w, bound=bound)  # folded into the next linear layer where there is one
    x = b.fitting_weight(b.plain(x), fraction, bound)
    node = b.emit("multiply", x.node, b.weight(w, fraction, packed=False))
    return replace(x, node=node, shape=shape, fraction=x.fraction + fraction, bound=bound)


def scaled(b: Builder, x: Secret, by: Any, shape: tuple[int, ...], bound: float) -> Secret:
    """x times something public: a lone number only changes the factor."""
    y = as_public(by)
    number = _number(y)
    x = b.plain(x)
    if number is not None and number != 0:
        x = negative(b, x) if number < 0 else x
        return replace(x, factor=x.factor * abs(number), bound=x.bound * abs(number))
    fraction = _public_fraction(y)
    x = b.fitting_weight(x, fraction, bound)
    node = b.emit("multiply_public", x.node, b.encoded(y, fraction), fraction=fraction)
    return replace(x, node=node, shape=shape, fraction=x.fraction + fraction, bound=bound)


def _public_fraction(y: Public) -> int:
    """None for integers; more for small factors, so that they keep about as many significant bits."""
    values = [torch.as_tensor(v).double() for v in ([y.value] if y.rows is None else y.rows)]
    if all(bool((v == v.round()).all()) for v in values):
        return 0
    largest = max(float(v.abs().max()) for v in values)
    return PUBLIC_FRACTION + max(0, min(24, -int(np.ceil(np.log2(largest)))))


def _number(y: Public) -> float | None:
    if y.rows is not None:
        return None
    value = torch.as_tensor(y.value)
    return float(value) if value.numel() == 1 and value.ndim == 0 else None


def _only_mean(call: Call) -> bool:
    users = list(call.node.users)
    return len(users) == 1 and users[0].target is aten.mean.dim and _last_axis(users[0].args[1], len(call.shape))


def _last_axis(dims: Any, rank: int) -> bool:
    return [d % rank for d in dims] == [rank - 1]


@rule(aten.square.default)
def square(call: Call) -> Any:
    """x^2."""
    x = call.args[0]
    return Square(x) if _only_mean(call) else call.builder.multiply(x, x, call.shape, call.bound)


@rule(aten.mean.dim, aten.mean.default, aten.sum.dim_IntList, aten.sum.default)
def total(call: Call) -> Secret:
    """Sum or mean over axes: local; the mean is a factor of the value."""
    x, b = call.args[0], call.builder
    mean = call.name == "mean"
    if isinstance(x, Square):
        inner, keep = _squared(call, b.plain(x.x))
        count = inner.shape[-1] if mean else 1
        node = keep if call.arg(2, "keepdim", False) else b.emit("reshape", keep, shape=call.shape)
        return Secret(node, call.shape, 2 * inner.fraction, call.bound, inner.factor**2 / count)
    x = b.plain(x)
    rank = len(x.shape)
    axes = tuple(sorted(d % rank for d in (call.arg(1, "dim") or range(rank))))
    count = int(np.prod([x.shape[a] for a in axes])) if mean else 1
    if np.log2(max(call.bound, 1e-9) * count / x.factor) + x.fraction > ROOM:
        x = b.rescaled(x, b.activation_fraction(x.bound))
    node = b.emit("total", x.node, axes=axes, keepdims=bool(call.arg(2, "keepdim", False)))
    return replace(x, node=node, shape=call.shape, factor=x.factor / count, bound=call.bound)


def _squared(call: Call, x: Secret) -> tuple[Secret, int]:
    """x at a fraction whose sum of squares stays within the ring, and that sum."""
    fraction = min(x.fraction, call.builder.activation_fraction(x.bound))
    bits = np.log2(max(call.bound * x.shape[-1], 1e-9) / x.factor**2) + 2 * fraction
    return truncated_squares(call.builder, x, fraction - max(0, int(np.ceil((bits - ROOM) / 2))))
