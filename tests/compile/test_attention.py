"""Attention and softmax against torch, with every kind of mask."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.compile import program
from moiety.compile.plan import Plan
from moiety.errors import InputError, RangeViolation, UnsupportedOp

from .support import compiled, spread

TOLERANCE = 2e-3


def heads(count: int = 2, rows: int = 6, width: int = 8, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, count, rows, width)


def attend(**options):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


LOWER = torch.ones(6, 6, dtype=torch.bool).tril()
MASKS = {
    "none": {},
    "causal": {"is_causal": True},
    "bool": {"attn_mask": LOWER},
    "bool with batch and heads": {"attn_mask": LOWER.expand(1, 2, 6, 6)},
    "float": {"attn_mask": torch.zeros(6, 6).masked_fill(~LOWER, torch.finfo(torch.float32).min)},
    "float with relative positions": {"attn_mask": -(torch.arange(6.0)[:, None] - torch.arange(6.0)).abs()},
    "float with both": {"attn_mask": torch.linspace(-2, 2, 36).reshape(6, 6).masked_fill(~LOWER, -torch.inf)},
    "scale": {"scale": 0.7},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
def test_masks(options) -> None:
    assert compiled(attend(**options), heads(), heads(), heads()).error() < TOLERANCE


def test_each_example_of_a_batch_has_its_own_mask() -> None:
    mask = torch.ones(3, 1, 1, 6, dtype=torch.bool)
    mask[1, ..., 4:] = False
    mask[2, ..., 2:] = False
    case = compiled(attend(attn_mask=mask), *(heads(batch=3) for _ in range(3)))
    assert case.error() < TOLERANCE


def test_grouped_queries() -> None:
    case = compiled(attend(enable_gqa=True), heads(4), heads(2), heads(2))
    assert case.error() < TOLERANCE


def test_without_a_batch_axis() -> None:
    assert compiled(attend(), heads()[0], heads()[0], heads()[0]).error() < TOLERANCE


def test_more_keys_than_queries() -> None:
    assert compiled(attend(), heads(rows=2), heads(rows=9), heads(rows=9)).error() < TOLERANCE


def test_masked_scores_need_no_calibrated_range() -> None:
    k = heads()
    k[:, :, 5] = 1000.0  # nobody may look at it
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[:, 5] = False
    assert compiled(attend(attn_mask=mask), heads(), k, heads()).error() < TOLERANCE


@pytest.mark.parametrize("following", [torch.tanh, torch.relu, F.gelu])
def test_what_follows_reads_the_range_of_the_output_not_of_the_scores(following) -> None:
    """Scores within 1, outputs up to 8."""
    q, k, v = heads() / 8, heads() / 8, heads() * 8
    case = compiled(lambda q, k, v: following(F.scaled_dot_product_attention(q, k, v)), q, k, v)
    assert case.error() < 2 * TOLERANCE


def test_queries_of_the_owner() -> None:
    """As a decoder's over a public text, or a pooling query."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.randn(1, 2, 3, 8))

        def forward(self, x):
            return F.scaled_dot_product_attention(self.query, x, x)

    assert compiled(Pool(), heads()).error() < TOLERANCE


