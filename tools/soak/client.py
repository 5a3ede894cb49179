"""One client: ask a model at random, compare, until time is up; now and then with a new session. Prints what it saw as JSON."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from questions import READ, SCORE, TELL, TOKENS, TOLERANCE

import moiety
from moiety.engine.deployed import Private
from moiety.errors import MoietyError
from moiety.private.generate import generate

RENEW = 25
"""Questions of one model after which its session is closed; the next question opens a new one."""

MOST_FAILURES = 20
"""Then a client gives up."""


def ask_plain(private: Private, question: Any, runs: Counter[str]) -> Any:
    runs[private.name] += 1
    return private(question)


def ask_tell(private: Private, question: Any, runs: Counter[str]) -> Any:
    """Generate greedily; all logits, so that a token right by luck is no excuse."""
    told = list(generate(private, [int(token) for token in question], max_new_tokens=TOKENS))
    runs[private.name] += TOKENS  # the prompt, and every token but the last
    return np.stack([token.logits for token in told])


ASK: dict[str, Callable[[Private, Any, Counter[str]], Any]] = {SCORE: ask_plain, READ: ask_plain, TELL: ask_tell}


def client(federation: Path, name: str, questions: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Ask until ``seconds`` have passed."""
    given, chance = np.load(questions), np.random.default_rng(seed)
    asked, runs, wrong, failed = Counter[str](), Counter[str](), list[str](), list[str]()
    worst = dict.fromkeys(ASK, 0.0)
    took: dict[str, list[float]] = {model: [] for model in ASK}
    with moiety.connect(federation, party=name) as joined:
        privates = {model: joined.model(model) for model in ASK}
        until = time.monotonic() + seconds
        while time.monotonic() < until or not all(asked[model] for model in ASK):
            model = next((model for model in ASK if not asked[model]), list(ASK)[int(chance.integers(len(ASK)))])
            number = int(chance.integers(len(given[f"{model} in"])))
            began = time.perf_counter()
            try:
                found = np.asarray(ASK[model](privates[model], given[f"{model} in"][number], runs))
            except MoietyError as error:
                failed.append(f"{model}: {error.code} {error}")
                if len(failed) > MOST_FAILURES:
                    break
                continue
            took[model].append(time.perf_counter() - began)
            error = float(np.abs(found - given[f"{model} out"][number]).max())
            worst[model] = max(worst[model], error)
            if error > TOLERANCE[model]:
                wrong.append(f"{model} question {number}: off by {error:.3g}")
            asked[model] += 1
            if asked[model] % RENEW == 0:
                privates[model].close()
                privates[model] = joined.model(model)
    return {"name": name, "asked": asked, "runs": runs, "worst": worst, "wrong": wrong, "failed": failed, "seconds": took}


if __name__ == "__main__":
    federation, name, questions, seconds, seed = sys.argv[1:]
    print(json.dumps(client(Path(federation), name, Path(questions), float(seconds), int(seed))))
