"""Weights on their way: pieces cover a tensor once, travel as they are held, and carry both masks."""

import os

import numpy as np
import pytest
import torch

from moiety import ring
from moiety.compile.later import Later
from moiety.engine.messages import Tensor
from moiety.engine.pieces import PIECE_WORDS, Masks, Matrix, Piece, Tags, held_shape, pieces, words_of
from moiety.errors import InputError
from moiety.mpc.party import Key

SHAPES = [(1, 1), (3, 70), (512, 96), (8192, 33), (20000, 40), (9000, 64)]
STREAMS = {Key.D: os.urandom(32), Key.E: os.urandom(32)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("packed", [True, False])
def test_pieces_cover_a_tensor_once_and_are_small(shape: tuple[int, int], packed: bool) -> None:
    tensor = Tensor("w", shape, 12, packed)
    found = list(pieces(tensor))
    assert [piece.number for piece in found] == list(range(len(found)))
    assert [piece.begin for piece in found] == [0, *(piece.end for piece in found[:-1])]
    assert found[-1].end == words_of(tensor) == np.prod(held_shape(tensor))
    assert max(piece.end - piece.begin for piece in found) <= PIECE_WORDS
    covered = np.zeros(shape if packed else (1, shape[0] * shape[1]), int)
    for piece in found:
        covered[piece.rows, piece.columns] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gained", [False, True])
def test_pieces_put_together_are_the_packed_matrix_under_its_masks(shape: tuple[int, int], dtype: torch.dtype, gained: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape[::-1], generator=generator).to(dtype).T
    later = Later(torch.randn(shape[0], generator=generator).to(dtype), values)
    expected = later() if gained else values.float()
    tensor, masks = Tensor("w", shape, 12, True), Masks(STREAMS, b"s" * 32, 1)
    matrix, panels = Matrix(tensor, later if gained else values), np.zeros(held_shape(tensor), np.uint64)
    for piece in pieces(tensor):
        words = matrix.masked(piece, masks.parts(3, piece))
        panels.reshape(-1)[piece.begin : piece.end] = words - masks.whole(3, piece)
    assert np.array_equal(panels, ring.pack(ring.encode(expected.numpy(), 12)).panels)


def test_a_tag_tells_pieces_apart() -> None:
    tags, words = Tags(os.urandom(16)), np.arange(64, dtype=np.uint64)
    one, other = Piece(0, slice(0, 1), slice(0, 64), 0, 64), Piece(1, slice(0, 1), slice(64, 128), 64, 128)
    assert tags.tag(0, one, words) == tags.tag(0, one, words.copy())
    assert len({tags.tag(0, one, words), tags.tag(0, other, words), tags.tag(1, one, words), tags.tag(0, one, words + 1)}) == 4
    assert tags.tag(0, one, words) != Tags(os.urandom(16)).tag(0, one, words)


def test_a_tensor_of_another_shape() -> None:
    with pytest.raises(InputError, match=r"'w' has shape \(3, 4\), the plan reads \(4, 3\)"):
        Matrix(Tensor("w", (4, 3), 12, True), np.zeros((3, 4)))
