"""Lowering of smooth functions of one secret, by table or in a chosen variant."""

import math
from typing import Any

import numpy as np

from moiety.compile import tables
from moiety.compile.lower import Call, aten, rule
from moiety.compile.plan import Lookup
from moiety.compile.rules_arithmetic import scaled
from moiety.compile.rules_piecewise import combined, positive_part
from moiety.compile.rules_powers import positive_range
from moiety.compile.tables import Function, Wanted
from moiety.compile.values import Secret
from moiety.errors import UnsupportedOp
from moiety.mpc.functions import activations, puma

ACTIVATION = Wanted(2.0**-10.75)
"""With the truncation of what comes in and goes out, an activation stays within 2^-10."""
SMALLEST = 2.0**-3
"""Outputs that stay below 1 keep their relative error down to this size."""
EXPONENTIAL = Wanted(2.0**-11, 2.0**-8)
GROWING = Wanted(2.0**-11, 1.0)
"""Absolute near zero, relative where the function is large."""

PUMA: dict[str, Function] = {"gelu": puma.gelu_float, "silu": puma.silu_float}

FUNCTIONS: dict[Any, tuple[str, Function, Wanted]] = {
    aten.silu.default: ("silu", activations.silu, ACTIVATION),
    aten.tanh.default: ("tanh", activations.tanh, ACTIVATION),
    aten.sigmoid.default: ("sigmoid", activations.sigmoid, ACTIVATION),
    aten.exp.default: ("exp", activations.exp, EXPONENTIAL),
    aten.exp2.default: ("exp2", activations.base(2.0), EXPONENTIAL),
    aten.expm1.default: ("expm1", activations.expm1, GROWING),
    aten.sinh.default: ("sinh", np.sinh, GROWING),
    aten.cosh.default: ("cosh", np.cosh, GROWING),
    aten.atan.default: ("atan", np.arctan, ACTIVATION),
    aten.asinh.default: ("asinh", np.arcsinh, ACTIVATION),
    aten.erf.default: ("erf", activations.erf, ACTIVATION),
    aten.erfc.default: ("erfc", activations.erfc, ACTIVATION),
    aten.mish.default: ("mish", activations.mish, ACTIVATION),
    aten.log_sigmoid.default: ("log_sigmoid", activations.log_sigmoid, ACTIVATION),
}


@rule(*FUNCTIONS)
def activation(call: Call) -> Secret:
    """A smooth function by table, or the chosen variant."""
    return activated(call, *FUNCTIONS[call.node.target])


@rule(aten.gelu.default)
def gelu(call: Call) -> Secret:
    """GeLU in the form that the model asks for."""
    f = activations.gelu_tanh if call.kwargs.get("approximate") == "tanh" else activations.gelu
    return activated(call, "gelu", f, ACTIVATION)


@rule(aten.softplus.default)
def softplus(call: Call) -> Secret:
    """log(1 + exp(beta x)) / beta."""
    beta = float(call.arg(1, "beta", 1))
    return activated(call, "softplus", activations.softplus if beta == 1 else activations.softplus_of(beta), ACTIVATION)


@rule(aten.celu.default)
def celu(call: Call) -> Secret:
    """x above zero, alpha (exp(x / alpha) - 1) below."""
    return activated(call, "celu", activations.celu(float(call.arg(1, "alpha", 1.0))), ACTIVATION)


@rule(aten.elu.default)
def elu(call: Call) -> Secret:
    """scale * x above zero, scale * alpha (exp(x) - 1) below: a smooth table, and where it has a kink a share of max(x, 0)."""
    alpha, scale, inner = (float(call.arg(i, name, 1.0)) for i, name in ((1, "alpha"), (2, "scale"), (3, "input_scale")))
    if inner != 1:
        raise UnsupportedOp(f"elu in {call.builder.module} with input_scale {inner}; only 1 has a private form")
    b, smooth = call.builder, activated(call, "elu", activations.elu, ACTIVATION)
    if alpha == 1:
        return scaled(b, smooth, scale, call.shape, call.bound)
    part = positive_part(b, call.args[0])
    return combined(b, b.settled(smooth, part.fraction), part, (scale * alpha, scale * (1 - alpha)), call.bound)


@rule(aten.pow.Scalar)
def exponential(call: Call) -> Secret:
    """A positive number to the power of a secret."""
    number = float(call.args[0])
    if number <= 0:
        raise UnsupportedOp(f"a power of {number:g} in {call.builder.module}; the base of a secret exponent must be positive")
    return _by_table(call, call.args[1], call.input_range(1), activations.base(number), EXPONENTIAL)


