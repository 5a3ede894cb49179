"""Lowering of operations that only move elements: local, no bytes, no rounds."""

import operator
from dataclasses import replace
from typing import Any

import torch

from moiety.compile.lower import Call, aten, rule, takes_index, takes_masked
from moiety.compile.plan import Input
from moiety.compile.rules_arithmetic import with_room
from moiety.compile.values import Index, Owned, Public, Secret
from moiety.errors import InputError, UnsupportedOp


def _moved(call: Call, op: str, **params: Any) -> Secret:
    x = call.builder.plain(call.args[0])
    return replace(x, node=call.builder.emit(op, x.node, **params), shape=call.shape)


@rule(
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.contiguous.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.type_as.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
    aten.nan_to_num.default,
)
@takes_index
@takes_masked
def same(call: Call) -> Any:
    """Operations that change nothing here."""
    x, dtype, before = call.args[0], call.node.meta["val"].dtype, call.dtype(0)
    if isinstance(x, Index) and dtype.is_floating_point:
        raise InputError(
            f"input {x.input} holds integers that {call.builder.module or 'the model itself'} computes with; "
            "name it in public=(...) if all parties may know it, else pass it as floats"
        )
    if dtype is torch.bool and before is not torch.bool and isinstance(x, Secret):
        raise UnsupportedOp(f"a conversion of secret numbers to booleans in {call.builder.module or 'the model itself'}; write x != 0")
    if isinstance(x, Secret) and not dtype.is_floating_point and before.is_floating_point:
        raise UnsupportedOp(f"a conversion of secret reals to {dtype} in {call.builder.module or 'the model itself'} has no private form")
    return x


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int)
@rule(aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
@takes_index
def reshaped(call: Call) -> Any:
    """Another shape; a gain and a shift along an unchanged last axis stay pending."""
    x = call.args[0]
    if isinstance(x, Index):
        return replace(x, shape=call.shape)
    if x.shape[-1:] != call.shape[-1:]:
        return _moved(call, "reshape", shape=call.shape)
    return replace(x, node=call.builder.emit("reshape", x.node, shape=call.shape), shape=call.shape)


@rule(aten.cumsum.default)
def running_total(call: Call) -> Secret:
    """Sums up to each place of an axis; of whole numbers too."""
    x: Secret = call.builder.plain(call.args[0])
    if call.node.meta["val"].dtype.is_floating_point:
        x = with_room(call.builder, x, call.bound)
    node = call.builder.emit("running_total", x.node, axis=call.args[1] % len(x.shape))
    return replace(x, node=node, bound=x.bound * x.shape[call.args[1]])


@rule(aten.full_like.default, aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default)
@rule(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default, aten.sym_size.int)
@takes_index
def shaped(call: Call) -> Public:
    """What takes nothing but the shape of a secret."""
    made = call.node.target(torch.zeros(call.args[0].shape), *call.args[1:], **call.kwargs)  # type: ignore[operator]
    return Public(torch.zeros_like(made) if "empty" in call.name else made)


@rule(aten.expand.default)
def expanded(call: Call) -> Secret:
    """Broadcast."""
    return _moved(call, "expand", shape=call.shape)


@rule(aten.transpose.int)
def transposed(call: Call) -> Secret:
    """Two axes exchanged."""
    rank = len(call.shape)
    a, b = call.args[1] % rank, call.args[2] % rank
    dims = list(range(rank))
    dims[a], dims[b] = b, a
    return _moved(call, "permute", dims=tuple(dims))


@rule(aten.t.default)
def flipped(call: Call) -> Secret:
    """A matrix transposed."""
    return _moved(call, "permute", dims=tuple(reversed(range(len(call.shape)))))


@rule(aten.permute.default)
def permuted(call: Call) -> Secret:
    """Axes in another order."""
    rank = len(call.shape)
    return _moved(call, "permute", dims=tuple(d % rank for d in call.args[1]))


@rule(aten.slice.Tensor)
def sliced(call: Call) -> Secret:
    """A slice of one axis; a gain and a shift stay pending unless it is theirs, the last."""
    x = call.args[0]
    axis = call.arg(1, "dim", 0) % len(x.shape)
    size = x.shape[axis]
    start, stop, _ = slice(call.arg(2, "start"), call.arg(3, "end")).indices(size)
    step = call.arg(4, "step", 1)
    if (start, stop, step) == (0, size, 1):
        return x  # type: ignore[no-any-return]
    if axis == len(x.shape) - 1:
        return _moved(call, "cut", axis=axis, start=start, stop=stop, step=step)
    node = call.builder.emit("cut", x.node, axis=axis, start=start, stop=stop, step=step)
    return replace(x, node=node, shape=call.shape)  # type: ignore[no-any-return]


@rule(aten.select.int)
def selected(call: Call) -> Secret:
    """One place of one axis; a gain and a shift stay pending unless it is theirs, the last."""
    x: Secret = call.args[0]
    axis, at = call.args[1] % len(x.shape), call.args[2] % x.shape[call.args[1]]
    if axis == len(x.shape) - 1:
        x = call.builder.plain(x)
    cut = call.builder.emit("cut", x.node, axis=axis, start=at, stop=at + 1, step=1)
    return replace(x, node=call.builder.emit("reshape", cut, shape=call.shape), shape=call.shape)


@rule(aten.split.Tensor, aten.chunk.default, aten.split_with_sizes.default)
def split(call: Call) -> tuple[Secret, ...]:
    """Consecutive parts of one axis."""
    x = call.builder.plain(call.args[0])
    parts = [tuple(int(s) for s in val.shape) for val in call.node.meta["val"]]
    axis = call.arg(2, "dim", 0) % len(x.shape)
    out, start = [], 0
    for shape in parts:
        node = call.builder.emit("cut", x.node, axis=axis, start=start, stop=start + shape[axis], step=1)
        out.append(replace(x, node=node, shape=shape))
        start += shape[axis]
    return tuple(out)


@rule(aten.unbind.int)
def unbound(call: Call) -> tuple[Secret, ...]:
    """One part for every place of an axis."""
    x = call.builder.plain(call.args[0])
    axis = call.arg(1, "dim", 0) % len(x.shape)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    cuts = (call.builder.emit("cut", x.node, axis=axis, start=at, stop=at + 1, step=1) for at in range(x.shape[axis]))
    return tuple(replace(x, node=call.builder.emit("reshape", cut, shape=shape), shape=shape) for cut in cuts)


@rule(operator.getitem)
def item(call: Call) -> Any:
    """One element of a tuple."""
    return call.args[0][call.args[1]]


@rule(aten.cat.default)
def concatenated(call: Call) -> Secret:
    """Joined; parts that are not secret become shares first."""
    parts = [p for p in call.args[0] if not (isinstance(p, Public) and p.value is not None and p.value.numel() == 0)]
    return joined(call, parts, call.arg(1, "dim", 0) % len(call.shape))


@rule(aten.stack.default)
def stacked(call: Call) -> Secret:
    """Joined along a new axis."""
    axis = call.arg(1, "dim", 0) % len(call.shape)
    shape = tuple(1 if i == axis else n for i, n in enumerate(call.shape))

    def widened(part: Any) -> Any:
        if isinstance(part, Secret):
            part = call.builder.plain(part)
            return replace(part, node=call.builder.emit("reshape", part.node, shape=shape), shape=shape)
        if isinstance(part, Owned):
            return Owned(part.tensor.unsqueeze(axis), f"{part.name}.unsqueeze({axis})")
        return Public(part.value.unsqueeze(axis)) if part.rows is None else Public(None, tuple(row.unsqueeze(axis) for row in part.rows))

    return joined(call, [widened(part) for part in call.args[0]], axis)


def joined(call: Call, parts: list[Any], axis: int, shape: tuple[int, ...] | None = None) -> Secret:
    """Parts, one of them secret, joined along an axis into the shape of the operation, or another one."""
    secrets = [call.builder.plain(p) if isinstance(p, Secret) else p for p in parts]
    first = next(p for p in secrets if isinstance(p, Secret))
    if any(not isinstance(p, Secret) or (p.fraction, p.factor) != (first.fraction, first.factor) for p in secrets):
        secrets = [as_secret(call, p, first) for p in secrets]
        fraction = call.builder.activation_fraction(max(p.bound for p in secrets))
        secrets = [call.builder.settled(p, fraction) for p in secrets]
    node = call.builder.emit("concat", *(p.node for p in secrets), axis=axis)
    return replace(secrets[0], node=node, shape=shape or call.shape, bound=max(p.bound for p in secrets))


def one_hot_input(call: Call, index: Index, classes: int, *, reshaped: bool = True) -> Secret:
    """The client's secret integers as it shares them: a one among ``classes`` places for each. ``reshaped``: to the index's shape."""
    b, names = call.builder, [given.name for given in call.builder.inputs]
    if index.input not in names:
        b.inputs.append(Input(index.input, call.lowering.given_shape(index.input), "one_hot", 0, 1.0, classes))
        names.append(index.input)
    given = b.inputs[names.index(index.input)]
    if given.classes != classes:
        raise UnsupportedOp(f"input {index.input} stands for one of {given.classes} and for one of {classes}")
    hot = Secret(b.emit("input", index=names.index(index.input)), (*given.shape, classes), 0, 1.0)
    shape = (*index.shape, classes)
    return hot if not reshaped or hot.shape == shape else replace(hot, node=b.emit("reshape", hot.node, shape=shape), shape=shape)


def as_secret(call: Call, x: Any, like: Secret) -> Secret:
    """A public or owned value as a share, held by those who hold ``like``."""
    if isinstance(x, Secret):
        return x
    rows = [torch.as_tensor(row) for row in _rows(x)]
    bound = max(float(row.double().abs().max()) for row in rows)
    fraction = call.builder.activation_fraction(bound)
    if isinstance(x, Public):
        shape = tuple(rows[0].shape)
        zero = call.builder.emit("zeros_like", like.node, shape=shape, fraction=fraction)
        node = call.builder.emit("add_public", zero, call.builder.encoded(x, fraction))
        return Secret(node, shape, fraction, bound)
    return Secret(call.builder.weight(x, fraction, packed=False), tuple(x.tensor.shape), fraction, bound)


def _rows(x: Public | Owned) -> tuple[Any, ...]:
    return (x.tensor,) if isinstance(x, Owned) else (x.value,) if x.rows is None else x.rows
