"""Embeddings of sentences by all-MiniLM-L6-v2, as published and between three party processes: the same model, so one may be held
against the other."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from moiety.compile.builder import Options
from moiety.engine.federation import Federation
from moiety.models import calibration, minilm
from moiety.private.pooled import Pooled, compile_encoder, inputs

BATCH: Final = 8
"""Sentences of one length that share a private run."""
CLEAR_BATCH: Final = 128

Tokens = tuple[int, ...]
Vectors = Mapping[Tokens, NDArray[np.float64]]
"""A vector of length one for every sentence."""


class Encoder:
    """MiniLM with its tokenizer. Sentences of one length are embedded together, so none is ever padded."""

    def __init__(self) -> None:
        self.tokenizer, self.model = minilm.load()

    def tokens(self, text: str) -> Tokens:
        """A sentence with its marks of begin and end."""
        return tuple(self.tokenizer(text)["input_ids"])

    def clear(self, sentences: Sequence[Tokens]) -> Vectors:
        """Embeddings in the clear."""
        pooled = Pooled(self.model).eval()
        with torch.no_grad():
            return _embedded(pooled, _by_length(sentences), dict.fromkeys(map(len, sentences), CLEAR_BATCH))

    def private(self, federation: Federation, sentences: Sequence[Tokens], options: Options) -> Vectors:
        """Embeddings by parties that see neither the weights nor the sentences. Raises RangeViolation if a value left its range."""
        groups = _by_length(sentences)
        batches = {length: min(BATCH, len(group)) for length, group in groups.items()}
        compiled = compile_encoder(
            self.model, lengths=list(groups), calibration=lambda length: self._examples(length, batches[length]), options=options
        )
        federation.deploy_plans("minilm", list(compiled.plans.values()), compiled.weights)
        return _embedded(federation.model("minilm"), groups, batches)

    def _examples(self, length: int, batch: int) -> list[torch.Tensor]:
        """Public sentences, ``batch`` at a time; the last ones are joined by the first."""
        rows = calibration.sentences(self.tokenizer, length)
        return [torch.cat([rows[(i + j) % len(rows)] for j in range(batch)]) for i in range(0, len(rows), batch)]


def _by_length(sentences: Sequence[Tokens]) -> dict[int, list[Tokens]]:
    """Different sentences by their number of tokens."""
    groups: dict[int, list[Tokens]] = {}
    for sentence in dict.fromkeys(sentences):
        groups.setdefault(len(sentence), []).append(sentence)
    return groups


def _embedded(model: Any, groups: Mapping[int, Sequence[Tokens]], batches: Mapping[int, int]) -> Vectors:
    """Run the model on batches of equal size; a last one that is short is filled up with its first sentence."""
    out: dict[Tokens, NDArray[np.float64]] = {}
    for length, group in groups.items():
        size = min(batches[length], len(group))
        for first in range(0, len(group), size):
            batch = [*group[first : first + size]]
            filled = batch + batch[:1] * (size - len(batch))
            vectors = np.asarray(model(*inputs(torch.tensor(filled))), np.float64)
            out.update(zip(batch, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=False))
    return out
