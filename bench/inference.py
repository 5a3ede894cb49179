"""Private inference between real processes over mutual TLS: median seconds, rounds, bytes, memory and its forecast.

    python bench/inference.py

The machine decides the seconds; rounds and bytes are exact and the same everywhere.
"""

import time
import warnings
from statistics import median

import torch

import moiety
from moiety.models import minilm

RUNS = 9


def measure(name: str, model: torch.nn.Module, inputs: tuple, public: tuple[str, ...] = ()) -> None:
    """Deploy on fresh parties, run once for the caches, then take the median."""
    with moiety.local(parties=3) as federation:
        start = time.perf_counter()
        private = federation.deploy(model, inputs, public=public)
        deployed = time.perf_counter() - start
        private(*inputs)
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            private(*inputs)
            seconds.append(time.perf_counter() - start)
        cost = private.cost
    peak, forecast = (cost.peak_memory_bytes or 0) / 1e6, max(cost.forecast_bytes.values()) / 1e6
    print(f"{name}: deploy {deployed:.1f} s, run {median(seconds):.3f} s, {cost.rounds} rounds, {cost.payload_bytes / 1e6:.1f} MB payload")
    print(f"  largest party process {peak:.0f} MB, forecast {forecast:.0f} MB")


def main() -> None:
    """An MLP and MiniLM."""
    warnings.simplefilter("ignore")
    mlp = torch.nn.Sequential(torch.nn.Linear(768, 3072), torch.nn.GELU(), torch.nn.Linear(3072, 768)).eval()
    measure("MLP 768-3072-768, 32 rows", mlp, (torch.randn(32, 768),))
    tokenizer, encoder = minilm.load()
    sentence = tokenizer("Who owns the model, the data and the machines?", return_tensors="pt")
    tokens = tuple(sentence[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    measure("all-MiniLM-L6-v2, 13 tokens", encoder, tokens, ("attention_mask", "token_type_ids"))


if __name__ == "__main__":
    main()
