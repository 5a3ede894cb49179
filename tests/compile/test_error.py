"""The error that a plan states for its answers: it holds on new inputs, follows from what the plan does, and breaks where that is spoilt.

Models of every kind are held against theirs where they are tested: test_transformers, test_vision, test_models.
"""

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from moiety.compile import tables
from moiety.compile.builder import Options
from moiety.compile.error import _rounded_up
from moiety.compile.model import compile_model
from moiety.compile.tables import Choice

from .support import Case, compiled


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 8))


def inputs() -> torch.Tensor:
    return torch.randn(6, 16)


def largest(case: Case, seeds: int = 3) -> float:
    """Of the errors on new inputs, as a share of the one that is stated."""
    return max(max(case.of_stated(inputs())) for _ in range(seeds))


def stated(case: Case) -> float:
    error = case.plan.outputs[0].error
    assert error is not None
    return error


@pytest.mark.parametrize("seed", range(4))
def test_it_holds_on_new_inputs_and_says_something(seed: int) -> None:
    torch.manual_seed(seed)
    case = compiled(small(), inputs(), calibration=None)
    assert 1 / 20 < largest(case) < 1
    assert stated(case) < 0.01 * float(case.expected(inputs()).std())


@pytest.mark.parametrize(
    "options",
    [Options(activation_fraction=9), Options(weight_fraction=8), Options(variants={"gelu": "puma"}), Options(variants={"rsqrt": "puma"})],
    ids=["coarse activations", "coarse weights", "gelu of puma", "root of puma"],
)
def test_it_follows_the_plan(options: Options) -> None:
    model = small()
    case, usual = (compiled(model, inputs(), calibration=None, options=one) for one in (options, Options()))
    assert 1 / 40 < largest(case) < 1
    if options.variants != {"rsqrt": "puma"}:  # which is as good as the table
        assert stated(case) > 3 * stated(usual)
        worse = max(float((case.run(x) - case.expected(x)).abs().max()) for x in (inputs() for _ in range(3)))
        assert worse > stated(usual), "coarsened, the plan is no longer within what the usual one states"


def test_a_table_that_is_not_what_it_says_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tables.choose

    def coarse(*asked) -> Choice:
        found = sound(*asked)
        moved = [level._replace(table=level.table._replace(coefficients=level.table.coefficients.copy())) for level in found.levels]
        for level in moved:
            level.table.coefficients[0] += np.uint64(1 << (level.table.fraction - 6))
        return Choice(tuple(moved), found.error)

    model = small()
    assert largest(compiled(model, inputs(), calibration=None), 1) < 1
    monkeypatch.setattr(tables, "choose", coarse)
    assert largest(compiled(model, inputs(), calibration=None), 1) > 1


class Many(nn.Module):
    def forward(self, x):
        return {"real": x * x, "whole": x.argmax(-1), "true": x > 0.5}


def test_none_is_stated_for_what_is_no_real_number() -> None:
    outputs = compile_model(Many().eval(), (inputs(),)).plan.outputs
    assert [output.error is None for output in outputs] == [False, True, True]


def test_it_is_part_of_the_plan_and_named_in_its_leakage() -> None:
    plan = compile_model(small().eval(), (inputs(),)).plan
    [output] = plan.outputs
    other = msgspec.structs.replace(plan, outputs=(msgspec.structs.replace(output, error=1.0),))
    assert other.hash != plan.hash
    assert any("stated errors" in line for line in plan.leakage)
    assert compile_model(small().eval(), (inputs(),), calibration=()).plan.outputs[0].error is not None, "one example is enough"


def test_the_same_model_is_told_the_same() -> None:
    model, given = small().eval(), (inputs(),)
    assert compile_model(model, given).plan.hash == compile_model(model, given).plan.hash


@pytest.mark.parametrize(("x", "shown"), [(0.001234, 0.0013), (0.0012, 0.0012), (9.91, 10.0), (3e-7, 3e-7)])
def test_it_is_rounded_up_to_two_digits(x: float, shown: float) -> None:
    assert _rounded_up(x) == pytest.approx(shown)
    assert _rounded_up(x) >= x * (1 - 1e-12)
