"""Evaluate a job with MP-SPDZ: three parties of replicated-ring-party.x (ring of 64 bits), processes on loopback with its own TLS.

    python run_mp_spdz.py CHECKOUT JOB OUT                  compile, run, judge what it prints; prints one line of JSON
    python run_mp_spdz.py CHECKOUT JOB OUT --party RANK     one of the parties, started by the former

All inputs and weights are secret, party 0's. 18 fraction bits; ``use_trunc_pr`` and ``use_split(3)`` as its compiler advises. Seconds,
bytes and rounds are of its own timer around the function, preprocessing included. Processor time and memory are of the whole process,
so with input and output. Every run is in processes of its own.
"""

import argparse
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from job import Job, answer
from together import run_all

PARTIES = 3
PASSES = 2  # each is processes of its own, which nothing before has warmed up
BINARY = "replicated-ring-party.x"
TIMER = re.compile(r"Time1 = ([\d.e+-]+) seconds \(([\d.e+-]+) MB, (\d+) rounds\)")
HEAD = """from Compiler import ml
program.use_trunc_pr = True
program.use_split(3)
sfix.set_precision{precision}
"""
PRECISION = {"softmax": (16, 31)}
"""Fraction bits, and bits of a number in all: of softmax the defaults, since with more its division takes ten times the bytes."""
BODIES = {
    "matmul": "y.assign(given[1] * given[0])",
    "mul": "y.assign_vector(given[0].get_vector() * given[1].get_vector())",
    "relu": "y.assign_vector(ml.relu(given[0].get_vector()))",
    "softmax": "@for_range_opt(y.sizes[0])\ndef _(i):\n    y[i].assign(ml.softmax(given[0][i]))",
}
"""By family; arrays of weights come first. What the library has no function for is not here."""


def source(family: str, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> str:
    """The program: arrays in, the timed function, the answer to a file."""

    def array(shape: tuple[int, ...]) -> str:
        return f"sfix.Tensor({list(shape)})" if len(shape) > 1 else f"sfix.Array({shape[0]})"

    lines = [HEAD.format(precision=PRECISION.get(family, (18, 40))), f"given = [{', '.join(map(array, shapes))}]", f"y = {array(out)}"]
    lines += ["for one in given:", "    one.input_from(0, binary=True)", "start_timer(1)", BODIES[family], "stop_timer(1)"]
    return "\n".join([*lines, "y.reveal_to_binary_output()", ""])


def flat(family: str, array: Any) -> Any:
    """Rows of a softmax alone; everything else as it is."""
    return array.reshape(-1, array.shape[-1]) if family == "softmax" else array


def prepare(checkout: Path, job: Job, out: Path) -> tuple[tuple[int, ...], float]:
    """The program, compiled, and its inputs in ``out``; returns the shape of the answer, and the seconds of compiling."""
    arrays = [flat(job.family, np.asarray(one, np.float32)) for one in (*job.weights().values(), *job.inputs())]
    shape = (arrays[1].shape[0], arrays[0].shape[1]) if job.family == "matmul" else arrays[-1].shape
    shutil.copytree(checkout / "Player-Data", out / "Player-Data")
    np.concatenate([one.ravel() for one in arrays]).tofile(out / "Player-Data" / "Input-Binary-P0-0")
    (out / "job.mpc").write_text(source(job.family, [one.shape for one in arrays], shape), encoding="utf-8")
    began = time.perf_counter()
    compiled = subprocess.run(
        [sys.executable, str(checkout / "compile.py"), "-R", "64", "job.mpc"], cwd=out, capture_output=True, text=True, check=False
    )
    if compiled.returncode:
        sys.exit(f"its compiler ended with status {compiled.returncode}: {(compiled.stdout + compiled.stderr)[-1500:]}")
    return tuple(shape), time.perf_counter() - began


def party(checkout: Path, out: Path, rank: int) -> None:
    """Run one party and leave what it printed and took."""
    port = (out / "port").read_text(encoding="ascii")
    place = {**os.environ, "LD_LIBRARY_PATH": str(checkout)}  # a checkout may have been moved since it was built
    command = [str(checkout / BINARY), str(rank), "job", "-pn", port, "-h", "localhost"]
    done = subprocess.run(command, cwd=out, env=place, capture_output=True, text=True, check=False)
    timed = TIMER.search(done.stdout + done.stderr)
    if done.returncode or timed is None:
        sys.exit(f"{BINARY} ended with status {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {"wall": float(timed[1]), "sent": round(1e6 * float(timed[2])), "rounds": int(timed[3])}
    told |= {"cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": 1024 * used.ru_maxrss}
    (out / f"party.{rank}.json").write_text(json.dumps(told), encoding="utf-8")


def free_base() -> int:
    """A port that was free a moment ago, and two behind it."""
    while True:
        sockets: list[socket.socket] = []
        try:
            sockets.append(socket.create_server(("127.0.0.1", 0)))
            base = sockets[0].getsockname()[1]
            sockets += [socket.create_server(("127.0.0.1", base + more)) for more in range(1, PARTIES)]
        except (OSError, OverflowError):
            continue
        finally:
            for one in sockets:
                one.close()
        return int(base)


def coordinate(checkout: Path, folder: str, out: Path) -> None:
    job = Job(folder)
    shape, compile_s = prepare(checkout, job, out)
    walls, parties = [], []
    for _ in range(min(job.runs, PASSES)):
        (out / "port").write_text(str(free_base()), encoding="ascii")
        run_all([[sys.executable, __file__, str(checkout), folder, str(out), "--party", str(rank)] for rank in range(PARTIES)], out)
        parties = [json.loads((out / f"party.{rank}.json").read_text(encoding="utf-8")) for rank in range(PARTIES)]
        walls.append(max(one["wall"] for one in parties))
    sent = sum(one["sent"] for one in parties)
    version = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always"], capture_output=True, text=True, check=False
    ).stdout.strip()
    answer(
        str(out),
        np.fromfile(out / "Player-Data" / "Binary-Output-P0-0", np.float64)[-int(np.prod(shape)) :].reshape(shape),
        walls=walls,
        cpu_s=[one["cpu_s"] for one in parties],
        peak_bytes=[one["peak_bytes"] for one in parties],
        sent_bytes=sent,
        among_bytes=sent,
        rounds=max(one["rounds"] for one in parties),
        compile_s=compile_s,
        share_s=0.0,
        versions={"mp-spdz": version or "unknown"},
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("job")
    parser.add_argument("out", type=Path)
    parser.add_argument("--party", type=int)
    given = parser.parse_args()
    if given.party is None:
        coordinate(given.checkout, given.job, given.out)
    else:
        party(given.checkout, given.out, given.party)


if __name__ == "__main__":
    main()
