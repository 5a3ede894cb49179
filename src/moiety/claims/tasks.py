"""Texts whose answers people gave: how alike two sentences are (STS-B), what a sentence feels (SST-2); and how to score a model on them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moiety.models.files import data_folder

Reals = NDArray[np.float64]


class Pair(NamedTuple):
    """Two sentences, and how alike people found them, from 0 to 5."""

    score: float
    first: str
    second: str


class Labelled(NamedTuple):
    """A sentence, and whether people found it positive."""

    positive: bool
    text: str


def sts_pairs() -> list[Pair]:
    """The test pairs of STS-B. Raises FileNotFoundError that says what to do."""
    with _text("sts-test.csv").open(encoding="utf-8", newline="") as stream:
        return [Pair(float(row[4]), row[5], row[6]) for row in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)]


def sst2(split: str) -> list[Labelled]:
    """The sentences of SST-2, ``train`` or ``dev``. Raises FileNotFoundError that says what to do."""
    with _text(f"sst2-{split}.tsv").open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)  # the names of the columns
        return [Labelled(label == "1", text) for label, text in rows]


def _text(name: str) -> Path:
    file = data_folder() / "text" / name
    if not file.is_file():
        raise FileNotFoundError(f"no {name} in {file.parent}; put it there, or set MOIETY_DATA to a folder whose text/ has it")
    return file


def ranks(values: Reals) -> Reals:
    """Places in ascending order, from 1; equal values share their mean place."""
    order, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)[0:3]
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64) if order.size else np.zeros(0)


def spearman(x: Sequence[float] | Reals, y: Sequence[float] | Reals) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(ranks(np.asarray(x, np.float64)), ranks(np.asarray(y, np.float64)))[0, 1])


class LinearHead(NamedTuple):
    """A linear classifier of vectors."""

    weights: Reals
    bias: float

    def positive(self, vectors: Reals) -> NDArray[np.bool_]:
        return np.asarray(vectors @ self.weights + self.bias > 0)


def fit_head(vectors: Reals, positive: NDArray[np.bool_], steps: int = 25) -> LinearHead:
    """Logistic regression, its weights held by ``|w|^2 / 2``, by Newton's method: vectors (n, d), labels (n,)."""
    x = np.hstack([vectors, np.ones((len(vectors), 1))])
    held = np.eye(x.shape[1])
    held[-1, -1] = 0.0
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - positive) + held @ w
        w = w - np.linalg.solve((x.T * (p * (1 - p))) @ x + held, gradient)
    return LinearHead(w[:-1], float(w[-1]))
