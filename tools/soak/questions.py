"""What is deployed, and the questions with their right answers: every client has its own, so that a mixed-up one is a wrong one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SCORE, READ, TELL = "score", "read", "tell"
TOLERANCE = {SCORE: 0.01, READ: 0.03, TELL: 0.05}
QUESTIONS = 4  # of each model, for each client
PROMPT, TOKENS, VOCABULARY, CANDIDATES = 6, 5, 61, 400
MARGIN = 0.2
"""By how much the likeliest token of an expected answer leads, in logits: then rounding does not choose another."""


@dataclass(frozen=True)
class Built:
    """Compiled models by name: plans and weights."""

    plans: dict[str, list[Any]]
    weights: dict[str, dict[str, Any]]


def build(clients: int, folder: Path) -> Built:
    """Compile three models with random weights and write the clients' questions and answers to ``folder``."""
    import torch
    import transformers

    from moiety.compile.builder import Options
    from moiety.compile.decoder import compile_decoder
    from moiety.compile.model import compile_model

    torch.manual_seed(0)
    torch.set_num_threads(1)  # tiny models: more threads only wait for each other
    nn = torch.nn
    score = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 4)).eval()
    read = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True).eval()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape = transformers.LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.25, eos_token_id=None, **sizes)
    tell = transformers.LlamaForCausalLM(shape).eval()
    examples = [torch.randint(VOCABULARY, (1, PROMPT + TOKENS)) for _ in range(16)]
    decoder = compile_decoder(tell, prompt_lengths=[PROMPT], context=PROMPT + TOKENS, calibration=examples)
    plain = {SCORE: (score, (8, 32)), READ: (read, (1, 6, 32))}
    compiled = {name: compile_model(model, (torch.randn(*size),), options=Options(margin=2.0)) for name, (model, size) in plain.items()}
    with torch.inference_mode():
        told = _told(tell, QUESTIONS * clients)
        for client in range(clients):
            made = {name: [_asked(*one) for _ in range(QUESTIONS)] for name, one in plain.items()}
            _write(folder / f"{client}.npz", made, told[client::clients])
    plans = {name: [one.plan] for name, one in compiled.items()} | {TELL: [*decoder.prefill.values(), *decoder.steps.values()]}
    return Built(plans, {name: one.weights for name, one in compiled.items()} | {TELL: decoder.weights})


def _asked(model: Any, size: tuple[int, ...]) -> tuple[Any, Any]:
    import torch

    x = torch.randn(*size).clamp(-2.5, 2.5)
    return x.numpy(), model(x).numpy()


def _told(model: Any, count: int) -> list[tuple[Any, Any]]:
    """Prompts whose greedy answers have no near ties, and the logits at every token of them."""
    import torch

    tokens, logits = torch.randint(VOCABULARY, (CANDIDATES, PROMPT)), []
    for _ in range(TOKENS):
        logits.append(model(tokens).logits[:, -1])
        tokens = torch.cat([tokens, logits[-1].argmax(-1, keepdim=True)], dim=1)
    told = torch.stack(logits, dim=1)
    first, second = told.topk(2).values.unbind(-1)
    clear = (first - second).amin(-1).topk(count)
    if clear.values[-1] < MARGIN:
        raise RuntimeError(f"fewer than {count} of {CANDIDATES} prompts have answers without near ties")
    return [(tokens[i, :PROMPT].numpy(), told[i].numpy()) for i in clear.indices.tolist()]


def _write(path: Path, asked: dict[str, list[tuple[Any, Any]]], told: list[tuple[Any, Any]]) -> None:
    arrays = {}
    for name, pairs in {**asked, TELL: told}.items():
        arrays[f"{name} in"], arrays[f"{name} out"] = (np.stack(side) for side in zip(*pairs, strict=True))
    np.savez(path, **arrays)
