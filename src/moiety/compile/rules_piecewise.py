"""Lowering of functions in straight pieces: exact comparisons with public ends on as many bits as the range needs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moiety.compile.builder import Builder
from moiety.compile.known import known
from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_arithmetic import added, product
from moiety.compile.values import Owned, Public, Secret
from moiety.errors import UnsupportedOp

MIXING = 16
"""Fraction bits of a public slope."""


@rule(aten.relu.default)
def relu(call: Call) -> Secret:
    """max(x, 0)."""
    x = call.builder.settled(call.args[0])
    return replace(x, node=call.builder.emit("relu", x.node, bits=_bits(call, x, [0.0])), bound=call.bound)


@rule(aten.relu6.default)
def relu6(call: Call) -> Secret:
    """min(max(x, 0), 6)."""
    return held(call, 0.0, 6.0)


@rule(aten.hardtanh.default)
def hardtanh(call: Call) -> Secret:
    """x between two public numbers."""
    return held(call, call.arg(1, "min_val", -1.0), call.arg(2, "max_val", 1.0))


@rule(aten.hardsigmoid.default)
def hardsigmoid(call: Call) -> Secret:
    """min(max(x / 6 + 1/2, 0), 1)."""
    return _sixth(call)


@rule(aten.hardswish.default)
def hardswish(call: Call) -> Secret:
    """x times its hard sigmoid."""
    return call.builder.multiply(call.builder.settled(call.args[0]), _sixth(call), call.shape, call.bound)


def _sixth(call: Call) -> Secret:
    b, x = call.builder, held(call, -3.0, 3.0)
    moved = b.emit("add_public", x.node, b.encoded(Public(3.0), x.fraction))
    return replace(x, node=moved, factor=x.factor / 6, bound=1.0)


def positive_part(b: Builder, x: Secret) -> Secret:
    """max(x, 0), at the activations' fraction."""
    x = b.settled(x)
    b.check(x, -x.bound, x.bound, x.bound / 4)
    return replace(x, node=b.emit("relu", x.node, bits=min(64, max(8, int(np.ceil(x.bits)) + 2))))


def combined(b: Builder, x: Secret, y: Secret, parts: tuple[float, float], bound: float) -> Secret:
    """A public combination of two secrets of one fraction: local, MIXING more fraction bits."""
    first, second = (
        b.emit("scale", v.node, factor=round(part * 2**MIXING), fraction=MIXING) for v, part in zip((x, y), parts, strict=True)
    )
    return replace(x, node=b.emit("add", first, second), fraction=x.fraction + MIXING, bound=bound)


@rule(aten.abs.default)
def magnitude(call: Call) -> Secret:
    """|x| = 2 max(x, 0) - x, exactly."""
    b, x = call.builder, call.builder.settled(call.args[0])
    part = positive_part(b, x)
    node = b.emit("subtract", b.emit("scale", part.node, factor=2), x.node)
    return replace(x, node=node, bound=max(call.bound, 1e-3))


@rule(aten.leaky_relu.default)
def leaky_relu(call: Call) -> Secret:
    """max(x, 0) + slope min(x, 0)."""
    b, slope = call.builder, float(call.arg(1, "negative_slope", 0.01))
    x = b.settled(call.args[0])
    return combined(b, positive_part(b, x), x, (1 - slope, slope), call.bound)


@rule(aten.prelu.default, aten._prelu_kernel.default)
def prelu(call: Call) -> Secret:
    """max(x, 0) - slope max(-x, 0), the slopes a parameter of each channel (the second axis)."""
    b, slope = call.builder, call.args[1]
    if not isinstance(slope, Owned | Public):
        raise UnsupportedOp(f"prelu in {b.module} whose slope is a secret; write x.clamp(min=0) + slope * x.clamp(max=0)")
    x = b.settled(call.args[0])
    if call.node.target is aten.prelu.default:
        columns = (-1, *(1 for _ in x.shape[2:]))
        slope = known(f"columns{columns}", lambda s: s.reshape(columns) if s.numel() > 1 else s.reshape(()), slope)
    above = positive_part(b, x)
    below = replace(above, node=b.emit("subtract", above.node, x.node))
    return added(b, above, product(b, below, slope, call.shape, call.bound), call.shape, call.bound, -1)


def held(call: Call, low: float | None, high: float | None) -> Secret:
    """The first argument within public ends; one of them may be None."""
    if low is not None and high is not None and low > high:
        raise UnsupportedOp(f"a clamp in {call.builder.module} between {low:g} and {high:g}; the lower end must come first")
    ends = {name: float(end) for name, end in (("low", low), ("high", high)) if end is not None and np.isfinite(end)}
    if not ends:
        return call.args[0]  # type: ignore[no-any-return]
    x = call.builder.settled(call.args[0])
    raw = {name: round(end * 2.0**x.fraction) for name, end in ends.items()}
    node = call.builder.emit("clamp", x.node, bits=_bits(call, x, list(ends.values())), **raw)
    bound = max(abs(end) for end in ends.values()) if len(ends) == 2 else max(call.bound, *map(abs, ends.values()))
    return replace(x, node=node, bound=max(bound, 1e-3))


def _bits(call: Call, x: Secret, ends: Sequence[float]) -> int:
    """Bits on which x, settled and within its range, can be compared with the ends."""
    reach = max(call.input_bound(), 1e-3)
    call.builder.check(x, -reach, reach, reach / 8)
    farthest = reach + max(abs(end) for end in ends)
    return min(64, max(8, int(np.ceil(np.log2(farthest * 2.0**x.fraction))) + 2))
