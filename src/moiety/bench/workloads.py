"""The table of what is measured: a PyTorch module each, the deviation of its normal inputs, and the name a peer knows it by.

The module that runs privately is the one that gives the reference in float64, and its weights are the ones that peers receive.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MODULE: Final = "module"
PREFILL: Final = "prefill"
DECODE: Final = "decode"


@dataclass(frozen=True, slots=True)
class Workload:
    """One row. ``make`` builds the module (a :class:`moiety.bench.networks.Network`); of a prefill or decode it loads the model."""

    name: str
    title: str
    make: Callable[[], Any]
    shapes: tuple[tuple[int, ...], ...]
    """Of the inputs, tokens where the kind is not ``module``."""
    deviation: float = 1.0
    kind: str = MODULE
    micro: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the compiler that differ from the default, so that fixed point is as fine as the peers'."""

    @property
    def runs(self) -> int:
        """Of a turn, in the same processes: some that warm up, and those that count."""
        return 8 if self.micro else TOKENS + 1 if self.kind == DECODE else 2

    @property
    def counted(self) -> int:
        """How many of the last runs count, by their median. A single operation's milliseconds differ from run to run, and its first runs
        still look for memory."""
        return 5 if self.micro else TOKENS if self.kind == DECODE else 1


def _networks() -> Any:
    from moiety.bench import networks  # loads PyTorch

    return networks


def _operations() -> Any:
    from moiety.bench import operations

    return operations


def _smollm2() -> Any:
    from moiety.models import smollm2

    return smollm2


EIGHTEEN: Final = {"activation_fraction": 18, "weight_fraction": 18}
SMOLLM2_LAYER: Final = {"width": 576, "heads": 9, "shared": 3, "inner": 1536, "epsilon": 1e-5, "rotary": 1e5}
LLAMA_7B_LAYER: Final = {"width": 4096, "heads": 32, "shared": 32, "inner": 11008, "epsilon": 1e-6, "rotary": 1e4}
PROMPT: Final = 32
TOKENS: Final = 16
"""New tokens of the decode workload, over a cache of 64 columns."""


def _micro(name: str, title: str, make: Callable[[], Any], *shapes: tuple[int, ...], deviation: float = 1.0, **options: int) -> Workload:
    return Workload(name, title, make, shapes, deviation, micro=True, options=options)


TABLE: Final = (
    _micro("matmul-512x768x768", "matmul 512×768×768", lambda: _operations().Matmul(768, 768), (512, 768), **EIGHTEEN),
    _micro("matmul-1x4096x4096", "matmul 1×4096×4096", lambda: _operations().Matmul(4096, 4096), (1, 4096), **EIGHTEEN),
    _micro("mul-1e6", "mul 1e6", lambda: _operations().Mul(), (1_000_000,), (1_000_000,), **EIGHTEEN),
    _micro("relu-1e5", "ReLU 1e5", lambda: _operations().Relu(), (100_000,), deviation=2.0, **EIGHTEEN),
    _micro("gelu-1e5", "GeLU 1e5", lambda: _operations().Gelu(), (100_000,), deviation=2.0),
    _micro("silu-1e5", "SiLU 1e5", lambda: _operations().Silu(), (100_000,), deviation=2.0),
    _micro("softmax-12x128x128", "softmax 12×128×128", lambda: _operations().Softmax(), (12, 128, 128), deviation=2.0),
    _micro("layernorm-128x768", "layer norm 128×768", lambda: _operations().LayerNorm(768), (128, 768)),
    _micro("argmax-50257", "argmax 50257", lambda: _operations().Argmax(), (50257,), deviation=2.0),
    Workload("gpt2", "GPT-2 small, 12 layers, 32 tokens", lambda: _networks().Gpt2(12, 32), ((1, 32, 768),), 0.5),
    Workload("gpt2-lm", "GPT-2 small with LM head", lambda: _networks().Gpt2(12, 32, head=True), ((1, 32, 768),), 0.5),
    Workload("bert", "BERT-base, 128 tokens", lambda: _networks().Bert(12, 128), ((1, 128, 768),)),
    Workload("vit", "ViT d=192, 12 layers, 65 rows", lambda: _networks().Vit(12), ((1, 3, 32, 32),)),
    Workload("llama-smollm2", "Llama layer, SmolLM2's shape, 32 tokens", lambda: _networks().Llama(1, **SMOLLM2_LAYER), ((1, 32, 576),)),
    Workload("llama-7b", "Llama layer, LLaMA-7B's shape, 8 tokens", lambda: _networks().Llama(1, **LLAMA_7B_LAYER), ((1, 8, 4096),)),
    Workload("smollm2-prefill", "SmolLM2-135M, prompt of 32", lambda: _smollm2().load(), ((1, PROMPT),), kind=PREFILL),
    Workload("smollm2-decode", "SmolLM2-135M, a token, cache 64", lambda: _smollm2().load(), ((1, PROMPT + TOKENS + 1),), kind=DECODE),
)
WORKLOADS: Final = {workload.name: workload for workload in TABLE}
QUICK: Final = ("relu-1e5", "gelu-1e5", "layernorm-128x768")
