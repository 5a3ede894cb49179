"""Lowering of comparisons and of what they decide: masks, selections, maxima.

A secret mask is a secret whose words are 0 or 1, with no fraction bits: arithmetic, moves and sums of masks need no rules of their own,
and a product with a mask is exact and leaves no bits over.
"""

import math
from dataclasses import replace
from typing import Any

import torch

from moiety.compile.builder import Builder
from moiety.compile.calibrate import LOWEST
from moiety.compile.known import known, reach
from moiety.compile.lower import Call, aten, rule, takes_index, takes_masked
from moiety.compile.masked import excluded, only_softmax
from moiety.compile.rules_arithmetic import added, aligned, negative, product
from moiety.compile.rules_shape import one_hot_input
from moiety.compile.rules_top import one_hot_at
from moiety.compile.values import Index, Masked, Owned, Secret
from moiety.errors import InputError, UnsupportedOp

ORDERED: dict[Any, str] = {
    overload: packet.__name__ for packet in (aten.lt, aten.gt, aten.le, aten.ge) for overload in (packet.Scalar, packet.Tensor)
}


@rule(*ORDERED)
def ordered(call: Call) -> Secret:
    """A mask of where the first is less (greater, ...) than the second: a comparison, and one round to make it a number.

    Exact on the words: reals that differ by less than their errors may compare either way.
    """
    name, (x, y) = ORDERED[call.node.target], call.args[:2]
    difference = _difference(call.builder, y, x, call.shape) if name in ("gt", "le") else _difference(call.builder, x, y, call.shape)
    less = _mask(call.builder.emit("is_negative", difference.node, bits=width(call.builder, difference)), call.shape)
    return inverted(call.builder, less) if name in ("le", "ge") else less


@rule(aten.eq.Scalar, aten.eq.Tensor, aten.ne.Scalar, aten.ne.Tensor)
@takes_index
def equal(call: Call) -> Secret:
    """A mask of where two are equal (or not), word for word: meant for masks, counts and places, as reals have errors.

    Whether one of the client's integers is a certain number is a column of the one-hot that it shares: local.
    """
    b, (x, y) = call.builder, call.args[:2]
    alike = _is_class(call, x, y) if isinstance(x, Index) else is_zero(b, _difference(b, x, y, call.shape))
    return inverted(b, alike) if call.node.target in (aten.ne.Scalar, aten.ne.Tensor) else alike


def _is_class(call: Call, index: Index, number: Any) -> Secret:
    looked_up = (n for n in call.lowering.captured.graph.nodes if n.target is aten.embedding.default)
    classes = next((int(n.args[0].meta["val"].shape[0]) for n in looked_up if _origin(n.args[1]) == index.input), 0)
    if not isinstance(number, int) or not 0 <= number < classes:
        raise InputError(
            f"{call.node.target} in {call.builder.module or 'the model itself'} compares secret integers with what is not one of the rows "
            "of the embedding that they index; name that input in public=(...) if all parties may know it"
        )
    hot, b = one_hot_input(call, index, classes), call.builder
    column = b.emit("cut", hot.node, axis=len(hot.shape) - 1, start=number, stop=number + 1, step=1)
    return _mask(b.emit("reshape", column, shape=call.shape), call.shape)


