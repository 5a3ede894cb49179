"""Hand-written activations become one table; what is none stays as it was."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moiety.compile.builder import Options
from moiety.compile.capture import capture
from moiety.compile.check import check
from moiety.compile.fuse import Chain, chains
from moiety.compile.lower import RULES
from moiety.compile.model import draft

from .support import Lambda, compiled


def found(function, *args: Tensor) -> list[Chain]:
    captured = capture(Lambda(function), args, whole=RULES)
    secret = {n for n in captured.graph.nodes if n.name in captured.inputs}
    for node in captured.graph.nodes:
        if node.op == "call_function" and any(n in secret for n in node.all_input_nodes):
            secret.add(node)
    return list(chains(captured, secret).values())


def new_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


WRITTEN_OUT = {
    "gelu of GPT-2": new_gelu,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": lambda x: x * torch.tanh(functional.softplus(x)),
    "two powers": lambda x: torch.exp(-(x**2)) * (1 - x) / 3,
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_chain_computes_what_its_operations_do(name: str) -> None:
    [chain] = found(WRITTEN_OUT[name], torch.randn(3, 5))
    x = np.linspace(-6, 6, 301)
    expected = WRITTEN_OUT[name](torch.from_numpy(x)).numpy()
    assert np.abs(chain.function(x) - expected).max() < 1e-6


def test_equal_chains_are_equal_functions() -> None:
    [one], [same], [other] = (found(lambda x, f=f: x * torch.sigmoid(f * x), torch.randn(2, 2)) for f in (2.0, 2.0, 3.0))
    assert one.function == same.function != other.function
    assert hash(one.function) == hash(same.function)
    assert one.function.__name__ == "mul+sigmoid"


ALONE = {
    "one table": lambda x: 2 * torch.tanh(x) + 1,
    "products only": lambda x: x * x * x,
    "linear": lambda x: 0.5 * (x - 3),
    "another shape": lambda x: torch.sigmoid(x).sum(0) * 2,
}


@pytest.mark.parametrize("name", ALONE)
def test_what_costs_no_more_alone_is_left(name: str) -> None:
    assert not found(ALONE[name], torch.randn(3, 5))


def test_a_product_with_another_secret_ends_the_chain() -> None:
    [chain] = found(lambda x, y: (x * torch.sigmoid(x)) * y, torch.randn(3), torch.randn(3))
    assert [node.target for node in chain.nodes] == [torch.ops.aten.sigmoid.default, torch.ops.aten.mul.Tensor]


def test_what_is_used_elsewhere_is_not_computed_twice() -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.tanh(x)
        return inner * x, inner.sum(0)

    assert not found(both, torch.randn(3))
    assert len(found(lambda x: (torch.tanh(x) * x, x.sum(0)), torch.randn(3))) == 1


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_chain_runs_as_one_look_up(name: str) -> None:
    torch.manual_seed(0)
    case = compiled(WRITTEN_OUT[name], torch.randn(6, 8) * 2)
    assert case.ops["table"] == 1
    assert not case.ops["multiply"]
    assert case.error() < 2.0**-10


def test_a_written_out_gelu_takes_the_variant_that_is_chosen_for_gelu() -> None:
    case = compiled(new_gelu, torch.randn(6, 8), variants={"gelu": "puma"})
    assert case.ops["puma_gelu"] == 1
    assert not case.ops["table"]
    assert case.error() < 0.02


@pytest.mark.parametrize("function", [lambda x: torch.tanh(x) * x * x * 40, lambda x: torch.tanh(40 * x) * torch.exp(x)])
def test_where_no_small_table_serves_operations_stay_as_they_were(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8) * 3
    case = compiled(function, x)
    assert case.ops["multiply"] + case.ops["multiply_factor"] >= 1
    assert case.error() < 2.0**-9 * float(function(x).abs().max())


def test_operations_can_be_kept_apart() -> None:
    case = compiled(new_gelu, torch.randn(6, 8), options=Options(fuse=False))
    assert case.ops["table"] == 1
    assert case.ops["multiply"] >= 3
    assert case.error() < 2.0**-10


def test_a_check_goes_through_chains() -> None:
    checked = check(lambda: draft(Lambda(new_gelu), (torch.randn(3, 4),)))
    assert checked.ok
