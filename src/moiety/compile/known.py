"""Values that are not secret, and what is computed with them in the clear: by everybody, or by their owner."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from moiety.compile.values import Owned, Public
from moiety.errors import UnsupportedOp


def known(what: str, f: Callable[..., Any], *values: Any) -> Public | Owned:
    """f of values, numbers among them, none of which is secret. ``what`` names f: it identifies what an owner computes."""
    given = [value if isinstance(value, Public | Owned) else Public(value) for value in values]
    count = max((len(v.rows) for v in given if isinstance(v, Public) and v.rows is not None), default=0)
    if not any(isinstance(v, Owned) for v in given):
        if not count:
            return Public(f(*(_tensor(v) for v in given)))
        return Public(None, tuple(f(*(_tensor(v, i) for v in given)) for i in range(count)))
    if count:
        raise UnsupportedOp(f"{what} of weights and of the run's position")
    return Owned(f(*(_tensor(v) for v in given)), f"{what}({', '.join(map(described, given))})")


def _tensor(value: Public | Owned, row: int = 0) -> torch.Tensor:
    held = value.tensor if isinstance(value, Owned) else value.value if value.rows is None else value.rows[row]
    return torch.as_tensor(held, dtype=torch.float64) if type(held) in (int, float) else torch.as_tensor(held)


def reach(value: Any) -> float:
    """Largest magnitude of a value that is not secret; 0 of an empty one."""
    rows = value.rows if isinstance(value, Public) and value.rows is not None else None
    given = value if isinstance(value, Public | Owned) else Public(value)
    tensors = [_tensor(given, i) for i in range(len(rows) if rows is not None else 1)]
    return max((float(t.double().abs().max()) for t in tensors if t.numel()), default=0.0)


def described(value: Public | Owned) -> str:
    """A name that tells values apart: that of an owner's tensor, a digest of a public one."""
    if isinstance(value, Owned):
        return value.name
    held = value.value if value.rows is None else torch.stack([torch.as_tensor(row) for row in value.rows])
    if isinstance(held, torch.Tensor):
        tensor = held.contiguous()  # equal bytes of another shape or type are another value
        return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.numpy().tobytes()).hexdigest()[:16]
    return repr(value.value)
