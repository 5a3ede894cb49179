"""Lowering of functions in straight pieces: exact comparisons with public ends on as many bits as the range needs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moiety.compile.builder import Public, Secret
from moiety.compile.lower import Call, aten, rule
from moiety.errors import UnsupportedOp


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
    call.builder.check(x, -reach, reach)
    farthest = reach + max(abs(end) for end in ends)
    return min(64, max(8, int(np.ceil(np.log2(farthest * 2.0**x.fraction))) + 2))
