"""Models and inputs that a user gives by file: a factory in a Python file, shapes on the command line, examples in a data file."""

import ast
import contextlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moiety.errors import ConfigError, MoietyError

_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<kind>float|ones|zeros|int(?P<below>\d+)))?")


def factory(place: str) -> tuple[Any, Any]:
    """What ``file.py:function`` returns: a module, or a module and example inputs (a tuple, or a dict by name; else None).

    The file runs as any import does: only name files you trust. Raises ConfigError.
    """
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"there is no file {file}; write it as path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        with _users(file):
            spec.loader.exec_module(module)
        made = getattr(module, name, None)
        if not callable(made):
            raise ConfigError(f"{file} has no function {name!r}; it has {', '.join(_functions(module)) or 'none'}")
        with _users(place):
            out = made()
    finally:
        sys.path.pop(0)
    model, inputs = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{place} returned a {type(model).__name__}; return a torch.nn.Module, or (module, example inputs)")
    return model.eval(), inputs


def unnamed(file: str) -> str:
    """What to say of a Python file without a function: those that it defines. It is read, not run."""
    if not Path(file).is_file():
        return f"there is no file {file}; write it as path/to/file.py:function"
    try:
        found = ast.parse(Path(file).read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        found = []
    names = [one.name for one in found if isinstance(one, ast.FunctionDef | ast.ClassDef) and not one.name.startswith("_")]
    return f"add the function that makes the model, as {file}:FUNCTION; {file} has {', '.join(names) or 'none'}"


@contextlib.contextmanager
def _users(place: str) -> Iterator[None]:
    """Errors of a user's own program are told as they are."""
    try:
        yield
    except MoietyError:
        raise
    except Exception as error:
        line = next((f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename in place), 0)
        raise ConfigError(f"{place} failed at line {line}: {type(error).__name__}: {error}") from error


def _functions(module: Any) -> list[str]:
    return [key for key, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__]


def inputs(texts: Sequence[str]) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Example inputs from ``[NAME=]SHAPE[:KIND]``, such as ``4x8``, ``x=1x3x32x32`` or ``ids=1x16:int1000`` (integers below 1000).

    Kinds: float (normal, the default), ones, zeros, intN. Returns positional and named ones. Raises ConfigError.
    """
    generator, args, kwargs = torch.Generator().manual_seed(0), [], {}
    for text in texts:
        match = _INPUT.fullmatch(text)
        if match is None:
            raise ConfigError(f"{text!r} is no input; write [NAME=]SHAPE[:KIND], such as 4x8, x=1x3x32x32 or ids=1x16:int1000")
        value = _made(match, generator)
        if match["name"]:
            kwargs[match["name"]] = value
        else:
            args.append(value)
    return tuple(args), kwargs


def _made(match: re.Match[str], generator: torch.Generator) -> torch.Tensor:
    shape = () if match["shape"] == "scalar" else tuple(map(int, match["shape"].split("x")))
    match match["kind"]:
        case "ones":
            return torch.ones(shape, dtype=torch.long)
        case "zeros":
            return torch.zeros(shape, dtype=torch.long)
        case None | "float":
            return torch.randn(shape, generator=generator)
    return torch.randint(0, max(1, int(match["below"])), shape, generator=generator)


def read(path: Path, names: Sequence[str]) -> list[tuple[torch.Tensor, ...]]:
    """Examples of a model's inputs from a file, each a tuple in the order of ``names``.

    ``.npz``: an array for each input, its first axis numbers the examples. ``.pt``: a list of tuples or of dicts by name (or one
    dict as in ``.npz``); loaded as data, not as code. Raises ConfigError.
    """
    if not path.is_file():
        raise ConfigError(f"there is no data file {path}")
    held = _held(path)
    if isinstance(held, Mapping):
        _check_names(path, names, held)
        counts = {name: len(held[name]) for name in names}
        if len(set(counts.values())) != 1:
            raise ConfigError(f"{path} holds different numbers of examples: {counts}")
        held = [{name: held[name][i] for name in names} for i in range(next(iter(counts.values())))]
    out = []
    for example in held:
        if isinstance(example, Mapping):
            _check_names(path, names, example)
            example = tuple(example[name] for name in names)
        out.append(tuple(torch.as_tensor(value) for value in (example if isinstance(example, tuple | list) else (example,))))
        if len(out[-1]) != len(names):
            raise ConfigError(f"an example of {path} has {len(out[-1])} inputs; the model takes {', '.join(names)}")
    if not out:
        raise ConfigError(f"{path} holds no example")
    return out


def _held(path: Path) -> Any:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        if path.suffix == ".pt":
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as {path.suffix} ({type(error).__name__}); arrays and tensors only") from None
    raise ConfigError(f"{path} is neither .npz nor .pt; for language models .txt holds one text a line")


def _check_names(path: Path, names: Sequence[str], held: Mapping[str, Any]) -> None:
    if missing := [name for name in names if name not in held]:
        raise ConfigError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(held)}")
