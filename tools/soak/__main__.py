"""``python tools/soak [--seconds S] [--clients N] [--json]``: exit status 0 when every answer was right and memory stayed flat.

Three party processes; N client processes with four identities between them, that ask three models (a perceptron, a transformer
layer, a decoder with caches) in sessions of their own; and a model owner who keeps replacing a fourth model. Afterwards the parties' audit
logs must hold exactly the runs that the clients made.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from memory import Sampler, growth
from questions import SCORE, Built, build

from moiety.engine.audit import AUDIT_FILE, follow, verify
from moiety.engine.directory import Rules
from moiety.engine.launch import PARTIES, LocalParties, start
from moiety.engine.owner import open_session

IDENTITIES = 4
ROTATING = "rotating"
REDEPLOY_S = 5.0
FAREWELL_S = 120.0


def soak(clients: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Everything, to the report."""
    built = build(clients, folder)
    names = [f"client-{number}" for number in range(min(IDENTITIES, clients))]
    rules = {"*": Rules(("vendor",), ("client-*",), ("client-*",))}
    with start(folder / "federation", owners=("vendor", *names), models=rules) as local:
        for model, plans in built.plans.items():
            deploy(local, model, plans, built)
        sampler, over = Sampler({name: local.processes[name].pid for name in PARTIES}), threading.Event()
        vendor = threading.Thread(target=keep_deploying, args=(local, built, over))
        processes = [spawn(local, names[i % len(names)], folder / f"{i}.npz", seconds, i) for i in range(clients)]
        sampler.start(), vendor.start()
        try:
            seen = [heard(process, seconds) for process in processes]
        finally:
            over.set(), sampler.stop(), vendor.join()
            for process in processes:
                process.kill()
                process.wait()
        local.stop()
        return report(seen, {name: growth(found) for name, found in sampler.samples.items()}, recorded(local), clients, seconds)


def deploy(local: LocalParties, model: str, plans: Sequence[Any], built: Built, source: str | None = None) -> None:
    with open_session(local.directory, local.identity("vendor"), deadlines=local.deadlines) as session:
        session.deploy(model, plans, built.weights[source or model], replace=True)


def keep_deploying(local: LocalParties, built: Built, over: threading.Event) -> None:
    while not over.wait(REDEPLOY_S):
        deploy(local, ROTATING, built.plans[SCORE], built, SCORE)


def spawn(local: LocalParties, name: str, questions: Path, seconds: float, seed: int) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        str(Path(__file__).with_name("client.py")),
        str(local.federation),
        name,
        str(questions),
        str(seconds),
        str(seed),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def heard(process: "subprocess.Popen[str]", seconds: float) -> dict[str, Any]:
    """What a client printed. Raises RuntimeError when it ended otherwise."""
    printed, _ = process.communicate(timeout=seconds + FAREWELL_S)
    if process.returncode:
        raise RuntimeError(f"a client ended with status {process.returncode}")
    found: dict[str, Any] = json.loads(printed)
    return found


def recorded(local: LocalParties) -> dict[str, Counter[str]]:
    """Runs by outcome at every party, by its audit log, which must be whole."""
    out = {}
    for name in PARTIES:
        verify([local.folder / name / AUDIT_FILE])
        with (local.folder / name / AUDIT_FILE).open("rb") as lines:
            out[name] = Counter(found.entry["outcome"] for found in follow(lines) if found.entry["what"] == "run")
    return out


def report(
    seen: list[dict[str, Any]], memory: dict[str, dict[str, Any]], logged: dict[str, Counter[str]], clients: int, seconds: float
) -> dict[str, Any]:
    """One object. ``holds``: answers right, none missing, memory flat (where long enough to tell), logs agree."""
    models = list(seen[0]["asked"])
    took = {model: np.array([s for one in seen for s in one["seconds"][model]]) for model in models}
    wrong, failed = ([text for one in seen for text in one[what]] for what in ("wrong", "failed"))
    runs = sum(sum(one["runs"].values()) for one in seen)
    agree = all(counts == {"done": runs} for counts in logged.values())
    flat = all(found["holds"] is not False for found in memory.values())
    return {
        "clients": clients,
        "seconds": seconds,
        "models": {
            model: {
                "answers": sum(one["asked"][model] for one in seen),
                "worst_error": max(one["worst"][model] for one in seen),
                "median_s": round(float(np.median(took[model])), 3),
                "p99_s": round(float(np.quantile(took[model], 0.99)), 3),
            }
            for model in models
        },
        "runs": runs,
        "wrong": wrong,
        "failed": failed,
        "logged": logged,
        "memory": memory,
        "holds": not wrong and not failed and agree and flat and all(one["asked"][model] for model in models for one in seen),
    }


def main() -> int:
    options = argparse.ArgumentParser(prog="python tools/soak", description="Soak one federation with many clients at once.")
    options.add_argument("--seconds", type=float, default=300.0)
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--json", action="store_true", help="print the whole report")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="moiety-soak-") as folder:
        found = soak(given.clients, given.seconds, Path(folder))
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        for model, one in found["models"].items():
            times = f"{one['median_s']} s (99 %: {one['p99_s']} s)"
            print(f"{model}: {one['answers']} answers, worst error {one['worst_error']:.2g}, {times}")
        for name, one in found["memory"].items():
            print(
                f"{name}: {one['warm_bytes'] / 1e6:.1f} MB when warm, {one['last_bytes'] / 1e6:.1f} MB at the end, rise {one['rise']:.2%}"
            )
        verdict = "holds" if found["holds"] else "DOES NOT HOLD"
        print(f"{found['runs']} runs, {len(found['wrong'])} wrong, {len(found['failed'])} failed: {verdict}")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
