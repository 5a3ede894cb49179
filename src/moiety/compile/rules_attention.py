"""Lowering of softmax and attention."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from moiety.compile.builder import ROOM, Builder
from moiety.compile.calibrate import Range, valid_pairs
from moiety.compile.known import known, reach
from moiety.compile.lower import Call, aten, rule, takes_masked
from moiety.compile.plan import Lookup
from moiety.compile.rules_arithmetic import added, negative
from moiety.compile.rules_functions import LOGARITHM, LOGARITHM_FRACTION
from moiety.compile.rules_powers import RELATIVE
from moiety.compile.rules_shape import as_secret
from moiety.compile.tables import Wanted
from moiety.compile.values import Index, Masked, Owned, Public, Secret
from moiety.errors import InputError, UnsupportedOp
from moiety.mpc.functions import activations
from moiety.mpc.functions.puma import EXP_CLIP, neg_exp_float


@rule(aten.softmax.int, aten._softmax.default)
@takes_masked
def softmax(call: Call) -> Secret:
    """Softmax over one axis, of the scores that a public mask lets count."""
    b, (x, mask) = call.builder, _scores(call)
    found = b.range_of(call.site + "|scores")
    sums = _exponentials(b, x, mask, found, centred=False)
    terms = b.rescaled(sums.terms, 16 + sums.deep)
    weights = b.multiply(terms, sums.reciprocal(b, ROOM - 2 - terms.fraction), x.shape, 1.5)
    return _axis_back(b, weights, call.shape, _axis(call.args[1], len(call.shape)))


@rule(aten.log_softmax.int, aten._log_softmax.default)
@takes_masked
def log_softmax(call: Call) -> Secret:
    """x - c - log(sum exp(x - c)) over one axis; where a mask excludes it is minus infinity, which has no private form."""
    b, (x, mask) = call.builder, _scores(call)
    if mask is not None:
        raise UnsupportedOp(f"log_softmax in {b.module} is minus infinity where its mask excludes; take softmax")
    found = b.range_of(call.site + "|scores")
    sums = _exponentials(b, x, mask, found)
    below = replace(x, node=b.emit("subtract", sums.top, x.node), bound=(found.spread + MOST_STEP) * b.options.margin)
    return _axis_back(
        b, negative(b, added(b, below, sums.logarithm(b), x.shape, call.bound)), call.shape, _axis(call.args[1], len(call.shape))
    )


@rule(aten.logsumexp.default)
@takes_masked
def logsumexp(call: Call) -> Secret:
    """c + log(sum exp(x - c)) over one axis."""
    b, (x, mask) = call.builder, _scores(call)
    sums = _exponentials(b, x, mask, b.range_of(call.site + "|scores"))
    kept = (*x.shape[:-1], 1)
    total = added(b, replace(x, node=sums.top, shape=kept), sums.logarithm(b), kept, call.bound)
    total = _axis_back(b, total, kept, _axis(call.args[1], len(kept)))
    return replace(total, node=b.emit("reshape", total.node, shape=call.shape), shape=call.shape)


def _scores(call: Call) -> tuple[Secret, Public | None]:
    """What a softmax reads, its axis last, and which of it counts."""
    b, given = call.builder, call.args[0]
    x, valid = (given.x, given.valid) if isinstance(given, Masked) else (given, None)
    x, axis = b.plain(x), _axis(call.args[1], len(given.x.shape if isinstance(given, Masked) else given.shape))
    if axis != len(x.shape) - 1 and valid is not None:
        shape = x.shape
        spread_out = known("axis last", lambda v: torch.broadcast_to(v, shape).transpose(axis, -1), valid)
        valid = spread_out if isinstance(spread_out, Public) else None
    x = _axis_back(b, x, x.shape, axis)
    return x, None if valid is None else _counting(valid, x.shape)


def _axis(dim: Any, rank: int) -> int:
    return int(dim[0] if isinstance(dim, list | tuple) else dim) % rank


def _axis_back(b: Builder, x: Secret, shape: tuple[int, ...], dim: int) -> Secret:
    """x with one axis and the last exchanged; ``shape``: before or after."""
    dims = list(range(len(shape)))
    dims[dim], dims[-1] = dims[-1], dims[dim]
    if dims == sorted(dims):
        return x
    return replace(x, node=b.emit("permute", x.node, dims=tuple(dims)), shape=tuple(x.shape[d] for d in dims))


@rule(aten.scaled_dot_product_attention.default)
def attention(call: Call) -> Secret:
    """softmax(q k^T scale) v with a public mask: scores 1 round, row maximum log2(n) if they spread, exp 2, then sums and values in
    parallel 2, product 1."""
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
    mask = _mask(call, shape)
    scores = _products(b, q, swapped, shape, found.bound * b.options.margin / scale, mask)
    scores = _biased(call, replace(scores, factor=scores.factor * scale, bound=found.bound * b.options.margin))
    sums = _exponentials(b, scores, mask, found, centred=False)
    weights = sums.terms
    mixed = b.multiply(weights, v, call.shape, weights.bound * shape[-1] * v.bound, "matmul")
    # while the reciprocals are looked up, the values give up their left-over bits
    mixed = b.settled(mixed, b.options.activation_fraction + sums.deep)
    inverse = sums.reciprocal(b, ROOM - 1 - mixed.fraction - max(0, int(np.ceil(np.log2(v.bound * 1.1 + 1e-9)))))
    return _without_blind_rows(call, b.multiply(mixed, inverse, call.shape, v.bound * 1.1))


def _products(b: Builder, q: Secret, k: Secret, shape: tuple[int, ...], bound: float, mask: Public | None) -> Secret:
    """q k of the pairs that count. All others are zeros, which nobody computes; where the mask moves with the position, they are."""
    if mask is None or mask.rows is not None or not bool(mask.value.any()):
        return b.multiply(q, k, shape, bound, "matmul")
    places = _places(b, mask, shape)
    kept = b.multiply(q, k, _places_shape(b, places), bound, "matmul", places)
    piled = replace(kept, node=b.emit("pile", kept.node, places, shape=shape), shape=shape)
    b.stands_for(kept.node, "gather", piled.node, places)
    return piled


def _places(b: Builder, mask: Public, shape: tuple[int, ...]) -> int:
    """Where the pairs that count lie in flattened scores of this shape; of a mask that is the same at every position."""
    return b.constant(torch.broadcast_to(mask.value, shape).flatten().nonzero().flatten().numpy().astype(np.uint64))


def _kept(b: Builder, x: Secret, mask: Public) -> Secret:
    """The scores that count, as a list. Sizes must not move with the position: then all, where those that do not count are zero."""
    if mask.rows is not None:
        return replace(x, node=b.emit("multiply_public", x.node, b.encoded(mask, 0), fraction=0))
    places = _places(b, mask, x.shape)
    return replace(x, node=b.emit("gather", x.node, places), shape=_places_shape(b, places))


def _places_shape(b: Builder, places: int) -> tuple[int, ...]:
    index: int = b.nodes[places].params["index"]
    return b.constants[index].shape


def _without_blind_rows(call: Call, x: Secret) -> Secret:
    """Zeros for queries that may see nothing at all, as PyTorch has it."""
    mask = call.arg(3, "attn_mask")
    if not isinstance(mask, Public | Owned):
        return x
    sees = known("sees", lambda m: (m if m.dtype is torch.bool else m > -torch.inf).any(-1, keepdim=True), mask)
    seeing = Public(sees.tensor) if isinstance(sees, Owned) else sees
    if all(bool(row.all()) for row in ([seeing.value] if seeing.rows is None else seeing.rows)):
        return x
    return replace(x, node=call.builder.emit("multiply_public", x.node, call.builder.encoded(seeing, 0), fraction=0))


def _repeat_heads(b: Builder, x: Secret, heads: int) -> Secret:
    batch, kv, rows, width = x.shape
    wide = b.emit("expand", b.emit("reshape", x.node, shape=(batch, kv, 1, rows, width)), shape=(batch, kv, heads // kv, rows, width))
    shape = (batch, heads, rows, width)
    return replace(x, node=b.emit("reshape", wide, shape=shape), shape=shape)


def _biased(call: Call, scores: Secret) -> Secret:
    """Scores plus what a float mask adds to the pairs that count (relative positions, for instance)."""
    mask = call.arg(3, "attn_mask")
    if not isinstance(mask, Public | Owned):
        return scores
    bias = known("bias of kept", lambda m: m.new_zeros(()).float() if m.dtype is torch.bool else m.where(valid_pairs(m), 0.0), mask)
    return added(call.builder, scores, bias, scores.shape, scores.bound) if reach(bias) else scores


def _mask(call: Call, shape: tuple[int, ...]) -> Public | None:
    """Which pairs count, as public zeros and ones; None when all do. Of a mask made of weights that much becomes public."""
    mask, causal = call.arg(3, "attn_mask"), call.arg(5, "is_causal", False)
    if isinstance(mask, Secret | Index):
        raise InputError(f"the attention mask in {call.builder.module} depends on a secret; name it in deploy(..., public=(...))")
    if causal:
        return Public(torch.ones((*(1 for _ in shape[:-2]), *shape[-2:]), dtype=torch.bool).tril())
    if mask is None:
        return None
    valid = known("valid pairs", valid_pairs, mask)
    return _counting(call.builder.published(valid), shape)


def _counting(valid: Public, shape: tuple[int, ...]) -> Public | None:
    """A mask of scores of this shape, kept once where it is the same for every head and example; None when all count."""

    def spread_out(m: torch.Tensor) -> torch.Tensor:
        alike = m.dim() <= 2 or all(n == 1 for n in m.shape[:-2])
        return torch.broadcast_to(m, (*(1 for _ in shape[:-2]), *shape[-2:]) if alike and len(shape) > 1 else shape)

    made = known("mask", spread_out, valid)
    return made if isinstance(made, Public) and (made.rows is not None or not bool(made.value.all())) else None


def _without_dead_rows(b: Builder, x: Secret, mask: Public | None) -> tuple[Secret, Public | None]:
    """Rows in which no score counts (of padding, say) become rows of zeros in which all do: PyTorch makes them uniform, too."""
    if mask is None or all(bool(row.any(-1).all()) for row in ([mask.value] if mask.rows is None else mask.rows)):
        return x, mask
    alive = known("alive", lambda m: m.any(-1, keepdim=True), mask)
    counting = known("counting", lambda m: m | ~m.any(-1, keepdim=True), mask)
    if not isinstance(alive, Public) or not isinstance(counting, Public):
        return x, mask
    return replace(x, node=b.emit("multiply_public", x.node, b.encoded(alive, 0), fraction=0)), counting


class _Sums(NamedTuple):
    """exp(x - c) under the mask and its sum over the last axis; ``top``: c, within one step of the row's maximum, or -1 if public."""

    top: int
    terms: Secret
    total: Secret
    least: float
    """What no sum is below."""
    most: float
    """What no sum is above."""
    deep: int = 0
    """How many bits the largest term of a row may lie below 1."""
    lift: Public | None = None
    """Powers of two by which rows of few terms are lifted, so that sums span fewer octaves."""

    def reciprocal(self, b: Builder, fraction: int) -> Secret:
        """Of the sum of each row, at no more than ``fraction`` fraction bits."""
        fraction, bound = min(b.options.row_fraction, fraction), 1.1 / self.least
        if self.lift is None:
            return b.table(activations.reciprocal, self.total, *self._ends(), fraction, RELATIVE, bound)
        words = b.encoded(self.lift, 0)
        lifted = replace(self.total, node=b.emit("multiply_public", self.total.node, words, fraction=0), bound=self.most)
        found = b.table(activations.reciprocal, lifted, *self._ends(), fraction, RELATIVE, bound)
        return replace(found, node=b.emit("multiply_public", found.node, words, fraction=0), bound=bound * _largest(self.lift))

    def logarithm(self, b: Builder) -> Secret:
        """Of the sum of each row."""
        low, high = self._ends()
        bound = max(abs(np.log(low)), abs(np.log(high)))
        return b.table(activations.log, self.total, low, high, LOGARITHM_FRACTION, LOGARITHM, float(bound))

    def _ends(self) -> tuple[float, float]:
        return self.least * 0.98, self.most * 1.01


