"""One token from a model of LLaMA-7B's shape, between three parties that keep few of its weights: seconds, bytes, memory of all processes.

    python benchmarks/llama7b.py [--layers 32] [--memory 2GiB] [--folder DIR] [--held]

32 layers of width 4096, 11008 inside, 32 heads, 32,000 tokens: 6.7 billion random weights in bf16, which are written to a folder once
(13.5 GB; removed afterwards unless --folder names one) and mapped into memory, never loaded. Parties are processes with mutual TLS. The
run's time includes streaming the shares of every weight: 54 GB to P1 and 54 GB to P2. With --held the owner runs P1, which is told integers
of 2 or 4 bytes instead.
"""

import argparse
import functools
import json
import math
import tempfile
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import moiety
from moiety.compile import decoder, forecast, signature
from moiety.engine.limits import in_bytes
from moiety.engine.session import Deadlines

PROMPT = 8
NAME = "llama7b"


def config(layers: int, width: int) -> LlamaConfig:
    """LLaMA-7B's, with fewer layers if asked for; ``width`` 4096 is the real one."""
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        dtype="bfloat16",
        attn_implementation="sdpa",
    )


def write(folder: Path, model: LlamaForCausalLM) -> None:
    """Random weights for every parameter of a model without any, a file for each layer."""
    shards: dict[str, dict[str, torch.Size]] = {}
    for name, tensor in model.state_dict().items():
        shards.setdefault(name.split(".")[2] if ".layers." in name else "rest", {})[name] = tensor.shape
    for shard, shapes in shards.items():
        file = folder / f"{shard}.safetensors"
        if not file.exists():
            save_file({name: drawn(name, shape) for name, shape in shapes.items()}, file)


@functools.cache
def noise() -> torch.Tensor:
    """As spread as the weights of the real model. A prime number of them, so that no two rows of a matrix begin alike."""
    return (0.02 * torch.randn(4_194_301, generator=torch.Generator().manual_seed(0))).bfloat16()


def drawn(name: str, shape: torch.Size) -> torch.Tensor:
    """The same numbers for the same name: the noise over and over, from a place of its own on."""
    out = torch.ones(shape, dtype=torch.bfloat16) if "norm" in name else torch.zeros(shape, dtype=torch.bfloat16)
    flat, start = out.view(-1), zlib.crc32(name.encode()) % len(noise())
    pool = noise().roll(start)
    for begin in range(0, len(flat), len(pool)):
        part = flat[begin : begin + len(pool)]
        part += pool[: len(part)]
    return out


def mapped(folder: Path, layers: int, width: int) -> LlamaForCausalLM:
    """The model with its weights where they lie on the disk."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config(layers, width)).eval()
    write(folder, model)
    weights = {key: tensor for file in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(file).items()}
    model.load_state_dict(weights, assign=True, strict=False)
    assert not any(parameter.is_meta for parameter in model.parameters()), "a weight is missing"
    model.model.rotary_emb = LlamaRotaryEmbedding(model.config)
    return model


class Memory:
    """The most that this process and its children held together, by resident set; ``own`` leaves out pages of files, which are the
    mapped weights: the system takes those back when it likes."""

    def __init__(self) -> None:
        self.most, self.own, self._over = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            mine = psutil.Process()
            resident = own = 0
            for process in (mine, *mine.children(recursive=True)):
                try:
                    found = process.memory_info()
                except psutil.Error:
                    continue
                resident, own = resident + found.rss, own + found.rss - found.shared
            self.most, self.own = max(self.most, resident), max(self.own, own)


class Clock:
    """Seconds, and CPU-seconds of this process and of every party, within a block."""

    def __init__(self) -> None:
        self.seconds, self.cpu = 0.0, dict[str, float]()

    def __enter__(self) -> "Clock":
        self._before, self._start = _cpu(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = round(time.perf_counter() - self._start, 2)
        self.cpu = {name: round(seconds - self._before[name], 2) for name, seconds in _cpu().items()}


def _cpu() -> dict[str, float]:
    mine = psutil.Process()
    parties = sorted(mine.children(), key=lambda child: child.pid)
    return {name: sum(process.cpu_times()[:2]) for name, process in zip(("owner", "p0", "p1", "p2"), (mine, *parties), strict=False)}


def measure(folder: Path, layers: int, width: int, memory: int, held_by: str | None = None) -> dict[str, Any]:
    """Compile, deploy, run once; the figures."""
    figures: dict[str, Any] = {"layers": layers, "memory_limit": memory, "held_by": held_by}
    model = mapped(folder, layers, width)
    figures["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    tokens = torch.randint(0, 32000, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    deadlines = Deadlines(wave_s=600, result_s=1800, stall_s=600)
    with Memory() as watched, moiety.local(parties=3, deadlines=deadlines) as federation:
        with Clock() as compiling:
            ranges = decoder.measure(model, [tokens])
            compiled = decoder.draft_prefill(model, PROMPT, ranges, reveal="token").compiled().held(held_by)
        plan = compiled.plan
        figures["rounds"], figures["weights_bytes"] = len(plan.waves), sum(8 * math.prod(w.shape) for w in plan.weights)
        apart = forecast.to_stream([plan], memory)
        figures["forecast_peak_bytes"] = {role.name: size for role, size in forecast.peak_bytes(plan, apart).items()}
        with Clock() as deploying:
            federation.deploy_plans(NAME, [plan], compiled.weights, memory=memory)
        private = federation.model(NAME)
        with Clock() as running:
            result = private.run(plan, signature.encode_inputs(plan, (tokens,), {}))
        for name, clock in (("compile", compiling), ("deploy", deploying), ("run", running)):
            figures |= {f"{name}_s": clock.seconds, f"{name}_cpu_s": clock.cpu}
        figures["token"] = int(signature.decode_outputs(plan, result.outputs, False).reshape(-1)[0])
        with torch.no_grad():
            logits = model(tokens).logits[0, -1].float()
        figures["float_token"], figures["margin"] = int(logits.argmax()), float(logits.topk(2).values.diff().abs())
        figures["payload_bytes"] = result.report.payload_bytes
        figures["streamed_bytes"] = {m.name: m.streamed_bytes for m in result.report.members}
        figures["party_peak_bytes"] = {m.name: m.peak_memory_bytes for m in result.report.members}
        figures["waiting_s"] = {m.name: round(m.waiting_s, 1) for m in result.report.members}
    figures["all_processes_peak_bytes"], figures["of_that_no_files"] = watched.most, watched.own
    return figures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--memory", default="2GiB", help="what each party may take")
    parser.add_argument("--folder", type=Path, help="where the weights are written, and kept")
    parser.add_argument("--held", action="store_true", help="the owner runs P1, which knows the matrices of linear layers")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="llama7b-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(folder, given.layers, given.width, in_bytes(given.memory), "P1" if given.held else None), indent=2))


if __name__ == "__main__":
    main()
