"""The floor: the same module in the clear, PyTorch in float32 on one thread.

python -m moiety.bench.plain JOB OUT
"""

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from moiety.bench import jobs, material
from moiety.bench.sides import Measured
from moiety.bench.workloads import DECODE, MODULE, PROMPT, WORKLOADS, Workload
from moiety.engine.report import peak_memory_bytes


def main(folder: str, out: str) -> None:
    """Measure one job."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    job = jobs.read(Path(folder))
    workload = WORKLOADS[job.workload]
    with torch.no_grad():
        walls, output, spent = (_module if workload.kind == MODULE else _decoder)(workload, job.runs)
    np.save(Path(out) / "output.npy", output.numpy())
    versions = {"torch": str(torch.__version__)}
    measured = Measured(tuple(walls), (spent,), (peak_memory_bytes(),), 0, 0, 0, 0.0, 0.0, versions)
    sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")


def _module(workload: Workload, runs: int) -> tuple[list[float], torch.Tensor, float]:
    module, asked = material.module(workload), material.inputs(workload, material.ASKED)
    walls, spent, output = [], 0.0, torch.empty(0)
    for _ in range(runs):
        began, before = time.perf_counter(), time.process_time()
        output = module(*asked)
        walls.append(time.perf_counter() - began)
        spent = time.process_time() - before
    return walls, output, spent


def _decoder(workload: Workload, runs: int) -> tuple[list[float], torch.Tensor, float]:
    """The prompt as often as asked, or every token behind it with a cache."""
    tokenizer, model = workload.make()
    tokens = material.tokens(workload, tokenizer)
    if workload.kind != DECODE:
        walls, outputs, spent = [], [], 0.0
        for _ in range(runs):
            wall, spent, found = _timed(model, tokens)
            walls.append(wall)
            outputs = [found.logits]
        return walls, outputs[-1], spent
    cache = model(tokens[:, :PROMPT], use_cache=True).past_key_values
    walls, outputs, spent = [], [], 0.0
    for position in range(PROMPT, tokens.shape[1]):
        wall, spent, found = _timed(model, tokens[:, position : position + 1], cache)
        walls.append(wall)
        outputs.append(found.logits[:, -1])
    return walls, torch.cat(outputs), spent


def _timed(model: Any, tokens: torch.Tensor, cache: Any = None) -> tuple[float, float, Any]:
    began, before = time.perf_counter(), time.process_time()
    found = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - began, time.process_time() - before, found


if __name__ == "__main__":
    main(*sys.argv[1:])
