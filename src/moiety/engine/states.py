"""The caches of a session at a compute party: shares that grow along one axis, row by row (a KV cache)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moiety.compile.plan import Plan, State
from moiety.engine.limits import Memory
from moiety.engine.policy import other_axes
from moiety.engine.waves import Bound
from moiety.errors import InputError, PlanMismatch
from moiety.mpc.rounds import Role, Words
from moiety.mpc.share import Share


class States:
    """The caches of one session, by model and state name: shares that grow along one axis. ``memory`` accounts for them."""

    def __init__(self, role: Role, memory: Memory) -> None:
        self._parts, self._memory = _parts(role), memory
        self._held: dict[str, _Caches] = {}

    def lengths(self, model: str, plan: Plan) -> list[int]:
        """Rows stored for every state of the plan; parties compare them before a run."""
        held = self._by_name(model)
        return [held[s.name].length if s.name in held else 0 for s in plan.states]

    def read(self, model: str, spec: State) -> Share:
        """The first rows of the cache in the shape that the plan reads; zeros (a public share) where it is shorter."""
        cache = self._by_name(model).get(spec.name) or _Cache.of(spec)
        masked, mask = (
            first_rows(stored, spec) if held else None for held, stored in zip(self._parts, (cache.masked, cache.mask), strict=True)
        )
        return Share(spec.shape, spec.fraction, 64, masked, mask)

    def prepare(self, model: str, generation: int, bound: Bound, position: int) -> None:
        """Before a run: forget what another generation of the model left, and rows from ``position`` on of what the plan writes;
        make room for the rows that it will write.

        Raises InputError when rows before the position are missing, PlanMismatch when a state of this name has another shape,
        LimitReached when the memory does not suffice.
        """
        caches = self._held.get(model)
        if caches is None or caches.generation != generation:
            self._forget(model)
            if caches is not None and position:
                raise PlanMismatch(f"the model {model!r} was replaced since this session's last run: its caches are gone; begin again")
            caches = self._held[model] = _Caches(generation)
        for spec, rows in zip(bound.plan.states, bound.rows, strict=True):
            cache = caches.by_name.get(spec.name) or _Cache.of(spec)
            cache.check(spec)
            if rows and position > cache.length:
                raise InputError(
                    f"position {position} lies beyond the {cache.length} rows that this session stored; run the earlier ones first"
                )
            if rows:
                cache.cut(position)
                self._memory.take(cache.missing(position + rows, self._parts), f"the cache {spec.name!r} of {model!r}")
                cache.grow(position + rows, self._parts)
                caches.by_name[spec.name] = cache

    def write(self, model: str, plan: Plan, position: int, results: Mapping[int, Any]) -> None:
        """Store the new rows of every state at ``position``, for which it was prepared."""
        for spec in plan.states:
            if spec.write >= 0:
                self._held[model].by_name[spec.name].store(position, results[spec.write])

    def _by_name(self, model: str) -> "dict[str, _Cache]":
        return self._held[model].by_name if model in self._held else {}

    def _forget(self, model: str) -> None:
        self._memory.give(sum(cache.nbytes for cache in self._by_name(model).values()))
        self._held.pop(model, None)

    def close(self) -> None:
        """Drop everything."""
        for model in list(self._held):
            self._forget(model)

    @property
    def nbytes(self) -> int:
        """Memory held, spare capacity included."""
        return sum(cache.nbytes for caches in self._held.values() for cache in caches.by_name.values())


def _parts(role: Role) -> tuple[bool, bool]:
    """Whether a role holds the masked part, and a mask."""
    return role in (Role.P1, Role.P2), role in (Role.P0, Role.P1, Role.P2)


def first_rows(stored: Words | None, spec: State) -> Words:
    """The rows that the plan reads: a view where so many are there (zeros behind the last), else a padded copy."""
    if stored is None:
        return np.zeros(spec.shape, np.uint64)
    before = (slice(None),) * spec.axis
    rows = spec.shape[spec.axis]
    if stored.shape[spec.axis] >= rows:
        return stored[(*before, slice(0, rows))]
    out = np.zeros(spec.shape, np.uint64)
    out[(*before, slice(0, stored.shape[spec.axis]))] = stored
    return out


@dataclass(slots=True)
class _Cache:
    """One state. Rows behind ``length`` are zero; ``shape`` is that of some plan, of which the axis counts for nothing."""

    shape: tuple[int, ...]
    axis: int
    fraction: int
    length: int = 0
    masked: Words | None = None
    mask: Words | None = None

    @classmethod
    def of(cls, spec: State) -> "_Cache":
        return cls(spec.shape, spec.axis, spec.fraction)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.masked, self.mask) if part is not None)

    def check(self, spec: State) -> None:
        """Raises PlanMismatch unless the plan means a tensor of this kind."""
        mine, meant = ((one.axis, one.fraction, other_axes(one.shape, one.axis)) for one in (self, spec))
        if mine != meant:
            raise PlanMismatch(
                f"the plan has the state {spec.name!r} as {spec.shape} with {spec.fraction} fraction bits, this session holds it as "
                f"{self.shape} with {self.fraction}; run plans of one deployment, or open a new session"
            )

    def cut(self, length: int) -> None:
        if length < self.length:
            for part in (self.masked, self.mask):
                if part is not None:
                    part[(slice(None),) * self.axis + (slice(length, None),)] = 0
            self.length = length

    def missing(self, rows: int, parts: tuple[bool, bool]) -> int:
        """By how many bytes :meth:`grow` would grow it."""
        return 8 * sum(parts) * math.prod(self._capacity(rows)) - self.nbytes

    def grow(self, rows: int, parts: tuple[bool, bool]) -> None:
        """Make room for so many rows in the parts that this role holds."""
        if not self.missing(rows, parts):
            return
        shape = self._capacity(rows)
        self.masked, self.mask = (
            _larger(held, shape, self.axis) if part else None for part, held in zip(parts, (self.masked, self.mask), strict=True)
        )

    def _capacity(self, rows: int) -> tuple[int, ...]:
        """By doubling, so that a long answer copies its caches few times."""
        held = self.mask if self.mask is not None else self.masked
        now = 0 if held is None else held.shape[self.axis]
        rows = now if rows <= now else max(rows, 2 * now)
        return (*self.shape[: self.axis], rows, *self.shape[self.axis + 1 :])

    def store(self, position: int, rows: Share) -> None:
        self.length = position + rows.shape[self.axis]
        for held, part in ((self.masked, rows.masked), (self.mask, rows.mask)):
            if held is not None and part is not None:
                held[(slice(None),) * self.axis + (slice(position, self.length),)] = part


def _larger(held: Words | None, shape: tuple[int, ...], axis: int) -> Words:
    grown = np.zeros(shape, np.uint64)
    if held is not None:
        grown[(slice(None),) * axis + (slice(0, held.shape[axis]),)] = held
    return grown


@dataclass(slots=True)
class _Caches:
    """The caches of one model in one session."""

    generation: int
    by_name: dict[str, _Cache] = field(default_factory=dict)
