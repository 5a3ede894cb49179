"""What peers compute is what the modules compute: the runners' networks in float64 PyTorch against HuggingFace's own."""

from typing import Any

import numpy as np
import pytest
import torch

from moiety.bench import operations
from moiety.bench.networks import Bert, Gpt2, Llama, Network, Vit
from moiety.bench.runners.networks import FAMILIES, evaluate
from moiety.bench.workloads import MODULE, TABLE


class Plain:
    """The operations of a peer that computes in the clear."""

    def gelu(self, x: Any, form: str) -> Any:
        return torch.nn.functional.gelu(x, approximate="tanh" if form == "tanh" else "none")

    def silu(self, x: Any) -> Any:
        return torch.nn.functional.silu(x)

    def relu(self, x: Any) -> Any:
        return torch.relu(x)

    def softmax(self, x: Any) -> Any:
        return torch.softmax(x, -1)

    def argmax(self, x: Any) -> Any:
        return x.argmax(-1)

    def mean(self, x: Any) -> Any:
        return x.mean(-1, keepdim=True)

    def rsqrt(self, x: Any) -> Any:
        return torch.rsqrt(x)

    def swap(self, x: Any, one: int, other: int) -> Any:
        return x.transpose(one, other)

    def join(self, parts: list[Any], axis: int) -> Any:
        return torch.cat(parts, axis)

    def public(self, array: Any) -> Any:
        return torch.from_numpy(array)


LLAMA = {"heads": 4, "shared": 2, "inner": 40, "epsilon": 1e-5, "rotary": 1e4}
MODULES = [
    (Gpt2(2, 5, width=24, heads=3), (1, 5, 24)),
    (Gpt2(1, 4, head=True, width=24, heads=3), (1, 4, 24)),
    (Bert(1, 6), (1, 6, 768)),
    (Vit(1), (1, 3, 32, 32)),
    (Llama(2, width=32, **LLAMA), (1, 6, 32)),  # type: ignore[arg-type]
    (operations.Matmul(12, 7), (3, 12)),
    (operations.LayerNorm(16), (3, 16)),
    (operations.Relu(), (9,)),
    (operations.Gelu(), (9,)),
    (operations.Silu(), (9,)),
    (operations.Softmax(), (2, 9)),
    (operations.Argmax(), (9,)),
]


@pytest.mark.parametrize(("module", "shape"), MODULES, ids=lambda one: type(one).__name__ if isinstance(one, Network) else "")
def test_peers_compute_the_same(module: Network, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    module.randomise(generator)
    module.eval().double()
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        wanted = module(x)
        weights: dict[str, Any] = dict(module.arrays())
        for sliced in (False, True):
            found = evaluate(Plain(), module.family, dict(module.settings), _sliced(weights) if sliced else weights, [module.given(x)])
            assert found.shape[-1:] == wanted.shape[-1:]
            assert np.allclose(found.reshape(-1), wanted.reshape(-1), atol=1e-6)  # angles of a Llama are float32 at both


def _sliced(weights: dict[str, Any]) -> dict[str, Any]:
    """Matrices of linear layers in slices of their columns, as a peer may need them."""
    whole = ("positions", "first")
    return {name: list(one.tensor_split(3, 1)) if one.ndim == 2 and name not in whole else one for name, one in weights.items()}


def test_every_workload_is_known_to_peers() -> None:
    small = {workload.name: workload.make().family for workload in TABLE if workload.kind == MODULE and workload.micro}
    assert set(small.values()) <= set(FAMILIES)
    assert len({workload.name for workload in TABLE}) == len(TABLE)