def _origin(node: Any) -> str:
    """The input that a node merely moves."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        [node] = node.all_input_nodes
    return str(node.name)


def is_zero(b: Builder, x: Secret) -> Secret:
    """A mask of where all words are zero."""
    return _mask(b.emit("is_zero", x.node, bits=width(b, x)), x.shape)


def _mask(node: int, shape: tuple[int, ...]) -> Secret:
    return Secret(node, shape, 0, 1.0)


def _difference(b: Builder, x: Any, y: Any, shape: tuple[int, ...]) -> Secret:
    return added(b, x, y, shape, largest_magnitude(x) + largest_magnitude(y), -1)


def largest_magnitude(x: Any) -> float:
    """Largest magnitude of anything."""
    return x.bound if isinstance(x, Secret) else reach(x)


def width(b: Builder, x: Secret) -> int:
    """Bits on which x can be compared with zero, two to spare."""
    b.check(x, -x.bound, x.bound, x.bound / 4)
    return min(64, max(4, math.ceil(x.bits) + 3))


def inverted(b: Builder, mask: Secret) -> Secret:
    """1 where a mask is 0: local."""
    return added(b, 1, mask, mask.shape, 1.0, -1)


@rule(aten.logical_not.default, aten.bitwise_not.default)
def logical_not(call: Call) -> Secret:
    """The opposite mask: local."""
    return inverted(call.builder, _truth(call, 0))


def _truth(call: Call, position: int) -> Any:
    """An operand as a mask; what is no mask counts where it is not zero."""
    x = call.args[position]
    if call.dtype(position) is torch.bool or not isinstance(x, Secret):
        return x
    if call.name.startswith(("bitwise", "__")):
        raise UnsupportedOp(f"{call.node.target} in {call.builder.module} on secret integers; on masks it has a private form")
    return inverted(call.builder, is_zero(call.builder, call.builder.plain(x)))


@rule(aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor)
def logical_and(call: Call) -> Secret:
    """Where both masks hold: a product."""
    return _both(call)[2]


@rule(aten.logical_or.default, aten.bitwise_or.Tensor, aten.__or__.Tensor)
def logical_or(call: Call) -> Secret:
    """Where either mask holds: x + y - x y."""
    x, y, both = _both(call)
    return added(call.builder, added(call.builder, x, y, call.shape, 2.0), both, call.shape, 1.0, -1)


@rule(aten.logical_xor.default, aten.bitwise_xor.Tensor, aten.__xor__.Tensor)
def logical_xor(call: Call) -> Secret:
    """Where exactly one mask holds: x + y - 2 x y."""
    x, y, both = _both(call)
    twice = replace(both, node=call.builder.emit("scale", both.node, factor=2), bound=2.0)
    return added(call.builder, added(call.builder, x, y, call.shape, 2.0), twice, call.shape, 1.0, -1)


def _both(call: Call) -> tuple[Any, Any, Secret]:
    x, y = (_numbers(_truth(call, place)) for place in (0, 1))
    first, second = (x, y) if isinstance(x, Secret) else (y, x)
    return x, y, _chosen(call.builder, first, second, call.shape, 1.0)


def _numbers(mask: Any) -> Any:
    """A mask that is not secret, as zeros and ones."""
    return mask if isinstance(mask, Secret) else known("number of", lambda m: (m != 0).double(), mask)


def _chosen(b: Builder, x: Secret, mask: Any, shape: tuple[int, ...], bound: float) -> Secret:
    """x where a mask of zeros and ones holds, else 0; no bits are left over, whosever the mask is."""
    if isinstance(mask, Secret):
        return b.multiply(x, mask, shape, bound)
    x = b.plain(x)
    if isinstance(mask, Owned):
        node = b.emit("multiply", x.node, b.weight(mask, 0, packed=False))
    else:
        node = b.emit("multiply_public", x.node, b.encoded(mask, 0), fraction=0)
    return replace(x, node=node, shape=shape, bound=bound)


@rule(aten.bitwise_and.Scalar, aten.bitwise_or.Scalar, aten.bitwise_xor.Scalar)
def bits_of_numbers(call: Call) -> Secret:
    """Bits of a secret number would have to be taken apart."""
    raise UnsupportedOp(f"{call.node.target} in {call.builder.module} on secret integers; on masks it has a private form")


@rule(aten.one_hot.default)
@takes_index
def one_hot(call: Call) -> Secret:
    """A one for the place that is meant: of the client's integers as it gives them, of computed ones as the dealer deals it."""
    b, x, classes = call.builder, call.args[0], call.arg(1, "num_classes", -1)
    if classes < 1:
        raise UnsupportedOp(f"one_hot in {b.module} whose number of classes follows from its values; give num_classes")
    if isinstance(x, Index):
        return one_hot_input(call, x, classes)
    return one_hot_at(b, b.plain(x), classes)


@rule(aten.any.default, aten.any.dim, aten.any.dims)
def any_of(call: Call) -> Secret:
    """Where any element counts: whether their number is not zero."""
    b, count = call.builder, _count(call, _truth(call, 0))
    return inverted(b, is_zero(b, count))


@rule(aten.all.default, aten.all.dim, aten.all.dims)
def all_of(call: Call) -> Secret:
    """Where all elements count: whether none is missing."""
    return is_zero(call.builder, _count(call, inverted(call.builder, _truth(call, 0))))


