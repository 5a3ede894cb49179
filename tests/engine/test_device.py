"""Parties that run their products elsewhere say the same words."""

import pytest
import torch

import moiety
from moiety.compile import signature
from moiety.errors import ChannelError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))]


@pytest.mark.parametrize("device", DEVICES)
def test_parties_with_a_device(device: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 40), torch.nn.ReLU(), torch.nn.Linear(40, 3)).eval()
    x = torch.randn(4, 16)
    with moiety.local(parties=3, device=device) as federation:
        private = federation.deploy(model, (x,))
        [plan] = private.plans
        result = private.run(plan, signature.encode_inputs(plan, (x,), {}))
    answer = signature.decode_outputs(plan, result.outputs, result.flag, tensors=True)
    assert torch.allclose(answer, model(x), atol=2e-3)
    assert {member.kernels["multiply"] for member in result.report.members if member.role != "CLIENT"} == {device}


def test_a_device_that_is_not_there_ends_the_party_at_its_start() -> None:
    with pytest.raises(ChannelError, match="MOI-100 no device 'cuda:77' here"):
        moiety.local(parties=3, device="cuda:77")
