"""moiety's side of a measurement: three parties as processes, mutual TLS, the default mode of ``Federation.deploy``.

    python -m moiety.bench.ours JOB OUT

The times of runs are the data owner's, from its floats to its floats: encoding, sharing the inputs, the run, opening the answer. One
more run of a module, or several, are traced, for the time from shares to shares (``interval``), which is what peers can be held
against; the first of them, in which tracing itself begins, does not count.
Compiling (ranges measured on public examples included) and sharing the weights are timed apart.
"""

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
import numpy as np
import torch

import moiety
from moiety.bench import interval, jobs, material
from moiety.bench.sides import Measured
from moiety.bench.workloads import DECODE, MODULE, PROMPT, WORKLOADS, Workload
from moiety.compile import decoder, signature
from moiety.compile.builder import Options
from moiety.compile.model import Compiled, compile_model
from moiety.compile.plan import Plan
from moiety.engine.deployed import Private
from moiety.engine.federation import Federation
from moiety.models import calibration
from moiety.mpc.rounds import Role

NAME: Final = "measured"


def main(folder: str, out: str) -> None:
    """Measure one job."""
    warnings.simplefilter("ignore")
    job = jobs.read(Path(folder))
    workload = WORKLOADS[job.workload]
    torch.export.export(torch.nn.Identity(), (torch.zeros(1),))  # loads PyTorch's exporter, as peers load their libraries, on no clock
    with moiety.local(parties=3) as federation, torch.no_grad():
        measured, output = (_module if workload.kind == MODULE else _decoder)(federation, workload, job)
    np.save(Path(out) / "output.npy", output)
    sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")


def _module(federation: Federation, workload: Workload, job: jobs.Job) -> tuple[Measured, np.ndarray[Any, Any]]:
    module = material.module(workload)
    began = time.perf_counter()
    federation.expect(NAME, module)
    compiled = _compiled_module(workload, module)
    compile_s = time.perf_counter() - began
    private, share_s = _deployed(federation, [compiled.plan], compiled.weights)
    asked = material.inputs(workload, material.ASKED)
    walls, answers = _times(job.runs, lambda: private(*asked))
    measured = _measured(private, walls, compile_s, share_s)
    traced = [interval.seconds(private.trace(*asked)) for _ in range(1 + job.counted)][1:]
    return msgspec.structs.replace(measured, between_s=median(traced)), np.asarray(answers[-1])


def _decoder(federation: Federation, workload: Workload, job: jobs.Job) -> tuple[Measured, np.ndarray[Any, Any]]:
    """A prompt, or a fixed text token by token behind one: the times do not depend on which tokens."""
    tokenizer, model = workload.make()
    began = time.perf_counter()
    federation.expect(NAME, model)
    compiled = _compiled_decoder(tokenizer, model)
    compile_s = time.perf_counter() - began
    private, share_s = _deployed(federation, [*compiled.prefill.values(), *compiled.steps.values()], compiled.weights)
    tokens = material.tokens(workload, tokenizer)
    first = tokens[:, :PROMPT]
    prompt = compiled.prefill[PROMPT]
    if workload.kind != DECODE:
        walls, answers = _times(job.runs, lambda: _run(private, prompt, first))
        return _measured(private, walls, compile_s, share_s), answers[-1]
    _run(private, prompt, first)
    step, places = compiled.steps[decoder.BUCKET], iter(range(PROMPT, PROMPT + job.runs))
    walls, answers = _times(job.runs, lambda: _step(private, step, tokens, next(places)))
    return _measured(private, walls, compile_s, share_s), np.concatenate(answers)


def compiled(workload: Workload) -> tuple[list[Plan], Mapping[str, Any]]:
    """The plans that a measurement runs, in their order, and their weights."""
    if workload.kind == MODULE:
        found = _compiled_module(workload, material.module(workload))
        return [found.plan], found.weights
    both = _compiled_decoder(*workload.make())
    steps = [both.steps[decoder.BUCKET]] if workload.kind == DECODE else []
    return [both.prefill[PROMPT], *steps], both.weights


def _compiled_module(workload: Workload, module: Any) -> Compiled:
    options = Options(check_ranges=True, **workload.options)
    return compile_model(module, material.inputs(workload, material.EXAMPLE), options=options)


def _compiled_decoder(tokenizer: Any, model: Any) -> decoder.CompiledDecoder:
    examples, options = calibration.chats(tokenizer), Options(check_ranges=True)
    return decoder.compile_decoder(model, prompt_lengths=[PROMPT], context=decoder.BUCKET, calibration=examples, options=options)


def _deployed(federation: Federation, plans: Sequence[Plan], weights: Mapping[str, Any]) -> tuple[Private, float]:
    """As ``Federation.deploy`` does it, timed apart from compiling; meanwhile the parties have set memory aside, as they do there."""
    began = time.perf_counter()
    federation.deploy_plans(NAME, plans, weights)
    share_s = time.perf_counter() - began
    return federation.model(NAME), share_s


def _run(private: Private, plan: Plan, tokens: torch.Tensor, position: int | None = None) -> np.ndarray[Any, Any]:
    result = private.run(plan, signature.encode_inputs(plan, (tokens.numpy(),), {}), position=position)
    return np.asarray(signature.decode_outputs(plan, result.outputs, bool(result.flag))).reshape(1, -1)


def _step(private: Private, plan: Plan, tokens: torch.Tensor, position: int) -> np.ndarray[Any, Any]:
    return _run(private, plan, tokens[:, position : position + 1], position)


def _times(runs: int, call: Callable[[], Any]) -> tuple[list[float], list[Any]]:
    walls, answers = [], []
    for _ in range(runs):
        began = time.perf_counter()
        answers.append(call())
        walls.append(time.perf_counter() - began)
    return walls, answers


def _measured(private: Private, walls: Sequence[float], compile_s: float, share_s: float) -> Measured:
    report = private.report
    assert report is not None, "it has run"
    parties = [report.of(role) for role in ("P0", "P1", "P2")]
    return Measured(
        walls=tuple(walls),
        cpu_s=tuple(one.cpu_s for one in parties),
        peak_bytes=tuple(one.peak_memory_bytes for one in parties),
        sent_bytes=report.payload_bytes,
        among_bytes=sum(
            traffic.payload_bytes
            for one in parties
            for link, traffic in one.links.items()
            if link.startswith(f"{one.role}->") and not link.endswith(Role.CLIENT.name)
        ),
        rounds=parties[1].rounds,
        compile_s=compile_s,
        share_s=share_s,
        versions={"moiety": moiety.__version__, "torch": str(torch.__version__), "numpy": np.__version__, **parties[1].kernels},
        # received, for what is sent may still lie in a queue
        wire_bytes=sum(received for one in report.members for _, received in one.wire.values()),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
