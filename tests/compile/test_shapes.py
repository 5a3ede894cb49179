"""Operations that only move elements, and the client's secret integers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.errors import InputError, PlanError, UnsupportedOp

from .support import compiled, spread

TOLERANCE = 2.0**-13


def reals() -> torch.Tensor:
    return spread(2, 3, 8, low=-4, high=4)


MOVES = {
    "view": lambda x: x.view(6, 8),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(-1, (2, 4)),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "expand": lambda x: x[:, :1].expand(2, 5, 8),
    "transpose": lambda x: x.transpose(1, -1),
    "permute": lambda x: x.permute(2, 0, -2),
    "t": lambda x: x[0].t(),
    "slice": lambda x: x[:, 1:, 2:-1],
    "slice with a step": lambda x: x[..., ::3],
    "select": lambda x: x[:, -1],
    "split": lambda x: torch.cat(x.split([3, 5], dim=-1)[::-1], dim=-1),
    "chunk": lambda x: x.chunk(4, dim=-1)[2],
    "cat": lambda x: torch.cat([x, -x, x * x], dim=1),
    "cat with a public part": lambda x: torch.cat([torch.ones(2, 1, 8), x], dim=1),
    "cat of other fractions": lambda x: torch.cat([x, x * torch.linspace(0, 1, 8)], dim=0),
    "unbind": lambda x: x.unbind(1)[1] - x.unbind(-1)[0][:, :1],
    "stack": lambda x: torch.stack([x, -x, torch.ones(2, 3, 8)], dim=2),
    "type of another": lambda x: x.double().type_as(x),
    "dtype": lambda x: x.to(torch.float64).float(),
    "flip": lambda x: x.flip(0, 2),
    "roll": lambda x: x.roll((1, -3), (0, 2)),
    "roll of all": lambda x: x.roll(5),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "repeat to a higher rank": lambda x: x[0].repeat(2, 1, 1),
    "repeat interleave": lambda x: x.repeat_interleave(2, 1),
    "tile": lambda x: torch.tile(x, (2, 1)),
    "index": lambda x: x[:, [2, 0, 1]],
    "index of pairs": lambda x: x[[0, 1], [2, 0]],
    "index by broadcast": lambda x: x[torch.tensor([[0], [1]]), torch.tensor([[2, 0, 1]])],
    "index select": lambda x: x.index_select(2, torch.tensor([3, 1])),
    "gather": lambda x: x.gather(1, torch.tensor([[[0, 1], [2, 0]], [[1, 1], [0, 2]]])),
    "take": lambda x: x.take(torch.tensor([[0, 5], [47, 3]])),
    "take along": lambda x: torch.take_along_dim(x, torch.tensor([[[1], [0], [2]], [[0], [0], [1]]]), 2),
    "diagonal": lambda x: torch.diagonal(x, 1, 1, 2),
    "diagonal matrix": lambda x: torch.diag_embed(x[0]),
    "unfold": lambda x: x.unfold(2, 4, 2),
    "strided": lambda x: x.as_strided((2, 2), (8, 1), 3),
    "rot90": lambda x: x.rot90(1, (1, 2)),
    "circular padding": lambda x: F.pad(x, (1, 2), mode="circular"),
    "pixel shuffle": lambda x: F.pixel_shuffle(x.reshape(1, 4, 3, 4), 2),
    "meshgrid": lambda x: torch.stack(torch.meshgrid(x[0, 0], x[0, 1], indexing="ij")),
    "block diagonal": lambda x: torch.block_diag(x[0], x[1]),
    "stacked": lambda x: torch.hstack([x[0], x[1]]) + torch.vstack([x[:, 0], x[:1, 1]])[0, 0],
    "scatter": lambda x: torch.zeros(3, 8).scatter(1, torch.tensor([[0, 1], [2, 0], [1, 3]]), x[0, :, :2]),
    "scatter of a number": lambda x: x[0].scatter(1, torch.tensor([[0, 1], [2, 0], [1, 3]]), 0.5),
    "scatter add": lambda x: torch.zeros(3, 8).scatter_add(1, torch.tensor([[0, 1], [2, 0], [1, 1]]), x[0]),
    "index add": lambda x: torch.ones(2, 8).index_add(0, torch.tensor([0, 0, 1]), x[0]),
    "index put": lambda x: x[0].index_put((torch.tensor([0, 1]), torch.tensor([2, 3])), torch.tensor(0.5)),
    "index put of a secret": lambda x: x[0].index_put((torch.tensor([0, 1]),), x[1, :2]),
    "index put accumulated": lambda x: x[0].index_put((torch.tensor([0, 0, 1]),), x[1, 2], accumulate=True),
    "select scatter": lambda x: x.select_scatter(x[:, 2], 1, 0),
    "slice scatter": lambda x: x.slice_scatter(torch.zeros(2, 3, 2), 2, 1, 3),
    "masked scatter": lambda x: x.masked_scatter(torch.arange(8) > 5, x[1].flatten()),
    "differences": lambda x: x.diff(dim=-1),
    "cumulative": lambda x: x[..., :3].cumsum(-1) - x[:, :1, :3].cumsum(1),
    "cross": lambda x: torch.cross(x[..., :3], torch.ones(2, 3, 3), dim=-1),
    "shape of a secret": lambda x: x + torch.zeros_like(x) + x.new_ones(8) + torch.full_like(x, 2),
    "dropout in evaluation": lambda x: F.dropout(x, 0.5, training=False),
}


@pytest.mark.parametrize("function", MOVES.values(), ids=MOVES)
def test_moves(function) -> None:
    assert compiled(function, reals()).error() < 4 * TOLERANCE


def test_moves_cost_nothing() -> None:
    case = compiled(lambda x: x.transpose(1, 2).flatten(1)[:, ::2].unsqueeze(0), reals())
    assert len(case.plan.waves) == 3  # two for the input, one for the answer


def test_assignments_in_place() -> None:
    def model(x):
        y = x * 1
        y[:, 0] = 0.5
        y[:, 1:, ::2] = x[:, :2, ::2]
        y[..., -1] += x[..., 0]
        return y

    assert compiled(model, reals()).error() < 4 * TOLERANCE


def test_moves_along_an_axis_need_no_list_of_all_elements() -> None:
    plan = compiled(lambda x: x.flip(1)[..., [2, 0, 1]].repeat(1, 2, 1), reals()).plan
    assert plan.constants == ()
    assert len(plan.waves) == 3


def test_secret_integers_are_compared_with_a_number() -> None:
    """A mean over the tokens that are not padding, whose places stay secret."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 6)

        def forward(self, ids):
            counts = (ids != 0).float()[..., None]
            return (self.table(ids) * counts).sum(1) / counts.sum(1) + (ids.view(-1) == 3)[:1]

    case = compiled(Pooled(), IDS)
    assert case.error() < 1e-3
    with pytest.raises(InputError, match="not one of the rows"):
        compiled(Tokens(lambda ids: ids * (ids == 11)), IDS)


