"""Models that look up rows at places which they find themselves, with three party processes."""

from collections.abc import Iterator

import pytest

import moiety
from moiety.engine.federation import Federation

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    with moiety.local(parties=3) as made:
        yield made


class Routed(torch.nn.Module):
    """A mixture: the two best experts' embeddings, weighted, and which they are."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts, self.head = torch.nn.Linear(16, 9), torch.nn.Embedding(9, 16), torch.nn.Linear(16, 4)

    def forward(self, x):
        weights, places = self.gate(x).topk(2)
        mixed = (self.experts(places) * weights.unsqueeze(-1)).sum(-2)
        return self.head(x + mixed), places, self.gate(mixed).argmax(-1)


def test_a_model_that_routes_by_its_own_scores(federation: Federation) -> None:
    torch.manual_seed(1)
    model, x = Routed().eval(), torch.randn(5, 16)
    private = federation.deploy(model, (x,), name="routed")
    for given in (x, x.flip(0)):
        found, places, best = private(given)
        wanted, chosen, best_of = model(given)
        assert torch.equal(places, chosen.float())
        assert torch.equal(best, best_of.float())
        assert float((found - wanted).detach().abs().max()) < 0.005
    assert "the ranking of shuffled lists" in str(private.cost)


class Walk(torch.nn.Module):
    """From one row of a table to the next: each says, by its largest entry, which follows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.nn.Embedding(6, 6)

    def forward(self, first):
        row = self.rows(first)
        for _ in range(3):
            row = self.rows(row.argmax(-1))
        return row


def test_a_walk_through_a_table_from_a_place_that_the_client_gives(federation: Federation) -> None:
    torch.manual_seed(2)
    model, first = Walk().eval(), torch.tensor([0, 3, 5])
    private = federation.deploy(model, (first,), name="walk")
    for places in (first, torch.tensor([4, 1, 2])):
        assert float((private(places) - model(places)).detach().abs().max()) < 0.001
