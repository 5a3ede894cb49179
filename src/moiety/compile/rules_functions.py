"""Lowering of functions of one secret: powers, quotients, and whatever a table serves."""

import math
from typing import Any

import numpy as np
import torch

from moiety.compile.builder import ROOM, Builder, Owned, Public, Secret
from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_arithmetic import as_public, product, scaled, square, times_owned
from moiety.compile.tables import Function, Wanted
from moiety.errors import UnsupportedOp
from moiety.mpc.functions import activations
from moiety.mpc.functions.puma_root import root_fraction

ACTIVATION = Wanted(2.0**-10.75)
"""With the truncation of what comes in and goes out, an activation stays within 2^-10."""

RELATIVE = Wanted(2.0**-11.8, 0.0)


def _positive_range(call: Call) -> tuple[float, float]:
    """Calibrated ends of the first argument, which must be positive, widened by the margin at both ends."""
    low, high = call.input_range()
    margin = 2 * call.builder.options.margin
    if low <= 0:
        raise UnsupportedOp(f"{call.node.target} in {call.builder.module} was calibrated at {low:g}; it needs values above zero")
    return low / margin, high * margin


@rule(aten.rsqrt.default)
def inverse_root(call: Call) -> Secret:
    """1/sqrt(x) of positive values, by table or in the chosen variant."""
    b = call.builder
    return inverse_roots(b, call.args[0], *_positive_range(call), b.options.row_fraction, call.bound * b.options.margin)


def inverse_roots(b: Builder, x: Secret, low: float, high: float, fraction: int, bound: float) -> Secret:
    """1/sqrt(x) for x in [low, high]: by table at ``fraction``, or in the variant that this layer chose."""
    if b.variant("rsqrt") == "exact":
        return b.table(activations.rsqrt, x, low, high, fraction, RELATIVE, bound)
    x = b.in_units(x, low, high)
    b.check(x, low, high)
    top = min(ROOM, max(2, math.ceil(math.log2(high / x.unit))))
    least = max(0, min(top - 2, math.floor(math.log2(low / x.unit))))
    node = b.emit("puma_rsqrt", x.node, low=least, high=top)
    return Secret(node, x.shape, root_fraction(x.fraction, least), bound, x.factor**-0.5)


@rule(aten.sqrt.default)
def root(call: Call) -> Secret:
    """sqrt(x), by table."""
    x = call.builder.plain(call.args[0])
    low, high = call.input_range()
    margin = 2 * call.builder.options.margin
    wanted = Wanted(2.0**-12, max(high, 1e-6) ** 0.5 * 2.0**-8)
    return call.builder.table(
        activations.sqrt, x, max(low / margin, 1e-9), high * margin, call.builder.options.table_fraction, wanted, call.bound
    )


@rule(aten.reciprocal.default)
def inverse(call: Call) -> Secret:
    """1/x of positive values, by table."""
    b = call.builder
    low, high = _positive_range(call)
    return b.table(activations.reciprocal, call.args[0], low, high, b.options.row_fraction, RELATIVE, call.bound * b.options.margin)


@rule(aten.div.Tensor, aten.div.Scalar)
def divide(call: Call) -> Any:
    """Quotient; a secret divisor is positive and looked up."""
    x, y = call.args[0], call.args[1]
    if not isinstance(y, Secret):
        if isinstance(y, Owned):
            return times_owned(call.builder, x, Owned(1 / y.tensor, f"1/({y.name})"), call.shape, call.bound)
        public = as_public(y)
        inverted = Public(None, tuple(1 / r for r in public.rows)) if public.rows is not None else Public(1 / torch.as_tensor(public.value))
        return scaled(call.builder, x, inverted, call.shape, call.bound)
    node = call.node.args[1]
    found = call.builder.range_of(call.lowering.sites.get(node, getattr(node, "name", "")))  # type: ignore[arg-type]
    margin = 2 * call.builder.options.margin
    if found.low <= 0:
        raise UnsupportedOp(f"a division in {call.builder.module} has a divisor calibrated at {found.low:g}; it needs values above zero")
    fraction = call.builder.options.row_fraction
    r = call.builder.table(activations.reciprocal, y, found.low / margin, found.high * margin, fraction, RELATIVE, margin / found.low)
    if isinstance(x, Secret):
        return call.builder.multiply(x, r, call.shape, call.bound)
    return product(call.builder, r, x, call.shape, call.bound)


@rule(aten.pow.Tensor_Scalar)
def power(call: Call) -> Any:
    """Powers 2, 3, 0.5 and -0.5."""
    x, exponent = call.args
    match exponent:
        case 2:
            return square(call)
        case 3:
            second = call.builder.multiply(x, x, call.shape, call.bound ** (2 / 3))
            return call.builder.multiply(call.builder.settled(second), x, call.shape, call.bound)
        case 0.5:
            return root(call)
        case -0.5:
            return inverse_root(call)
    raise UnsupportedOp(f"power {exponent} in {call.builder.module}; 2, 3, 0.5 and -0.5 have a private form")


FUNCTIONS: dict[Any, tuple[str, Function]] = {
    aten.silu.default: ("silu", activations.silu),
    aten.tanh.default: ("tanh", activations.tanh),
    aten.sigmoid.default: ("sigmoid", activations.sigmoid),
    aten.softplus.default: ("softplus", activations.softplus),
    aten.exp.default: ("exp", activations.exp),
}


@rule(*FUNCTIONS)
def activation(call: Call) -> Secret:
    """A smooth function by table, or the chosen variant."""
    name, f = FUNCTIONS[call.node.target]
    if name == "softplus" and call.arg(1, "beta", 1) != 1:
        raise UnsupportedOp(f"softplus in {call.builder.module} with beta {call.arg(1, 'beta')}; only beta 1 has a private form")
    return _activation(call, name, f)


@rule(aten.gelu.default)
def gelu(call: Call) -> Secret:
    """GeLU in the form that the model asks for."""
    return _activation(call, "gelu", activations.gelu_tanh if call.kwargs.get("approximate") == "tanh" else activations.gelu)


def _activation(call: Call, name: str, f: Function) -> Secret:
    b, x = call.builder, call.args[0]
    if b.variant(name) != "exact":
        x = b.settled(x)
        return Secret(b.emit(f"{b.variant(name)}_{name}", x.node), x.shape, x.fraction, call.bound)
    low, high = call.input_range()
    width = (b.options.margin - 1) * max(high - low, abs(low), abs(high), 1.0)
    bound = float(np.abs(f(np.linspace(low - width, high + width, 257))).max())
    wanted = Wanted(2.0**-11, 2.0**-8) if name == "exp" else ACTIVATION
    return b.table(f, x, low - width, high + width, b.options.table_fraction, wanted, max(bound, 1.0))
