"""The public interface, with a PyTorch model and three party processes."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import moiety
from moiety.engine.federation import Federation, Private, like
from moiety.errors import ChannelError, ConfigError, InputError

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    with moiety.local(parties=3) as made:
        yield made


@pytest.fixture(scope="module")
def model() -> "torch.nn.Module":
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)).eval()


@pytest.fixture(scope="module")
def private(federation: Federation, model: "torch.nn.Module") -> Private:
    return federation.deploy(model, torch.randn(4, 16), name="mlp")


def difference(private: Private, model: "torch.nn.Module", x: "torch.Tensor") -> float:
    return float((private(x) - model(x).detach()).abs().max())


def test_call(private: Private, model: "torch.nn.Module") -> None:
    assert difference(private, model, torch.randn(4, 16).clamp(-1.5, 1.5)) < 0.002
    cost = private.cost
    assert cost.seconds is not None
    assert cost.payload_bytes == sum(cost.sent_bytes.values())
    assert sum(module.payload_bytes for module in cost.modules) == cost.payload_bytes
    for said in ("rounds", "semi-honest", "leakage", "expected truncation failures", "last run"):
        assert said in str(cost)


def test_a_new_shape_compiles_another_plan(private: Private, model: "torch.nn.Module", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety.engine.owner.send_weights", lambda *_: pytest.fail("weights were shared again"))
    before = len(private.plans)
    assert difference(private, model, torch.randn(7, 16).clamp(-1.5, 1.5)) < 0.002
    assert difference(private, model, torch.randn(7, 16).clamp(-1.5, 1.5)) < 0.002
    assert len(private.plans) == before + 1


def test_client_without_the_model(federation: Federation, private: Private, model: "torch.nn.Module") -> None:
    client = federation.model("mlp")
    assert difference(client, model, torch.zeros(4, 16)) < 0.002
    with pytest.raises(InputError, match=r"\(4, 16\)"):
        client(torch.zeros(3, 16))
    with pytest.raises(InputError, match="hold no model 'nothing'"):
        federation.model("nothing")


def test_a_failed_session_is_replaced(private: Private, model: "torch.nn.Module") -> None:
    private(torch.zeros(4, 16))
    assert private._session is not None
    private._session.session.close()
    with pytest.raises(ChannelError):
        private(torch.zeros(4, 16))
    assert difference(private, model, torch.zeros(4, 16)) < 0.002


def test_deploying_again_replaces(federation: Federation, model: "torch.nn.Module") -> None:
    x = torch.randn(4, 16).clamp(-1.5, 1.5)
    federation.deploy(model, x, name="again")
    other = torch.nn.Sequential(*[torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)]).eval()
    assert difference(federation.deploy(other, x, name="again"), other, x) < 0.002


def test_plans_never_come_from_secrets() -> None:
    example = torch.arange(6.0).reshape(2, 3)
    made = like(example, torch.full((3, 3), 99.0))
    assert made.shape == (3, 3)
    assert made.max().item() < 6
    assert like(np.arange(3), np.full(5, 99)).tolist() == [0, 1, 2, 0, 1]


def test_connect(federation: Federation, private: Private) -> None:
    path = federation.directory.path
    with moiety.connect(path, party="client") as client:
        assert client.model("mlp")(torch.zeros(4, 16)).shape == (4, 8)
    with pytest.raises(ConfigError, match="the keys of 2 owners"):
        moiety.connect(path)
    with pytest.raises(ConfigError, match="did you mean 'client'"):
        moiety.connect(path, party="cliend")
    with pytest.raises(ConfigError, match="compute party"):
        moiety.connect(path, party="party0")
    with pytest.raises(ConfigError, match="exactly 3"):
        moiety.local(parties=4)


def test_a_client_needs_no_torch(federation: Federation, private: Private) -> None:
    code = (
        f"import sys, numpy, moiety\nwith moiety.connect({str(federation.directory.path)!r}, party='client') as f:\n"
        "    out = f.model('mlp')(numpy.zeros((4, 16)))\nprint(type(out).__name__, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["ndarray", "False"], done.stderr
