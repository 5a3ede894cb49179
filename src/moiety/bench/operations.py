"""Single operations as modules, for the workloads of one operation each. Weights are the model owner's, inputs the data owner's."""

from typing import Any

import torch

from moiety.bench.networks import Arrays, Network


class _Function(Network):
    """Without weights."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def arrays(self) -> Arrays:
        return {}

    def given(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Mul(_Function):
    """Of two inputs."""

    family = "mul"

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return x * y


class Relu(_Function):
    """max(x, 0)."""

    family = "relu"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return torch.relu(x)


class Gelu(_Function):
    """The exact one."""

    family = "gelu"

    def __init__(self) -> None:
        super().__init__(gelu="erf")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return torch.nn.functional.gelu(x)


class Silu(_Function):
    """x · sigmoid(x)."""

    family = "silu"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return torch.nn.functional.silu(x)


class Softmax(_Function):
    """Along the last axis."""

    family = "softmax"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return torch.softmax(x, -1)


class Argmax(_Function):
    """The index of the largest."""

    family = "argmax"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One axis."""
        return x.argmax(-1)


class Matmul(Network):
    """With the owner's matrix, its entries of deviation 0.05."""

    family = "matmul"

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.linear, self.settings = torch.nn.Linear(inner, outer, bias=False), {}

    def randomise(self, generator: torch.Generator) -> None:
        torch.nn.init.normal_(self.linear.weight, 0, 0.05, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, inner) to (rows, outer)."""
        y: torch.Tensor = self.linear(x)
        return y

    def arrays(self) -> Arrays:
        return {"matrix": self.linear.weight.T}

    def given(self, x: torch.Tensor) -> torch.Tensor:
        return x


class LayerNorm(Network):
    """With gain and shift."""

    family = "layer_norm"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.settings = {"epsilon": self.norm.eps}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) to the same."""
        y: torch.Tensor = self.norm(x)
        return y

    def arrays(self) -> Arrays:
        return {"norm.gain": self.norm.weight, "norm.shift": self.norm.bias}

    def given(self, x: torch.Tensor) -> torch.Tensor:
        return x
