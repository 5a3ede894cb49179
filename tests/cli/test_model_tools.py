"""``moiety check`` and ``moiety calibrate`` on tiny models of a user's own file."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner, Result

from moiety.cli.app import app
from moiety.cli.source import resolve
from moiety.compile.calibrate import Range
from moiety.compile.model import compile_model
from moiety.compile.ranges import judge, load
from moiety.errors import ConfigError

OWN = """
import torch
from torch import nn

def good():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)), (torch.linspace(-1, 1, 12).reshape(3, 4),)

def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.SiLU(), nn.LayerNorm(8)), torch.linspace(-1, 1, 12).reshape(3, 4)

def steep():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight *= 8
    return model, (torch.eye(4)[:3],)

class Odd(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

def strange():
    return nn.Sequential(nn.Linear(4, 8), Odd(), Odd())

def number():
    return 3

class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(8, 4)
    def forward(self, ids, mask):
        return self.words(ids) * mask[..., None].float()

def weighted():
    return Weighted(), {"ids": torch.tensor([[1, 2]]), "mask": torch.tensor([[1, 0]])}

def lacking():
    import a_package_that_is_not_here

def products():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)), (torch.linspace(-1, 1, 12).reshape(3, 4),)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's file, in the current folder."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return "own.py"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="moiety", env={"COLUMNS": "120", "TERM": "dumb"})


def data(*arguments: str, status: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def test_check_of_a_model_that_runs(own: str) -> None:
    found = data("check", f"{own}:good")
    assert (found["ok"], found["title"]) == (True, "Sequential")
    [program] = found["programs"]
    assert (program["title"], program["operations"], program["findings"]) == ("one pass", 3, [])
    assert program["inputs"] == [{"name": "input", "shape": [3, 4], "form": "secret"}]
    assert "nothing stands in the way" in run("check", f"{own}:good").stdout


def test_check_of_a_model_that_does_not(own: str) -> None:
    found = data("check", f"{own}:strange", "--input", "2x4", status=1)
    findings = found["programs"][0]["findings"]
    assert [(finding["kind"], finding["what"], finding["module"]) for finding in findings] == [
        ("operation", "aten.special_bessel_j0.default", "1"),
        ("operation", "aten.special_bessel_j0.default", "2"),
    ]
    shown = run("check", f"{own}:strange", "--input", "2x4")
    assert shown.exit_code == 1
    assert "in  1, 2" in shown.stdout
    assert "1 thing stands in the way" in shown.stdout


def test_check_says_which_input_must_be_public(own: str) -> None:
    shown = run("check", f"{own}:weighted")
    assert (shown.exit_code, "name mask public" in shown.stdout) == (1, True)
    assert "at  own.py:35  return self.words(ids) * mask[..., None].float()" in shown.stdout
    assert data("check", f"{own}:weighted", "--public", "mask")["ok"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nothing.py:f",), "there is no file nothing.py"),
        (("nothing.py",), "there is no file nothing.py"),
        (("own.py",), "as own.py:FUNCTION; own.py has good, normed, steep, Odd, strange, number, Weighted, weighted, lacking"),
        (("own.py:nothing",), "own.py has no function 'nothing'; it has good, normed, steep, Odd, strange, number"),
        (("own.py:number",), "returned a int; return a torch.nn.Module"),
        (("own.py:lacking",), "ModuleNotFoundError: No module named 'a_package_that_is_not_here'"),
        (("own.py:strange",), "returns no example inputs; let it return (module, inputs), or give shapes: --input 4x8"),
        (("own.py:strange", "--input", "2*4"), "'2*4' is no input; write [NAME=]SHAPE[:KIND]"),
        (("own.py:good", "--ranges", "none.json"), "the ranges file none.json cannot be read"),
        (("own.py:good", "--ranges", "own.py"), "own.py is no ranges file"),
        (("own.py:good", "--data", "none.npz"), "there is no data file none.npz"),
        (("own.py:good", "--data", "own.py"), "own.py is neither .npz nor .pt"),
        (("own.py:good", "--public", "y"), "public names y, but the model takes input"),
    ],
)
def test_what_a_model_may_be(own: str, arguments: tuple[str, ...], text: str) -> None:
    done = run("check", *arguments)
    assert done.exit_code == (6 if "public" in text else 2)
    assert text in done.stderr


def test_ranges_reach_the_plan(own: str, tmp_path: Path) -> None:
    examples = np.random.default_rng(0).uniform(-1, 1, (24, 3, 4)).astype(np.float32)
    np.savez(tmp_path / "examples.npz", input=100 * examples)
    found = data("calibrate", f"{own}:good", "--data", "examples.npz", "-o", "wide.json")
    assert (found["examples"], found["doubtful"]) == (24, 0)
    wide = found["ranges"][0]
    assert (wide["operation"], wide["low"], wide["high"]) == ("input", 100 * examples.min(), 100 * examples.max())
    assert wide["typical"] == pytest.approx(np.median(100 * np.abs(examples).max((1, 2))))
    source = resolve(f"{own}:good")
    plan = compile_model(source.model, source.args, calibration=(), ranges=load(tmp_path / "wide.json").ranges).plan
    assert plan.inputs[0].bound == pytest.approx(1.5 * 100 * np.abs(examples).max())
    assert data("check", f"{own}:good", "--ranges", "wide.json")["ok"]


