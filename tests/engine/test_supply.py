"""Weights that parties do not keep: the same answers within the limit, the announced bytes, and a named error whatever breaks."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import moiety
from moiety.compile import forecast, program, signature
from moiety.compile.hold import hold
from moiety.compile.plan import Plan
from moiety.engine import supplier as supplier_
from moiety.engine.deploy import Weights
from moiety.engine.launch import LocalParties
from moiety.engine.limits import in_bytes
from moiety.engine.messages import Tensor
from moiety.engine.pieces import words_of
from moiety.engine.supplier import Supplier
from moiety.errors import ChannelError, ConfigError, InputError, LimitReached, NotDeployed, PeerAborted, PeerLost, PlanMismatch
from moiety.mpc.rounds import Role

from . import plans
from .conftest import as_client, as_owner

LIMIT = 190_000_000
PLAN = plans.mlp()
X = np.linspace(-2, 2, 64).reshape(4, 16)


def tensors_of(plan: Plan) -> tuple[Tensor, ...]:
    return tuple(map(Tensor.of, plan.weights))


@pytest.fixture
def supply(local: LocalParties) -> Iterator[Any]:
    """Deploys PLAN with all its weights streamed from a mapping, under a name; ends the suppliers."""
    made: list[Supplier] = []

    def start(name: str, weights: Weights, plan: Plan = PLAN) -> Supplier:
        made.append(Supplier(lambda: as_owner(local), name, tensors_of(plan), weights))
        made[-1].serves(plan.hash, program.layers(plan, program.drive(plan).order))
        made[-1].ensure(20)
        with as_owner(local) as owner:
            owner.deploy(name, [plan], {})
        return made[-1]

    yield start
    for one in made:
        one.stop()


def answer(local: LocalParties, name: str, **options: Any) -> np.ndarray:
    with as_client(local) as client:
        return plans.reals(client.run(name, PLAN, plans.words(X), **options))


def test_a_model_beyond_the_limit_answers_within_it() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (torch.nn.Linear(1024, 1024), torch.nn.ReLU())]
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(4, 1024)
    with moiety.local(parties=3) as federation:
        private = federation.deploy(model, (x,), memory=LIMIT)
        [plan] = private.plans
        apart = forecast.to_stream([plan], LIMIT)
        assert 0 < len(apart) < 8
        assert max(forecast.peak_bytes(plan).values()) > LIMIT >= max(forecast.peak_bytes(plan, apart).values())
        for _ in range(2):
            report = private.run(plan, signature.encode_inputs(plan, (x,), {})).report
            streamed = sum(8 * words_of(tensor) for tensor in tensors_of(plan) if tensor.name in apart)
            assert [member.streamed_bytes for member in report.members] == [0, streamed, streamed, 0]
            assert all(0 < report.of(role).peak_memory_bytes <= LIMIT for role in ("P0", "P1", "P2"))
        wide = torch.randn(6, 1024)  # another plan, over the same weights
        for given in (x, wide):
            assert (private(given) - model(given)).abs().max() < 1e-3


def test_the_parties_learn_the_same_whether_a_weight_is_kept(local: LocalParties, supply: Any) -> None:
    weights = plans.mlp_weights()
    supply("streamed", weights)
    with as_owner(local) as owner:
        owner.deploy("kept", [PLAN], weights)
    with as_client(local) as client:
        kept, streamed = (client.run(name, PLAN, plans.words(X)) for name in ("kept", "streamed"))
    assert np.abs(plans.reals(kept) - plans.reals(streamed)).max() < 0.005
    assert [m.links for m in kept.report.members] == [m.links for m in streamed.report.members]


def test_weights_that_p1_knows(local: LocalParties, supply: Any) -> None:
    """Twice, since what came is compared among the parties the first time, and with that later."""
    weights = plans.mlp_weights()
    plan = hold(PLAN, {name: torch.from_numpy(array) for name, array in weights.items()})
    supply("known", weights, plan)
    words = sum(words_of(tensor) for tensor in tensors_of(plan))
    for _ in range(2):
        with as_client(local) as client:
            result = client.run("known", plan, plans.words(X))
        assert np.abs(plans.reals(result) - plans.mlp_float(weights, X)).max() < 0.005
        assert [member.streamed_bytes for member in result.report.members] == [0, 2 * words, 8 * words, 0]
    weights["w1"][0, 0] += 0.5
    with as_client(local) as client, pytest.raises(PeerLost, match="the weight 'w1' has changed"):
        client.run("known", plan, plans.words(X))


def test_a_weight_that_changes_is_not_streamed_again(local: LocalParties, supply: Any) -> None:
    weights = plans.mlp_weights()
    feed = supply("edited", weights)
    expected = answer(local, "edited")
    weights["w1"][0, 0] += 1
    with pytest.raises(PeerLost, match=r"the weight 'w1' has changed since it was first streamed; deploy the model again"):
        answer(local, "edited")
    with pytest.raises(NotDeployed, match="streamed by its owner, who has left"):
        answer(local, "edited")
    weights["w1"][0, 0] -= 1
    feed.ensure(20)
    assert np.abs(answer(local, "edited") - expected).max() < 0.01


def test_parties_notice_what_an_owner_does_not(local: LocalParties, supply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = plans.mlp_weights()
    monkeypatch.setattr(supplier_.Tags, "tag", lambda *_: b"")  # in this process: the parties are others
    supply("careless", weights)
    answer(local, "careless")
    weights["w1"][0, 0] += 1
    with pytest.raises(InputError, match=r"model-owner streamed other words of 'w1' than in an earlier run"):
        answer(local, "careless")


def test_different_words_for_p1_and_p2(local: LocalParties, supply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = supplier_._Feed.__init__

    def twisted(self: Any, *given: Any) -> None:
        sent(self, *given)
        self._links[1] = Twisted(self._links[1])

    monkeypatch.setattr(supplier_._Feed, "__init__", twisted)
    supply("two-faced", plans.mlp_weights())
    with pytest.raises(InputError, match="model-owner sent different weights to P1 and P2"):
        answer(local, "two-faced")


class Twisted:
    """A channel on which the first word of every piece is another one."""

    def __init__(self, link: Any) -> None:
        self._link = link

    def send(self, kind: Any, parts: Any, **places: int) -> None:
        if places:
            changed = np.frombuffer(parts[0], np.uint64).copy()
            changed[0] += np.uint64(1)
            parts = [changed.data]
        self._link.send(kind, parts, **places)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def test_an_owner_that_fails_in_mid_run_comes_back(local: LocalParties, supply: Any) -> None:
    weights: dict[str, Any] = dict(plans.mlp_weights())
    feed = supply("shaky", {"w0": weights["w0"], "w1": lambda: failing() or weights["w1"]})
    failures = iter([PeerLost("the disk is gone"), None, None])

    def failing() -> None:
        if (error := next(failures)) is not None:
            raise error

    with pytest.raises(PeerLost, match=r"model-owner streams weights of 'shaky' into every run, and that has ended"):
        answer(local, "shaky")
    feed.ensure(20)
    expected = plans.mlp_float(plans.mlp_weights(), X)
    for _ in range(2):
        assert np.abs(answer(local, "shaky") - expected).max() < 0.02


def test_a_run_that_ends_early_ends_the_supply_which_begins_anew(local: LocalParties, supply: Any) -> None:
    feed = supply("left", plans.mlp_weights())

    def leave(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(local, "left", on_progress=leave)
    expected = plans.mlp_float(plans.mlp_weights(), X)
    deadline = time.monotonic() + 20
    while True:  # until the parties have noticed, and the owner has come back
        try:
            feed.ensure(20)
            found = answer(local, "left")
            break
        except (ChannelError, PeerAborted, PlanMismatch):  # the last, NotDeployed included, from a party that it has not reached yet
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert np.abs(found - expected).max() < 0.02


def test_what_cannot_be_streamed(local: LocalParties) -> None:
    with as_owner(local) as owner, pytest.raises(InputError, match="is to be streamed in every run but is not packed"):
        owner.supply("bias", (Tensor("b", (4,), 12, False),))


def test_limits_as_people_write_them() -> None:
    assert [in_bytes(size) for size in (7, "12", "6GiB", "1.5 GB", "3kb")] == [7, 12, 6 << 30, 1_500_000_000, 3000]
    with pytest.raises(ConfigError, match="'much' is no size"):
        in_bytes("much")


def test_as_few_weights_as_possible_are_streamed() -> None:
    plan = plans.mlp(rows=4, width=1024, hidden=2048, out=512)
    whole = max(forecast.peak_bytes(plan).values())
    assert forecast.to_stream([plan], whole) == frozenset()
    assert forecast.to_stream([plan], whole - (24 << 20)) == {"w0"}
    least = forecast.peak_bytes(plan, ["w0", "w1"])
    assert forecast.to_stream([plan], max(least.values())) == {"w0", "w1"}
    assert least[Role.P1] == max(least.values()) > least[Role.P0]
    with pytest.raises(LimitReached, match="even if it keeps no weight of a linear layer; 1,000,000 are allowed"):
        forecast.to_stream([plan], 1_000_000)
