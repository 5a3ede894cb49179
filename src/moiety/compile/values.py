"""Values of a model while it is being lowered: who knows them, and what their words stand for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Public:
    """Known to everybody. With ``rows``, one value for every public position of the run."""

    value: Any
    rows: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Owned:
    """A tensor of the model owner, evaluated by the owner; ``name`` identifies its content.

    ``gain``: what its rows are still to be multiplied by; see :class:`Later`.
    """

    tensor: torch.Tensor
    name: str
    gain: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """Secret integers of the client: they can only index an embedding."""

    input: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Secret:
    """A shared tensor: ``real = factor * words / 2^fraction * gain + shift`` (the last two pending, along the last axis)."""

    node: int
    shape: tuple[int, ...]
    fraction: int
    bound: float
    factor: float = 1.0
    gain: Owned | None = None
    shift: Owned | None = None

    @property
    def unit(self) -> float:
        """Real size of one unit, before gain and shift."""
        return self.factor * 2.0**-self.fraction

    @property
    def bits(self) -> float:
        """log2 of the largest raw value."""
        return math.log2(max(self.bound, 1e-9) / abs(self.factor)) + self.fraction


@dataclass(frozen=True, slots=True)
class Square:
    """x * x whose only use is a mean over the last axis: one word a row instead of one an element."""

    x: Secret


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose only use is a batch norm. ``lower(weight (out, ...), bias (out,), bound of the result)`` yields it."""

    module: str
    weight: Owned
    bias: Owned | None
    lower: Callable[[Owned, Owned | None, float], Secret]


@dataclass(frozen=True, slots=True)
class Masked:
    """Scores of which only the ``valid`` ones count (booleans that broadcast): what a softmax reads, and nothing else may."""

    x: Secret
    valid: Public


Value = Public | Owned | Index | Secret | Square | Layer | Masked | tuple[Any, ...]