def _count(call: Call, mask: Secret) -> Secret:
    rows = gathered_axes(call.builder, mask, call.arg(1, "dim"))
    node = call.builder.emit("total", rows.node, axes=(len(rows.shape) - 1,), keepdims=False)
    node = call.builder.emit("reshape", node, shape=call.shape)
    return Secret(node, call.shape, 0, float(rows.shape[-1]))


def gathered_axes(b: Builder, x: Secret, dims: Any) -> Secret:
    """x with some axes (all for None) joined into one, the last."""
    x, rank = b.plain(x), len(x.shape)
    inner = list(range(rank)) if dims is None or dims == [] else sorted(d % rank for d in ([dims] if isinstance(dims, int) else dims))
    order = (*(d for d in range(rank) if d not in inner), *inner)
    shape = (*(x.shape[d] for d in order[: rank - len(inner)]), math.prod(x.shape[d] for d in inner))
    node = x.node if order == tuple(range(rank)) else b.emit("permute", x.node, dims=order)
    return replace(x, node=node if shape == x.shape else b.emit("reshape", node, shape=shape), shape=shape)


@rule(aten.where.self)
@takes_masked
def where(call: Call) -> Any:
    """One of two by a mask: ``y + mask * (x - y)`` for a secret mask, local for a public one, a product for one of the owner."""
    mask, x, y = call.args
    return _by_secret(call, mask, x, y) if isinstance(mask, Secret) else _by_known(call, mask, x, y)


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
@takes_masked
def masked_fill(call: Call) -> Any:
    """A number at the places of a mask."""
    x, mask, fill = call.args
    return _by_secret(call, mask, fill, x) if isinstance(mask, Secret) else _by_known(call, mask, fill, x)


def _by_secret(call: Call, mask: Secret, x: Any, y: Any) -> Secret:
    b = call.builder
    if any(isinstance(value, Masked) or not math.isfinite(largest_magnitude(value)) for value in (x, y)):
        raise UnsupportedOp(f"{call.node.target} in {b.module} excludes scores at secret places; a softmax takes a public mask only")
    if _is_zero(y):
        return product(b, mask, x, call.shape, call.bound)
    if isinstance(x, Secret) or isinstance(y, Secret):
        gain = added(b, x, y, call.shape, largest_magnitude(x) + largest_magnitude(y), -1)
        return added(b, b.multiply(gain, mask, call.shape, gain.bound), y, call.shape, call.bound)
    difference = known("difference", lambda first, second: first - second, x, y)
    return added(b, product(b, mask, difference, call.shape, reach(difference)), y, call.shape, call.bound)


def _by_known(call: Call, mask: Any, x: Any, y: Any) -> Any:
    """Where everybody, or the owner, knows the mask."""
    b = call.builder
    if not isinstance(x, Secret | Masked):  # the filling goes second
        mask, x, y = known("not", lambda m: m == 0, mask), y, x
    if not isinstance(y, Secret | Masked) and only_softmax(call.node) and reach(y) >= -LOWEST:
        return excluded(b, x, known("kept", lambda m, fill: (m != 0) | (fill > LOWEST), mask, y))
    if isinstance(x, Masked) or isinstance(y, Masked) or not math.isfinite(largest_magnitude(y)):
        raise UnsupportedOp(f"{call.node.target} in {b.module} excludes values; only a softmax may read what is left of them")
    mask, rest = _numbers(mask), known("rest of", lambda m: (m == 0).double(), mask)
    if isinstance(y, Secret):
        x, y = aligned(b, x, y)
        y = _chosen(b, y, rest, call.shape, y.bound)
    elif _is_zero(y):
        return _chosen(b, x, mask, call.shape, call.bound)
    else:
        y = known("fill", lambda m, fill: m * fill, rest, y)
    return added(b, _chosen(b, x, mask, call.shape, x.bound), y, call.shape, call.bound)


def _is_zero(x: Any) -> bool:
    return not isinstance(x, Secret | Masked) and reach(x) == 0


@rule(aten.sign.default, aten.sgn.default)
def sign(call: Call) -> Secret:
    """-1, 0 or 1: two comparisons."""
    b = call.builder
    x = b.plain(call.args[0])
    above, below = (_mask(b.emit("is_negative", v.node, bits=width(b, v)), x.shape) for v in (negative(b, x), x))
    return added(b, above, below, call.shape, 1.0, -1)
