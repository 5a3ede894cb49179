"""The workloads of a job, written once for all peers over the few operations in which their interfaces differ.

Transformers follow the models of HuggingFace that moiety runs unmodified: GPT-2, BERT, ViT, Llama. Values are (rows, width); a
matrix may be a list of slices along its columns, where a peer cannot hold it in one piece.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Value = Any
Settings = dict[str, Any]
Weights = dict[str, Any]

EXCLUDED = -50.0
"""Added to scores that a causal mask excludes."""


class Ops(Protocol):
    """What is spelt differently from peer to peer. All act along the last axis."""

    def gelu(self, x: Value, form: str) -> Value: ...

    def silu(self, x: Value) -> Value: ...

    def relu(self, x: Value) -> Value: ...

    def softmax(self, x: Value) -> Value: ...

    def argmax(self, x: Value) -> Value: ...

    def mean(self, x: Value) -> Value: ...

    def rsqrt(self, x: Value) -> Value: ...

    def swap(self, x: Value, one: int, other: int) -> Value: ...

    def join(self, parts: list[Value], axis: int) -> Value: ...

    def public(self, array: Any) -> Value: ...


def evaluate(ops: Ops, family: str, settings: Settings, weights: Weights, inputs: list[Value]) -> Value:
    """The output of a job."""
    return FAMILIES[family](ops, settings, weights, *inputs)


def linear(ops: Ops, w: Weights, name: str, x: Value) -> Value:
    matrix, shift = w[name], w.get(f"{name}.shift")
    y = ops.join([x @ part for part in matrix], -1) if isinstance(matrix, list) else x @ matrix
    return y if shift is None else y + shift


def layer_norm(ops: Ops, w: Weights, name: str, x: Value, epsilon: float) -> Value:
    centred = x - ops.mean(x)
    return centred * ops.rsqrt(ops.mean(centred * centred) + epsilon) * w[f"{name}.gain"] + w[f"{name}.shift"]


def rms_norm(ops: Ops, w: Weights, name: str, x: Value, epsilon: float) -> Value:
    return x * ops.rsqrt(ops.mean(x * x) + epsilon) * w[f"{name}.gain"]


def _heads(ops: Ops, x: Value, count: int) -> Value:
    rows, width = x.shape
    return ops.swap(x.reshape(rows, count, width // count), 0, 1)


def _attend(ops: Ops, q: Value, k: Value, v: Value, causal: bool) -> Value:
    """(heads, rows, d) each; several heads of queries may share one of keys and values: they become its rows."""
    heads, rows, d = q.shape
    shared = k.shape[0]
    q = q.reshape(shared, heads // shared * rows, d)
    scores = (q @ ops.swap(k, 1, 2)) * d**-0.5
    if causal:
        mask = np.triu(np.full((rows, rows), EXCLUDED, np.float32), 1)
        scores = scores + ops.public(np.tile(mask, (heads // shared, 1)))
    mixed = (ops.softmax(scores) @ v).reshape(heads, rows, d)
    return ops.swap(mixed, 0, 1).reshape(rows, heads * d)


def _attention(ops: Ops, s: Settings, w: Weights, name: str, x: Value) -> Value:
    y, width = linear(ops, w, f"{name}.qkv", x), x.shape[1]
    q, k, v = (_heads(ops, y[:, i * width : (i + 1) * width], s["heads"]) for i in range(3))
    return linear(ops, w, f"{name}.out", _attend(ops, q, k, v, s["causal"]))


def _mlp(ops: Ops, s: Settings, w: Weights, name: str, x: Value) -> Value:
    return linear(ops, w, f"{name}.down", ops.gelu(linear(ops, w, f"{name}.up", x), s["gelu"]))


def _norm_first(ops: Ops, s: Settings, w: Weights, x: Value) -> Value:
    """All layers, each of which normalises what it reads."""
    for i in range(s["layers"]):
        x = x + _attention(ops, s, w, f"{i}", layer_norm(ops, w, f"{i}.norm1", x, s["epsilon"]))
        x = x + _mlp(ops, s, w, f"{i}", layer_norm(ops, w, f"{i}.norm2", x, s["epsilon"]))
    return x


def gpt2(ops: Ops, s: Settings, w: Weights, x: Value) -> Value:
    """Embeddings to the last hidden states, or with a head to the logits of the last row."""
    x = layer_norm(ops, w, "norm", _norm_first(ops, s, w, x + w["positions"]), s["epsilon"])
    return linear(ops, w, "head", x[-1:]) if "head" in w else x


def bert(ops: Ops, s: Settings, w: Weights, x: Value) -> Value:
    """Embeddings to the last hidden states."""
    x = layer_norm(ops, w, "norm", x + w["positions"], s["epsilon"])
    for i in range(s["layers"]):
        x = layer_norm(ops, w, f"{i}.norm1", x + _attention(ops, s, w, f"{i}", x), s["epsilon"])
        x = layer_norm(ops, w, f"{i}.norm2", x + _mlp(ops, s, w, f"{i}", x), s["epsilon"])
    return x


def vit(ops: Ops, s: Settings, w: Weights, patches: Value) -> Value:
    """Unfolded patches (count, channels * side²) to logits."""
    x = ops.join([w["first"], linear(ops, w, "patch", patches)], 0) + w["positions"]
    return linear(ops, w, "head", layer_norm(ops, w, "norm", _norm_first(ops, s, w, x)[:1], s["epsilon"]))


def _rotate(ops: Ops, x: Value, cos: Value, sin: Value) -> Value:
    half = x.shape[-1] // 2
    return x * cos + ops.join([x[:, :, half:] * -1, x[:, :, :half]], -1) * sin


def _angles(rows: int, d: int, base: float) -> Any:
    angles = np.outer(np.arange(rows), base ** (-np.arange(0, d, 2) / d))
    return np.concatenate([angles, angles], -1)


def llama(ops: Ops, s: Settings, w: Weights, x: Value) -> Value:
    """Embeddings to the last hidden states."""
    heads, shared, d = s["heads"], s["shared"], x.shape[1] // s["heads"]
    angles = _angles(x.shape[0], d, s["rotary"])
    cos, sin = (ops.public(f(angles).astype(np.float32)) for f in (np.cos, np.sin))
    for i in range(s["layers"]):
        y = linear(ops, w, f"{i}.qkv", rms_norm(ops, w, f"{i}.norm1", x, s["epsilon"]))
        ends = (heads * d, (heads + shared) * d, (heads + 2 * shared) * d)
        q, k, v = _heads(ops, y[:, : ends[0]], heads), _heads(ops, y[:, ends[0] : ends[1]], shared), _heads(ops, y[:, ends[1] :], shared)
        x = x + linear(ops, w, f"{i}.out", _attend(ops, _rotate(ops, q, cos, sin), _rotate(ops, k, cos, sin), v, True))
        y = rms_norm(ops, w, f"{i}.norm2", x, s["epsilon"])
        x = x + linear(ops, w, f"{i}.down", ops.silu(linear(ops, w, f"{i}.gate", y)) * linear(ops, w, f"{i}.up", y))
    return rms_norm(ops, w, "norm", x, s["epsilon"])


FAMILIES: dict[str, Callable[..., Value]] = {
    "matmul": lambda ops, s, w, x: linear(ops, w, "matrix", x),
    "mul": lambda ops, s, w, x, y: x * y,
    "relu": lambda ops, s, w, x: ops.relu(x),
    "gelu": lambda ops, s, w, x: ops.gelu(x, s["gelu"]),
    "silu": lambda ops, s, w, x: ops.silu(x),
    "softmax": lambda ops, s, w, x: ops.softmax(x),
    "argmax": lambda ops, s, w, x: ops.argmax(x),
    "layer_norm": lambda ops, s, w, x: layer_norm(ops, w, "norm", x, s["epsilon"]),
    "gpt2": gpt2,
    "bert": bert,
    "vit": vit,
    "llama": llama,
}
