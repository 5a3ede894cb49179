"""What a published system says of itself, and how its claim is reproduced.

A system registers by being a module of :mod:`moiety.claims.systems` with two names: ``SYSTEM``, a :class:`System` whose id is the
module's name, and ``rows(quick)``, which yields the rows of its claim as they are measured.
"""

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, cast

import msgspec

from moiety.claims import systems as package
from moiety.errors import ConfigError


class Part(msgspec.Struct, frozen=True):
    """One built part of a system: ``what`` it does, and the module ``where`` it lies."""

    what: str
    where: str


class System(msgspec.Struct, frozen=True, kw_only=True):
    """A published system: what of it is built, what is not (``limits``), and the claim that is measured here."""

    id: str
    title: str
    paper: str
    claim: str
    built: tuple[Part, ...]
    limits: tuple[str, ...]
    page: str
    """Its page in the documentation, as a path in the repository."""


class Row(msgspec.Struct, frozen=True):
    """One measured quantity. ``paper``: the published figure, None where the paper has none for what is measured; ``baseline``: what
    the measurement is held against; all in ``unit``."""

    quantity: str
    paper: float | None
    measured: float
    baseline: float | None
    unit: str
    holds: bool


class Reproduction(msgspec.Struct, frozen=True, kw_only=True):
    """A claim as measured now. It holds if every row does."""

    id: str
    title: str
    paper: str
    holds: bool
    rows: tuple[Row, ...]
    seconds: float


class Module(Protocol):
    """A system's module."""

    SYSTEM: System

    def rows(self, quick: bool) -> Iterator[Row]:
        """Measure. Raises FileNotFoundError or ModuleNotFoundError where data or packages are missing, before anything long begins."""


def systems() -> dict[str, System]:
    """All built systems by id."""
    return {name: module.SYSTEM for name, module in _modules().items()}


def reproduce(name: str, *, quick: bool = False, on_row: Callable[[Row], None] = lambda row: None) -> Reproduction:
    """Measure the claim of one system again. ``quick`` takes a small part of the data; ``on_row`` hears of every row.

    Raises ConfigError for a system that is not built, and whatever keeps the measurement from running.
    """
    known = _modules()
    if name not in known:
        raise ConfigError(f"no system {name!r} is built; take {' or '.join(known)}")
    system, rows, began = known[name].SYSTEM, [], time.perf_counter()
    for row in known[name].rows(quick):
        rows.append(msgspec.convert(msgspec.structs.asdict(row), Row))  # at once: plain numbers, which can be printed
        on_row(row)
    holds = bool(rows) and all(row.holds for row in rows)
    seconds = round(time.perf_counter() - began, 1)
    return Reproduction(id=name, title=system.title, paper=system.paper, holds=holds, rows=tuple(rows), seconds=seconds)


def _modules() -> Mapping[str, Module]:
    names = sorted(entry.name for entry in pkgutil.iter_modules(package.__path__))
    return {name: cast(Module, importlib.import_module(f"{package.__name__}.{name}")) for name in names}
