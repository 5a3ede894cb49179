"""`make accept`: is a private answer as good as that in the clear? Real processes, mutual TLS, the models as published.

Keeps all numbers in docs/acceptance.json and prints a short table. Exit status 1 if a point is missed. `accept.py smollm2 minilm
stories` runs only the named parts and leaves the others as they were last measured.
"""

import csv
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from moiety import ring
from moiety.cli import models
from moiety.compile.builder import Options
from moiety.compile.decoder import compile_decoder
from moiety.compile.plan import Plan
from moiety.engine.federation import Federation, Private, connect
from moiety.engine.launch import CLIENT, MODEL_OWNER, start
from moiety.engine.owner import Progress
from moiety.engine.report import RunReport, RunResult
from moiety.engine.waves import check, payload
from moiety.models.files import data_folder
from moiety.mpc.rounds import Role, Words
from moiety.private.embed import embed, normalised
from moiety.private.generate import Token, generate
from moiety.private.pooled import Pooled, compile_encoder, inputs

RESULTS = Path(__file__).parents[1] / "docs" / "acceptance.json"
PROMPTS = (
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "What is 7 plus 5?",
    "Write a sentence about a cat.",
    "How do plants make their food?",
)
NEW_TOKENS = 16
LOGIT_ERROR = 0.1
STORY_TOKENS = 60
PAIRS = 100
LONGEST = 32
SPEARMAN, COSINE = 0.01, 0.01


@dataclass
class Counted:
    """A deployed model whose every run is compared with its plan: frames, payload on each link, rounds, and what P0 received."""

    private: Private
    runs: list[tuple[Plan, RunReport]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def plans(self) -> list[Plan]:
        return self.private.plans

    @property
    def name(self) -> str:
        return self.private.name

    def run(self, plan: Plan, words: list[Words], *, position: int | None = None, on_progress: Progress | None = None) -> RunResult:
        result = self.private.run(plan, words, position=position, on_progress=on_progress)
        self.runs.append((plan, result.report))
        self.differences += differences(plan, result.report)
        return result

    def summary(self) -> dict[str, Any]:
        plans = {plan.hash[:12]: plan for plan, _ in self.runs}
        received = sum(r for _, run in self.runs for member in run.members for _, r in member.wire.values())
        total = sum(run.payload_bytes for _, run in self.runs)
        return {
            "runs": len(self.runs),
            "counters_equal_plan": not self.differences,
            "differences": self.differences[:5],
            "payload_bytes": total,
            "wire_bytes": received,
            "wire_overhead": received / total - 1,
            "peak_memory_bytes": {m.role: m.peak_memory_bytes for m in self.runs[-1][1].members},
            "plans": [self._plan(name, plan) for name, plan in plans.items()],
        }

    def _plan(self, name: str, plan: Plan) -> dict[str, Any]:
        seconds = [run.seconds for used, run in self.runs if used is plan]
        return {
            "plan": name,
            "input": "x".join(map(str, plan.inputs[0].shape)),
            "rounds": check(plan, Role.P1).rounds,
            "payload_bytes": sum(nbytes for _, nbytes in payload(plan).values()),
            "runs": len(seconds),
            "median_seconds": round(float(np.median(seconds)), 3),
        }


def differences(plan: Plan, report: RunReport) -> list[str]:
    """Where a run's counters, at either end of every link, are not what the plan's wave table says."""
    out = []
    for (sender, receiver), expected in payload(plan).items():
        name = f"{sender.name}->{receiver.name}"
        for role in (sender, receiver):
            counted = report.of(role.name).links.get(name)
            found = (counted.frames, counted.payload_bytes) if counted else (0, 0)
            if found != expected:
                out.append(f"{name} at {role.name}: {found}, the plan says {expected}")
    rounds = check(plan, Role.P1).rounds
    out += [f"{m.name} counted {m.rounds} rounds, the plan has {rounds}" for m in report.members if m.rounds != rounds]
    out += [f"{m.name} saw bytes for P0" for m in report.members for link in m.links if link.endswith("->P0")]
    return out


def deploy(owner: Federation, client: Federation, name: str, plans: Sequence[Plan], weights: Any) -> tuple[Counted, float]:
    began = time.perf_counter()
    owner.deploy_plans(name, plans, weights)
    return Counted(client.model(name)), time.perf_counter() - began


def decoder(
    owner: Federation, client: Federation, name: str, lengths: Sequence[int], context: int
) -> tuple[Counted, Any, Any, dict[str, float]]:
    known, began = models.known(name), time.perf_counter()
    tokenizer, model = known.load()
    compiled = compile_decoder(
        model,
        prompt_lengths=lengths,
        context=context,
        calibration=known.calibration(tokenizer),
        options=Options(margin=known.margin, check_ranges=True),
    )
    compiling = time.perf_counter() - began
    plans = [*compiled.prefill.values(), *compiled.steps.values()]
    counted, sharing = deploy(owner, client, name, plans, compiled.weights)
    return counted, tokenizer, model, {"compile_seconds": round(compiling, 1), "share_seconds": round(sharing, 1)}


def answer(counted: Counted, model: Any, prompt: list[int], count: int) -> dict[str, Any]:
    """Private greedy tokens beside those in the clear; the logits of both for the same text, up to the first difference."""
    found: list[Token] = list(generate(counted, prompt, max_new_tokens=count, end=()))
    ids = [token.id for token in found]
    with torch.no_grad():
        given = torch.tensor([prompt])
        mask = torch.ones_like(given)  # else generate takes the prompt's end-of-turn marks for padding
        wanted = model.generate(given, attention_mask=mask, max_new_tokens=count, do_sample=False, eos_token_id=None)
        clear = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].numpy()
    plain = wanted[0, len(prompt) :].tolist()
    same = next((i for i, (a, b) in enumerate(zip(ids, plain, strict=True)) if a != b), count)
    errors = [float(np.abs(token.logits - clear[i]).max()) for i, token in enumerate(found) if token.logits is not None]
    gap = float(clear[same][plain[same]] - clear[same][ids[same]]) if same < count else None
    return {
        "prompt_tokens": len(prompt),
        "tokens": ids,
        "clear_tokens": plain,
        "equal_tokens": same,
        "gap_at_difference": gap,
        "largest_logit_error": max(errors),
        "explained": gap is None or 0 <= gap < max(errors),
        "seconds": round(sum(token.seconds for token in found), 2),
        "seconds_to_first_token": round(found[0].seconds, 2),
    }


