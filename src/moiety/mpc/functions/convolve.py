"""Convolutions of a secret tensor with a shared kernel: bilinear, so only the words of the output travel.

All channels into one: every window becomes a row of a matrix, gathered from a party's own words, and a packed weight multiplies the
rows. In groups: a sum over the places of the kernel, each the product of a strided view with a weight a channel; nothing is gathered.
Both are the products of :mod:`moiety.mpc.rep3`, in one round.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.mpc import matrix, rep3
from moiety.mpc.party import Party
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share

PIECE_WORDS = 1 << 20
"""Words of windows that are gathered at once: the whole matrix would be as many times larger than the input as the kernel has places."""

Shape = tuple[int, ...]


class Windows(NamedTuple):
    """Public: how windows lie on the axes behind batch and channel of a tensor (N, C, ...) that is padded already."""

    kernel: Shape
    stride: Shape
    dilation: Shape

    def counts(self, space: Shape) -> Shape:
        """Windows along each axis."""
        found = tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(space, *self, strict=True))
        if min(found) < 1:
            raise ProtocolMisuse(f"no window of {self.kernel} with dilation {self.dilation} lies on axes of {space}")
        return found

    def at(self, part: Words, place: Sequence[int]) -> Words:
        """A view of the element at one place of every window."""
        space = part.shape[-len(self.kernel) :]
        starts = (p * d for p, d in zip(place, self.dilation, strict=True))
        lattice = zip(starts, self.counts(space), self.stride, strict=True)
        index: tuple[Any, ...] = (..., *(slice(start, start + (n - 1) * s + 1, s) for start, n, s in lattice))
        view: Words = part[index]
        return view

    def rows(self, part: Words) -> Iterator[tuple[tuple[int, slice], Words]]:
        """Windows as rows of C * places words, a piece at a time: where they belong in (N, windows of the first axis), and the rows."""
        axes, depth = len(self.kernel), part.shape[1] * prod(self.kernel)
        spans = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        every = np.lib.stride_tricks.sliding_window_view(part, spans, tuple(range(2, 2 + axes)))
        index: tuple[Any, ...] = (..., *(slice(None, None, step) for step in (*self.stride, *self.dilation)))
        view = np.moveaxis(every[index], 1, 1 + axes)  # (N, windows ..., C, places ...)
        step = max(1, PIECE_WORDS // (depth * prod(view.shape[2 : 1 + axes])))
        for n in range(len(view)):
            for start in range(0, view.shape[1], step):
                yield (n, slice(start, start + step)), view[n, start : start + step].reshape(-1, depth)

    def add_dense(self, x: Words, w: ring.Packed, out: Words, sign: int) -> None:
        """Add sign times the convolution of x (N, C, ...) by a packed weight (C * places, out) to (N, ..., out)."""
        for where, rows in self.rows(x):
            ring.multiply(rows, w, out[where].reshape(len(rows), -1), sign=sign)

    def dense_shape(self, x: Shape, w: Shape) -> Shape:
        """Shape of that convolution."""
        if x[1] * prod(self.kernel) != w[0]:
            raise ProtocolMisuse(f"a value of shape {x} does not fit a weight of shape {w} over windows of {self.kernel}")
        return (x[0], *self.counts(x[2:]), w[1])

    def grouped(self, x: Words, w: Words) -> Words:
        """The convolution of x (N, C, ...) by w (out, C / groups, places ...): (N, out, ...)."""
        shape, depth = self.grouped_shape(x.shape, w.shape), w.shape[1]
        groups = x.shape[1] // depth
        x = x.reshape(len(x), groups, 1, depth, *x.shape[2:])
        w = w.reshape(groups, -1, *w.shape[1:])
        out = np.zeros((len(x), *w.shape[:2], *shape[2:]), np.uint64)
        term = np.empty_like(out)
        for channel, *place in np.ndindex(w.shape[2:]):
            at: tuple[Any, ...] = (..., channel, *place)
            factor = w[at].reshape(*w.shape[:2], *(1 for _ in place))
            out += np.multiply(self.at(x[:, :, :, channel], place), factor, out=term)
        return out.reshape(shape)

    def grouped_shape(self, x: Shape, w: Shape) -> Shape:
        """Shape of that convolution."""
        groups, rest = divmod(x[1], w[1])
        if rest or w[0] % groups or w[2:] != self.kernel:
            raise ProtocolMisuse(f"a value of shape {x} does not fit a weight of shape {w} over windows of {self.kernel}")
        return (x[0], w[0], *self.counts(x[2:]))


async def convolution(
    party: Party, x: Share, w: matrix.Weight | Share, windows: Windows, bias: Share | None = None, *, cut: rep3.Cut = rep3.WHOLE
) -> Share:
    """x (N, C, ...), padded, by a packed weight (C * places, out), or by a weight (out, C / groups, places ...): (N, out, ...).

    Exact at the sum of the fractions, plus a bias (out,). 1 round, 3 E an output element, whatever kernel and channels; ``cut`` as in
    :func:`~moiety.mpc.rep3.product`. P1 and P2 see padded words, P0 nothing.
    """
    if isinstance(w, matrix.Weight):
        dense = matrix.PackedProduct(windows.add_dense, windows.dense_shape)
        rows = await matrix.linear(party, x, w, bias, op=dense, cut=cut)
        return rows.map(lambda part: np.moveaxis(part, -1, 1))
    if bias is not None:
        bias = bias.reshape(*bias.shape, *(1 for _ in windows.kernel))
    return await rep3.product(party, x, w, rep3.Bilinear(windows.grouped, windows.grouped_shape), bias, cut=cut)
