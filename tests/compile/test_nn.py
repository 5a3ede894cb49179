"""Layers and activations against torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.compile.builder import Options
from moiety.errors import PlanError, RangeViolation, UnsupportedOp

from .replay import Block
from .support import compiled, spread

TOLERANCE = 1e-3


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (3, 8), (2, 3, 8)])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    assert compiled(nn.Linear(8, 5, bias=bias), torch.randn(shape)).error() < TOLERANCE


def test_linear_layers_of_small_and_large_weights() -> None:
    small, large = nn.Linear(8, 8), nn.Linear(8, 8)
    nn.init.normal_(small.weight, std=1e-3)
    nn.init.normal_(large.weight, std=1e3)
    assert compiled(nn.Sequential(small, large), torch.randn(3, 8)).error() < 0.05  # against outputs of about 10


def test_a_weight_may_serve_twice() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight
            self.middle = nn.Linear(8, 8)

        def forward(self, ids):
            return self.head(self.middle(self.middle(self.embed(ids))))

    case = compiled(Tied(), torch.tensor([[1, 10, 4]]))
    assert case.error() < TOLERANCE
    assert sum("middle" in weight.name and weight.packed for weight in case.plan.weights) == 1


class Buffers(nn.Module):
    """A weight that is no parameter."""

    def __init__(self, tensor: torch.Tensor, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("held", tensor, persistent=persistent)

    def forward(self, x):
        return F.linear(x, self.held.float() / 8)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("tensor", [torch.randn(4, 8), torch.randint(-9, 9, (4, 8))], ids=["reals", "integers"])
def test_buffers_as_weights(tensor: torch.Tensor, persistent: bool) -> None:
    assert compiled(Buffers(tensor, persistent), torch.randn(3, 8)).error() < TOLERANCE


def test_parameters_and_constants_on_either_side_of_a_product() -> None:
    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.stack = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3, 8, 2))

        def forward(self, x):
            return self.left @ x, x.unsqueeze(1) @ self.stack, torch.eye(3)[[2, 0]] @ x

    case = compiled(Sides(), torch.randn(3, 8))
    for found, wanted in zip(case.run(), case.expected(), strict=True):
        assert (found - wanted).abs().max() < 2e-3


def test_owned_values_at_public_places_are_told_apart_by_their_shape() -> None:
    """Zeros of two shapes have the same bytes; what is looked up there has not, and weights are known by name."""

    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.types = nn.Embedding(2, 4)

        def forward(self, x, types):
            return x + self.types(types)

    model = Typed()
    plans = [compiled(model, torch.randn(*shape, 4), torch.zeros(shape, dtype=int), public=("types",)).plan for shape in ((2, 3), (3, 2))]
    one, other = ({weight.name for weight in plan.weights} for plan in plans)
    assert one
    assert one.isdisjoint(other)


def test_what_the_state_dict_holds_is_never_in_the_plan() -> None:
    """Quantised weights are integers in persistent buffers."""
    quantised = torch.randint(-128, 127, (4, 8), dtype=torch.int8)
    plan = compiled(Buffers(quantised, True), torch.randn(3, 8)).plan
    assert plan.constants == ()
    assert [weight.shape for weight in plan.weights] == [(8, 4)]


LAYER_NORMS = {
    "plain": nn.LayerNorm(24),
    "without gain": nn.LayerNorm(24, elementwise_affine=False),
    "without shift": nn.LayerNorm(24, bias=False),
    "large eps": nn.LayerNorm(24, eps=0.1),
}


@pytest.mark.parametrize("norm", LAYER_NORMS.values(), ids=LAYER_NORMS)
def test_layer_norm(norm: nn.LayerNorm) -> None:
    assert compiled(norm, torch.randn(4, 24)).error() < TOLERANCE


@pytest.mark.parametrize("width", [2, 16, 24, 384, 1024])
def test_layer_norm_widths(width: int) -> None:
    case = compiled(nn.LayerNorm(width), torch.randn(4, width))
    assert case.error() < TOLERANCE
    assert case.truncations == 2, "one truncation of the centred input, one of the answer with its gain"


class Residual(nn.Module):
    """Two branches as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(3))
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 24)) for _ in range(2))

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = x + layer(norm(x))
        return self.norms[2](x)


