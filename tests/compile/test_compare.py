"""A comparison finds no fault where there is none, and the first faulty operation where one was planted."""

from dataclasses import replace

import torch
from torch import nn

from moiety.compile import signature
from moiety.compile.calibrate import Range
from moiety.compile.compare import Comparison, compare
from moiety.compile.model import draft
from moiety.compile.rehearse import rehearse
from moiety.mpc.ops import OPS
from moiety.mpc.rounds import Role
from moiety.mpc.share import Share


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.heads = nn.LayerNorm(8), nn.Linear(8, 24)

    def forward(self, x):
        x = x + self.second(nn.functional.gelu(self.first(x)))
        q, k, v = self.heads(self.norm(x)).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v) * 0.3 + x


def drafted(**options):
    torch.manual_seed(1)
    return draft(Residual().eval(), (torch.randn(1, 5, 8),), **options)


def worst(found: Comparison) -> float:
    return max(row.added / row.allowed for row in found.rows)


def test_every_operation_of_a_sound_plan_stays_within_its_error() -> None:
    found = compare(drafted(check_ranges=True))
    assert found.first == -1
    assert found.out_of_range is False
    [answer] = found.answers
    assert found.ok
    assert 0 < answer.private_error < answer.stated
    assert worst(found) < 0.9
    operations = [row.operation.removeprefix("aten.").split(".")[0] for row in found.rows]
    assert {"linear", "gelu", "layer_norm", "scaled_dot_product_attention", "add"} <= set(operations)
    last = found.rows[-1]
    assert 0 < last.private_error < 2e-3
    assert 0 < last.fixed_error < 2e-3
    assert last.mean_error <= last.private_error
    assert last.code.startswith("return nn.functional.scaled_dot_product_attention")


def test_a_look_up_that_is_only_a_factor_has_no_value_of_its_own() -> None:
    made = draft(nn.LSTMCell(4, 4).eval(), (torch.randn(2, 4),))
    assert "table_factor" in {node.op for node in made.compiled().plan.nodes}
    found = compare(made)
    assert found.ok
    assert worst(found) < 0.9
    assert found.skipped > 0


def test_it_is_the_plan_itself_that_is_compared() -> None:
    made = drafted()
    assert compare(made).plan == made.compiled().plan.hash


def test_a_range_that_is_left_is_found_where_it_is_left() -> None:
    made = drafted(check_ranges=True)
    narrow = {site: Range(found.low / 16, found.high / 16) if "|aten.linear" in site else found for site, found in made.ranges.items()}
    found = compare(replace(made, ranges=narrow))
    assert found.out_of_range
    first = found.rows[found.first]
    assert first.operation == "aten.gelu.default"
    assert "nn.functional.gelu" in first.code
    assert all(row.ok for row in found.rows[: found.first])


def test_a_defective_operation_is_found(monkeypatch) -> None:
    sound = OPS["sum_of_squares"]

    async def defective(party, x):
        share = await sound(party, x)
        return share.times(5).times(1, 2).as_fraction(share.fraction) if party.role is not None else share

    monkeypatch.setitem(OPS, "sum_of_squares", defective)
    found = compare(drafted(link="1us,1Mbit"))  # where squares are a step of their own
    assert found.rows[found.first].operation == "aten.layer_norm.default"
    assert found.rows[found.first].module == "norm"
    assert not found.answers[0].ok
    assert not found.ok


def test_without_masks_the_roles_hold_the_integers_themselves() -> None:
    made = drafted()
    compiled = made.compiled()
    words = signature.encode_inputs(compiled.plan, tuple(made.inputs), {})
    masks = []

    def note(role, node, result) -> None:
        if role is Role.P0 and isinstance(result, Share) and compiled.plan.nodes[node].op != "table_factor":  # half of it is P0's alone
            masks.append(result.mask)

    runs = [
        rehearse(compiled.plan, compiled.weights, words, masked=False, note=note),
        rehearse(compiled.plan, compiled.weights, words),
    ]
    assert len(masks) > 30
    assert not any(mask.any() for mask in masks)
    outputs = [[run.results[Role.CLIENT][output.node] for output in compiled.plan.outputs] for run in runs]
    fixed, private = (signature.decode_outputs(compiled.plan, words, tensors=True) for words in outputs)
    assert 0 < (fixed - private).abs().max() < 2e-3


class Decides(nn.Module):
    def forward(self, x):
        places = x.argmax(-1)
        return torch.where(x > 0.1, x * 2, -x).sum(-1), places


def test_truth_values_and_places_are_compared_as_such(monkeypatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 8)
    x[:10] = 0.1 + 1e-5 * x[:10]  # either side of the comparison, and of each other, within rounding
    made = draft(Decides().eval(), (x,))
    found = compare(made)
    assert found.first == -1
    rows = {row.operation.split(".")[1]: row for row in found.rows}
    assert {"gt", "argmax", "where"} <= rows.keys()
    assert (rows["gt"].added, rows["gt"].allowed) == (0.0, 0.0)
    assert rows["gt"].private_error == 1.0, "some of those within rounding do differ"


def test_weights_that_a_norm_was_folded_into_are_allowed_their_rounding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 16, 3), nn.BatchNorm2d(16)).eval()
    with torch.no_grad():
        model[1].weight.fill_(1e-3)  # the norm makes the layer's own rounding a thousand times smaller, that of folded weights not
    found = compare(draft(model, (4 * torch.randn(1, 64, 6, 6),)))
    assert found.first == -1
    assert 0.05 < worst(found) < 0.5


class Converts(nn.Module):
    def forward(self, x):
        return (x * 3.0 + x * x).to(torch.float32) - 1.0


def test_a_conversion_to_float32_is_no_error_of_the_private_run() -> None:
    """At 1e5 the numbers of float32 lie further apart than those of the plan."""
    found = compare(draft(Converts(), (torch.linspace(-300, 300, 64).double().float()[None],)))
    assert found.first == -1
    assert max(row.size for row in found.rows) > 8e4
    conversions = [row for row in found.rows if row.operation.startswith("aten.to")]
    assert all(row.added == 0 for row in conversions)
