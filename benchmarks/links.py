"""The forecast of `moiety plan` against runs between real processes on shaped links, and forms of plans by the clock: docs/links.json.

    python benchmarks/links.py [--models mlp,minilm] [--links lan,wan] [--runs 5] [--out docs/links.json]

For every model and link: the median of the runs after one to warm up, and what was predicted before any of them. On slow links, where
runs take long and differ little, three runs are enough. Then one model, compiled for the machine itself and for a slow link: both plans in
turn on either. Run it on a machine that has nothing else to do: on fast links a run is mostly computing. It takes about six minutes.
"""

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import torch
from torch import nn

from moiety.cli.source import Source, resolve
from moiety.compile import program
from moiety.compile.model import Compiled, compile_model
from moiety.compile.plan import Plan
from moiety.compile.signature import zeros
from moiety.engine.effort import Effort, measure
from moiety.engine.injection import shaping
from moiety.engine.launch import CLIENT, MODEL_OWNER, start
from moiety.engine.owner import OwnerSession, open_session
from moiety.engine.timing import cores, predict
from moiety.net.shape import net

LINKS = ("lan", "wan", "5ms,50Mbit", "30ms,1Gbit")
NAME = "measured"
SLOW = "50ms,1Gbit"
"""Where rounds bind: the forms of a plan for it are compared with those for this machine."""
FAST = 3
"""Times as many runs where a run is short."""
ENOUGH = 3
ENOUGH_S = 6.0
"""So many runs are enough where they have taken so long."""
SHARED = True
"""All parties are on this machine."""


@dataclass(frozen=True)
class Case:
    """Plans that are run in turn, the last of which is measured; its weights. ``position``: of the last, where it has one."""

    plans: tuple[Plan, ...]
    weights: Mapping[str, Any]
    position: int | None = None


def mlp() -> Case:
    """768 -> 3072 -> 768 with GELU, 32 rows."""
    return _one(nn.Sequential(nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768)), torch.randn(32, 768))


def cnn() -> Case:
    """Three convolutions with batch norm and ReLU, a maximum, a mean and a classifier, on a 3 x 32 x 32 image."""
    layers: list[nn.Module] = []
    for inner, outer in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2)]
    return _one(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), torch.randn(1, 3, 32, 32))


def minilm() -> Case:
    """all-MiniLM-L6-v2 with its mean, 13 tokens."""
    return _drafted(resolve("minilm"), lengths=(13,))


def gpt2() -> Case:
    """Two layers of GPT-2 small (random weights), 32 tokens, to the last hidden state."""
    from transformers import GPT2Config, GPT2Model

    return _one(GPT2Model(GPT2Config(n_layer=2, use_cache=False)), torch.randint(0, 50257, (1, 32)), take=0)


def step() -> Case:
    """stories260K: one token behind a prompt of 16, cache up to 64."""
    return _drafted(resolve("stories"), position=16, lengths=(16,), context=64)


MODELS: dict[str, Callable[[], Case]] = {made.__name__: made for made in (mlp, cnn, minilm, gpt2, step)}


class _Part(nn.Module):
    def __init__(self, model: nn.Module, take: int) -> None:
        super().__init__()
        self.model, self.take = model, take

    def forward(self, x: torch.Tensor) -> Any:
        return self.model(x)[self.take]


