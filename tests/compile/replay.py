"""Captured models as plain data, from which plans are made again without any export: only moiety decides what comes out.

``python -m tests.compile.replay`` (with ``PYTHONPATH=src``) captures the models below anew and writes ``reference_plans.json``; a change
that alters plans on purpose runs it and commits the result.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import fx, nn

from moiety.compile.builder import Options
from moiety.compile.calibrate import Range, calibrate
from moiety.compile.capture import Captured, capture
from moiety.compile.lower import RULES, Lowering
from moiety.compile.model import finish
from moiety.compile.plan import Constant, Plan

REFERENCE = Path(__file__).with_name("reference_plans.json")


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Block(nn.Module):
    """A transformer's layer: classic (LayerNorm, GeLU) or as in Llama (mean-square norm, gated SiLU, rotary angles, shared heads)."""

    def __init__(self, llama: bool, width: int = 16, mask: torch.Tensor | None = None) -> None:
        super().__init__()
        self.llama, self.mask = llama, mask
        self.heads, self.shared = 4, 2 if llama else 4
        norm = Norm if llama else nn.LayerNorm
        self.before, self.after = norm(width), norm(width)
        self.q, self.k, self.v = (nn.Linear(width, 4 * n, bias=not llama) for n in (self.heads, self.shared, self.shared))
        self.o, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 24), nn.Linear(24, width)
        self.gate = nn.Linear(width, 24) if llama else None

    def split(self, x, heads: int):
        return x.unflatten(-1, (heads, 4)).transpose(1, 2)

    def turned(self, x):
        angles = torch.arange(x.shape[-2])[:, None] / torch.tensor([1.0, 10.0, 1.0, 10.0])
        left, right = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-right, left], dim=-1) * angles.sin()

    def forward(self, x):
        y = self.before(x)
        q, k, v = self.split(self.q(y), self.heads), self.split(self.k(y), self.shared), self.split(self.v(y), self.shared)
        if self.llama:
            q, k = self.turned(q), self.turned(k)
        options = {"is_causal": True} if self.mask is None else {"attn_mask": self.mask}
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.llama, **options)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y) if self.gate is not None else F.gelu(self.up(y)))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.block, self.head = Block(False), nn.Linear(16, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids):
        return self.head(self.block(self.words(ids) + self.places(torch.arange(ids.shape[1]))))


class Step(nn.Module):
    """One row of attention over rows kept from before, at a public position."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x, position, past):
        row = self.layer(x)
        rows = torch.cat([past, row], dim=2)
        mask = (torch.arange(rows.shape[2]) < position) | (torch.arange(rows.shape[2]) == rows.shape[2] - 1)
        turned = x * torch.cos(position / torch.arange(1.0, 9.0))
        return F.scaled_dot_product_attention(turned, rows, rows, attn_mask=mask[None, None, None]), row


def models() -> dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]:
    """Name -> module, example inputs, options."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 5), nn.Tanh())
    wide = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4), nn.Softmax(-1))
    x, rows = torch.randn(3, 8), torch.randn(1, 6, 16)
    lower = torch.ones(6, 6, dtype=torch.bool).tril()
    return {
        "linear": (nn.Linear(8, 5), (x,), {}),
        "mlp": (mlp, (x,), {}),
        "mlp unchecked": (mlp, (x,), {"check_ranges": False}),
        "linear within a budget": (nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 5)), (x,), {"failure_budget": 2.0**-8}),
        "mlp puma": (mlp, (x,), {"variants": {"gelu": "puma"}}),
        "mlp coarse": (mlp, (x,), {"activation_fraction": 10, "weight_fraction": 12}),
        "relu and softmax": (wide, (x,), {}),
        "classic block": (Block(False), (rows,), {}),
        "llama block": (Block(True), (rows,), {}),
        "masked block": (Block(False, mask=lower), (rows,), {}),
        "tokens": (Tokens(), (torch.arange(6)[None],), {}),
        "arithmetic": (Arithmetic(), (x.abs() + 1,), {}),
        "step": (Step(), (torch.randn(1, 1, 1, 8), torch.tensor(4), torch.randn(1, 1, 7, 8)), {}),
        "llama block puma": (Block(True), (rows,), {"variants": "puma"}),
    }


class Arithmetic(nn.Module):
    def forward(self, x):
        total = x.sum(-1, keepdim=True)
        return {"share": x / total, "root": torch.sqrt(x) - 0.3 * x**3, "both": (torch.exp(-x), F.softplus(x).mean(0))}


def plan_of(stored: dict[str, Any]) -> Plan:
    """Lower a stored capture."""
    captured, options = rebuilt(stored["graph"]), Options(**stored["options"])
    ranges = {site: Range(*ends) for site, ends in stored["ranges"].items()}
    if "past" not in captured.inputs:
        return finish(Lowering(captured, ranges, options, public={}).run(), captured, {})
    ranges["rows"] = ranges["past"]
    place, states = ("position", range(1, 8)), {"rows": (2, 1)}
    lowering = Lowering(captured, ranges, options, public={}, position=place, states=states, reads={"past": "rows"})
    return finish(lowering.run(), captured, {}, first_position=1, positions=7)


