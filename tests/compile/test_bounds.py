"""Hard bounds bound: against inputs that were made to break them; and rings that are as small as they allow lose nothing."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moiety.compile import bounds, model, narrow, program, signature
from moiety.compile.bounds import Bound, Bounds
from moiety.compile.builder import Builder
from moiety.compile.plan import Input, Node, Plan
from moiety.compile.rehearse import rehearse
from moiety.errors import RangeViolation
from moiety.mpc.rounds import Role, Words
from moiety.mpc.share import Share

from .support import Case, compiled


class Block(nn.Module):
    """A layer in the classic form; its weights are as large as trained ones get."""

    def __init__(self, *, causal: bool, width: int = 8) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out, self.up, self.down = (nn.Linear(width, n * width) for n in (3, 1, 2, 1))
        self.down = nn.Linear(2 * width, width)
        self.width, self.causal = width, causal

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.after(x))))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Hardtanh(-2.0, 2.0),
        nn.Conv2d(4, 2, 1),
    )


MODELS = {
    "block": (lambda: Block(causal=False), (2, 6, 8)),
    "causal block": (lambda: Block(causal=True), (2, 6, 8)),
    "convolutions": (convolutions, (1, 2, 6, 6)),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 9), nn.SiLU(), nn.Linear(9, 3)), (4, 6)),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(5)
    make, shape = MODELS[request.param]
    return compiled(make().eval(), torch.randn(shape), calibration=[(torch.randn(shape),) for _ in range(3)], check_ranges=True)


def hostile(case: Case) -> list[torch.Tensor]:
    """Inputs at the ends of what the client may give: all alike, by signs at random, by the signs of the first weights, one alone."""
    [spec] = case.plan.inputs
    shape, top, generator = spec.shape, spec.bound * 0.999, torch.Generator().manual_seed(1)
    signs = [torch.randint(0, 2, shape, generator=generator) * 2.0 - 1 for _ in range(6)]
    weight = next(p for p in case.model.parameters() if p.dim() > 1).detach()
    turned = [torch.sign(row.flatten()[torch.arange(math.prod(shape)) % row.numel()]).reshape(shape) for row in (weight[0], -weight[-1])]
    alone = torch.zeros(shape)
    alone.view(-1)[0] = 1.0
    return [top * x for x in (torch.ones(shape), -torch.ones(shape), alone, *signs, *turned)]


def test_no_word_exceeds_its_hard_bound_whatever_the_client_gives(case: Case, monkeypatch) -> None:
    """Every word of the same program in rings of 64 bits: before the checks always where they passed, and after them, too."""
    found: list[Bounds] = []

    def as_it_is(plan: Plan, builder: Builder) -> Plan:
        drops = {i: cut.drop for i, cut in builder.truncations.items()}
        found.append(bounds.find(plan, program.shapes(plan), builder.tensors, drops, builder.claims, builder.slacks))
        return plan

    monkeypatch.setattr(model, "_narrowed", as_it_is)
    drafted = model.draft(case.model, case.args, ranges=case.compiled.ranges, calibration=(), check_ranges=True)
    lowering = drafted.lowering()
    builder = lowering.run()
    builder.modules = list(map(str, range(len(builder.nodes))))
    plan = drafted.plan(lowering)
    compared = 0
    for x in (*case.args, *hostile(case)):
        words, failed = words_of(plan, builder.tensors, x)
        for i, word in () if failed else words.items():
            if plan.modules[i].isdigit():
                most = np.abs(word.astype(np.float64)).max(initial=0)
                free, checked = (part[int(plan.modules[i])] for part in found[0])
                assert most <= min(free.peak, checked.peak), plan.nodes[i]
                assert math.isinf(checked.norm) or np.linalg.norm(np.atleast_1d(word).astype(np.float64), axis=-1).max() <= checked.norm
                compared += math.isfinite(free.peak)
    assert compared > 20


def words_of(plan: Plan, weights: Mapping[str, torch.Tensor], x: torch.Tensor) -> tuple[dict[int, Words], bool]:
    """The words of every node, as signed integers, and whether the run's check failed."""
    masks: dict[int, Words] = {}
    found: dict[int, Words] = {}

    def note(role: Role, i: int, result: Any) -> None:
        if role is Role.P0 and isinstance(result, Share) and result.mask is not None:
            masks[i] = result.mask
        elif role is Role.P1 and isinstance(result, Share) and result.masked is not None and i in masks:
            found[i] = (result.masked - masks[i]).view(np.int64)

    got = rehearse(plan, weights, signature.encode_inputs(plan, (x,), {}), note=note).results[Role.CLIENT]
    return found, bool(got[plan.flag].any())


