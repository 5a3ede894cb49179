"""Scores that a mask excludes from a softmax, where the model writes the mask as a sum, a selection or a fill."""

from dataclasses import replace

import torch
from torch import fx

from moiety.compile.builder import Builder
from moiety.compile.calibrate import SOFTMAX
from moiety.compile.known import known
from moiety.compile.values import Masked, Owned, Public, Secret

aten = torch.ops.aten
PASSING = {
    aten.add.Tensor,
    aten.clone.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.where.self,
}


def only_softmax(node: fx.Node) -> bool:
    """Whether nothing but a softmax reads a value, after further masks perhaps."""
    return bool(node.users) and all(user.target in SOFTMAX or (user.target in PASSING and only_softmax(user)) for user in node.users)


def excluded(b: Builder, x: Secret | Masked, valid: Public | Owned) -> Masked:
    """Scores of which only the valid ones count, also by the masks that they have already. What is valid becomes public."""
    seen = b.published(valid)
    if isinstance(x, Secret):
        return Masked(x, seen)
    return replace(x, valid=b.published(known("and", torch.logical_and, x.valid, seen)))
