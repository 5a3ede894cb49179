"""Operations that only move the elements of shares, copy them or add some of them up. All are local."""

from dataclasses import replace

import numpy as np

from moiety.errors import PlanError
from moiety.mpc.functions.bits import size
from moiety.mpc.party import Party
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share

Shape = tuple[int, ...]


def reshape(party: Party, x: Share, *, shape: Shape) -> Share:
    """The same elements in another shape."""
    return x.reshape(*shape)


def permute(party: Party, x: Share, *, dims: Shape) -> Share:
    """Axes in another order."""
    return x.map(lambda part: part.transpose(dims))


def expand(party: Party, x: Share, *, shape: Shape) -> Share:
    """Broadcast to a larger shape."""
    return x.map(lambda part: np.broadcast_to(part, shape))


def cut(party: Party, x: Share, *, axis: int, start: int, stop: int, step: int = 1) -> Share:
    """Slice one axis."""
    index = (slice(None),) * axis + (slice(start, stop, step),)
    return x.map(lambda part: part[index])


def take(party: Party, x: Share, *, axis: int, indices: tuple[int, ...]) -> Share:
    """Gather public indices along one axis."""
    if x.masked is None and x.mask is None:  # on shapes, without gathering anything
        return replace(x, shape=(*x.shape[:axis], len(indices), *x.shape[axis + 1 :]))
    return x.map(lambda part: np.take(part, indices, axis=axis))


def pad(party: Party, x: Share, *, before: Shape, after: Shape) -> Share:
    """Public zeros before and after each of the last axes."""
    widths = (*((0, 0),) * (len(x.shape) - len(before)), *zip(before, after, strict=True))
    if x.masked is None and x.mask is None:  # on shapes, without a zero
        return replace(x, shape=tuple(n + low + high for n, (low, high) in zip(x.shape, widths, strict=True)))
    return x.map(lambda part: np.pad(part, widths))


def gather(party: Party, x: Share, places: Words) -> Share:
    """Elements of the flattened x at public places, in the shape of those. Local."""
    if places.size and int(places.max()) >= size(x.shape):
        raise PlanError(f"a place lies outside {x!r}; compile the model again")
    if x.masked is None and x.mask is None:
        return Share(places.shape, x.fraction, x.bits)
    return x.map(lambda part: part.ravel()[places])


def row(party: Party, x: Share, place: Words) -> Share:
    """One place of the first axis, which depends on the run's public position. Local."""
    if place.shape or int(place) >= x.shape[0]:
        raise PlanError(f"{x!r} has no row at a place of shape {place.shape}; compile the model again")
    return x.map(lambda part: part[int(place)])


def pile(party: Party, x: Share, places: Words, *, shape: Shape) -> Share:
    """Zeros of a shape, to which every element of x is added at its public place in the flattened result. Local."""
    if places.shape != x.shape or (places.size and int(places.max()) >= size(shape)):
        raise PlanError(f"a place of {x!r} lies outside {shape}; compile the model again")
    if x.masked is None and x.mask is None:
        return Share(shape, x.fraction, x.bits)

    def piled(part: Words) -> Words:
        out = np.zeros(size(shape), part.dtype)
        np.add.at(out, places.astype(np.int64), part)
        return out.reshape(shape)

    return x.map(piled)


def running_total(party: Party, x: Share, *, axis: int) -> Share:
    """Sums of all elements up to each along one axis. Local."""
    return x.map(lambda part: np.cumsum(part, axis, dtype=part.dtype))


def concat(party: Party, *shares: Share, axis: int) -> Share:
    """Join along one axis, in the smallest of their rings."""
    out, *others = (x.narrowed(min(y.bits for y in shares)) for x in shares)
    for other in others:
        out = out.zip(other, lambda a, b: np.concatenate([a, b], axis=axis)) if _has_parts(out, other) else _concat_shape(out, other, axis)
    return out


def _has_parts(x: Share, y: Share) -> bool:
    return (x.masked is not None or x.mask is not None) and (y.masked is not None or y.mask is not None)


def _concat_shape(x: Share, y: Share, axis: int) -> Share:
    shape = list(x.shape)
    shape[axis] += y.shape[axis]
    return Share(tuple(shape), x.fraction, x.bits)


def zeros_like(party: Party, x: Share, *, shape: tuple[int, ...], fraction: int) -> Share:
    """A share of public zeros, held by the roles that hold parts of x."""
    masked, mask = (None if part is None else np.zeros(shape, np.uint64) for part in (x.masked, x.mask))
    return Share(shape, fraction, x.bits, masked, mask)
