"""The public interface, with a PyTorch model and three party processes."""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

import moiety
from moiety.engine import owner
from moiety.engine.deployed import Private, like
from moiety.engine.federation import Federation
from moiety.engine.owner import open_session
from moiety.errors import ChannelError, ConfigError, InputError, NameTaken, NotDeployed
from moiety.mpc.functions import puma, puma_root

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
    assert private.report is not None
    spent = {one.role: one.cpu_s for one in private.report.members}
    assert all(0 < seconds < 10 for seconds in spent.values())
    assert cost.cpu_s == {role: spent[role] for role in ("P0", "P1", "P2")}
    assert sum(module.payload_bytes for module in cost.modules) == cost.payload_bytes
    for said in ("rounds", "semi-honest", "leakage", "expected truncation failures", "last run", "processor time"):
        assert said in str(cost)


class Sum(torch.nn.Module):
    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        return x.sum()


def test_an_answer_without_axes(federation: Federation) -> None:
    x = torch.linspace(-1, 1, 8) + 0.25
    answer = federation.deploy(Sum(), x)(x)
    assert answer.shape == ()
    assert abs(float(answer) - 2) < 0.002


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


def test_threads_take_turns(private: Private, model: "torch.nn.Module") -> None:
    errors: list[float] = []
    threads = [
        threading.Thread(target=lambda: errors.append(difference(private, model, torch.randn(4, 16).clamp(-1, 1)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(errors) == 4
    assert max(errors) < 0.002


def test_a_failed_session_is_replaced(private: Private, model: "torch.nn.Module") -> None:
    private(torch.zeros(4, 16))
    assert private._session is not None
    private._session.session.close()
    with pytest.raises(ChannelError):
        private(torch.zeros(4, 16))
    assert difference(private, model, torch.zeros(4, 16)) < 0.002


def test_weights_are_shared_though_the_session_that_expected_them_is_gone(federation: Federation, private: Private) -> None:
    federation.expect("late", torch.nn.Linear(16, 32))
    federation._expecting._sessions["late"].session.close()
    assert private._source is not None
    assert federation.deploy_plans("late", private.plans[:1], private._source.weights)


def test_deploying_again_replaces(federation: Federation, model: "torch.nn.Module") -> None:
    x = torch.randn(4, 16).clamp(-1.5, 1.5)
    federation.deploy(model, x, name="again")
    other = torch.nn.Sequential(*[torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)]).eval()
    assert difference(federation.deploy(other, x, name="again"), other, x) < 0.002


def test_weights_are_shared_without_a_search_for_garbage(
    federation: Federation, model: "torch.nn.Module", monkeypatch: pytest.MonkeyPatch
) -> None:
    searching: list[bool] = []
    send = owner.send_weights
    monkeypatch.setattr(owner, "send_weights", lambda *given: searching.append(gc.isenabled()) or send(*given))
    federation.deploy(model, torch.randn(4, 16), name="unsearched")
    assert searching == [False]
    assert gc.isenabled()


def test_deploying_the_same_again_shares_what_was_lost_alone(model: "torch.nn.Module", monkeypatch: pytest.MonkeyPatch) -> None:
    """By who deployed it, in one call; and nothing of it when somebody else put another model under the name."""
    shared: list[int] = []
    send = owner.send_weights
    monkeypatch.setattr(owner, "send_weights", lambda *given: shared.append(len(given[1].tensors)) or send(*given))
    x = torch.randn(4, 16).clamp(-1.5, 1.5)
    with moiety.local(parties=3) as federation:
        parties = federation._started
        assert parties is not None
        first = federation.deploy(model, x, name="mlp")
        count = len(first.plans[0].weights)
        again = federation.deploy(model, x, name="mlp")
        assert shared == [count]
        parties.processes["party2"].kill()
        parties.processes["party2"].wait()
        parties.restart("party2")
        with pytest.raises(NotDeployed, match="party2"):
            again(x)
        assert (again(x, retries=1) - model(x)).abs().max() < 0.002
        assert shared == [count, count]
        parties.restart("party0")
        assert difference(federation.deploy(model, x, name="mlp"), model, x) < 0.002
        assert shared == [count] * 3
        other = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)).eval()
        with moiety.connect(parties.federation, party="model-owner") as elsewhere:
            elsewhere.deploy(other, x, name="mlp")
        assert difference(federation.deploy(model, x, name="mlp"), model, x) < 0.002
        assert shared == [count] * 5


def test_another_model_is_not_added_to_the_first(private: Private, federation: Federation, model: "torch.nn.Module") -> None:
    """By its seals an owner knows what it deployed, in another process too; the parties do not know equal weights by them."""
    x, [plan, *_], weights = torch.zeros(4, 16), private.plans, private.weights
    federation.deploy_plans("sealed", [plan], weights)
    others = {name: tensor + 0.01 * name.startswith("2.bias") for name, tensor in weights.items()}
    wider = msgspec.structs.replace(plan, inputs=tuple(msgspec.structs.replace(i, bound=2 * i.bound) for i in plan.inputs))
    with moiety.connect(federation.directory.path, party="model-owner") as owner:
        assert owner.deploy_plans("sealed", [plan], weights) == ()
        for plans, given, text in (
            ([plan], others, "the weight '2.bias.* differs. Replace it"),
            ([wider], weights, f"the plan {plan.hash[:12]}, which callers would go on using, serves the same inputs"),
            ([plan], {f"new.{name}": tensor for name, tensor in weights.items()}, "none of its weights is the same"),
        ):
            with pytest.raises(NameTaken, match=text):
                owner.deploy_plans("sealed", plans, given)
        assert (federation.model("sealed")(x) - model(x)).abs().max() < 0.002
        owner.deploy_plans("sealed", [plan], others, replace=True)
        assert (federation.model("sealed")(x) - model(x) - 0.01).abs().max() < 0.002
    with open_session(federation.directory, federation._model_owner) as session:
        seals = [session.holding(name).seals for name in ("mlp", "sealed")]
    assert set(seals[0]) == set(seals[1]) == {weight.name for weight in plan.weights}
    assert set(seals[0].values()).isdisjoint(seals[1].values())


def test_what_the_model_does_not_take(private: Private, federation: Federation, capfd: pytest.CaptureFixture[str]) -> None:
    """Shapes given and shapes deployed, to its deployer as to others, and nothing of PyTorch's internals."""
    before = list(private.plans)
    with pytest.raises(InputError, match=r"no plan of 'mlp' takes input \(16,\); deployed are: input \(4, 16\).* as many axes"):
        private(torch.zeros(16))
    with pytest.raises(InputError, match=r"takes input \(4, 15\); .*The model itself does not take them: "):
        private(torch.zeros(4, 15))
    client = federation.model("mlp")
    for args, kwargs, text in (
        ((torch.zeros(64, 3),), {}, r"takes input \(64, 3\); deployed are: input \(4, 16\)"),
        (("a word",), {}, r"takes input \(str\); deployed"),
        ((None,), {}, "takes input None; deployed"),
        (([[1.0], [1.0, 2.0]],), {}, r"takes input \(list\); deployed"),
        ((), {}, "takes these inputs: missing input input; the model takes input; deployed"),
        ((torch.zeros(4, 16), 1), {}, "2 positional inputs given"),
        ((torch.zeros(4, 16),), {"mask": 1}, "input 'mask' is unknown"),
    ):
        with pytest.raises(InputError, match=text):
            client(*args, **kwargs)
    assert private.plans == before
    assert capfd.readouterr().err == ""


def test_answers_are_of_the_kind_of_the_inputs(private: Private) -> None:
    x = np.zeros((4, 16), np.float32)
    answers = private(x), private(torch.from_numpy(x)), private(input=x.tolist())
    assert [type(answer) for answer in answers] == [np.ndarray, torch.Tensor, np.ndarray]


def test_what_is_closed_stays_closed(private: Private, federation: Federation) -> None:
    x = np.zeros((4, 16), np.float32)
    with moiety.connect(federation.directory.path, party="client") as client:
        one, other = client.model("mlp"), client.model("mlp")
        one(x)
        one.close()
        with pytest.raises(ConfigError, match=r"'mlp' is closed; ask the federation for another: federation.model\('mlp'\)"):
            one(x)
        other(x)
    for ask in (lambda: other(x), lambda: client.model("mlp"), client.open, lambda: client.deploy_plans("mlp", [], {})):
        with pytest.raises(ConfigError, match="closed"):
            ask()


def test_plans_never_come_from_secrets() -> None:
    example = torch.arange(6.0).reshape(2, 3)
    made = like(example, torch.full((3, 3), 99.0))
    assert made.shape == (3, 3)
    assert made.max().item() < 6
    assert like(np.arange(3), np.full(5, 99)).tolist() == like(np.arange(3), [99] * 5).tolist() == [0, 1, 2, 0, 1]


def test_bert_with_all_functions_of_puma(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token ids, attention, GeLU, softmax and LayerNorm as PUMA evaluates them, between processes."""
    transformers, functional = pytest.importorskip("transformers"), torch.nn.functional
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=16, initializer_range=0.2)).eval()
    ids = torch.randint(60, (1, 10))
    private = federation.deploy(model, {"input_ids": ids}, name="bert-puma", variants="puma")
    ops = [node.op for node in private.plans[0].nodes]
    # the embeddings and two layers have a norm or two each; reciprocals of the softmax's sums are tables, and the pooler's tanh
    assert {op: ops.count(op) for op in ("puma_rsqrt", "puma_gelu", "puma_neg_exp", "table")} == {
        "puma_rsqrt": 5, "puma_gelu": 2, "puma_neg_exp": 2, "table": 3,
    }  # fmt: skip
    found, plain = private(input_ids=ids).last_hidden_state, model(ids).last_hidden_state.detach()
    assert (found - plain).abs().max() < 0.05
    monkeypatch.setattr(transformers.activations.GELUActivation, "forward", lambda _, x: in_float(puma.gelu_float)(x))
    monkeypatch.setattr(functional, "softmax", lambda x, dim: in_float(puma.softmax_float)(x))
    monkeypatch.setattr(functional, "layer_norm", norm_in_float)
    model.set_attn_implementation("eager")  # which calls softmax by that name
    twin = model(ids).last_hidden_state.detach()
    assert (twin - plain).abs().max() > 0.01, "the published approximations show, in float as well"
    assert (found - twin).abs().max() < 3e-3
    assert private.cost.rounds == len(private.plans[0].waves)


def in_float(f: Callable[..., Any]) -> Callable[..., "torch.Tensor"]:
    return lambda x: torch.from_numpy(f(x.detach().double().numpy())).float()


def norm_in_float(x: "torch.Tensor", shape: Any, weight: "torch.Tensor", bias: "torch.Tensor", eps: float) -> "torch.Tensor":
    inverse = in_float(puma_root.rsqrt_float)(x.var(-1, correction=0, keepdim=True) + eps)
    return (x - x.mean(-1, keepdim=True)) * inverse * weight + bias


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