def activated(call: Call, name: str, f: Function, wanted: Wanted) -> Secret:
    """f of the call's first argument: by table on its widened range, or in the variant that this layer chose for ``name``."""
    b, x = call.builder, call.args[0]
    if b.variant(name) != "exact":
        x, (low, high) = b.settled(x), call.input_range()
        grid = np.linspace(low, high, 4097)
        b.lookups.append(Lookup(b.module, f"{b.variant(name)} {name}", low, high, float(np.abs(PUMA[name](grid) - f(grid)).max())))
        return Secret(b.emit(f"{b.variant(name)}_{name}", x.node), x.shape, x.fraction, call.bound)
    return _by_table(call, x, call.input_range(), f, wanted)


def _by_table(call: Call, x: Secret, ends: tuple[float, float], f: Function, wanted: Wanted) -> Secret:
    """By table on the calibrated range with its margin; the absolute part of the error shrinks with the largest value."""
    b, (low, high) = call.builder, ends
    width = (b.options.margin - 1) * max(high - low, abs(low), abs(high), 1.0)
    bound = float(np.abs(f(np.linspace(low - width, high + width, 257))).max()) * 1.001
    seen = float(np.abs(f(np.linspace(low, high, 257))).max())
    if wanted.floor is None:
        wanted = Wanted(wanted.error * min(1.0, max(seen, SMALLEST)))
    return b.table(f, x, low - width, high + width, b.options.table_fraction, wanted, max(bound, 1.0))


LOGARITHM = Wanted(2.0**-12)
LOGARITHM_FRACTION = 32
"""Fraction bits of looked-up logarithms, whose range is wide."""
LOGARITHMS: dict[Any, float] = {aten.log.default: 1.0, aten.log2.default: 1 / math.log(2), aten.log10.default: 1 / math.log(10)}


@rule(*LOGARITHMS)
def logarithm(call: Call) -> Secret:
    """A logarithm of positive values, within 2^-12 of that of what the input's own resolution makes of them."""
    b, (low, high) = call.builder, positive_range(call)
    bound = max(abs(math.log(low)), abs(math.log(high)))
    found = b.table(activations.log, call.args[0], low, high, LOGARITHM_FRACTION, LOGARITHM, bound)
    factor = LOGARITHMS[call.node.target]
    return found if factor == 1 else scaled(b, found, factor, call.shape, call.bound)


@rule(aten.log1p.default)
def log1p(call: Call) -> Secret:
    """log(1 + x) for x above -1."""
    b, (low, high), margin = call.builder, call.input_range(), 2 * call.builder.options.margin
    if low <= -1:
        raise UnsupportedOp(f"log1p in {b.module} was calibrated at {low:g}; it needs values above -1")
    low, high = (1 + low) / margin - 1, (1 + high) * margin - 1
    bound = max(abs(math.log1p(low)), abs(math.log1p(high)), 2.0**-6)
    return b.table(activations.log1p, call.args[0], low, high, LOGARITHM_FRACTION, LOGARITHM, bound)


PERIODIC: dict[Any, Function] = {aten.sin.default: activations.sine, aten.cos.default: activations.cosine}
TURN_BITS = 18
"""Resolution of an angle, in fractions of a turn."""


@rule(*PERIODIC)
def periodic(call: Call) -> Secret:
    """Sine and cosine of any angle: in turns, a table of one period wraps where the function does."""
    b, f = call.builder, PERIODIC[call.node.target]
    x = b.plain(call.args[0])
    shift = TURN_BITS + max(0, math.ceil(math.log2(max(x.bound, 2.0**-6) / x.factor)))
    x = b.rescaled(x, max(0, 60 - shift))
    turns = b.emit("scale", x.node, factor=round(x.factor / (2 * math.pi) * 2.0**shift), fraction=shift)
    choice = tables.periodic(f, x.fraction + shift, b.options.table_fraction)
    b.lookups.append(Lookup(b.module, f.__name__, -x.bound, x.bound, choice.error))
    [level] = choice.levels
    node = b.emit("table", turns, b.constant(level.table.coefficients), windows=tuple(level.window), fraction=b.options.table_fraction)
    return Secret(node, x.shape, b.options.table_fraction, 1.0)