def _exponentials(b: Builder, x: Secret, mask: Public | None, found: Range, *, centred: bool = True) -> _Sums:
    """Terms and sums of a softmax. If they need not be ``centred`` at the row's maximum, they are at a public number where that serves."""
    x, mask = _without_dead_rows(b, x, mask)
    puma = b.variant("softmax") == "puma"
    if not centred and not puma and (flat := _flat(b, x, mask, found)) is not None:
        return flat
    valid = [] if mask is None else [b.encoded(mask, 0)]
    top, step = _top(b, x, mask, valid, found.bound, FINE_STEP if puma else GOOD_STEP)
    below = b.emit("subtract", *((x.node, top) if puma else (top, x.node)))
    exp = _puma_exp if puma else _exp_table
    e, total = _summed(b, replace(x, node=below), mask, lambda below: exp(b, below, step, found.spread))
    return _Sums(top, e, total, float(np.exp(-step)) * e.bound / float(np.exp(step)), x.shape[-1] * e.bound)


def _summed(b: Builder, x: Secret, mask: Public | None, exp: Callable[[Secret], Secret]) -> tuple[Secret, Secret]:
    """``exp`` of the pairs that count, zeros elsewhere, and the sums over the last axis."""
    shape = x.shape
    if mask is None:
        e = exp(x)
    elif mask.rows is None:
        e = exp(_kept(b, x, mask))
        e = replace(e, node=b.emit("pile", e.node, _places(b, mask, shape), shape=shape), shape=shape)
    else:  # what does not count is looked up at zero, inside the table, and multiplied by zero
        e = exp(_kept(b, x, mask))
        e = replace(e, node=b.emit("multiply_public", e.node, b.encoded(mask, 0), fraction=0))
    total = b.emit("total", e.node, axes=(len(shape) - 1,), keepdims=True)
    return e, replace(e, node=total, shape=(*shape[:-1], 1))


