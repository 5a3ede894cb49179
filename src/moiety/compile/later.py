"""Tensors of the model owner that are made when somebody needs them, so that no second copy of a large model is held."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Later:
    """A large tensor of the owner that is made whenever somebody needs it: ``gain[:, None] * tensor``, at single precision at least."""

    gain: torch.Tensor
    tensor: torch.Tensor

    def __call__(self) -> torch.Tensor:
        return self.gain.to(torch.promote_types(self.gain.dtype, torch.float32))[:, None] * self.tensor

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        return self.tensor.shape

    def numel(self) -> int:
        """Of the tensor."""
        return self.tensor.numel()


def made(tensor: torch.Tensor | Later) -> torch.Tensor:
    """The tensor itself."""
    return tensor() if isinstance(tensor, Later) else tensor
