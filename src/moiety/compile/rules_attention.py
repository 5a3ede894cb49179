"""Lowering of softmax and attention."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from moiety.compile.builder import ROOM, Builder, Index, Owned, Public, Secret
from moiety.compile.calibrate import valid_pairs
from moiety.compile.lower import Call, aten, rule
from moiety.compile.rules_functions import RELATIVE
from moiety.compile.rules_shape import as_secret
from moiety.compile.tables import Wanted
from moiety.errors import InputError, UnsupportedOp
from moiety.mpc.functions import activations


@rule(aten.softmax.int, aten._softmax.default)
def softmax(call: Call) -> Secret:
    """Softmax over the last axis."""
    x = call.builder.plain(call.args[0])
    if call.args[1] % len(x.shape) != len(x.shape) - 1:
        raise UnsupportedOp(f"softmax over an inner axis in {call.builder.module}; move the axis last")
    low, high = call.input_range()
    weights, inverse = _exponentials(call.builder, x, None, max(abs(low), abs(high)), high - low)
    weights = call.builder.rescaled(weights, 16)
    return call.builder.multiply(weights, inverse, call.shape, 1.5)


@rule(aten.scaled_dot_product_attention.default)
def attention(call: Call) -> Secret:
    """softmax(q k^T scale) v with a public mask: scores 1 round, row maximum log2(n), exp 2, then sums and values in parallel."""
    b = call.builder
    secret = next((x for x in call.args[:3] if isinstance(x, Secret)), None)
    if secret is None:
        raise InputError(f"the attention mask in {b.module} depends on a secret; name it in deploy(..., public=(...))")
    q, k, v = (b.settled(as_secret(call, x, secret)) for x in call.args[:3])
    if len(q.shape) == 4 and k.shape[1] != q.shape[1]:
        k, v = (_repeat_heads(b, x, q.shape[1]) for x in (k, v))
    found = b.range_of(call.site + "|scores")
    scale = call.kwargs.get("scale") or q.shape[-1] ** -0.5
    rank = len(k.shape)
    dims = (*range(rank - 2), rank - 1, rank - 2)
    swapped = replace(k, node=b.emit("permute", k.node, dims=dims), shape=tuple(k.shape[d] for d in dims))
    shape = (*q.shape[:-1], k.shape[-2])
    scores = b.multiply(q, swapped, shape, found.bound * b.options.margin / scale, "matmul")
    scores = _biased(call, replace(scores, factor=scores.factor * scale, bound=found.bound * b.options.margin))
    weights, inverse = _exponentials(b, scores, _mask(call, shape), found.bound, found.spread)
    mixed = b.multiply(weights, v, call.shape, weights.bound * shape[-1] * v.bound, "matmul")
    # one word a row gives up the bits that would leave the layer behind no room, so that the values themselves need no truncation
    mixed = b.settled(mixed)
    room = ROOM - mixed.fraction - b.options.weight_fraction - 4 - np.log2(v.bound * 1.1 + 1e-9)
    inverse = b.rescaled(inverse, max(int(room), 13 + int(np.ceil(np.log2(shape[-1] * weights.bound)))))
    return b.multiply(mixed, inverse, call.shape, v.bound * 1.1)


def _repeat_heads(b: Builder, x: Secret, heads: int) -> Secret:
    batch, kv, rows, width = x.shape
    wide = b.emit("expand", b.emit("reshape", x.node, shape=(batch, kv, 1, rows, width)), shape=(batch, kv, heads // kv, rows, width))
    shape = (batch, heads, rows, width)
    return replace(x, node=b.emit("reshape", wide, shape=shape), shape=shape)


def _biased(call: Call, scores: Secret) -> Secret:
    """Scores plus what a public float mask adds to the pairs that count (relative positions, for instance)."""
    mask = call.arg(3, "attn_mask")
    rows = () if not isinstance(mask, Public) else mask.rows if mask.rows is not None else (mask.value,)
    added = [row.where(valid_pairs(row), 0.0) for row in rows if row.dtype is not torch.bool]
    if not any(bool(row.any()) for row in added):
        return scores
    bias = Public(added[0]) if mask.rows is None else Public(None, tuple(added))
    node = call.builder.emit("add_public", scores.node, call.builder.encoded(bias, scores.fraction, scores.factor))
    return replace(scores, node=node)


def _mask(call: Call, shape: tuple[int, ...]) -> Public | None:
    """Which pairs count, as public zeros and ones; None when all do."""
    mask, causal = call.arg(3, "attn_mask"), call.arg(5, "is_causal", False)
    if isinstance(mask, Owned):
        raise UnsupportedOp(
            f"the attention mask in {call.builder.module} is made of the owner's weights; only a public one has a private form"
        )
    if isinstance(mask, Secret | Index):
        raise InputError(f"the attention mask in {call.builder.module} depends on a secret; name it in deploy(..., public=(...))")
    if causal:
        return Public(torch.ones((*(1 for _ in shape[:-2]), *shape[-2:]), dtype=torch.bool).tril())
    if mask is None:
        return None

    def valid(m: Any) -> Any:
        alike = m.dim() == 2 or all(n == 1 for n in m.shape[:-2])  # the same for every head and example: kept once
        return torch.broadcast_to(valid_pairs(m), (*(1 for _ in shape[:-2]), *shape[-2:]) if alike else shape)

    if mask.rows is not None:
        return Public(None, tuple(valid(row) for row in mask.rows))
    made = valid(mask.value)
    return None if bool(made.all()) else Public(made)


def _exponentials(b: Builder, x: Secret, mask: Public | None, bound: float, spread: float) -> tuple[Secret, Secret]:
    """exp(x - c) under the mask, and the reciprocal of its row sums, for c within one step of the row's maximum."""
    step_bits = max(0, int(np.ceil(np.log2(max(bound, x.unit) * b.options.margin / 62.0 / x.unit))))
    step = x.unit * 2.0**step_bits
    valid = [] if mask is None else [b.encoded(mask, 0)]
    top = _top(b, x, mask, valid, step_bits)
    lowered = replace(x, node=b.emit("subtract", x.node, top))
    if valid:  # pairs that do not count are looked up at zero, inside the table, and then multiplied by zero
        lowered = replace(lowered, node=b.emit("multiply_public", lowered.node, valid[0], fraction=0))
    e = _puma_exp(b, lowered, step) if b.variant("softmax") == "puma" else _exp_table(b, lowered, step, spread)
    if valid:
        e = replace(e, node=b.emit("multiply_public", e.node, valid[0], fraction=0))
    axis = len(x.shape) - 1
    total = replace(e, node=b.emit("total", e.node, axes=(axis,), keepdims=True), shape=(*x.shape[:-1], 1))
    least, most = float(np.exp(-step)) * e.bound / float(np.exp(step)), x.shape[-1] * e.bound
    inverse = b.table(activations.reciprocal, total, least * 0.98, most * 1.01, b.options.row_fraction, RELATIVE, 1.1 / least)
    return e, inverse