def test_a_residual_is_truncated_by_its_norms_alone() -> None:
    case = compiled(Residual(), torch.randn(4, 24))
    assert case.error() < 2 * TOLERANCE
    assert case.truncations == 4, "what each of three norms centres, and the answer"


@pytest.mark.parametrize("scale", [0.01, 30.0, 3000.0])
@pytest.mark.parametrize("width", [16, 1024])
def test_layer_norm_of_small_and_large_values(scale: float, width: int) -> None:
    """n^2 var must not leave the ring. Small values keep as few bits as their encoding has."""
    resolution = 2.0**-15 / scale * 4
    assert compiled(nn.LayerNorm(width), scale * torch.randn(4, width)).error() < max(TOLERANCE, resolution)


def test_layer_norm_with_outliers() -> None:
    x = torch.randn(6, 64)
    x[1, 5], x[3, 0], x[4, 1] = 300.0, -2000.0, 40.0
    assert compiled(nn.LayerNorm(64), x).error() < 2e-3


def test_layer_norm_of_a_constant_row() -> None:
    """Only eps keeps the inverse root finite."""
    x = torch.randn(6, 64)
    x[2] = 7.0
    assert compiled(nn.LayerNorm(64), x).error() < 2e-3


class Norms(nn.Module):
    """A norm's output in several places: its gain and shift are pending in one, applied in another."""

    def __init__(self, public: bool = False) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.register_buffer("gain", torch.linspace(1, 4, 8), persistent=False)

    def forward(self, x):
        normal = self.norm(x)
        y = normal + self.first(F.gelu(self.second(normal)))
        return y * normal + self.first(normal)


def test_a_norm_is_used_by_layers_residuals_and_products() -> None:
    assert compiled(Norms(), torch.randn(4, 8)).error() < 3e-3


def test_a_public_gain_counts() -> None:
    assert compiled(lambda x: F.layer_norm(x, (8,), torch.linspace(1, 4, 8), torch.ones(8)), torch.randn(4, 8)).error() < TOLERANCE


def test_a_secret_gain_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match="layer_norm"):
        compiled(lambda x: F.layer_norm(x, (8,), x[0], x[1]), torch.randn(4, 8))


ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu with tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}


@pytest.mark.parametrize("reach", [0.5, 6.0, 40.0])
@pytest.mark.parametrize("function", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations_within_two_to_the_minus_ten(function, reach: float) -> None:
    """On the calibrated range and beyond it up to the margin."""
    case = compiled(function, spread(40, 20, low=-reach, high=reach))
    assert case.error() < 2.0**-10
    assert case.error(spread(40, 20, low=-1.49 * reach, high=1.49 * reach)) < 2.0**-10


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (-12.0, 4.0)])
def test_exponential_relative_error(low: float, high: float) -> None:
    """Relative, or absolute 2^-14 where that is more: the answer has 14 fraction bits."""
    case = compiled(torch.exp, spread(40, 20, low=low, high=high))
    expected = case.expected()
    assert ((case.run() - expected).abs() / expected.clamp(min=2.0**-4)).max() < 2.0**-10


def test_gelu_of_a_formula() -> None:
    """As GPT-2 writes it."""

    def formula(x):
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))

    assert compiled(formula, spread(5, 20, low=-6, high=6)).error() < 2e-3


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GELU(), nn.GELU()
        self.between = nn.Linear(8, 8)

    def forward(self, x):
        return self.second(self.between(self.first(x)))


def test_variants_of_the_model_and_of_one_layer() -> None:
    x = spread(3, 8, low=-5, high=5)
    exact, all_puma, one = (compiled(Two(), x, variants=v) for v in ({}, {"gelu": "puma"}, {"second:gelu": "puma"}))
    assert [case.ops["puma_gelu"] for case in (exact, all_puma, one)] == [0, 2, 1]
    assert [case.ops["table"] for case in (exact, all_puma, one)] == [2, 0, 1]
    assert all(case.error() < 0.1 for case in (all_puma, one))
    label = one.plan.modules[[node.op for node in one.plan.nodes].index("puma_gelu")]
    assert label == "second"


