"""The model owner's side of sentence embedding: an encoder that ends with its mean, compiled for each number of tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from moiety.compile.builder import Options
from moiety.compile.later import Later
from moiety.compile.model import compile_model
from moiety.compile.plan import Plan

PUBLIC: Final = ("attention_mask", "token_type_ids")
"""Inputs that are no secret: which places hold a token, and that all belong to one sentence."""


class Pooled(torch.nn.Module):
    """A HuggingFace encoder followed by the mean over its tokens: tokens (1, n), mask and types in, (1, width) out.

    The mean is part of the private computation, so no single token's state is revealed; with a ``head`` that is applied to the
    mean, a linear classifier for instance, the mean is not revealed either.
    """

    def __init__(self, model: torch.nn.Module, head: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.head = model, head or torch.nn.Identity()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        share = attention_mask / attention_mask.sum(1, keepdim=True)
        answer: torch.Tensor = self.head((out.last_hidden_state * share[..., None]).sum(1))
        return answer


@dataclass(frozen=True, slots=True)
class CompiledEncoder:
    """One plan for each number of tokens, over one set of weights."""

    plans: Mapping[int, Plan]
    weights: Mapping[str, torch.Tensor | Later]


def compile_encoder(
    model: torch.nn.Module,
    *,
    lengths: Sequence[int],
    calibration: Callable[[int], Sequence[torch.Tensor]],
    head: torch.nn.Module | None = None,
    options: Options | None = None,
    on_plan: Callable[[int, int], None] | None = None,
) -> CompiledEncoder:
    """Compile for sentences of these numbers of tokens. ``calibration(n)`` gives public sequences (1, n).

    Short and long sentences differ in their ranges, so they are measured at every length, and what was found at one length counts
    for those that come after. ``head``: see :class:`Pooled`. ``on_plan`` hears how many plans are done.
    """
    pooled, wanted = Pooled(model, head).eval(), sorted(set(lengths))
    plans: dict[int, Plan] = {}
    weights: dict[str, torch.Tensor | Later] = {}
    ranges = None
    for length in reversed(wanted):
        examples: list[tuple[Any, ...]] = [inputs(tokens) for tokens in calibration(length)]
        compiled = compile_model(pooled, examples[0], public=PUBLIC, calibration=examples[1:], ranges=ranges, options=options)
        ranges, plans[length] = compiled.ranges, compiled.plan
        weights |= {name: tensor for name, tensor in compiled.weights.items() if name not in weights}
        if on_plan is not None:
            on_plan(len(plans), len(wanted))
    return CompiledEncoder(plans, weights)


def inputs(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (1, n) with a mask of ones and types of zeros."""
    return tokens, torch.ones_like(tokens), torch.zeros_like(tokens)
