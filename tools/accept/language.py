"""Text in private and in the clear: greedy tokens, logits, and how surprised the model is by a text."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from counted import Counted, deploy

from moiety.cli import models
from moiety.compile import signature
from moiety.compile.builder import Options
from moiety.compile.decoder import compile_decoder
from moiety.compile.model import compile_model
from moiety.engine.federation import Federation
from moiety.models.files import data_folder
from moiety.private.generate import Token, generate

PROMPTS = (
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "What is 7 plus 5?",
    "Write a sentence about a cat.",
    "How do plants make their food?",
)
NEW_TOKENS = 16
LOGIT_ERROR = 0.1
STORY_TOKENS = 60
TEXT_TOKENS = 256
PERPLEXITY = 0.01


def decoder(
    owner: Federation, client: Federation, name: str, lengths: Sequence[int], context: int
) -> tuple[Counted, Any, Any, dict[str, float]]:
    known, began = models.known(name), time.perf_counter()
    tokenizer, model = known.load()
    compiled = compile_decoder(
        model,
        prompt_lengths=lengths,
        context=context,
        calibration=known.calibration(tokenizer),
        options=Options(margin=known.margin),
    )
    compiling = time.perf_counter() - began
    plans = [*compiled.prefill.values(), *compiled.steps.values()]
    counted, sharing = deploy(owner, client, name, plans, compiled.weights)
    return counted, tokenizer, model, {"compile_seconds": round(compiling, 1), "share_seconds": round(sharing, 1)}


def answer(counted: Counted, model: Any, prompt: list[int], count: int) -> dict[str, Any]:
    """Private greedy tokens beside those in the clear; the logits of both for the same text, up to the first difference."""
    found: list[Token] = list(generate(counted, prompt, max_new_tokens=count, end=()))
    ids = [token.id for token in found]
    with torch.no_grad():
        given = torch.tensor([prompt])
        mask = torch.ones_like(given)  # else generate takes the prompt's end-of-turn marks for padding
        wanted = model.generate(given, attention_mask=mask, max_new_tokens=count, do_sample=False, eos_token_id=None)
        clear = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].numpy()
    plain = wanted[0, len(prompt) :].tolist()
    same = next((i for i, (a, b) in enumerate(zip(ids, plain, strict=True)) if a != b), count)
    errors = [float(np.abs(token.logits - clear[i]).max()) for i, token in enumerate(found) if token.logits is not None]
    gap = float(clear[same][plain[same]] - clear[same][ids[same]]) if same < count else None
    return {
        "prompt_tokens": len(prompt),
        "tokens": ids,
        "clear_tokens": plain,
        "equal_tokens": same,
        "gap_at_difference": gap,
        "largest_logit_error": max(errors),
        "explained": gap is None or 0 <= gap < max(errors),
        "seconds": round(sum(token.seconds for token in found), 2),
        "seconds_to_first_token": round(found[0].seconds, 2),
    }


def smollm2(owner: Federation, client: Federation) -> dict[str, Any]:
    known = models.known("smollm2")
    reader = known.tokenizer()
    prompts = [known.tokens(reader, prompt) for prompt in PROMPTS]
    lengths = sorted({len(prompt) for prompt in prompts})[::2]
    counted, tokenizer, model, times = decoder(owner, client, "smollm2", lengths, max(map(len, prompts)) + NEW_TOKENS)
    answers = []
    for text, prompt in zip(PROMPTS, prompts, strict=True):
        found = answer(counted, model, prompt, NEW_TOKENS)
        answers.append({"prompt": text, "text": tokenizer.decode(found["tokens"]), **found})
    error = max(found["largest_logit_error"] for found in answers)
    return {
        "points": {
            "tokens_equal_or_explained": all(found["explained"] for found in answers),
            "logit_error_at_most_0.1": error <= LOGIT_ERROR,
            "counters_equal_plan": not counted.differences,
        },
        "equal_tokens": f"{sum(found['equal_tokens'] for found in answers)} of {NEW_TOKENS * len(PROMPTS)}",
        "largest_logit_error": error,
        "prefill_lengths": lengths,
        **times,
        "answers": answers,
        "traffic": counted.summary(),
    }


def stories(owner: Federation, client: Federation) -> dict[str, Any]:
    known = models.known("stories")
    prompt = known.tokens(known.tokenizer(), "Once upon a time")
    counted, tokenizer, model, times = decoder(owner, client, "stories", [len(prompt)], len(prompt) + STORY_TOKENS)
    found = answer(counted, model, prompt, STORY_TOKENS)
    return {
        "points": {"tokens_equal": found["equal_tokens"] == STORY_TOKENS, "counters_equal_plan": not counted.differences},
        "equal_tokens": f"{found['equal_tokens']} of {STORY_TOKENS}",
        "largest_logit_error": found["largest_logit_error"],
        **times,
        "text": tokenizer.decode(found["tokens"]),
        "answer": found,
        "traffic": counted.summary(),
    }


def text(tokenizer: Any, part: str, begin: int, count: int) -> torch.Tensor:
    """Tokens (1, count) of WikiText-2, from its token ``begin`` on."""
    words = (data_folder() / "text" / f"wikitext2-{part}.txt").read_text(encoding="utf-8")[: 12 * (begin + count)]
    return torch.tensor([tokenizer(words)["input_ids"][begin : begin + count]])


def surprise(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    """Mean negative log-likelihood in nats of every token but the first."""
    return float(torch.nn.functional.cross_entropy(logits[0, :-1].double(), tokens[0, 1:]))


def perplexity(owner: Federation, client: Federation) -> dict[str, Any]:
    """One private pass over 256 tokens of text, whose logits at every place go to the data owner."""
    known, began = models.known("smollm2"), time.perf_counter()
    tokenizer, model = known.load()
    tokens = text(tokenizer, "test", 0, TEXT_TOKENS)
    calibration = [(text(tokenizer, "valid", begin, TEXT_TOKENS),) for begin in (0, TEXT_TOKENS)]
    options = Options(margin=known.margin)
    compiled = compile_model(model, calibration[0], calibration=calibration, options=options)
    compiling = time.perf_counter() - began
    counted, sharing = deploy(owner, client, "smollm2", [compiled.plan], compiled.weights)
    result = counted.run(compiled.plan, signature.encode_inputs(compiled.plan, (tokens,), {}))
    private = signature.decode_outputs(compiled.plan, result.outputs, bool(result.flag), tensors=True)["logits"]
    with torch.no_grad():
        clear = model(tokens).logits
    ours, theirs = (math.exp(surprise(logits, tokens)) for logits in (private, clear))
    return {
        "points": {"perplexity_ratio_within_0.01": abs(ours / theirs - 1) <= PERPLEXITY, "counters_equal_plan": not counted.differences},
        "text": f"WikiText-2 test, tokens 0 to {TEXT_TOKENS}",
        "perplexity": ours,
        "perplexity_in_the_clear": theirs,
        "largest_logit_error": float((private - clear).abs().max()),
        "compile_seconds": round(compiling, 1),
        "share_seconds": round(sharing, 1),
        "traffic": counted.summary(),
    }
