"""Ring products on a CUDA device, the same words as on the processor, by exact products of doubles.

A word is cut into balanced limbs of 22, 22 and 20 bits: ``x = x0 + 2^22 x1 + 2^44 x2 (mod 2^64)``, every limb within 2^21 of zero. Of
the nine products of limbs six stay below 2^64; those of equal weight are summed in doubles, which are exact as long as no sum leaves
2^53: at most 2^43 a place (two products of 22-bit limbs), so 1,024 places at a time. Double products are what a data-centre GPU has tensor
cores for; torch has no 64-bit integer product there.

PyTorch is imported only when a device is asked for. The processor's own doubles serve as a device, too (``"cpu"``): that is how the
arithmetic is tested where there is no GPU.
"""

from typing import TYPE_CHECKING, Final

import numpy as np

from moiety.errors import ConfigError
from moiety.ring._numpy import Words

if TYPE_CHECKING:
    import torch

LIMBS: Final = (22, 22, 20)
TERMS: Final = tuple(tuple((i, weight - i) for i in range(weight + 1)) for weight in range(len(LIMBS)))
"""Pairs of limbs whose product has the weight 2^0, 2^22, 2^44."""
DEPTH: Final = 1024


class Device:
    """Where products run. ``Device("cuda")`` raises ConfigError where PyTorch is missing or finds no such device."""

    def __init__(self, name: str) -> None:
        try:
            import torch
        except ImportError:
            raise ConfigError(f"the device {name!r} needs PyTorch: pip install 'moiety[torch]'") from None
        try:
            self._device = torch.device(name)
            torch.empty(0, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
        self._torch, self.name = torch, name

    def limbs(self, words: Words) -> "torch.Tensor":
        """Words (..., k, n) as doubles (3, ..., k, n) on the device, lowest limb first."""
        rest = self._torch.from_numpy(np.ascontiguousarray(words).view(np.int64)).to(self._device)
        out = self._torch.empty((len(LIMBS), *words.shape), dtype=self._torch.float64, device=self._device)
        for place, bits in enumerate(LIMBS):
            limb = rest << (64 - bits) >> (64 - bits)  # the low bits with their sign
            out[place].copy_(limb)
            rest = (rest - limb) >> bits  # what the shift brings in at the top is above every limb that is left
        return out

    def product(self, left: "torch.Tensor", right: "torch.Tensor") -> Words:
        """Words (..., m, n) from limbs (3, ..., m, k) and (3, ..., k, n); leading dimensions broadcast."""
        shape = np.broadcast_shapes(tuple(left.shape[1:-2]), tuple(right.shape[1:-2]))
        total = self._torch.zeros((*shape, left.shape[-2], right.shape[-1]), dtype=self._torch.int64, device=self._device)
        for begin in range(0, left.shape[-1], DEPTH):
            rows, columns = left[..., begin : begin + DEPTH], right[..., begin : begin + DEPTH, :]
            for weight, pairs in enumerate(TERMS):
                exact = self._torch.stack([rows[i] @ columns[j] for i, j in pairs]).sum(0)
                total += exact.to(self._torch.int64) << sum(LIMBS[:weight])
        words: Words = total.cpu().numpy().view(np.uint64)
        return words

    def __repr__(self) -> str:
        return f"Device({self.name!r})"
