"""Sentences in private and in the clear: how alike two are, and whether one is kind."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from counted import deploy
from scipy.stats import spearmanr

from moiety.claims.tasks import sst2, sts_pairs
from moiety.cli import models
from moiety.compile import signature
from moiety.compile.builder import Options
from moiety.engine.federation import Federation
from moiety.private.embed import embed, normalised
from moiety.private.pooled import Pooled, compile_encoder, inputs

PAIRS = 100
LONGEST = 32
SPEARMAN, COSINE = 0.01, 0.01
TRAINING, REVIEWS, ACCURACY = 3000, 200, 0.01


def minilm(owner: Federation, client: Federation) -> dict[str, Any]:
    known, began = models.known("minilm"), time.perf_counter()
    tokenizer, model = known.load()
    read = [(score, known.tokens(tokenizer, a), known.tokens(tokenizer, b)) for score, a, b in sts_pairs()]
    fitting = [row for row in read if max(len(row[1]), len(row[2])) <= LONGEST]
    chosen = fitting[:: len(fitting) // PAIRS][:PAIRS]
    lengths = sorted({len(ids) for _, *both in chosen for ids in both})
    options = Options(margin=known.margin)
    compiled = compile_encoder(model, lengths=lengths, calibration=lambda length: known.calibration(tokenizer, length), options=options)
    compiling = time.perf_counter() - began
    counted, sharing = deploy(owner, client, "minilm", list(compiled.plans.values()), compiled.weights)
    gold = [score for score, *_ in chosen]
    private, clear, vector_error, seconds = [], [], 0.0, []
    for _, *both in chosen:
        embeddings = [embed(counted, ids) for ids in both]  # type: ignore[arg-type]
        with torch.no_grad():
            plain = [normalised(Pooled(model)(*inputs(torch.tensor([ids])))[0].numpy()) for ids in both]
        private.append(float(embeddings[0].vector @ embeddings[1].vector))
        clear.append(float(plain[0] @ plain[1]))
        vector_error = max(vector_error, *(1 - float(e.vector @ p) for e, p in zip(embeddings, plain, strict=True)))
        seconds += [e.report.seconds for e in embeddings]
    ours, theirs = float(spearmanr(private, gold).statistic), float(spearmanr(clear, gold).statistic)
    error = float(np.abs(np.array(private) - np.array(clear)).max())
    return {
        "points": {
            "spearman_within_0.01": abs(ours - theirs) <= SPEARMAN,
            "cosine_error_at_most_0.01": error <= COSINE,
            "counters_equal_plan": not counted.differences,
        },
        "pairs": len(chosen),
        "of_pairs_up_to_tokens": LONGEST,
        "spearman": ours,
        "spearman_in_the_clear": theirs,
        "largest_cosine_error": error,
        "largest_vector_error": vector_error,
        "median_seconds": round(float(np.median(seconds)), 3),
        "compile_seconds": round(compiling, 1),
        "share_seconds": round(sharing, 1),
        "traffic": counted.summary(),
    }


def padded(tokens: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sentences of different lengths as one batch, with the mask that says where they end."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(sentence) for sentence in tokens], batch_first=True)
    ends = torch.tensor([[len(sentence)] for sentence in tokens])
    return ids, (torch.arange(ids.shape[1]) < ends).long(), torch.zeros_like(ids)


def trained(model: torch.nn.Module, tokens: Sequence[list[int]], labels: torch.Tensor) -> torch.nn.Linear:
    """A logistic regression on the embeddings, in the clear, by the model's owner."""
    with torch.no_grad():
        x = torch.cat([Pooled(model)(*padded(tokens[begin : begin + 64])) for begin in range(0, len(tokens), 64)])
    head = torch.nn.Linear(x.shape[1], 2)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(head(x), labels) + 1e-3 * head.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return head


def sentiment(owner: Federation, client: Federation) -> dict[str, Any]:
    """Accuracy on sentences that the head has not seen, against the same model in the clear. Only the head's two numbers are revealed."""
    known, began = models.known("minilm"), time.perf_counter()
    tokenizer, model = known.load()
    train, dev = sst2("train"), sst2("dev")
    train = train[:: len(train) // TRAINING][:TRAINING]
    head = trained(model, [known.tokens(tokenizer, row.text) for row in train], torch.tensor([int(row.positive) for row in train]))
    fitting = [(ids, int(row.positive)) for row in dev if len(ids := known.tokens(tokenizer, row.text)) <= LONGEST]
    chosen = fitting[:: len(fitting) // REVIEWS][:REVIEWS]
    options = Options(margin=known.margin)
    compiled = compile_encoder(
        model,
        head=head,
        lengths=sorted({len(ids) for ids, _ in chosen}),
        calibration=lambda length: known.calibration(tokenizer, length),
        options=options,
    )
    counted, sharing = deploy(owner, client, "minilm", list(compiled.plans.values()), compiled.weights)
    preparing = time.perf_counter() - began - sharing
    judged, private, clear = Pooled(model, head), [], []
    for ids, _ in chosen:
        plan, given = compiled.plans[len(ids)], inputs(torch.tensor([ids]))
        result = counted.run(plan, signature.encode_inputs(plan, given, {}))
        private.append(signature.decode_outputs(plan, result.outputs, bool(result.flag), tensors=True)[0])
        with torch.no_grad():
            clear.append(judged(*given)[0])
    labels = np.array([label for _, label in chosen])
    ours, theirs = (float((torch.stack(logits).argmax(1).numpy() == labels).mean()) for logits in (private, clear))
    return {
        "points": {"accuracy_within_1_point": abs(ours - theirs) <= ACCURACY, "counters_equal_plan": not counted.differences},
        "sentences": len(chosen),
        "of_sentences_up_to_tokens": LONGEST,
        "accuracy": ours,
        "accuracy_in_the_clear": theirs,
        "largest_logit_error": float((torch.stack(private) - torch.stack(clear)).abs().max()),
        "prepare_seconds": round(preparing, 1),
        "share_seconds": round(sharing, 1),
        "traffic": counted.summary(),
    }
