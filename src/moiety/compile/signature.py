"""What a caller passes in and gets back, by a plan alone: no model is needed on the data owner's side."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moiety import ring
from moiety.compile.plan import Input, Plan
from moiety.errors import InputError, RangeViolation
from moiety.mpc.rounds import Words


class Outputs(dict[str, Any]):
    """Named outputs, also as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def arguments(plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name: positional arguments fill the plan's names in order. Raises InputError that lists what is expected."""
    names = list(plan.arguments)
    expected = f"the model takes {', '.join(names)}"
    if len(args) > len(names):
        raise InputError(f"{len(args)} positional inputs given; {expected}")
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names or name in given:
            raise InputError(f"input {name!r} is {'given twice' if name in given else 'unknown'}; {expected}")
        given[name] = value
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"missing input {', '.join(missing)}; {expected}")
    return given


def fits(plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether these inputs have the plan's names and shapes and its public values."""
    try:
        given = arguments(plan, args, kwargs)
    except InputError:
        return False
    shapes = all(shape(given[i.name]) == i.shape for i in plan.inputs)
    return shapes and all(name in given and fingerprint(given[name]) == digest for name, digest in plan.public)


def shape(value: Any) -> tuple[int, ...] | None:
    """Of an array, a number or a list of them; None of anything else."""
    try:
        return None if value is None or isinstance(value, str | bytes | Mapping) else tuple(np.shape(value))
    except ValueError:  # a list of lists of several lengths
        return None


def refused(name: str, plans: Sequence[Plan], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """That no plan of the model takes these inputs, and why, in names and shapes."""
    deployed = "; ".join(", ".join(f"{i.name} {i.shape}" for i in plan.inputs) for plan in plans)
    try:
        given = arguments(plans[0], args, kwargs)
    except InputError as error:
        return f"no plan of {name!r} takes these inputs: {error}; deployed are: {deployed}"
    told = ", ".join(f"{i.name} {_described(given[i.name])}" for i in plans[0].inputs)
    public = ", ".join(key for key, _ in plans[0].public)
    return f"no plan of {name!r} takes {told}{f' with these values of {public}' if public else ''}; deployed are: {deployed}"


def _described(value: Any) -> str:
    found = shape(value)
    return str(found) if found is not None else "None" if value is None else f"({type(value).__name__})"


def fingerprint(value: Any) -> str:
    """Digest of a public input's shape, type and content; of what is no array, its text."""
    array = np.ascontiguousarray(_array(value))
    if array.dtype == object:
        return hashlib.sha256(f"object {value!r}".encode()).hexdigest()
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def zeros(plan: Plan) -> list[Words]:
    """Words of the shapes that the plan takes, all zero: for runs of which only the costs matter."""
    return [np.zeros((*one.shape, one.classes) if one.form == "one_hot" else one.shape, np.uint64) for one in plan.inputs]


def encode_inputs(plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Words]:
    """The client's ring elements for every secret input. Raises InputError on a wrong shape, NaN or a value out of range."""
    given = arguments(plan, args, kwargs)
    return [_encode(spec, _array(given[spec.name])) for spec in plan.inputs]


def _encode(spec: Input, value: NDArray[Any]) -> Words:
    if value.shape != spec.shape:
        raise InputError(f"input {spec.name} has shape {value.shape}, this plan serves {spec.shape}")
    if spec.form == "one_hot":
        if not np.issubdtype(value.dtype, np.integer) or value.min(initial=0) < 0 or value.max(initial=0) >= spec.classes:
            raise InputError(f"input {spec.name} must hold integers from 0 to {spec.classes - 1}")
        hot: Words = (value[..., None] == np.arange(spec.classes)).astype(np.uint64)
        return hot
    if value.dtype.kind not in "fiub":
        raise InputError(f"input {spec.name} must hold real numbers, not {value.dtype}")
    values = value.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"input {spec.name} holds NaN or infinity")
    if np.abs(values).max(initial=0.0) > spec.bound:
        raise InputError(f"input {spec.name} leaves the calibrated range of +-{spec.bound:.4g}; calibrate with inputs like it")
    return ring.encode(values, spec.fraction)


def decode_outputs(plan: Plan, words: Sequence[Words], flag: bool = False, *, tensors: bool = False) -> Any:
    """The answer in the model's own structure, of numpy arrays or torch ``tensors``.

    Raises RangeViolation when the run flagged a value out of range, or when an output is beyond its bound.
    """
    if flag:
        raise RangeViolation("a value left its calibrated range during the run; calibrate with inputs like this one and deploy again")
    leaves = []
    for spec, got in zip(plan.outputs, words, strict=True):
        values = ring.decode(got, spec.fraction)
        if spec.bound and np.abs(values).max(initial=0.0) > spec.bound:
            raise RangeViolation(
                f"{spec.name} is beyond {spec.bound:.4g}, so a value left its calibrated range; calibrate with inputs like this one"
            )
        array = _typed(values, spec.form).reshape(spec.shape)
        leaves.append(sys.modules["torch"].from_numpy(array) if tensors else array)
    return _rebuild(json.loads(plan.structure), leaves) if plan.structure else leaves


def _typed(values: NDArray[np.float64], form: str) -> NDArray[Any]:
    if form == "fixed":
        return values.astype(np.float32)
    whole = np.asarray(np.rint(values)).astype(np.int64)
    return np.asarray(whole != 0) if form == "boolean" else whole


def _rebuild(structure: Mapping[str, Any], leaves: Sequence[Any]) -> Any:
    [(kind, content)] = structure.items()
    match kind:
        case "leaf":
            return leaves[content]
        case "tuple":
            return tuple(_rebuild(part, leaves) for part in content)
        case "list":
            return [_rebuild(part, leaves) for part in content]
        case "dict":
            return Outputs({key: _rebuild(part, leaves) for key, part in content.items()})
    return None


def _array(value: Any) -> NDArray[Any]:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    held = value.detach().cpu()
    return np.asarray((held.float() if str(held.dtype) == "torch.bfloat16" else held).numpy())