class Relative(nn.Module):
    """A bias of attention that the owner learned, with or without a mask in it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.bias = form, nn.Parameter(torch.randn(1, 2, 6, 6))

    def forward(self, x):
        mask = torch.ones(6, 6, dtype=torch.bool).tril()
        if self.form == "bias":
            return F.scaled_dot_product_attention(x, x, x, attn_mask=self.bias)
        if self.form == "masked bias":
            return F.scaled_dot_product_attention(x, x, x, attn_mask=self.bias.masked_fill(~mask, -torch.inf))
        scores = x @ x.transpose(-1, -2) + self.bias
        return (scores + self.bias.masked_fill(~mask, -3e38)).softmax(-1) @ x


@pytest.mark.parametrize("form", ["bias", "masked bias", "written out"])
def test_a_bias_of_weights(form: str) -> None:
    """Which pairs weights exclude becomes public, and the plan says so."""
    case = compiled(Relative(form), heads())
    assert case.error() < TOLERANCE
    assert any("weights decide" in line for line in case.plan.leakage) == (form != "bias")


MASK = torch.ones(6, 6, dtype=torch.bool).tril()
MASKED = {
    "filled with infinity": lambda s: s.masked_fill(~MASK, -torch.inf),
    "filled with the least number": lambda s: s.masked_fill(~MASK, torch.finfo(torch.float32).min),
    "where": lambda s: torch.where(MASK, s, -1e9),
    "where not": lambda s: torch.where(~MASK, torch.tensor(-torch.inf), s),
    "sum": lambda s: s + torch.zeros(6, 6).masked_fill(~MASK, -1e9),
    "sum with a bias": lambda s: s + torch.linspace(-1, 1, 36).reshape(6, 6).masked_fill(~MASK, -torch.inf),
    "two masks": lambda s: s.masked_fill(~MASK, -torch.inf) + torch.tensor([0.0] * 5 + [-torch.inf]).where(torch.arange(6) > 0, 0.0),
}


@pytest.mark.parametrize("masked", MASKED.values(), ids=MASKED)
def test_attention_written_out(masked) -> None:
    """A mask as a sum, a selection or a fill before the softmax."""
    assert compiled(lambda x: masked(x @ x.transpose(-1, -2) / 2).softmax(-1) @ x, heads()).error() < TOLERANCE


@pytest.mark.parametrize("fill", [torch.finfo(torch.float32).min, -torch.inf, None])
def test_rows_in_which_nothing_counts(fill: float | None) -> None:
    """Padding that attends to padding: uniform where the mask is a finite number, nothing where it is infinite or boolean."""
    mask = MASK.clone()
    mask[2] = False
    given = mask if fill is None else torch.zeros(6, 6).masked_fill(~mask, fill)
    assert compiled(lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=given), heads()).error() < TOLERANCE
    if fill is not None and fill > -torch.inf:
        assert compiled(lambda x: (x @ x.transpose(-1, -2) + given).softmax(-1) @ x, heads()).error() < TOLERANCE


def test_what_a_mask_excludes_is_for_a_softmax_alone() -> None:
    with pytest.raises(UnsupportedOp, match="only a softmax may"):
        compiled(lambda x: x.masked_fill(x.new_ones(1).bool(), -torch.inf) * 2, heads())
    with pytest.raises(UnsupportedOp, match="public mask only"):
        compiled(lambda x: x.masked_fill(x > 0, -torch.inf).softmax(-1), heads())


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax, torch.logsumexp])
def test_softmax_over_any_axis(function, axis: int) -> None:
    case = compiled(lambda x: function(x, axis), 3 * torch.randn(4, 5, 6))
    assert case.error() < 2e-3


@pytest.mark.parametrize("reach", [3.0, 100.0, 1000.0])
def test_softmax_of_far_scores(reach: float) -> None:
    """Beyond a few hundred the exact maximum is found, and the exponential has a finer level near zero."""
    x = reach * torch.randn(5, 9)
    assert compiled(lambda x: x.softmax(-1), x).error() < 2e-3
    assert compiled(lambda x: x.masked_fill(torch.eye(9)[:5].bool(), -torch.inf).softmax(-1), x).error() < 2e-3


def test_a_secret_mask_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match="public"):
        compiled(lambda x, mask: F.scaled_dot_product_attention(x, x, x, attn_mask=mask), heads(), torch.zeros(6, 6))


def test_multi_head_attention_layer() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            q, k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(mixed.transpose(1, 2).flatten(2))

    assert compiled(Layer(), torch.randn(2, 5, 16)).error() < TOLERANCE


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 8.0])
def test_softmax(scale: float) -> None:
    """Rows that are equal, nearly equal, and far apart."""
    case = compiled(lambda x: F.softmax(x * scale, dim=-1), spread(5, 7, low=-2, high=2))
    assert case.error() < TOLERANCE
    assert (case.run().sum(-1) - 1).abs().max() < TOLERANCE


def test_softmax_of_negated_values() -> None:
    assert compiled(lambda x: F.softmax(x * -1.0, dim=-1), spread(5, 7, low=-4, high=4)).error() < TOLERANCE


def test_puma_exponential_for_one_layer() -> None:
    plain = compiled(attend(), heads(), heads(), heads())
    puma = compiled(attend(), heads(), heads(), heads(), variants={"softmax": "puma"})
    assert puma.plan.hash != plain.plan.hash
    assert puma.error() < 2e-2


@pytest.mark.parametrize("name", MASKS)
def test_scores_close_to_each_other_need_no_maximum(name: str) -> None:
    q, k, v = heads(), heads(), heads()
    close = compiled(attend(**MASKS[name]), 0.3 * q, 0.3 * k, v)
    assert ("row_max" in close.ops) is (name in ("float with relative positions", "float with both")), "those add more than six nats"
    assert close.error() < TOLERANCE


def test_scores_far_from_each_other_need_one() -> None:
    q, k, v = heads(), heads(), heads()
    far, close = compiled(attend(), 2 * q, 2 * k, v), compiled(attend(), 0.3 * q, 0.3 * k, v)
    assert far.ops["row_max"] == 1
    assert far.error() < TOLERANCE
    assert program.costs(far.plan).rounds - program.costs(close.plan).rounds == 3, "a tree over rows of six"


def test_rows_of_few_terms_are_as_exact_as_long_ones() -> None:
    """The first row of a causal mask has one term, the last 64: without a maximum their sums differ by all of that."""
    q, k, v = (heads(rows=64) for _ in range(3))
    case = compiled(attend(is_causal=True), 0.3 * q, 0.3 * k, v)
    assert "row_max" not in case.ops
    assert case.error() < TOLERANCE


@pytest.mark.parametrize("size", [0.3, 2.0], ids=["no maximum", "a maximum"])
def test_pairs_that_do_not_count_are_neither_computed_nor_checked_nor_looked_up(size: float) -> None:
    q, k, v = (heads(rows=16) for _ in range(3))
    every, half = (compiled(attend(is_causal=causal), size * q, size * k, v, check_ranges=True) for causal in (False, True))
    counted = {True: (1, 2, 16, 16), False: (2 * 16 * 17 // 2,)}
    for case, whole in ((every, True), (half, False)):
        shapes, nodes = program.shapes(case.plan), case.plan.nodes
        first = {op: next(i for i, node in enumerate(nodes) if node.op == op) for op in ("matmul", "table")}
        assert [shapes[first[op]] for op in first] == [counted[whole]] * 2
        read = [shapes[j] for node in nodes if node.op in ("out_of_range", "all_out_of_range") for j in node.inputs]
        assert counted[whole] in read
        assert counted[not whole] not in read
        octets = nodes[first["matmul"]].params.get("bits", 64) // 8
        assert bytes_of(case.plan, first["matmul"]) == 3 * octets * prod(counted[whole]), "three words of a place that counts"
        assert case.error() < TOLERANCE


def bytes_of(plan: Plan, node: int) -> int:
    """What the parties say for a node, and what they are dealt."""
    waves = program.costs(plan).waves
    dealt = sum(word.spec.nbytes for wave in waves for address, (_, word) in wave.dealt.items() if address.path[0] == node)
    return sum(wave.spoken.get(node, 0) for wave in waves) + dealt


def test_a_score_beyond_its_range_is_seen_without_a_maximum() -> None:
    q, k, v = heads(), heads(), heads()
    case = compiled(attend(), 0.3 * q, 0.3 * k, v, check_ranges=True)
    assert case.error() < TOLERANCE
    with pytest.raises(RangeViolation):
        case.run(0.44 * q, 0.44 * k, v)