def fingerprint(plan: Plan) -> str:
    """The plan's hash with the words of its tables left out: their last bit is up to the processor's exp and tanh."""
    tables = {plan.nodes[i].params["index"] for node in plan.nodes if node.op.startswith("table") for i in node.inputs[1:]}
    constants = tuple(Constant(c.shape, b"", c.by_position) if i in tables else c for i, c in enumerate(plan.constants))
    return msgspec.structs.replace(plan, constants=constants).hash


def dumped(captured: Captured) -> dict[str, Any]:
    """A capture as JSON."""
    nodes = [[n.name, n.op, _target(n), _plain(n.args), _plain(n.kwargs), _value(n.meta.get("val"))] for n in captured.graph.nodes]
    return {
        "nodes": nodes,
        "public": {name: [str(t.dtype)[6:], list(t.shape), t.flatten().tolist()] for name, t in captured.public.items()},
        "owned": {name: [target, list(t.shape), float(t.abs().max())] for name, (target, t) in captured.owned.items()},
        "inputs": captured.inputs,
        "structure": captured.structure,
        "modules": {name: path for name, path in captured.modules.items() if path},
    }


def rebuilt(stored: dict[str, Any]) -> Captured:
    graph, known = fx.Graph(), {}
    for name, op, target, args, kwargs, value in stored["nodes"]:
        found = _function(target) if op == "call_function" else target
        node = graph.create_node(op, found, _restored(args, known), _restored(kwargs, known), name=name)
        node.name = name
        node.meta["val"] = _restored_value(value)
        known[name] = node
    return Captured(
        graph=graph,
        public={
            name: torch.tensor(data, dtype=getattr(torch, dtype)).reshape(shape) for name, (dtype, shape, data) in stored["public"].items()
        },
        owned={name: (target, _ramp(shape, top)) for name, (target, shape, top) in stored["owned"].items()},
        inputs=tuple(stored["inputs"]),
        structure=stored["structure"],
        modules=stored["modules"],
    )


def _ramp(shape: list[int], top: float) -> torch.Tensor:
    return torch.linspace(-top, top, torch.Size(shape).numel()).reshape(shape)


def _target(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    return str(node.target) if isinstance(node.target, torch._ops.OpOverload) else node.target.__name__


def _function(target: str) -> Any:
    import operator

    if "." not in target:
        return getattr(operator, target)
    room, name, overload = target.split(".")
    return getattr(getattr(getattr(torch.ops, room), name), overload)


def _plain(x: Any) -> Any:
    match x:
        case fx.Node():
            return {"node": x.name}
        case tuple() | list():
            return [_plain(item) for item in x]
        case dict():
            return {"kwargs": {key: _plain(item) for key, item in x.items()}}
        case torch.dtype():
            return {"dtype": str(x)[6:]}
        case torch.device():
            return {"device": str(x)}
        case float() if x in (float("inf"), float("-inf")):
            return {"float": str(x)}
    assert x is None or isinstance(x, bool | int | float | str), x
    return x


def _restored(x: Any, known: dict[str, fx.Node]) -> Any:
    match x:
        case list():
            return tuple(_restored(item, known) for item in x)
        case {"node": name}:
            return known[name]
        case {"kwargs": items}:
            return {key: _restored(item, known) for key, item in items.items()}
        case {"dtype": name}:
            return getattr(torch, name)
        case {"device": name}:
            return torch.device(name)
        case {"float": text}:
            return float(text)
    return x


def _value(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_value(item) for item in value]
    return {"shape": list(value.shape), "dtype": str(value.dtype)[6:]} if isinstance(value, torch.Tensor) else None


def _restored_value(stored: Any) -> Any:
    if isinstance(stored, list):
        return [_restored_value(item) for item in stored]
    return None if stored is None else torch.empty(stored["shape"], dtype=getattr(torch, stored["dtype"]), device="meta")


def refresh() -> None:
    """Capture all models anew and write the reference."""
    out = {}
    for name, (module, args, options) in models().items():
        captured = capture(module, args, whole=RULES)
        ranges = calibrate(captured, [list(args)])
        rounded = {site: [float(f"{end:.4g}") for end in (r.low, r.high, r.spread)] for site, r in ranges.items()}
        stored = json.loads(json.dumps({"graph": dumped(captured), "ranges": rounded, "options": options}))
        plan = plan_of(stored)
        out[name] = {
            "fingerprint": fingerprint(plan),
            "nodes": len(plan.nodes),
            "waves": len(plan.waves),
            "bytes": sum(map(sum, plan.waves)),
            **stored,
        }
    REFERENCE.write_text(
        "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in out.items()) + "\n}\n"
    )
    print(f"{len(out)} plans, {REFERENCE.stat().st_size:,} bytes, {hashlib.sha256(REFERENCE.read_bytes()).hexdigest()[:12]}")


if __name__ == "__main__":
    refresh()