def smollm2(owner: Federation, client: Federation) -> dict[str, Any]:
    known = models.known("smollm2")
    reader = known.tokenizer()
    prompts = [known.tokens(reader, prompt) for prompt in PROMPTS]
    lengths = sorted({len(prompt) for prompt in prompts})[::2]
    counted, tokenizer, model, times = decoder(owner, client, "smollm2", lengths, max(map(len, prompts)) + NEW_TOKENS)
    answers = []
    for text, prompt in zip(PROMPTS, prompts, strict=True):
        found = answer(counted, model, prompt, NEW_TOKENS)
        answers.append({"prompt": text, "text": tokenizer.decode(found["tokens"]), **found})
    error = max(found["largest_logit_error"] for found in answers)
    return {
        "points": {
            "tokens_equal_or_explained": all(found["explained"] for found in answers),
            "logit_error_at_most_0.1": error <= LOGIT_ERROR,
            "counters_equal_plan": not counted.differences,
        },
        "equal_tokens": f"{sum(found['equal_tokens'] for found in answers)} of {NEW_TOKENS * len(PROMPTS)}",
        "largest_logit_error": error,
        "prefill_lengths": lengths,
        **times,
        "answers": answers,
        "traffic": counted.summary(),
    }


def stories(owner: Federation, client: Federation) -> dict[str, Any]:
    known = models.known("stories")
    prompt = known.tokens(known.tokenizer(), "Once upon a time")
    counted, tokenizer, model, times = decoder(owner, client, "stories", [len(prompt)], len(prompt) + STORY_TOKENS)
    found = answer(counted, model, prompt, STORY_TOKENS)
    return {
        "points": {"tokens_equal": found["equal_tokens"] == STORY_TOKENS, "counters_equal_plan": not counted.differences},
        "equal_tokens": f"{found['equal_tokens']} of {STORY_TOKENS}",
        "largest_logit_error": found["largest_logit_error"],
        **times,
        "text": tokenizer.decode(found["tokens"]),
        "answer": found,
        "traffic": counted.summary(),
    }


