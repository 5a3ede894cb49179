"""Places of the largest values, and rows at such places, against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.errors import InputError, UnsupportedOp

from .support import All, compiled, errors_above

ORDERED = torch.linspace(-3, 3, 60)
"""Values further apart than the resolution, so that torch and the ring agree on their order."""


def mixed(*shape: int) -> torch.Tensor:
    return ORDERED[torch.randperm(60)][: torch.Size(shape).numel()].reshape(shape)


LARGEST = {
    "topk": lambda x: tuple(x.topk(4)),
    "one": lambda x: tuple(x.topk(1)),
    "all": lambda x: tuple(x.topk(12)),
    "of the first axis": lambda x: tuple(x.topk(2, dim=0)),
    "of the middle axis": lambda x: tuple(x.reshape(3, 4, 3).topk(3, dim=1)),
    "smallest": lambda x: tuple(x.topk(3, largest=False)),
    "of a scaled value": lambda x: tuple((-2.5 * x).topk(2)),
    "argmax": lambda x: (x.argmax(-1), x.argmax(0), x.argmax(1, keepdim=True)),
    "argmax of all": lambda x: (x.argmax(), x.argmax(keepdim=True)),
}


def test_largest_values_and_their_places() -> None:
    case = compiled(All(LARGEST), mixed(3, 12))
    found, wanted = case.run(), case.expected()
    for name, parts in wanted.items():
        for mine, theirs in zip(found[name], parts, strict=True):
            assert mine.shape == theirs.shape, name
            if theirs.is_floating_point():
                assert (mine - theirs).abs().max() < 1e-3, name
            else:
                assert torch.equal(mine, theirs.float()), name


def test_of_equal_values_the_first_comes_first() -> None:
    case = compiled(lambda x: tuple(x.topk(5)), torch.tensor([[1.0, 2.0, 1.0, 2.0, 2.0, 0.0]]))
    assert case.run()[1].tolist() == [[1, 3, 4, 0, 2]]


class Router(nn.Module):
    """Scores choose rows of tables: of the owner, public, and computed from secrets."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.words, self.blocks = nn.Linear(12, 7), nn.Embedding(7, 5), nn.Parameter(torch.randn(7, 2, 3))
        self.public = torch.randn(7, 2)

    def forward(self, x):
        scores = self.score(x)
        weights, places = scores.topk(2)
        return {
            "owned": self.words(places) * weights.unsqueeze(-1),
            "owned blocks": self.blocks[places],
            "public": F.embedding(places, self.public),
            "secret": F.embedding(places, (x.T @ x)[:7]),
            "gathered": torch.gather(scores, -1, places),
            "one-hot": F.one_hot(places, 7).float(),
            "place": places.float() * 0.5,
            "best": self.words(scores.argmax(-1)),
            "the very best": self.words(scores[0].argmax()),
        }


def test_rows_at_places_that_the_model_finds() -> None:
    case = compiled(Router(), torch.randn(3, 12))
    assert not errors_above(2e-3, case)
    assert any("ranking" in line for line in case.plan.leakage)


def test_places_of_a_client_go_on_as_before() -> None:
    case = compiled(nn.Embedding(9, 4), torch.tensor([[1, 8, 0]]))
    assert case.error() < 1e-3
    assert not case.ops["one_hot"]


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x[:, x.argmax(0)], InputError, "public places only"),
        (lambda x: torch.gather(x, 0, x.argmax(0, keepdim=True)), UnsupportedOp, "last axis"),
        (lambda x: torch.gather(x, -1, x[:2].topk(2)[1]), UnsupportedOp, "all but the last axis must agree"),
        (lambda x: (x * 1e12).topk(2)[0], UnsupportedOp, "do not fit the ring"),
        (lambda x: torch.eye(24)[x.argmax(-1) * 2], InputError, "only integers can be places"),
    ],
)
def test_refusals(function, error, message) -> None:
    with pytest.raises(error, match=message):
        compiled(function, mixed(3, 12))