FLAT = 6.0
"""Scores that lie within so many nats, margin included, need no maximum: exp of their distance from a public number loses few bits."""


def _flat(b: Builder, x: Secret, mask: Public | None, found: Range) -> _Sums | None:
    """exp(x - c) for a public c, by calibration the largest score with its margin; None where scores may lie too far below it.

    Saves the rounds of the maximum. A term has more fraction bits instead, and so has whatever it is multiplied by.
    """
    reach = (b.options.margin - 1) * found.bound + x.unit
    high, span = found.high + reach, found.high - found.low + 2 * reach
    if span > FLAT:
        return None
    deep = int(np.ceil(span / np.log(2)))
    wanted = Wanted(2.0**-11, float(np.exp(-span)))

    def below(x: Secret) -> Secret:
        return replace(x, node=b.emit("add_public", b.emit("negate", x.node), b.encoded(Public(high), x.fraction, x.factor)))

    def terms(below: Secret) -> Secret:
        return b.table(activations.decay, below, 0.0, span, b.options.table_fraction + deep, wanted, 1.0)

    listed = mask is not None and mask.rows is None
    e, total = _summed(b, x, mask, lambda kept: terms(below(kept))) if listed else _summed(b, below(x), mask, terms)
    count, lift = x.shape[-1], _lifts(mask)
    octave = count if lift is None else 2 ** (count.bit_length() - 1)
    return _Sums(-1, e, total, octave * float(np.exp(-span)), count if lift is None else 2 * octave, deep, lift)