def pairs() -> list[tuple[float, str, str]]:
    """The STS-B test pairs: how alike two sentences are to people, and the sentences."""
    with (data_folder() / "text" / "sts-test.csv").open(encoding="utf-8", newline="") as stream:
        return [(float(row[4]), row[5], row[6]) for row in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)]


def minilm(owner: Federation, client: Federation) -> dict[str, Any]:
    known, began = models.known("minilm"), time.perf_counter()
    tokenizer, model = known.load()
    read = [(score, known.tokens(tokenizer, a), known.tokens(tokenizer, b)) for score, a, b in pairs()]
    fitting = [row for row in read if max(len(row[1]), len(row[2])) <= LONGEST]
    chosen = fitting[:: len(fitting) // PAIRS][:PAIRS]
    lengths = sorted({len(ids) for _, *both in chosen for ids in both})
    options = Options(margin=known.margin, check_ranges=True)
    compiled = compile_encoder(model, lengths=lengths, calibration=lambda length: known.calibration(tokenizer, length), options=options)
    compiling = time.perf_counter() - began
    counted, sharing = deploy(owner, client, "minilm", list(compiled.plans.values()), compiled.weights)
    gold = [score for score, *_ in chosen]
    private, clear, vector_error, seconds = [], [], 0.0, []
    for _, *both in chosen:
        embeddings = [embed(counted, ids) for ids in both]  # type: ignore[arg-type]
        with torch.no_grad():
            plain = [normalised(Pooled(model)(*inputs(torch.tensor([ids])))[0].numpy()) for ids in both]
        private.append(float(embeddings[0].vector @ embeddings[1].vector))
        clear.append(float(plain[0] @ plain[1]))
        vector_error = max(vector_error, *(1 - float(e.vector @ p) for e, p in zip(embeddings, plain, strict=True)))
        seconds += [e.report.seconds for e in embeddings]
    ours, theirs = float(spearmanr(private, gold).statistic), float(spearmanr(clear, gold).statistic)
    error = float(np.abs(np.array(private) - np.array(clear)).max())
    return {
        "points": {
            "spearman_within_0.01": abs(ours - theirs) <= SPEARMAN,
            "cosine_error_at_most_0.01": error <= COSINE,
            "counters_equal_plan": not counted.differences,
        },
        "pairs": len(chosen),
        "of_pairs_up_to_tokens": LONGEST,
        "spearman": ours,
        "spearman_in_the_clear": theirs,
        "largest_cosine_error": error,
        "largest_vector_error": vector_error,
        "median_seconds": round(float(np.median(seconds)), 3),
        "compile_seconds": round(compiling, 1),
        "share_seconds": round(sharing, 1),
        "traffic": counted.summary(),
    }


PARTS: dict[str, Callable[[Federation, Federation], dict[str, Any]]] = {"stories": stories, "minilm": minilm, "smollm2": smollm2}


def machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()
    return {"commit": commit, "python": platform.python_version(), "torch": torch.__version__, "kernels": ring.features()["isa"]}


def table(results: dict[str, Any]) -> None:
    for part, found in results.items():
        print(part)
        for point, holds in found["points"].items():
            print(f"  {point:<32}{'yes' if holds else 'NO'}")
        for key in ("equal_tokens", "largest_logit_error", "spearman", "spearman_in_the_clear", "largest_cosine_error"):
            if key in found:
                value = found[key]
                print(f"  {key:<32}{value if isinstance(value, str) else f'{value:.4g}'}")
        traffic = found["traffic"]
        for plan in traffic["plans"][:4]:
            shape = f"input {plan['input']}: {plan['rounds']:,} rounds, {plan['payload_bytes']:,} B, {plan['median_seconds']} s"
            print(f"  plan {plan['plan']}  {shape}")
        print(f"  on the wire over payload        +{traffic['wire_overhead']:.2%} in {traffic['runs']} runs")


def main(wanted: Sequence[str]) -> int:
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    names = [name for name in PARTS if name in wanted] or list(PARTS)
    results = {}
    for name in names:
        began = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        with (
            start() as local,
            connect(local.federation, party=MODEL_OWNER) as owner,
            connect(local.federation, party=CLIENT) as client,
        ):
            results[name] = PARTS[name](owner, client) | {"whole_seconds": round(time.perf_counter() - began, 1), "measured_on": machine()}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept | results, indent=1) + "\n", encoding="utf-8")
    table(results)
    return 0 if all(holds for found in results.values() for holds in found["points"].values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
