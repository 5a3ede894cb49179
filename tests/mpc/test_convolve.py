"""Convolutions in the ring against torch's, over kernels, strides, dilations and groups."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_runs import opened, run, shapes, share

from moiety.errors import ProtocolMisuse
from moiety.mpc import matrix, rep3
from moiety.mpc.functions import convolve
from moiety.mpc.functions.convolve import Windows, convolution
from moiety.mpc.rounds import Role

GENERATOR = np.random.default_rng(3)


def whole(*shape):
    return GENERATOR.integers(-(2**63), 2**63, shape)


def packed(w):
    """A weight (out, C, places ...) as the matrix that is packed."""
    return w.reshape(len(w), -1).T


async def dense(party, x, w, windows, bias=None, cut=rep3.WHOLE):
    held = matrix.Weight(w.shape, w.fraction) if party.role is None else matrix.pack(party, w)
    return await convolution(party, x, held, windows, bias, cut=cut)


def expected(x, w, windows, groups):
    """The same in wrapping integers, by torch."""
    form = torch.nn.functional.conv1d if x.ndim == 3 else torch.nn.functional.conv2d
    given = (torch.from_numpy(np.ascontiguousarray(a)) for a in (x, w))
    return form(*given, stride=windows.stride, dilation=windows.dilation, groups=groups).numpy()


class Case(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    windows: Windows
    groups: int


@st.composite
def cases(draw):
    axes = draw(st.integers(1, 2))
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(axes)) for most in (3, 3, 2))
    space = tuple(d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilation, strict=True))
    batch, groups, depth, wide = (draw(st.integers(1, most)) for most in (2, 3, 3, 3))
    windows = Windows(kernel, stride, dilation)
    return Case(whole(batch, groups * depth, *space), whole(groups * wide, depth, *kernel), windows, groups)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 1))
def test_convolutions_are_exact_in_the_ring(case, node):
    x, w, windows, groups = case
    wanted = expected(x, w, windows, groups)
    found = [run(convolution, share(x, 14), share(w, 16), windows=windows, node=node)]
    if groups == 1:
        found.append(run(dense, share(x, 14), share(packed(w), 16), windows=windows, node=node))
    for transcript in found:
        assert np.array_equal(opened(transcript), wanted)
        assert transcript.results[Role.P0].fraction == 30


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 1))
def test_only_the_words_of_the_output_travel(case, node):
    x, w, windows, groups = case
    size = expected(x, w, windows, groups).size
    found = [shapes(convolution, share(x), share(w), windows=windows, node=node)]
    if groups == 1:
        found.append(shapes(dense, share(x), share(packed(w)), windows=windows, node=node))
    for _, costs in found:
        assert (costs.total_bytes, costs.rounds) == (24 * size, 1)


def test_windows_are_gathered_in_pieces(monkeypatch):
    x, w = whole(2, 3, 9, 8), whole(5, 3, 3, 3)
    windows = Windows((3, 3), (1, 2), (1, 1))
    wanted = expected(x, w, windows, 1)
    for words in (1, 200, 1 << 20):
        monkeypatch.setattr(convolve, "PIECE_WORDS", words)
        pieces = [rows for _, rows in windows.rows(x)]
        assert all(rows.size <= max(words, 27 * 3) for rows in pieces)
        assert np.array_equal(opened(run(dense, share(x), share(packed(w)), windows=windows)), wanted)


def test_one_place_is_no_gather():
    """The rows of a convolution by 1 x 1 over channels that lie last are the words themselves."""
    x = np.moveaxis(whole(1, 5, 4, 6).view(np.uint64), 1, -1).copy()
    [(_, rows)] = Windows((1, 1), (1, 1), (1, 1)).rows(np.moveaxis(x, -1, 1))
    assert np.shares_memory(rows, x)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_bias_and_truncation_in_the_round_of_the_product(groups):
    x, w, bias = (GENERATOR.integers(-(2**20), 2**20, shape) for shape in ((2, 4, 5, 5), (8, 4 // groups, 3, 3), (8,)))
    windows = Windows((3, 3), (1, 1), (1, 1))
    wanted = (expected(x, w, windows, groups) + bias[:, None, None]) / 2.0**14
    given = share(x, 14), share(w if groups > 1 else packed(w), 16), share(bias, 30)
    form = convolution if groups > 1 else dense
    found = run(lambda party, a, b, c: form(party, a, b, windows, c, cut=rep3.Cut(14)), *given)
    assert found.results[Role.P1].fraction == 16
    assert np.abs(opened(found) - wanted).max() <= 1
    with pytest.raises(ProtocolMisuse, match="fraction bits"):
        run(lambda party, a, b, c: form(party, a, b, windows, c.as_fraction(4)), *given)


@pytest.mark.parametrize(("x", "w"), [((1, 4, 5), (6, 3, 2)), ((1, 4, 5), (3, 2, 2)), ((1, 4, 5), (6, 2, 3)), ((1, 4, 1), (6, 2, 2))])
def test_shapes_that_do_not_fit_are_refused(x, w):
    with pytest.raises(ProtocolMisuse, match=r"does not fit|no window"):
        run(convolution, share(whole(*x)), share(whole(*w)), windows=Windows((2,), (1,), (1,)))
    with pytest.raises(ProtocolMisuse, match="does not fit"):
        run(dense, share(whole(1, 4, 5)), share(whole(7, 2)), windows=Windows((2,), (1,), (1,)))
