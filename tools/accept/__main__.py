"""`make accept`: is a private answer as good as that in the clear? Real processes, mutual TLS, the models as published.

Keeps all numbers in docs/acceptance.json and prints a short table. Exit status 1 if a point is missed. `python tools/accept smollm2
minilm` runs only the named parts and leaves the others as they were last measured.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from language import perplexity, smollm2, stories
from pictures import efficientnet
from sentences import minilm, sentiment

from moiety import ring
from moiety.engine.federation import Federation, connect
from moiety.engine.launch import CLIENT, MODEL_OWNER, start

RESULTS = Path(__file__).parents[2] / "docs" / "acceptance.json"
SHOWN = (
    "equal_tokens",
    "same_class",
    "largest_logit_error",
    "spearman",
    "spearman_in_the_clear",
    "largest_cosine_error",
    "perplexity",
    "perplexity_in_the_clear",
    "accuracy",
    "accuracy_in_the_clear",
)

PARTS: dict[str, Callable[[Federation, Federation], dict[str, Any]]] = {
    "stories": stories,
    "minilm": minilm,
    "sentiment": sentiment,
    "efficientnet": efficientnet,
    "smollm2": smollm2,
    "perplexity": perplexity,
}


def machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()
    return {"commit": commit, "python": platform.python_version(), "torch": torch.__version__, "kernels": ring.features()["isa"]}


def table(results: dict[str, Any]) -> None:
    for part, found in results.items():
        print(part)
        for point, holds in found["points"].items():
            print(f"  {point:<32}{'yes' if holds else 'NO'}")
        for key in SHOWN:
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
