"""A model through five members: three party processes, and two owners here, over mutual TLS."""

import numpy as np
import psutil
import pytest

from moiety.engine.launch import CLIENT, MODEL_OWNER, LocalParties
from moiety.engine.owner import OwnerSession, open_session
from moiety.engine.report import RunReport
from moiety.engine.waves import payload
from moiety.errors import ChannelError, InputError, PlanMismatch

from . import plans
from .conftest import BRISK


def as_owner(local: LocalParties) -> OwnerSession:
    return open_session(local.directory, local.identity(MODEL_OWNER), deadlines=BRISK)


def as_client(local: LocalParties) -> OwnerSession:
    return open_session(local.directory, local.identity(CLIENT), deadlines=BRISK)


def check_counters(plan: plans.Plan, report: RunReport) -> None:
    """Both ends of every link counted exactly what the plan's wave table says."""
    for (sender, receiver), (frames, nbytes) in payload(plan).items():
        name = f"{sender.name}->{receiver.name}"
        for role in (sender, receiver):
            if role.name == "P0" and receiver.name == "P0":
                continue
            counted = report.of(role.name).links.get(name)
            if frames:
                assert counted is not None
                assert (counted.frames, counted.payload_bytes) == (frames, nbytes), name
            else:
                assert counted is None, name
    assert not any(link.endswith("->P0") for member in report.members for link in member.links)


def test_mlp(local: LocalParties) -> None:
    weights, x = plans.mlp_weights(), np.random.default_rng(0).normal(size=(4, 16))
    with as_owner(local) as owner:
        owner.deploy("mlp", [plans.mlp()], weights)
    seen: list[tuple[int, int]] = []
    with as_client(local) as client:
        [plan] = client.fetch_plans("mlp")
        for _ in range(3):
            result = client.run("mlp", plan, plans.words(x), on_progress=lambda done, of: seen.append((done, of)))
            assert np.abs(plans.reals(result) - plans.mlp_float(weights, x)).max() < 0.005
            assert result.flag is None
            check_counters(plan, result.report)
    assert seen[0][0] == 0
    assert seen[-1] == (len(plan.waves), len(plan.waves))