def test_what_runs_in_small_rings_is_what_the_model_says_or_is_noticed(case: Case) -> None:
    """At the ends of the inputs' range, too: no ring is too small for them."""
    noticed = 0
    for x in (case.args[0], *hostile(case)):
        try:
            assert case.error(x) < 0.02 * max(1.0, float(case.expected(x).abs().max()))
        except RangeViolation:
            noticed += 1
    assert noticed < len(hostile(case)) + 1, "the example itself is within its ranges"


def test_rings_are_smaller_where_weights_are(case: Case) -> None:
    rings = [node.params["bits"] for node in case.plan.nodes if "bits" in node.params and node.op not in ("out_of_range", "clamp", "relu")]
    assert rings
    assert min(rings) <= 48


@pytest.mark.parametrize("depth", [1, 7, 300])
def test_a_linear_layer_reaches_its_bound_and_never_passes_it(depth: int) -> None:
    weights = torch.randn(5, depth, generator=torch.Generator().manual_seed(depth))
    layer = nn.Linear(depth, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weights)
    builder = model.draft(layer, (torch.ones(2, depth),), calibration=()).lowering().run()
    plan = Plan(nodes=tuple(builder.nodes), inputs=tuple(builder.inputs), weights=tuple(builder.weights))
    found = bounds.find(plan, [(2, depth), (depth, 5), (2, 5), (2, 5), ()], builder.tensors, {}, {}, {}).free
    [place] = [i for i, node in enumerate(plan.nodes) if node.op == "linear"]
    [spec], [held] = plan.inputs, plan.weights
    exact = float(weights.abs().sum(1).max()) * spec.bound * 2.0 ** (spec.fraction + held.fraction)
    assert exact <= found[place].peak <= 1.001 * exact


@pytest.mark.parametrize("peak", [1.0, 2.0**13 - 3, 2.0**13 - 1, 2.0**13, 2.0**30, 2.0**61, math.inf])
@pytest.mark.parametrize("drop", [1, 13, 40])
def test_a_truncation_has_room_for_its_bound(peak: float, drop: int) -> None:
    width = narrow.left_after(peak, drop)
    assert width + drop <= 64
    assert width == 64 - drop or peak / 2**drop + 2 <= 2.0 ** (width - 2)


def test_a_bound_beyond_all_floats_is_infinite() -> None:
    """Deep models reach that: every layer's hard bound is a multiple of the one before."""
    steps = [Node("scale", (i,), {"factor": 1 << 62}) for i in range(12)]
    plan = Plan(nodes=(Node("input", (), {"index": 0}), *steps, Node("spread", (12,))), inputs=(Input("x", (3,), "fixed", 0, 1.0),))
    found = bounds.find(plan, [(3,)] * 13 + [(1,)], {}, {}, {}, {}).free
    assert math.isfinite(found[12].peak)
    assert math.isinf(found[13].peak)
    assert narrow.signed_bits(sys.float_info.max) == narrow.signed_bits(math.inf) > 64


def test_rows_are_no_longer_than_their_elements_allow() -> None:
    assert Bound(2.0, math.inf).on((3, 4)).norm == pytest.approx(4.0, rel=1e-3)
    assert Bound(math.inf, 3.0).on((3, 4)).peak == 3.0
    assert math.isinf(Bound(math.inf, math.inf).on((3, 4)).peak)


FAR = [1.0, 1.7, 4.0, 2.0**9, 2.0**17]


@pytest.mark.parametrize("gain", FAR)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_value_outside_is_noticed_however_far(gain: float, sign: int) -> None:
    """The layer before the table magnifies what one input says, as far as the weights let it: just outside and beyond every window."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, gain * 3]]))
    model = nn.Sequential(layer, nn.GELU())
    seen = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    case = compiled(model, seen, check_ranges=True)
    quiet, loud = torch.tensor([[2.0, 0.0]]).expand(2, 2), torch.tensor([[0.0, sign * 2.9]]).expand(2, 2)
    assert case.error(quiet) < 0.01
    with pytest.raises(RangeViolation):
        case.run(loud)
