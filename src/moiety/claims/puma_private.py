"""PUMA between party processes, and as plans: what its claim says of whole models, of embedding and LayerNorm, and of GeLU's cost."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import torch

import moiety
from moiety.claims.registry import Row
from moiety.claims.sentences import Encoder, Tokens, Vectors
from moiety.claims.tasks import Labelled, Pair, fit_head, spearman
from moiety.compile.builder import Options
from moiety.compile.model import compile_model
from moiety.compile.plan import Plan
from moiety.engine.federation import Federation

WITHIN: Final = 0.01
"""Of the metric in the clear."""
SAME: Final = 1e-3
"""The largest difference at which a layer gives the result of plaintext: a unit of what its values are encoded in is 6e-5."""
MARGIN: Final = 2.0
ELEMENTS: Final = 4096
LONGEST: Final = 32
PAIRS, TRAINED, JUDGED = 100, 3000, 200
QUICK_TOKENS, QUICK_PAIRS = 9, 24

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Texts:
    """Pairs of STS-B; sentences of SST-2 to fit a head to, and others to judge it by."""

    pairs: Sequence[Pair]
    train: Sequence[Labelled]
    judged: Sequence[Labelled]


def rows(texts: Texts, quick: bool) -> Iterator[Row]:
    """All rows that need PyTorch; ``quick``: of whole models only the correlation, on pairs of one length."""
    yield from gelu_costs()
    encoder = Encoder()
    with moiety.local(parties=3) as federation:
        yield from layers(federation, encoder)
        yield from tasks(federation, encoder, chosen(encoder, texts, quick))


def chosen(encoder: Encoder, texts: Texts, quick: bool) -> Texts:
    """Pairs and sentences of few enough tokens, evenly spread over all of them."""

    def count(text: str) -> int:
        return len(encoder.tokens(text))

    if quick:
        alike = [pair for pair in texts.pairs if count(pair.first) == count(pair.second) == QUICK_TOKENS]
        return Texts(spread(alike, QUICK_PAIRS), (), ())
    pairs = [pair for pair in texts.pairs if max(count(pair.first), count(pair.second)) <= LONGEST]
    judged = [row for row in texts.judged if count(row.text) <= LONGEST]
    return Texts(spread(pairs, PAIRS), spread(texts.train, TRAINED), spread(judged, JUDGED))


def spread(rows: Sequence[T], count: int) -> Sequence[T]:
    """``count`` of them at equal steps."""
    return rows[:: max(1, len(rows) // count)][:count]


class ExponentialGelu(torch.nn.Module):
    """GeLU in its tanh form by one exponential of what is never positive, and one quotient: ``max(x, 0) - |x| e / (1 + e)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Element by element."""
        positive = torch.relu(x)
        size = 2 * positive - x
        e = torch.exp(-2 * math.sqrt(2 / math.pi) * (size + 0.044715 * size**3))
        return positive - size * e / (1 + e)


def gelu_costs() -> Iterator[Row]:
    """PUMA's GeLU beside the exact one by an exponential: bytes and rounds from the plans, less those of giving and receiving.

    Operation by operation, as PUMA's are: the compiler would find out that the other form is one function, too.
    """
    x = torch.linspace(-5, 5, ELEMENTS)[None]
    plain = _costs(torch.nn.Identity(), x, "exact")
    ours, theirs = _costs(torch.nn.GELU(), x, "puma"), _costs(ExponentialGelu(), x, "exact")
    for name, unit, i, per in (("payload", "B an element", 0, ELEMENTS), ("rounds", "rounds", 1, 1)):
        measured, baseline = ((cost[i] - plain[i]) / per for cost in (ours, theirs))
        yield Row(f"GeLU, {name}, by PUMA's polynomials and by an exponential", None, measured, baseline, unit, measured < baseline)


def _costs(module: torch.nn.Module, x: torch.Tensor, variant: str) -> tuple[int, int]:
    options = Options(variants={"gelu": variant}, fuse=False, check_ranges=False)  # the function's own cost
    plan: Plan = compile_model(module.eval(), (x,), calibration=(), options=options).plan
    return sum(map(sum, plan.waves)), len(plan.waves)


def layers(federation: Federation, encoder: Encoder) -> Iterator[Row]:
    """MiniLM's own table of words, and its LayerNorm, between processes."""
    parts = encoder.model.embeddings
    ids = torch.tensor([encoder.tokens("The servers learn neither the words nor the table.")])
    with torch.no_grad():
        words = parts.word_embeddings(ids) + parts.position_embeddings.weight[: ids.shape[1]] + parts.token_type_embeddings.weight[0]
    for name, layer, x in (("embedding of secret words", parts.word_embeddings, ids), ("LayerNorm", parts.LayerNorm, words)):
        private = federation.deploy(layer, (x,), name=name.replace(" ", "-"), variants="puma")
        with torch.no_grad():
            wanted = layer(x)
        error = float((private(x) - wanted).abs().max())
        yield Row(f"{name}, largest difference from plaintext", None, error, 0.0, "", error <= SAME)


def tasks(federation: Federation, encoder: Encoder, texts: Texts) -> Iterator[Row]:
    """MiniLM as published, all its functions PUMA's, against itself in the clear: correlation with people, and accuracy of a head."""
    pairs = [(encoder.tokens(pair.first), encoder.tokens(pair.second)) for pair in texts.pairs]
    judged = [encoder.tokens(row.text) for row in texts.judged]
    wanted = [sentence for pair in pairs for sentence in pair] + judged
    clear = encoder.clear(wanted)
    private = encoder.private(federation, wanted, Options(margin=MARGIN, variants="puma"))
    gold = [pair.score for pair in texts.pairs]
    yield _within("Spearman, STS-B", len(pairs), *(spearman(_cosines(vectors, pairs), gold) for vectors in (private, clear)))
    if judged:
        train = [encoder.tokens(row.text) for row in texts.train]
        head = fit_head(_matrix(encoder.clear(train), train), np.array([row.positive for row in texts.train]))
        labels = np.array([row.positive for row in texts.judged])
        accuracies = (float((head.positive(_matrix(vectors, judged)) == labels).mean()) for vectors in (private, clear))
        yield _within("accuracy, SST-2", len(judged), *accuracies)


def _cosines(vectors: Vectors, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[float]:
    return [float(vectors[a] @ vectors[b]) for a, b in pairs]


def _matrix(vectors: Vectors, sentences: Sequence[Tokens]) -> Any:
    return np.stack([vectors[sentence] for sentence in sentences])


def _within(metric: str, count: int, private: float, clear: float) -> Row:
    quantity = f"MiniLM, {metric}, {count} examples, private and plaintext"
    return Row(quantity, None, private, clear, "", abs(private - clear) <= WITHIN * abs(clear))