def _exp_table(b: Builder, x: Secret, step: float, spread: float) -> Secret:
    """exp of values up to ``step`` by table; the range below follows from the calibrated spread of a row."""
    low = -(spread * b.options.margin + 2 * step + 1)
    wanted = Wanted(2.0**-11, float(np.exp(-step)))
    return b.table(activations.exp, x, low, step, b.options.table_fraction, wanted, float(np.exp(step)))


PUMA_SQUARINGS = 8


def _puma_exp(b: Builder, x: Secret, step: float) -> Secret:
    """PUMA's exponential needs values that are not positive: all of a row move down by one step, which softmax does not see."""
    x = b.settled(x)
    down = b.emit("add_public", x.node, b.encoded(Public(-step), x.fraction))
    return Secret(b.emit("puma_neg_exp", down, t=PUMA_SQUARINGS), x.shape, x.fraction, 1.0)


def _top(b: Builder, x: Secret, mask: Public | None, valid: list[int], step_bits: int) -> int:
    """Row maxima. A mask that moves with the position must not change sizes: its excluded places are set to the lowest value."""
    reach = 62 * x.unit * 2.0**step_bits
    kept = replace(x, node=b.emit("multiply_public", x.node, valid[0], fraction=0)) if valid else x
    b.check(kept, -reach, reach)
    if mask is None or mask.rows is None:
        return b.emit("row_max", x.node, *valid, step_bits=step_bits)
    floor = np.uint64(-(64 << step_bits) & (2**64 - 1))
    lowest = b.constant(np.stack([(~row).numpy().astype(np.uint64) * floor for row in mask.rows]), by_position=True)
    return b.emit("row_max", b.emit("add_public", kept.node, lowest), step_bits=step_bits)
