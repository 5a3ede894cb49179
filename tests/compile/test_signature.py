"""What a caller passes in and gets back, by the plan alone."""

import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel

from moiety import ring
from moiety.compile import signature
from moiety.compile.signature import Outputs, arguments, encode_inputs, fingerprint, fits
from moiety.errors import InputError, RangeViolation

from .support import Case, answer, compiled, run_lockstep


class Named(nn.Module):
    def forward(self, x, scale, *, shift):
        return {"scaled": x * scale, "rest": (x + shift, [x - shift])}


X, Y, Z = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3)


@pytest.fixture(scope="module")
def named() -> Case:
    return compiled(Named(), X, Y, kwargs={"shift": Z})


def test_outputs_keep_their_structure(named: Case) -> None:
    found = named.run(X, Y, shift=Z)
    assert list(found) == ["scaled", "rest"]
    assert isinstance(found.rest, tuple)
    assert isinstance(found.rest[1], list)
    assert isinstance(found["rest"][1][0], torch.Tensor)
    assert (found.scaled - X * Y).abs().max() < 1e-3
    assert (found.rest[1][0] - (X - Z)).abs().max() < 1e-3
    with pytest.raises(AttributeError):
        _ = found.nothing


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y,), lambda y: [y, y], lambda y: OrderedDict(a=y)])
def test_structures(wrap) -> None:
    found = compiled(lambda x: wrap(x * 2), X).run()
    assert type(found) is (Outputs if isinstance(wrap(X), dict) else type(wrap(X)))


def test_a_model_output_becomes_named() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertModel(BertConfig(**sizes, max_position_embeddings=8)).eval()
    given = {"input_ids": torch.tensor([[3, 7, 1, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    case = compiled(model, kwargs=given, public=("attention_mask",))
    found, wanted = case.run(), case.expected()
    assert list(found) == list(wanted.keys())
    for name in found:
        assert (found[name] - wanted[name]).abs().max() < 5e-3


def test_a_tensor_that_depends_on_no_secret_is_no_output() -> None:
    with pytest.raises(InputError, match="output 1"):
        compiled(lambda x: (x, torch.ones(2)), X)


def test_inputs_by_position_and_by_name(named: Case) -> None:
    by_name = arguments(named.plan, (), {"shift": 3, "x": 1, "scale": 2})
    assert arguments(named.plan, (1, 2, 3), {}) == by_name == {"x": 1, "scale": 2, "shift": 3}


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((X,), {}, "missing input scale, shift"),
        ((X, Y, Z, Z), {}, "4 positional"),
        ((X, Y), {"shift": Z, "y": Z}, "'y' is unknown"),
        ((X, Y), {"shift": Z, "x": Z}, "'x' is given twice"),
    ],
)
def test_wrong_names_are_refused_with_the_right_ones(named: Case, args, kwargs, said: str) -> None:
    with pytest.raises(InputError, match=rf"{said}.*the model takes x, scale, shift"):
        encode_inputs(named.plan, args, kwargs)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.randn(3, 3), "shape"),
        (torch.full((2, 3), float("nan")), "NaN"),
        (torch.full((2, 3), float("inf")), "NaN or infinity"),
        (X * 100, "calibrated range"),
        (np.array([["a"] * 3] * 2), "numbers"),
    ],
)
def test_wrong_values_are_refused(named: Case, x, said: str) -> None:
    with pytest.raises(InputError, match=f"input x .*{said}"):
        encode_inputs(named.plan, (x, Y, Z), {})


def test_other_types_of_numbers_are_taken(named: Case) -> None:
    for x in (X.double(), X.half(), X.bfloat16(), X.numpy(), X.tolist(), X.requires_grad_(True)):
        words = encode_inputs(named.plan, (x, Y, Z), {})
        assert words[0].dtype == np.uint64
    X.requires_grad_(False)


@pytest.mark.parametrize("ids", [torch.tensor([[1, 11]]), torch.tensor([[-1, 0]]), torch.tensor([[0.0, 1.0]])])
def test_wrong_indices_are_refused(ids: torch.Tensor) -> None:
    case = compiled(nn.Embedding(11, 4), torch.tensor([[1, 10]]))
    with pytest.raises(InputError, match="integers from 0 to 10"):
        case.run(ids)


def test_fits(named: Case) -> None:
    assert fits(named.plan, (X, Y), {"shift": Z})
    assert not fits(named.plan, (X, Y), {})
    assert not fits(named.plan, (X[:1], Y), {"shift": Z})


def test_public_inputs_belong_to_the_plan() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    case = compiled(lambda x, y: x * y, X, mask, public=("y",))
    assert case.error() < 1e-3
    assert fits(case.plan, (X, mask), {})
    assert not fits(case.plan, (X, 1 - mask), {})
    assert not fits(case.plan, (X, mask.long()), {})


def test_fingerprints_are_the_same_in_every_process() -> None:
    """Also those of what is no tensor: the bytes of an object would be its address."""
    code = "from moiety.compile.signature import fingerprint; junk = [object() for _ in range(99)]; print(fingerprint(None))"
    others = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)}
    assert others == {fingerprint(None)}
    assert fingerprint(None) != fingerprint("None")
    assert fingerprint(True) != fingerprint(1)
    assert fingerprint(torch.ones(2)) != fingerprint(torch.ones(1, 2))


def test_an_input_and_an_output_may_be_none() -> None:
    case = compiled(nn.MultiheadAttention(4, 2, batch_first=True, bias=False), *(torch.randn(1, 3, 4) for _ in range(3)), None, False)
    found, weights = case.run()
    assert weights is None
    assert (found - case.expected()[0]).abs().max() < 2e-3
    assert {name for name, _ in case.plan.public} == {"key_padding_mask", "need_weights"}


class Grows(nn.Module):
    def forward(self, x):
        return torch.tanh(F.relu(x) * 8).sum(-1)


def test_a_checked_run_notices_a_value_out_of_range() -> None:
    """The input is within what the client may give; what becomes of it is not."""
    calm = torch.tensor([[0.1, -2.0], [-2.0, 0.05]])
    case = compiled(Grows(), calm, check_ranges=True)
    assert case.error() < 2e-3
    with pytest.raises(RangeViolation, match="calibrate"):
        case.run(calm.abs())
    assert "one bit" in " ".join(case.plan.leakage)


def test_unchecked_an_overflow_is_seen_in_the_answer() -> None:
    """Words that encode_inputs would refuse. A look-up hides what overflowed before it: only a checked run tells."""
    case = compiled(nn.Linear(4, 2, bias=False), torch.full((1, 4), 0.5))
    words = [ring.encode(np.full((1, 4), 4000.0), case.plan.inputs[0].fraction)]
    with pytest.raises(RangeViolation, match="beyond"):
        answer(case.plan, run_lockstep(case.plan, case.compiled.weights, words))


def test_an_output_beyond_its_bound_is_refused(named: Case) -> None:
    words = [np.full(output.shape, 1 << 50, np.uint64) for output in named.plan.outputs]
    with pytest.raises(RangeViolation, match="output 0 is beyond"):
        signature.decode_outputs(named.plan, words)
    with pytest.raises(RangeViolation, match="left its calibrated range"):
        signature.decode_outputs(named.plan, words, flag=True)