def test_puma_silu() -> None:
    assert compiled(F.silu, spread(3, 8, low=-9, high=9), variants={"silu": "puma"}).error() < 0.1


@pytest.mark.parametrize("variants", [{"gelu": "bolt"}, {"tanh": "puma"}, {"0:tanh": "puma"}, "bolt"])
def test_an_unknown_variant_is_refused(variants: dict[str, str] | str) -> None:
    with pytest.raises(PlanError, match=r"no variant '(bolt|puma)' .* puma: gelu, rsqrt, silu, softmax"):
        compiled(F.gelu, spread(3, 8), variants=variants)


def test_a_variant_for_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(PlanError, match=r"no layer third:gelu .* first:gelu, second:gelu"):
        compiled(Two(), spread(3, 8), variants={"third:gelu": "puma"})


@pytest.mark.parametrize("norm", LAYER_NORMS.values(), ids=LAYER_NORMS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_layer_norm_by_the_inverse_root_of_puma(norm: nn.LayerNorm, scale: float) -> None:
    x = scale * torch.randn(6, 24)
    case = compiled(norm, x, variants={"rsqrt": "puma"})
    assert (case.ops["puma_rsqrt"], case.ops["table"]) == (1, 0)
    assert case.error() < max(TOLERANCE, 2.0**-13 / scale)


def test_puma_for_one_norm_and_for_all_functions() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.act = nn.LayerNorm(8), RootMeanSquare(8), nn.GELU()

        def forward(self, x):
            return F.softmax(self.second(self.act(self.first(x))) + F.silu(x), dim=-1)

    x = spread(4, 8, low=-3, high=3)
    one = compiled(Layers(), x, variants={"second:rsqrt": "puma"})
    assert one.plan.modules[[node.op for node in one.plan.nodes].index("puma_rsqrt")] == "second"
    every = compiled(Layers(), x, variants="puma")
    assert [every.ops[f"puma_{name}"] for name in ("rsqrt", "gelu", "silu", "neg_exp")] == [2, 1, 1, 1]
    assert every.ops["table"] == 1, "the reciprocal of the softmax's row sums, for which PUMA has no polynomial of its own"
    assert one.error() < TOLERANCE
    assert every.error() < 0.05


@pytest.mark.parametrize("llama", [False, True])
def test_a_whole_layer_with_all_functions_of_puma(llama: bool) -> None:
    """Within what the published formulas are off, and no closer: they are really used."""
    torch.manual_seed(3)
    case = compiled(Block(llama), torch.randn(1, 6, 16), variants="puma")
    assert (case.ops["puma_rsqrt"], case.ops["puma_silu" if llama else "puma_gelu"], case.ops["puma_neg_exp"]) == (2, 1, 1)
    assert 1e-3 < case.error() < 0.02


class RootMeanSquare(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_root_mean_square_norm_by_the_inverse_root_of_puma(scale: float) -> None:
    """Rows of very different sizes: the exponent of a row's mean square is chosen in secret."""
    x = scale * torch.randn(6, 24) * torch.logspace(0, 3, 6)[:, None]
    assert compiled(RootMeanSquare(24), x, variants={"rsqrt": "puma"}).error() < 3e-3


def test_inverse_roots_of_puma_notice_what_leaves_their_range() -> None:
    case = compiled(lambda x: torch.rsqrt(x), spread(3, 8, low=0.5, high=2), variants={"rsqrt": "puma"}, check_ranges=True)
    assert case.error() < 2e-3
    with pytest.raises(RangeViolation):
        case.run(spread(3, 8, low=0.01, high=2))


@pytest.mark.parametrize("fraction", [12, 16])
def test_other_fractions(fraction: int) -> None:
    case = compiled(Norms(), torch.randn(4, 8), options=Options(activation_fraction=fraction))
    assert case.error() < 2.0 ** (6 - fraction)