def _lifts(mask: Public | None) -> Public | None:
    """For every row 2^(K-k), where 2^K and 2^k are the largest powers within the row's length and within the number of its terms."""

    def lift(m: torch.Tensor) -> torch.Tensor:
        count = m.sum(-1, keepdim=True)
        return 2.0 ** (m.shape[-1].bit_length() - 1 - torch.floor(torch.log2(count.double())))

    found = None if mask is None else known("lift", lift, mask)
    return found if isinstance(found, Public) else None


def _largest(x: Public) -> float:
    return max(float(row.max()) for row in ([x.value] if x.rows is None else x.rows))


def _exp_table(b: Builder, below: Secret, step: float, spread: float) -> Secret:
    """exp of what lies at most ``step`` above zero, by a table of how far it lies below: its levels are finest at the low end."""
    high = spread * b.options.margin + 2 * step + 1
    wanted = Wanted(2.0**-11, float(np.exp(-step)))
    return b.table(activations.decay, below, -step, high, b.options.table_fraction, wanted, float(np.exp(step)))


PUMA_SQUARINGS = 8


def _puma_exp(b: Builder, x: Secret, step: float, spread: float) -> Secret:
    """PUMA's exponential needs values that are not positive: all of a row move down by one step, which softmax does not see.

    Its error is what a row's sum may be off by: of small terms that of as many as there are.
    """
    x = b.settled(x)
    grid = np.linspace(min(EXP_CLIP, -spread), 0.0, 4097)
    found, exact = neg_exp_float(grid, PUMA_SQUARINGS), np.exp(grid)
    error = float((np.abs(found / exact - 1) * np.minimum(1.0, x.shape[-1] * exact)).max())
    b.lookups.append(Lookup(b.module, "puma exp", -spread, 0.0, error, relative=True))
    down = b.emit("add_public", x.node, b.encoded(Public(-step), x.fraction))
    return Secret(b.emit("puma_neg_exp", down, t=PUMA_SQUARINGS), x.shape, x.fraction, 1.0)


