"""Evaluate a job with CrypTen: two parties, each a process with one thread, gloo over loopback. Runs in CrypTen's own environment.

    python run_crypten.py JOB OUT                  starts both parties; prints one line of JSON
    python run_crypten.py JOB OUT --party RANK     one of them, started by the former

All inputs and weights are secret. Two parties are CrypTen's fastest form, with its default dealer, which is party 0 itself: it knows
every triple. Bytes and rounds are CrypTen's own counters. What it has no function for (GeLU, norms) is written from its primitives.
"""

import argparse
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import crypten
import numpy as np
import torch
from crypten import communicator
from job import Job, answer, peak_bytes
from networks import evaluate
from together import run_all

PARTIES = 2


class CrypTen:
    """Operations of encrypted tensors."""

    def gelu(self, x: Any, form: str) -> Any:
        if form == "tanh":
            return x * ((x + x * x * x * 0.044715) * (2 / torch.pi) ** 0.5).tanh().add(1) * 0.5
        return x * ((x * 0.5**0.5).erf() + 1) * 0.5

    def silu(self, x: Any) -> Any:
        return x * x.sigmoid()

    def relu(self, x: Any) -> Any:
        return x.relu()

    def softmax(self, x: Any) -> Any:
        return x.softmax(-1)

    def argmax(self, x: Any) -> Any:
        return x.argmax(dim=-1, one_hot=True)

    def mean(self, x: Any) -> Any:
        return x.mean(-1, keepdim=True)

    def rsqrt(self, x: Any) -> Any:
        return x.inv_sqrt()

    def swap(self, x: Any, one: int, other: int) -> Any:
        return x.transpose(one, other)

    def join(self, parts: list[Any], axis: int) -> Any:
        return crypten.cat(parts, dim=axis)

    def public(self, array: Any) -> Any:
        return torch.from_numpy(array)


def secret(array: Any) -> Any:
    return crypten.cryptensor(torch.from_numpy(np.array(array)), src=0)


def everybody(link: Any, value: int) -> list[int]:
    """One number of each party, at every party."""
    return [int(one) for one in link.all_gather(torch.tensor([value]))]


def party(folder: str, out: str) -> None:
    torch.set_num_threads(1)
    crypten.init()
    crypten.cfg.communicator.verbose = True  # else nothing is counted
    job, ops = Job(folder), CrypTen()
    began = time.perf_counter()
    weights = {name: secret(array) for name, array in job.weights().items()}
    inputs = [secret(array) for array in job.inputs()]
    share_s = time.perf_counter() - began
    link, walls, cpu_ns, sent, rounds, result = communicator.get(), [], 0, 0, 0, None
    with torch.no_grad():
        for _ in range(job.runs):
            link.barrier()
            link.reset_communication_stats()
            began, before = time.perf_counter(), time.process_time_ns()
            result = evaluate(ops, job.family, job.settings, weights, inputs)
            walls.append(time.perf_counter() - began)
            cpu_ns, sent, rounds = time.process_time_ns() - before, link.comm_bytes, link.comm_rounds
    opened: Any = result.get_plain_text() if result is not None else None
    cpu, all_sent, peaks = (everybody(link, value) for value in (cpu_ns, sent, peak_bytes()))
    if link.get_rank() == 0:
        answer(
            out,
            opened.argmax(-1).numpy() if job.family == "argmax" else opened.numpy(),
            walls=walls,
            cpu_s=[one / 1e9 for one in cpu],
            peak_bytes=peaks,
            sent_bytes=sum(all_sent),
            among_bytes=sum(all_sent),
            rounds=rounds,
            compile_s=0.0,
            share_s=share_s,
            versions={"crypten": crypten.__version__, "torch": torch.__version__, "numpy": np.__version__},
        )


def start(out: Path) -> None:
    """Both parties; what the first prints is the answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(PARTIES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RENDEZVOUS": "env://"}
    place |= {"DISTRIBUTED_BACKEND": "gloo", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    commands = [[sys.executable, *sys.argv, "--party", str(rank)] for rank in range(PARTIES)]
    run_all(commands, out, [place | {"RANK": str(rank)} for rank in range(PARTIES)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("out", type=Path)
    parser.add_argument("--party", type=int)
    given = parser.parse_args()
    if given.party is None:
        start(given.out)
        return
    party(given.job, str(given.out))
    sys.stdout.flush()
    os._exit(0)  # its own exit often aborts: "terminate called without an active exception"


if __name__ == "__main__":
    main()
