"""Plans of a decoder-only language model: one prefill for each prompt length, one step for each cache bucket, over one set of weights.

The cache is made of explicit states: a step reads the rows written so far and yields the rows of its own tokens, which each party
stores at the run's public position. Masks and rotary rows follow from the position in the clear, for every position of a bucket.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers.cache_utils import Cache

from moiety.compile.builder import Options
from moiety.compile.calibrate import Range, Ranges, calibrate, calibrate_each, join, sites
from moiety.compile.capture import Captured, capture
from moiety.compile.garbage import uncollected
from moiety.compile.later import Later
from moiety.compile.lower import RULES
from moiety.compile.model import Draft
from moiety.compile.plan import Plan
from moiety.errors import PlanError

BUCKET = 64
"""Columns of attention by which a cache grows."""
EXAMPLES = 1
"""Sequences on which errors are forecast: of all logits of one."""

Reveal = Literal["logits", "token"]


@dataclass(frozen=True, slots=True)
class CompiledDecoder:
    """Prefill plans by prompt length, step plans by bucket (each serves the positions of ``Plan.first_position`` on)."""

    prefill: Mapping[int, Plan]
    steps: Mapping[int, Plan]
    weights: Mapping[str, torch.Tensor | Later]
    ranges: Ranges


class _Rows(Cache):
    """Past rows as explicit tensors: ``update`` appends the new ones and keeps them apart."""

    def __init__(self, past: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__(layers=[])
        self.past = past
        self.new: list[torch.Tensor] = []

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        self.new += [key_states, value_states]
        if not self.past:
            return key_states, value_states
        old_keys, old_values = self.past[layer_idx]
        return torch.cat([old_keys, key_states], dim=2), torch.cat([old_values, value_states], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        return self.past[0][0].shape[2] if self.past else 0


class _Decoder(torch.nn.Module):
    """A HuggingFace decoder as a pure function: tokens, position and past rows in; last logits and new rows out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, position: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = input_ids.shape[1]
        cache = _Rows(list(zip(past[::2], past[1::2], strict=True)))
        new = torch.ones(count, count, dtype=torch.bool).tril()
        old = (torch.arange(cache.get_seq_length()) < position).expand(count, -1)
        mask = torch.cat([old, new], dim=1)[None, None]
        places = (position + torch.arange(count))[None]
        out = self.model(
            input_ids=input_ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return (out.logits[:, -1], *cache.new)


@uncollected()
def compile_decoder(
    model: Any,
    *,
    prompt_lengths: Sequence[int],
    context: int,
    calibration: Sequence[torch.Tensor],
    reveal: Reveal = "logits",
    options: Options | None = None,
    ranges: Ranges | None = None,
) -> CompiledDecoder:
    """Compile a HuggingFace causal language model for prompts of these lengths and up to ``context`` tokens in all.

    ``calibration``: public token sequences, each (1, n) with the same n, on which ranges are measured. ``ranges``: ranges found
    before; they join those measured here.
    """
    if context > _most_positions(model):
        raise PlanError(f"{type(model).__name__} has {_most_positions(model)} positions, not {context}; deploy a shorter context")
    found = measure(model, calibration, ranges)
    weights: dict[str, torch.Tensor | Later] = {}
    prefill, steps = {}, {}
    for length in sorted(set(prompt_lengths)):
        prefill[length] = _compile(draft_prefill(model, length, found, options, reveal, calibration), weights)
    for bucket in range(BUCKET, context + BUCKET, BUCKET):
        steps[bucket] = _compile(draft_step(model, bucket, found, options, reveal, calibration), weights)
    return CompiledDecoder(prefill, steps, weights, found)


def measure(model: Any, calibration: Sequence[torch.Tensor], ranges: Ranges | None = None) -> Ranges:
    """Ranges of a decoder on public token sequences of one length, joined with ``ranges``. Raises PlanError."""
    form = getattr(model.config, "_attn_implementation", "sdpa")
    if form != "sdpa":  # others read a boolean mask as numbers to add
        raise PlanError(f"{type(model).__name__} computes attention in its form {form!r}; load it with attn_implementation='sdpa'")
    return join(_ranges(model, calibration), ranges or {})


def measure_each(model: Any, calibration: Sequence[torch.Tensor]) -> Iterator[Ranges]:
    """As :func:`measure`, of every sequence by itself; they may differ in length."""
    captured: dict[int, Captured] = {}
    for tokens in calibration:
        length = tokens.shape[1]
        captured[length] = captured.get(length) or _capture(model, length, 0)
        [found] = calibrate_each(captured[length], [(tokens, torch.tensor(0))])
        yield _with_states(model, captured[length], found)


def draft_prefill(
    model: Any,
    length: int,
    ranges: Ranges,
    options: Options | None = None,
    reveal: Reveal = "logits",
    calibration: Sequence[torch.Tensor] = (),
) -> Draft:
    """The first run: a prompt of ``length`` tokens, no cache yet. ``calibration``: sequences (1, n) on which errors are forecast."""
    made = _draft(model, length, 0, range(1), ranges, options or Options(), reveal)
    return replace(made, examples=[(_long(tokens, length), torch.tensor(0)) for tokens in calibration[:EXAMPLES]])


def draft_step(
    model: Any,
    bucket: int,
    ranges: Ranges,
    options: Options | None = None,
    reveal: Reveal = "logits",
    calibration: Sequence[torch.Tensor] = (),
) -> Draft:
    """A further run: one token, over a cache of up to ``bucket`` - 1 rows. ``calibration``: as for the first run."""
    positions = range(max(1, bucket - BUCKET), min(bucket, _most_positions(model)))
    made = _draft(model, 1, bucket - 1, positions, ranges, options or Options(), reveal)
    return replace(made, examples=[_further(model, tokens, bucket, positions) for tokens in calibration[:EXAMPLES]])


def _further(model: Any, tokens: torch.Tensor, bucket: int, positions: range) -> tuple[torch.Tensor, ...]:
    """Inputs of a further run at the end of a sequence: its last token, its position, and the rows of those before."""
    place = min(max(tokens.shape[1] - 1, positions[0]), positions[-1])
    tokens = _long(tokens, place + 1)
    with torch.no_grad():
        _, *rows = _Decoder(model)(tokens[:, :place], torch.tensor(0))
    unused = (0, 0, 0, bucket - 1 - place)
    return (tokens[:, place:], torch.tensor(place), *(torch.nn.functional.pad(row, unused) for row in rows))


def _long(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """So many tokens of a sequence, over again where it is shorter."""
    return tokens.repeat(1, -(-count // tokens.shape[1]))[:, :count]


def _most_positions(model: Any) -> int:
    """How many positions the model has been made for."""
    return getattr(model.config, "max_position_embeddings", None) or 1 << 30


def _capture(model: Any, count: int, rows: int, batch: int = 1) -> Captured:
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    past = [torch.zeros(batch, heads, rows, width) for _ in range(2 * config.num_hidden_layers)] if rows else []
    return capture(_Decoder(model), (torch.zeros(batch, count, dtype=torch.long), torch.tensor(rows), *past), whole=RULES)


def _ranges(model: Any, sequences: Sequence[torch.Tensor]) -> Ranges:
    """Ranges of all sites on public sequences, and of every state: its rows are an output of the capture."""
    together = torch.cat(list(sequences))
    captured = _capture(model, together.shape[1], 0, len(together))
    return _with_states(model, captured, calibrate(captured, [(together, torch.tensor(0))]))


def _with_states(model: Any, captured: Captured, ranges: Ranges) -> Ranges:
    names = sites(captured)
    [leaves] = next(node.args for node in captured.graph.nodes if node.op == "output")
    for name, (_, leaf) in _states(model).items():
        bound = 2 * ranges[names[leaves[leaf]]].bound  # other positions rotate a key: up to sqrt(2) longer in one coordinate
        ranges[name] = Range(-bound, bound)
    return ranges


def _states(model: Any) -> dict[str, tuple[int, int]]:
    """Keys and values of every layer: the axis along which they grow and the output that they are."""
    return {f"cache {i}": (2, 1 + i) for i in range(2 * model.config.num_hidden_layers)}


def _draft(model: Any, count: int, rows: int, positions: range, ranges: Ranges, options: Options, reveal: Reveal) -> Draft:
    captured = _capture(model, count, rows)
    past, place = captured.inputs[2:], captured.inputs[1]
    settings = {
        "position": (place, positions) if rows else None,
        "states": _states(model),
        "reads": dict(zip(past, _states(model), strict=False)),
        "argmax": reveal == "token",
    }
    further = {"first_position": positions[0], "positions": len(positions) if rows else 0, "end": _end(model)}
    only_tokens = replace(captured, inputs=captured.inputs[:1], structure='{"leaf": 0}')
    public = {} if rows else {place: torch.tensor(0)}
    return Draft(captured, ranges, options, public, settings=settings, further=further, called=only_tokens)


def _compile(draft: Draft, weights: dict[str, torch.Tensor | Later]) -> Plan:
    compiled = draft.compiled()
    weights |= {name: tensor for name, tensor in compiled.weights.items() if name not in weights}
    return compiled.plan


def _end(model: Any) -> tuple[int, ...]:
    """Its end-of-text tokens."""
    settings = getattr(model, "generation_config", None) or model.config
    ids = settings.eos_token_id
    return tuple(ids) if isinstance(ids, list | tuple) else () if ids is None else (int(ids),)