GOOD_STEP = 1.0
"""Within as much, a row's maximum is found in the smallest ring: every bit less halves its tables, and terms of the softmax lose 1.4
bits for each unit that the maximum may be off."""
FINE_STEP = 0.25
"""The same for PUMA's exponential, whose terms have no bits to lose."""


def _ring_of_maximum(unit: float, bound: float, good: float) -> tuple[int, int, int, float]:
    """For values within ``bound``: bits of the smallest ring in which their maximum is found within ``good``, else of the largest; how
    many steps they may lie from zero in it; and the step as bits above the unit and as a real number. Two steps at either end are room
    for rounding."""
    for ring_bits in (5, 6, 7, 8):
        most = 2 ** (ring_bits - 2) - 2
        step_bits = max(0, int(np.ceil(np.log2(bound / most / unit))))
        if unit * 2.0**step_bits <= good:
            break
    return ring_bits, most, step_bits, unit * 2.0**step_bits


MOST_STEP = 8.0
"""Above a step of exp(8) = 3000 the exact maximum is found, for more bits and rounds."""


def _top(b: Builder, x: Secret, mask: Public | None, valid: list[int], bound: float, good: float) -> tuple[int, float]:
    """Row maxima and the step within which they are found. A mask that moves with the position must not change sizes: its excluded
    places are set to the lowest value."""
    ring_bits, most, step_bits, step = _ring_of_maximum(x.unit, max(bound, x.unit) * b.options.margin, good)
    b.check(x if mask is None else _kept(b, x, mask), -most * step, most * step, step)
    if step <= MOST_STEP and (mask is None or mask.rows is None):
        return b.emit("row_max", x.node, *valid, step_bits=step_bits, ring_bits=ring_bits), step
    lowered = x.node
    if mask is not None:
        floor = np.uint64(-(1 << (ring_bits - 2 + step_bits)) & (2**64 - 1))
        rows = [(~row).numpy().astype(np.uint64) * floor for row in ([mask.value] if mask.rows is None else mask.rows)]
        lowest = b.constant(rows[0]) if mask.rows is None else b.constant(np.stack(rows), by_position=True)
        lowered = b.emit("add_public", b.emit("multiply_public", x.node, valid[0], fraction=0), lowest)
    if step <= MOST_STEP:
        return b.emit("row_max", lowered, step_bits=step_bits, ring_bits=ring_bits), step
    exact = b.emit("largest", lowered, bits=min(64, step_bits + 9))
    return b.emit("reshape", exact, shape=(*x.shape[:-1], 1)), x.unit