class _Rows(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> Any:
        return self.model(inputs_embeds=x)[0]


def _one(model: nn.Module, example: torch.Tensor, take: int | None = None) -> Case:
    torch.manual_seed(0)
    compiled = compile_model((model if take is None else _Part(model, take)).eval(), (example,))
    return Case((compiled.plan,), compiled.weights)


def _drafted(source: Source, position: int | None = None, **asked: Any) -> Case:
    compiled = [make().compiled() for _, make in source.drafts(**asked)]
    weights: dict[str, Any] = {}
    for one in compiled:
        weights |= one.weights
    return Case(tuple(one.plan for one in compiled), weights, position)


def measured(case: Case, link: str, runs: int) -> list[float]:
    """Seconds of the runs, on parties that are started for them; the weights come by an owner whose link is not shaped."""
    with start(link=link) as parties:
        with open_session(parties.directory, parties.identity(MODEL_OWNER)) as owner:
            owner.deploy(NAME, case.plans, case.weights)
        with open_session(parties.directory, parties.identity(CLIENT), wrap=shaping(link)) as client:
            for plan in case.plans[:-1]:
                _run(client, plan, None)
            _run(client, case.plans[-1], case.position)
            seconds: list[float] = []
            while len(seconds) < runs and not (len(seconds) >= ENOUGH and sum(seconds) > ENOUGH_S):
                seconds.append(_run(client, case.plans[-1], case.position))
            return seconds


def layers(link: str) -> Compiled:
    """Two layers of GPT-2 small (random weights) on 64 rows, compiled for a link."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    model = _Rows(GPT2Model(GPT2Config(n_layer=2, use_cache=False))).eval()
    return compile_model(model, (torch.randn(1, 64, 768),), link=link)


def crossed(runs: int) -> Iterator[dict[str, Any]]:
    """Plans of one model for two links, on both: medians of runs that take turns, so that what else the machine does hits both alike."""
    made = {link: layers(link) for link in ("loopback", SLOW)}
    for on in made:
        slow = None if on == "loopback" else on
        with start(link=slow) as parties:
            with open_session(parties.directory, parties.identity(MODEL_OWNER)) as owner:
                for name, one in made.items():
                    owner.deploy(name, (one.plan,), one.weights)
            with open_session(parties.directory, parties.identity(CLIENT), wrap=shaping(slow)) as client:
                count = 1 + runs * (FAST if slow is None else 1)
                turns = [{name: client.run(name, one.plan, zeros(one.plan)).report for name, one in made.items()} for _ in range(count)][1:]
        for name, one in made.items():
            seconds, cost = [turn[name].seconds for turn in turns], program.costs(one.plan)
            cpu = {role: median(turn[name].of(role).cpu_s for turn in turns) for role in ("P0", "P1", "P2")}
            row = {"compiled_for": name, "run_on": on, "measured_s": median(seconds), "rounds": cost.rounds, "bytes": cost.total_bytes}
            print(
                f"for {name:<12} on {on:<12} {row['measured_s']:8.3f} s, {cost.rounds} rounds, {cost.total_bytes:,} bytes", file=sys.stderr
            )
            yield row | {
                "fastest_s": min(seconds),
                "slowest_s": max(seconds),
                "runs": len(turns),
                "cpu_s": cpu,
                "choices": _choices(one.plan),
            }


def _choices(plan: Plan) -> list[str]:
    return sorted({f"{choice.step}: {next(iter(choice.seconds))}" for choice in plan.choices})


def _run(client: OwnerSession, plan: Plan, position: int | None) -> float:
    return client.run(NAME, plan, zeros(plan), position=position).report.seconds


def rows(models: list[str], links: list[str], runs: int) -> Iterator[dict[str, Any]]:
    """One comparison after another."""
    for name in models:
        case = MODELS[name]()
        efforts = measure(case.plans[-1])
        for link in links:
            yield _row(name, case, efforts, link, runs)


def _row(name: str, case: Case, efforts: list[Effort], link: str, runs: int) -> dict[str, Any]:
    found = predict(case.plans[-1], msgspec.structs.replace(net(link), shared=SHARED), efforts)
    seconds = measured(case, link, runs)
    real = median(seconds)
    row = {"model": name, "link": link, "predicted_s": found.seconds, "measured_s": real, "error": found.seconds / real - 1}
    parts = {key: value for key, value in msgspec.structs.asdict(found).items() if key not in ("net", "seconds")}
    print(f"{name:<8} {link:<12} predicted {found.seconds:8.3f} s, measured {real:8.3f} s, {row['error']:+.1%}", file=sys.stderr)
    return row | parts | {"fastest_s": min(seconds), "slowest_s": max(seconds), "runs": len(seconds)}


def main() -> None:
    """Compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--links", default=" ".join(LINKS), help="separated by blanks")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    began = time.time()
    found = list(rows(asked.models.split(","), asked.links.split(), asked.runs))
    error = median(abs(row["error"]) for row in found)
    machine = {"cores": cores(), "machine": platform.machine(), "python": platform.python_version()}
    forms = list(crossed(asked.runs))
    document = {"median_error": error, "rows": found, "forms": forms, "machine": machine, "seconds": round(time.time() - began)}
    print(f"median error {error:.1%} over {len(found)} runs", file=sys.stderr)
    if asked.out is not None:
        asked.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
