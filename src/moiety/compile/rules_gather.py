"""Lowering of moves along public places: what is read from where is found by moving the places themselves, in the clear.

An operation that only moves elements moves a tensor of their numbers alike; the result says for every place which element comes there.
Local, no bytes, no rounds.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree

from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_arithmetic import added
from moiety.compile.rules_shape import joined
from moiety.compile.rules_top import elements_at, rows_at
from moiety.compile.values import Index, Owned, Public, Secret
from moiety.errors import InputError, UnsupportedOp


@rule(aten.index.Tensor, aten.gather.default, aten.take.default, aten.index_select.default, aten.flip.default, aten.roll.default)
@rule(aten.repeat.default, aten.repeat_interleave.self_int, aten.diagonal.default, aten.unfold.default, aten.as_strided.default)
def gathered(call: Call) -> Secret:
    """Elements at public places; an index of the first axis alone and a gather along the last take secret ones, too."""
    if call.node.target is aten.index.Tensor and len(call.args[1]) == 1 and isinstance(call.args[1][0], Secret):
        return rows_at(call, call.args[0], call.args[1][0])
    if call.node.target is aten.gather.default and isinstance(call.args[2], Secret):
        return elements_at(call, *call.args[:3])
    if not isinstance(call.args[0], Secret):
        raise InputError(
            f"{call.node.target} in {call.builder.module} reads at secret places; an embedding, table[places] and a gather along the "
            "last axis have a form for that"
        )
    b, x = call.builder, call.builder.plain(call.args[0])
    places = _moved(call, [x])
    shape = tuple(places[0].shape)
    lines = _by_axis(places[0], x.shape) if len(places) == 1 else None
    if lines is None:
        return replace(x, node=b.emit("gather", x.node, _words(call, places)), shape=shape)
    wide = (*(1 for _ in range(len(shape) - len(x.shape))), *x.shape)
    node = x.node if wide == x.shape else b.emit("reshape", x.node, shape=wide)
    for axis, along in enumerate(lines):
        if along != tuple(range(wide[axis])):
            node = b.emit("take", node, axis=axis, indices=along)
    return replace(x, node=node, shape=shape)


def _by_axis(places: torch.Tensor, shape: tuple[int, ...]) -> list[tuple[int, ...]] | None:
    """Which place of each axis is read, where that is the same all along the other axes: a short list instead of every element's number."""
    rank = places.dim()
    if rank < len(shape) or places.numel() == 0:
        return None
    shape = (*(1 for _ in range(rank - len(shape))), *shape)
    total, lines = torch.zeros((), dtype=torch.long), []
    for axis, size in enumerate(shape):
        stride = math.prod(shape[axis + 1 :])
        line = places[tuple(slice(None) if i == axis else 0 for i in range(rank))] // stride % size
        lines.append(tuple(int(place) for place in line))
        total = total + line.reshape([-1 if i == axis else 1 for i in range(rank)]) * stride
    return lines if torch.equal(total.expand(places.shape), places) else None


@rule(aten.scatter.src, aten.scatter.value, aten.select_scatter.default, aten.slice_scatter.default, aten.masked_scatter.default)
@rule(aten.copy.default, aten.fill.Tensor, aten.fill.Scalar, aten.diagonal_scatter.default)
def scattered(call: Call) -> Secret:
    """x with other values at public places."""
    names: dict[Any, int] = {aten.scatter.src: 3, aten.scatter.value: 3, aten.masked_scatter.default: 2}
    return _overwritten(call, names.get(call.node.target, 1))


@rule(aten.index_put.default)
def index_put(call: Call) -> Secret:
    """x with other values at public places, or with these added to what is there."""
    return _accumulated(call, 2) if call.arg(3, "accumulate", False) else _overwritten(call, 2)


@rule(aten.scatter_add.default)
def scatter_add(call: Call) -> Secret:
    """x with values added at public places."""
    return _accumulated(call, 3)


def _overwritten(call: Call, position: int) -> Secret:
    """The elements of x and, behind them, those of the argument at ``position`` are what the operation draws from."""
    both = [_flat(call, call.args[place]) for place in (0, position)]
    pool = joined(call, both, 0, (sum(math.prod(_shape(part)) for part in both),))
    places = _moved(call, [call.args[0], call.args[position]], (0, position))
    node = call.builder.emit("gather", pool.node, _words(call, places))
    return replace(pool, node=node, shape=tuple(places[0].shape))