def test_secret_integers_as_one_hot() -> None:
    case = compiled(lambda ids: F.one_hot(ids.flatten(), 11).float() @ torch.linspace(0, 1, 11), IDS)
    assert case.error() < 1e-3
    assert case.plan.inputs[0].form == "one_hot"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x[:, torch.tensor([True, False, True])], "depends on data|no private form"),
        (lambda x: torch.ones(8).index_select(0, x[0, 0, :2].argmax()[None]) * x, "secret places"),
        (lambda x: F.one_hot(x.argmax(-1)) * 1.0, "num_classes|no private form|export"),
    ],
)
def test_places_that_are_not_public_are_refused(function, text: str) -> None:
    with pytest.raises((UnsupportedOp, InputError, PlanError), match=text):
        compiled(function, reals())


def test_cat_with_a_parameter() -> None:
    class Prefix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.randn(1, 1, 8))

        def forward(self, x):
            return torch.cat([self.first.expand(2, -1, -1), x], dim=1)

    assert compiled(Prefix(), reals()).error() < TOLERANCE


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(6, 8),
        lambda x: x.unsqueeze(1),
        lambda x: x.transpose(0, 1),
        lambda x: x[:, 1],
        lambda x: x[..., :3],
        lambda x: x.flatten(1),
    ],
)
def test_a_pending_gain_and_shift_survive_moves(function) -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)

        def forward(self, x):
            return function(self.norm(x))

    assert compiled(Moved(), reals()).error() < 2e-3


class Tokens(nn.Module):
    def __init__(self, function=lambda ids: ids) -> None:
        super().__init__()
        self.function = function
        self.table, self.places = nn.Embedding(11, 6), nn.Embedding(16, 6)

    def forward(self, ids, mask=None):
        found = self.table(self.function(ids))
        found = found + self.places(torch.arange(found.shape[1]))
        return found if mask is None else found * mask[..., None]


IDS = torch.tensor([[3, 1, 10, 0, 7], [2, 2, 5, 9, 4]])


def test_secret_integers_look_up_an_embedding() -> None:
    """Token and position embeddings: the second needs no secret at all."""
    case = compiled(Tokens(), IDS)
    assert case.error() < 4 * TOLERANCE
    assert case.error(IDS.flip(1)) < 4 * TOLERANCE
    assert case.plan.inputs[0].form == "one_hot"
    assert case.plan.inputs[0].classes == 11


@pytest.mark.parametrize("function", [lambda ids: ids.view(-1, 5), lambda ids: ids.reshape(5, 2), lambda ids: ids.long().clone()])
def test_secret_integers_change_their_shape(function) -> None:
    assert compiled(Tokens(function), IDS).error() < 4 * TOLERANCE


@pytest.mark.parametrize(
    "function", [lambda ids: ids * 1, lambda ids: ids[:, 1:], lambda ids: ids.flip(1), lambda ids: torch.where(ids > 3, ids, 0)]
)
def test_arithmetic_on_secret_integers_is_refused(function) -> None:
    with pytest.raises((InputError, UnsupportedOp), match=r"public|no private form"):
        compiled(Tokens(function), IDS)


def test_integers_that_index_nothing_are_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match="name that input in public"):
        compiled(Tokens(), IDS, torch.ones(2, 5, dtype=torch.long))


def test_public_integers_may_be_anything() -> None:
    case = compiled(Tokens(), IDS, torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]), public=("mask",))
    assert case.error() < 4 * TOLERANCE
    assert [given.name for given in case.plan.inputs] == ["ids"]
    assert [name for name, _ in case.plan.public] == ["mask"]


def test_reals_do_not_become_integers() -> None:
    with pytest.raises(UnsupportedOp, match="int32"):
        compiled(lambda x: x.to(torch.int32).float(), reals())
