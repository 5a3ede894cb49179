"""The memory that a plan announces is the memory that the parties take."""

import torch

import moiety
from moiety.compile import signature
from moiety.compile.forecast import peak_bytes
from moiety.mpc.rounds import Role


def test_peak_memory_is_within_a_fifth_of_the_forecast() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(768, 3072), torch.nn.GELU(), torch.nn.Linear(3072, 768)).eval()
    x = torch.randn(64, 768, generator=torch.Generator().manual_seed(0))
    with moiety.local(parties=3) as federation:
        private = federation.deploy(model, (x,))
        [plan] = private.plans
        report = private.run(plan, signature.encode_inputs(plan, (x,), {})).report
    forecast = peak_bytes(plan)
    for role in (Role.P0, Role.P1, Role.P2):
        measured = report.of(role.name).peak_memory_bytes
        assert 0.8 * measured <= forecast[role] <= 1.25 * measured, f"{role.name}: forecast {forecast[role]:,}, measured {measured:,}"