def _accumulated(call: Call, position: int) -> Secret:
    x, source = call.args[0], call.args[position]
    size = math.prod(call.shape)
    # where the elements of the source go: the places that an index reads are those that it writes
    places = torch.arange(size).reshape(call.shape)
    if call.node.target is aten.index_put.default:
        where = aten.index.Tensor(places, [None if i is None else _index(call, i) for i in call.args[1]])
    else:
        where = aten.gather.default(places, call.args[1], _index(call, call.args[2]))
    shape = tuple(where.shape)
    if isinstance(source, Secret):
        b = call.builder
        source = b.plain(source)
        if source.shape != shape:  # a broadcast, or the part of the source that the index reaches
            source = _fit(call, source, shape)
        words = b.constant(where.numpy().astype(np.uint64))
        piled = replace(source, node=b.emit("pile", source.node, words, shape=call.shape), shape=call.shape)
        return added(b, x, piled, call.shape, call.bound)
    raise UnsupportedOp(f"{call.node.target} in {call.builder.module} adds what is not secret to a secret; add a tensor of zeros and it")


def _fit(call: Call, source: Secret, shape: tuple[int, ...]) -> Secret:
    node = source.node
    if call.node.target is aten.index_put.default:
        node = call.builder.emit("expand", node, shape=shape)
    else:
        for axis, size in enumerate(shape):
            node = call.builder.emit("cut", node, axis=axis, start=0, stop=size, step=1)
    return replace(source, node=node, shape=shape)


def _flat(call: Call, x: Any) -> Any:
    if isinstance(x, Secret):
        x = call.builder.plain(x)
        return replace(x, node=call.builder.emit("reshape", x.node, shape=(-1,)), shape=(math.prod(x.shape),))
    if isinstance(x, Owned):
        return Owned(x.tensor.reshape(-1), f"({x.name}).flat")
    value = x.value if isinstance(x, Public) else x
    return Public(torch.as_tensor(value).reshape(-1).float())


def _index(call: Call, index: Any) -> torch.Tensor:
    if not isinstance(index, Public) or index.rows is not None:
        raise InputError(f"{call.node.target} in {call.builder.module} takes public places only, the same in every run")
    return torch.as_tensor(index.value)


def _moved(call: Call, sources: list[Any], positions: tuple[int, ...] = (0,)) -> list[torch.Tensor]:
    """For every element of the result its number among those of the sources, one after another; one tensor for each public position."""
    starts = [0]
    numbers: dict[int, torch.Tensor] = {}
    for position, source in zip(positions, sources, strict=True):
        shape = _shape(source)
        numbers[position] = torch.arange(starts[-1], starts[-1] + math.prod(shape)).reshape(shape)
        starts.append(starts[-1] + math.prod(shape))
    args = list(call.args)
    for position, places in numbers.items():
        args[position] = int(places) if isinstance(args[position], int | float) else places
    return [_run(call, args, call.kwargs, row) for row in range(_rows(call, args))]


def _shape(x: Any) -> tuple[int, ...]:
    if isinstance(x, Secret):
        return x.shape
    return tuple(torch.as_tensor(x.tensor if isinstance(x, Owned) else x.value if isinstance(x, Public) else x).shape)


def _rows(call: Call, args: Any) -> int:
    leaves, _ = _pytree.tree_flatten((args, call.kwargs), is_leaf=lambda v: isinstance(v, Public | Secret | Owned | Index))
    return max((len(v.rows) for v in leaves if isinstance(v, Public) and v.rows is not None), default=1)


def _run(call: Call, args: Any, kwargs: Any, row: int) -> torch.Tensor:
    def held(value: Any) -> Any:
        if isinstance(value, Secret | Owned | Index):
            raise InputError(f"{call.node.target} in {call.builder.module} takes public places only")
        return value if not isinstance(value, Public) else value.value if value.rows is None else value.rows[row]

    kind: Callable[[Any], bool] = lambda v: isinstance(v, Public | Secret | Owned | Index)  # noqa: E731
    args, kwargs = _pytree.tree_map(held, (args, kwargs), is_leaf=kind)
    out: torch.Tensor = call.node.target(*args, **kwargs)  # type: ignore[operator]
    return out


def _words(call: Call, places: list[torch.Tensor]) -> int:
    stacked = [row.numpy().astype(np.uint64) for row in places]
    return call.builder.constant(stacked[0]) if len(stacked) == 1 else call.builder.constant(np.stack(stacked), by_position=True)
