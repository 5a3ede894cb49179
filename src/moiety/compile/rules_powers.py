"""Lowering of roots, reciprocals, quotients and powers."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from moiety.compile.builder import ROOM, Builder
from moiety.compile.known import known
from moiety.compile.lower import Call, aten, rule
from moiety.compile.plan import Lookup
from moiety.compile.rules_arithmetic import negative, product, square
from moiety.compile.tables import Wanted
from moiety.compile.values import Secret
from moiety.errors import PlanError, UnsupportedOp
from moiety.mpc.functions import activations
from moiety.mpc.functions.puma_root import root_fraction, rsqrt_float

RELATIVE = Wanted(2.0**-11.8, 0.0)
LEAN = ((20, Wanted(2.0**-13, 0.0, index_bits=12, degree=1)), (28, Wanted(2.0**-11.8, 0.0, index_bits=12)))
"""Tables of one value a row that leave products of it room, first choice first: fraction bits beyond the integer bits of the inverse of
the least value, and what is wanted. A line's coefficients need some 6 bits beyond those of the value, a quadratic's more."""


def positive_range(call: Call) -> tuple[float, float]:
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
    return inverse_roots(b, call.args[0], *positive_range(call), b.options.row_fraction, call.bound * b.options.margin)


def inverse_roots(b: Builder, x: Secret, low: float, high: float, fraction: int, bound: float) -> Secret:
    """1/sqrt(x) for x in [low, high]: by table at ``fraction``, or in the variant that this layer chose."""
    if b.variant("rsqrt") == "exact":
        for more, wanted in LEAN:
            lean = more + math.ceil(math.log2(high) / 2)
            if 0 < lean < fraction and (found := _lean(b, x, low, high, lean, wanted, bound)) is not None:
                return found
        return b.table(activations.rsqrt, x, low, high, fraction, RELATIVE, bound)
    x = b.in_units(x, low, high)
    b.check(x, low, high)
    top = min(ROOM, max(2, math.ceil(math.log2(high / x.unit))))
    least = max(0, min(top - 2, math.floor(math.log2(low / x.unit))))
    grid = np.geomspace(low, high, 4097)
    error = float(np.abs(rsqrt_float(grid) / activations.rsqrt(grid) - 1).max()) + 2.0**-19 + 2.0 ** ((top - least - 80) / 2)
    b.lookups.append(Lookup(b.module, "puma rsqrt", low, high, error, relative=True))
    node = b.emit("puma_rsqrt", x.node, low=least, high=top)
    found = Secret(node, x.shape, root_fraction(x.fraction, least), bound, x.factor**-0.5)
    # far below the polynomial's error, and what is multiplied by it keeps its own bits
    return b.rescaled(found, min(found.fraction, 20 + math.ceil(math.log2(high / x.factor) / 2)))


def _lean(b: Builder, x: Secret, low: float, high: float, fraction: int, wanted: Wanted, bound: float) -> Secret | None:
    """1/sqrt(x) with so few fraction bits that products of it need no truncation; None where the range is too wide for that."""
    try:
        return b.table(activations.rsqrt, x, low, high, fraction, wanted, bound)
    except PlanError:
        return None


@rule(aten.sqrt.default)
def root(call: Call) -> Secret:
    """sqrt(x), by table."""
    return roots(call.builder, call.args[0], *call.input_range(), call.bound)


def roots(b: Builder, x: Secret, low: float, high: float, bound: float) -> Secret:
    """sqrt(x), of which calibration saw [low, high]: relative error down to 2^-8 of the largest root, absolute below."""
    margin = 2 * b.options.margin
    wanted = Wanted(2.0**-12, max(high, 1e-6) ** 0.5 * 2.0**-8)
    return b.table(activations.sqrt, x, max(low / margin, 1e-9), high * margin, b.options.table_fraction, wanted, bound)


@rule(aten.reciprocal.default)
def inverse(call: Call) -> Secret:
    """1/x of values of one sign, by table."""
    return _inverse(call, 0, call.bound * call.builder.options.margin)


def _inverse(call: Call, position: int, bound: float) -> Secret:
    """The reciprocal of an argument whose range says its sign."""
    b, x, (low, high) = call.builder, call.args[position], call.input_range(position)
    if low <= 0 <= high:
        raise UnsupportedOp(
            f"{call.node.target} in {b.module} divides by what calibration saw between {low:g} and {high:g}; a divisor needs one sign: "
            "clamp it, or add a constant that keeps it from zero"
        )
    if high < 0:
        x, low, high = negative(b, x), -high, -low
    margin = 2 * b.options.margin
    found = b.table(activations.reciprocal, x, low / margin, high * margin, b.options.row_fraction, RELATIVE, bound)
    return negative(b, found) if call.input_range(position)[1] < 0 else found


@rule(aten.div.Tensor, aten.div.Scalar)
def divide(call: Call) -> Any:
    """Quotient; a secret divisor has one sign and is looked up."""
    b, x, y = call.builder, call.args[0], call.args[1]
    if not isinstance(y, Secret):
        return product(b, x, known("1/", lambda value: 1 / value, y), call.shape, call.bound)
    low, high = call.input_range(1)
    r = _inverse(call, 1, 2 * b.options.margin / max(min(abs(low), abs(high)), 1e-9))
    if isinstance(x, Secret):
        return b.multiply(x, r, call.shape, call.bound)
    return product(b, r, x, call.shape, call.bound)


@rule(aten.pow.Tensor_Scalar)
def power(call: Call) -> Any:
    """Whole powers by products, other ones of positive values by table."""
    x, exponent = call.args
    if exponent in (1, 2):
        return x if exponent == 1 else square(call)
    if exponent == int(exponent) and exponent > 0:
        return _whole_power(call, int(exponent))
    if abs(exponent) == 0.5:
        return root(call) if exponent > 0 else inverse_root(call)
    if exponent == -1:
        return inverse(call)
    return _other_power(call, float(exponent))


def _whole_power(call: Call, exponent: int) -> Secret:
    """Square and multiply: a product and a truncation for every bit of the exponent, and for every one in it."""
    b, x = call.builder, call.args[0]
    out: Secret | None = None
    step, reach = x, call.input_bound()
    for i in range(exponent.bit_length()):
        if exponent >> i & 1:
            done = exponent & ((1 << (i + 1)) - 1)
            out = step if out is None else b.multiply(b.settled(out), step, call.shape, max(reach**done, 1e-6))
        if exponent >> (i + 1):
            step = b.settled(b.multiply(step, step, call.shape, max(reach ** (2 << i), 1e-6)))
    return replace(out, bound=call.bound) if out is not None else x


def _other_power(call: Call, exponent: float) -> Secret:
    b = call.builder
    low, high = positive_range(call)
    bound, fraction = call.bound * b.options.margin, b.options.row_fraction if exponent < 0 else b.options.table_fraction
    wanted = RELATIVE if exponent < 0 else Wanted(2.0**-12, max(high, 1e-6) ** exponent * 2.0**-8)
    return b.table(activations.power(exponent), call.args[0], low, high, fraction, wanted, bound)


@rule(aten.pow.Tensor_Tensor)
def power_of_tensors(call: Call) -> Any:
    """One public number as the exponent; others would need exp(y log(x))."""
    raise UnsupportedOp(f"a power in {call.builder.module} whose exponent is a tensor; for positive x, write torch.exp(y * torch.log(x))")