def test_ranges_of_another_model(own: str, tmp_path: Path) -> None:
    """They are neither taken for this model's nor overwritten by them; a file of the same model may lie in another folder."""
    assert run("calibrate", f"{own}:good").exit_code == 0
    held = (tmp_path / "ranges.json").read_bytes()
    foreign = run("plan", f"{own}:weighted", "--public", "mask", "--ranges", "ranges.json")
    assert (foreign.exit_code, foreign.stdout) == (2, "")
    assert f"! ranges.json was measured on {own}:good, not on {own}:weighted" in foreign.stderr
    assert f"ranges.json was measured on {own}:good and has no range of {own}:weighted" in foreign.stderr
    for name, text in (("ranges.json", f"holds the ranges of {own}:good, which would be lost"), ("own.py", "own.py is no ranges file")):
        refused = run("calibrate", f"{own}:weighted", "--public", "mask", "--out", name)
        assert (refused.exit_code, text in refused.stderr) == (2, True), refused.output
    assert (tmp_path / "ranges.json").read_bytes() == held
    part = run("plan", f"{own}:normed", "--ranges", "ranges.json")
    assert part.exit_code == 0, part.output
    assert "that ranges.json lacks were measured on made-up inputs, the first of 1|aten.layer_norm" in part.stderr
    assert run("calibrate", str(tmp_path / own) + ":good").exit_code == 0


def test_doubtful_ranges_are_marked(own: str, tmp_path: Path) -> None:
    examples = torch.rand(20, 3, 4)
    examples[7] *= 30
    torch.save([(example,) for example in examples], tmp_path / "examples.pt")
    shown = run("calibrate", f"{own}:good", "--data", "examples.pt")
    assert shown.exit_code == 1
    assert "outlier: example 7 reaches" in shown.stdout
    assert "grows: a quarter of the examples leaves the range of the others" in shown.stdout
    assert (tmp_path / "ranges.json").exists()


def test_independent_examples_are_seldom_doubtful() -> None:
    """Of a thousand normal values in 64 examples; an example of another size is found in each of them."""
    values = np.random.default_rng(0).normal(size=(64, 1000))
    for example, least, most in ((values[7], 0, 150), (30.0, 1000, 1000)):  # a value alone has the widest spread of all
        values[7] = example
        each = [{f"m|op|{site}": Range(min(x, 0.0), max(x, 0.0)) for site, x in enumerate(row)} for row in values.tolist()]
        assert least <= sum(bool(site.suspicions) for site in judge(each, 1.5)) <= most


def test_many_steps_are_told_once(own: str, tmp_path: Path) -> None:
    """A GRU looks up every step in tables of one range."""
    with (tmp_path / "own.py").open("a") as file:
        file.write("class Motion(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.gru = nn.GRU(3, 4)\n")
        file.write("    def forward(self, x):\n        return self.gru(x)[0][-1]\n")
        file.write("def motion():\n    torch.manual_seed(0)\n    return Motion(), torch.randn(4, 1, 3)\n")
    np.savez(tmp_path / "examples.npz", x=np.random.default_rng(0).normal(size=(64, 4, 1, 3)).astype(np.float32))
    found = run("calibrate", f"{own}:motion", "--data", "examples.npz")
    assert "getitem" not in found.stdout
    rows = [line for line in found.stdout.splitlines() if line.startswith("gru ")]
    assert len(rows) == len(set(rows)) > 4
    planned = run("plan", f"{own}:motion", "--ranges", "ranges.json").stdout
    assert planned.count("tanh on") == 1
    assert re.search(r"tanh on .* within .*  x4", planned)


def test_made_up_examples_are_called_so(own: str) -> None:
    assert "the examples were made up" in run("calibrate", f"{own}:good").stderr


def test_a_language_model_of_a_folder(own: str, data_folder: Path) -> None:
    folder = data_folder / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("stories260K is not in the data folder")
    source = resolve(str(folder))
    assert (source.kind, source.title) == ("decoder", "LlamaForCausalLM")
    assert [title for title, _ in source.drafts(lengths=(4, 8))] == ["prompt of 4 tokens", "prompt of 8 tokens", "a token, cache up to 64"]
    with pytest.raises(ConfigError, match="take --lengths instead of --input"):
        resolve(str(folder), inputs=("1x4",))


