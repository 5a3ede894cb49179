"""Lowering of what secret places decide: the largest values of an axis with their places, and what a table holds at such places."""

from dataclasses import replace
from math import floor, prod
from typing import Any

from moiety.compile.builder import Builder
from moiety.compile.lower import Call, aten, rule, takes_index
from moiety.compile.rules_arithmetic import negative
from moiety.compile.rules_nn import as_owned, looked_up_by_client
from moiety.compile.values import Index, Owned, Secret
from moiety.errors import InputError, UnsupportedOp
from moiety.mpc.functions.top import tag_bits


@rule(aten.topk.default)
def topk(call: Call) -> tuple[Secret, Secret]:
    """The k largest or smallest of an axis and their places, in order; of equal values the first comes first."""
    x, k = call.args[0], call.args[1]
    axis, largest = call.arg(2, "dim", -1), call.arg(3, "largest", True)
    b = call.builder
    x, back = _last(b, b.settled(x if largest else negative(b, x)), axis)
    b.check(x, -x.bound, x.bound)
    bits, tag = floor(x.bits) + 3, tag_bits(x.shape[-1])
    if bits + tag + 2 > 64:
        raise UnsupportedOp(
            f"the {k} largest of {x.shape[-1]} values up to {x.bound:.3g} in {_where(b)} do not fit the ring with their places; "
            "scale the values down"
        )
    both = b.emit("top", x.node, k=k, bits=bits)
    shape = (*x.shape[:-1], k)
    values, places = (b.emit("reshape", b.emit("cut", both, axis=0, start=i, stop=i + 1), shape=shape) for i in (0, 1))
    found = Secret(values, shape, x.fraction + tag, x.bound)
    found = found if largest else negative(b, found)
    where = Secret(b.emit("as_fraction", places, fraction=0), shape, 0, float(max(x.shape[-1] - 1, 1)))
    return _moved(b, found, back), _moved(b, where, back)


def _where(b: Builder) -> str:
    return b.module or "the model itself"


def _last(b: Builder, x: Secret, axis: int) -> tuple[Secret, tuple[int, ...]]:
    """x with that axis last, and the order of axes that takes the result back."""
    rank = len(x.shape)
    axis = axis % rank
    order = (*(a for a in range(rank) if a != axis), axis)
    return _moved(b, x, order), tuple(order.index(a) for a in range(rank))


def _moved(b: Builder, x: Secret, order: tuple[int, ...]) -> Secret:
    if order == tuple(range(len(order))):
        return x
    return replace(x, node=b.emit("permute", x.node, dims=order), shape=tuple(x.shape[a] for a in order))


@rule(aten.embedding.default)
@takes_index
def embedding(call: Call) -> Secret:
    """Rows of a table at secret places, given by the client or found by the model."""
    table, index = call.args[:2]
    return looked_up_by_client(call, table, index) if isinstance(index, Index) else rows_at(call, table, index)


def one_hot_at(b: Builder, index: Any, classes: int) -> Secret:
    """A row for every secret place that is one there and else zero. Raises InputError for what is no place."""
    if not isinstance(index, Secret) or index.fraction or index.factor != 1.0 or index.gain is not None or index.shift is not None:
        raise InputError(f"{_where(b)}: only integers can be places: those of the data owner, argmax or topk")
    return Secret(b.emit("one_hot", index.node, classes=classes), (*index.shape, classes), 0, 1.0)


def rows_at(call: Call, table: Any, index: Any) -> Secret:
    """``table[index]`` for secret places of the first axis: their one-hots times the table. 2 rounds."""
    b, table = call.builder, as_owned(table)
    size = tuple(table.tensor.shape if isinstance(table, Owned) else table.shape)
    hot, flat, wide = one_hot_at(b, index, size[0]), (prod(index.shape), size[0]), prod(size[1:])
    hot = replace(hot, node=b.emit("reshape", hot.node, shape=flat), shape=flat)
    if isinstance(table, Owned):
        fraction = b.activation_fraction(float(table.tensor.abs().max()))
        if len(size) != 2:
            table = Owned(table.tensor.reshape(size[0], wide), f"{table.name}.reshape({size[0]}, {wide})")
        found = Secret(b.emit("linear", hot.node, b.weight(table, fraction, packed=True)), (flat[0], wide), fraction, call.bound)
    else:
        table = b.plain(table)
        rows = replace(table, node=b.emit("reshape", table.node, shape=(size[0], wide)), shape=(size[0], wide))
        found = b.multiply(hot, rows, (flat[0], wide), table.bound, "matmul")
    return replace(found, node=b.emit("reshape", found.node, shape=call.shape), shape=call.shape)


def elements_at(call: Call, x: Any, axis: int, index: Secret) -> Secret:
    """``gather(x, axis, index)`` for secret places of the last axis. 2 rounds."""
    b = call.builder
    if not isinstance(x, Secret) or axis % len(x.shape) != len(x.shape) - 1:
        raise UnsupportedOp(f"a gather in {_where(b)} at secret places, other than of secrets and of the last axis, has no private form")
    if x.shape[:-1] != index.shape[:-1]:
        raise UnsupportedOp(f"a gather in {_where(b)} of places {index.shape} from {x.shape}; all but the last axis must agree")
    x = b.plain(x)
    column = replace(x, node=b.emit("reshape", x.node, shape=(*x.shape, 1)), shape=(*x.shape, 1))
    found = b.multiply(one_hot_at(b, index, x.shape[-1]), column, (*call.shape, 1), x.bound, "matmul")
    return replace(found, node=b.emit("reshape", found.node, shape=call.shape), shape=call.shape)