def test_plan_of_a_model(own: str) -> None:
    found = data("plan", f"{own}:good", "--rtt", "20ms", "--bandwidth", "100Mbit")
    [program] = found["programs"]
    assert program["prediction"]["latency_s"] == pytest.approx(program["rounds"] * 0.01)
    assert program["prediction"]["seconds"] >= program["prediction"]["latency_s"] + 0.02
    assert data("plan", f"{own}:good", "--link", "10ms,100Mbit")["net"]["rtt_s"] == found["net"]["rtt_s"] == 0.02
    assert program["payload_bytes"] == sum(program["sent_bytes"].values())
    assert program["modules"]["spoken_bytes"] + program["modules"]["dealt_bytes"] == program["payload_bytes"]
    assert [(one["function"], one["module"]) for one in program["lookups"]] == [("gelu", "1")]
    assert program["checks_ranges"]
    assert 0 < program["outputs"][0]["error"] < 1e-2
    assert not data("plan", f"{own}:good", "--no-check")["programs"][0]["checks_ranges"]
    shown = run("plan", f"{own}:good", "--link", "wan", "--depth", "1")
    assert all(text in shown.stdout for text in ("predicted on wan", "memory forecast", "leakage", "gelu on [", "largest error to expect"))
    assert "ranges were measured on made-up inputs" in shown.stderr


def test_plan_of_a_model_that_does_not_run(own: str) -> None:
    refused = run("plan", f"{own}:strange", "--input", "2x4")
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert "error [MOI-401]: no private form for:" in refused.stderr
    assert run("plan", f"{own}:good", "--link", "moon").exit_code == 2


def test_profile_shows_where_the_time_goes(own: str) -> None:
    found = data("profile", f"{own}:good", "--link", "2ms,1Gbit", "--out", "there.json")
    [program] = found["programs"]
    assert (found["link"], program["title"], program["file"], program["lost_spans"]) == ("2ms,1Gbit", "one pass", "there.json", 0)
    modules = {module["name"]: module for module in program["modules"]}
    assert sum(module["spoken_bytes"] + module["dealt_bytes"] for module in modules.values()) == program["payload_bytes"]
    assert sum(module["waiting_s"] for module in modules.values()) >= 0.9 * 0.002 * modules["1"]["rounds"] > 0
    assert [member["role"] for member in program["members"]] == ["P0", "P1", "P2", "CLIENT"]
    events = json.loads(Path("there.json").read_text())["traceEvents"]
    assert "1 (table)" in {event["name"] for event in events}
    section = (Path(__file__).parents[2] / "docs" / "cli.md").read_text().split("### moiety profile\n")[1].split("\n### ")[0]
    assert all(f"`{key}`" in section for part in (found, program, program["members"][0], program["modules"][0]) for key in part)


def test_a_failure_budget_buys_rounds(own: str) -> None:
    """Where a product is read by another: what only an answer or a table reads stays in a small ring, which costs no round."""
    dear, cheap = (data("plan", f"{own}:products", "--no-check", *more)["programs"][0] for more in ((), ("--failure-budget", "0.01")))
    assert cheap["rounds"] < dear["rounds"]
    assert 0 < cheap["expected_failures"] <= 0.01


def test_compare_finds_nothing_in_a_sound_model(own: str) -> None:
    found = data("compare", f"{own}:good")
    assert (found["ok"], found["first"], found["out_of_range"]) == (True, -1, False)
    assert [row["operation"] for row in found["rows"]] == ["aten.linear.default", "aten.gelu.default", "aten.linear.default"]
    assert all(row["ok"] and row["added"] <= row["allowed"] for row in found["rows"])
    [answer] = found["answers"]
    assert answer["ok"]
    assert 0 < answer["private_error"] < answer["stated"]
    shown = run("compare", f"{own}:good")
    assert "every operation stays within its error" in shown.stdout
    assert "the plan expects at most" in shown.stdout
    assert "seeded masks" in shown.stderr


def test_compare_marks_the_first_layer_beyond_its_error(own: str, tmp_path: Path) -> None:
    """Inputs stay within their range, but together drive a hidden unit far beyond what single ones did."""
    weight = resolve(f"{own}:steep").model[0].weight.detach()
    driven = weight[weight.abs().sum(1).argmax()].sign().expand(3, 4)
    torch.save([(driven,)], tmp_path / "driven.pt")
    found = data("compare", f"{own}:steep", "--data", "driven.pt", "--on", "driven.pt")
    assert found["ok"]
    torch.save([(torch.eye(4)[:3],)], tmp_path / "single.pt")
    shown = run("compare", f"{own}:steep", "--data", "single.pt", "--on", "driven.pt")
    assert shown.exit_code == 1
    assert "here they part first: aten.gelu.default in 1" in shown.stdout
    assert "a value left its calibrated range" in shown.stdout


def test_a_language_model_without_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, n_positions=128)).save_pretrained("own")
    assert data("check", "own", "--lengths", "4")["ok"]
    source = resolve("own")
    assert (source.tokenizer, source.made_up) == (None, True)
    Path("lines.txt").write_text("Once upon a time.")
    assert "has no tokenizer" in run("check", "own", "--data", "lines.txt").stderr
