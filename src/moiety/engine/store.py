"""What a compute party keeps, in memory only: shared weights and plans by model, and the caches of a session."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moiety.compile.plan import Plan
from moiety.compile.plan import State as StateSpec
from moiety.engine import keys
from moiety.engine.messages import Tensor
from moiety.engine.waves import Bound
from moiety.errors import InputError, PlanMismatch, PolicyRefused
from moiety.mpc.rep3 import Weight
from moiety.mpc.rounds import Role, Words
from moiety.mpc.share import Share


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight as this party holds it. ``sharing`` says under which masks, so that parties never mix two sharings."""

    tensor: Tensor
    value: Weight | Share
    sharing: bytes
    owner: str

    @property
    def nbytes(self) -> int:
        value = self.value
        parts = (value.masked, value.mask, value.additive) if isinstance(value, Weight) else (value.masked, value.mask)
        return sum(part.nbytes for part in parts if part is not None)


@dataclass(slots=True)
class Model:
    """The weights and plans under one model name."""

    weights: dict[str, Stored] = field(default_factory=dict)
    plans: dict[str, Bound] = field(default_factory=dict)

    def sharing(self, plan: Plan) -> bytes:
        """A digest of the sharings that the plan reads. Raises PlanMismatch when a weight is missing or of another shape."""
        parts: list[bytes | str] = []
        for wanted in plan.weights:
            held = self.weights.get(wanted.name)
            if held is None:
                raise PlanMismatch(f"the plan reads the weight {wanted.name!r}, which was not shared here; deploy the model again")
            if (held.tensor.shape, held.tensor.fraction, held.tensor.packed) != (wanted.shape, wanted.fraction, wanted.packed):
                raise PlanMismatch(f"the weight {wanted.name!r} was shared in another shape or precision than the plan reads")
            parts += [wanted.name, held.sharing]
        return keys.digest("moiety weights", *parts)

    def check_owner(self, names: Iterable[str], owner: str) -> None:
        """Raises PolicyRefused when one of these weights is somebody else's: a plan may open whatever it reads."""
        for name in names:
            if name in self.weights and self.weights[name].owner != owner:
                raise PolicyRefused(f"the weight {name!r} is not one that {owner} shared; let its owner go on, or replace the model")


class Store:
    """All models of a party. Sessions share it; what is stored is never changed, only added or replaced."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._turn = threading.Lock()

    def model(self, name: str) -> Model:
        """A snapshot of the model: later additions do not touch it."""
        with self._turn:
            held = self._models.get(name, Model())
            return Model(dict(held.weights), dict(held.plans))

    def add_weights(self, name: str, weights: Mapping[str, Stored], *, replace: bool = False) -> None:
        """Add to a model; ``replace`` drops its former weights and plans."""
        with self._turn:
            if replace:
                self._models[name] = Model()
            model = self._models.setdefault(name, Model())
            for weight, stored in weights.items():
                model.check_owner((weight,), stored.owner)
            model.weights.update(weights)

    def add_plan(self, name: str, bound: Bound, owner: str) -> None:
        """Add a plan of ``owner``. Raises PlanMismatch when a weight is missing, PolicyRefused when one is somebody else's."""
        with self._turn:  # together: nobody may put other weights under these names between the check and the plan
            model = self._models.setdefault(name, Model())
            model.sharing(bound.plan)
            model.check_owner((wanted.name for wanted in bound.plan.weights), owner)
            model.plans[bound.hash] = bound

    @property
    def nbytes(self) -> int:
        """Memory held by all weights."""
        with self._turn:
            return sum(stored.nbytes for model in self._models.values() for stored in model.weights.values())


class States:
    """The caches of one session, by model and state name: shares that grow along one axis."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._held: dict[tuple[str, str], _Cache] = {}

    def lengths(self, model: str, plan: Plan) -> list[int]:
        """Rows stored for every state of the plan; parties compare them before a run."""
        return [self._held[model, s.name].length if (model, s.name) in self._held else 0 for s in plan.states]

    def read(self, model: str, spec: StateSpec) -> Share:
        """The first rows of the cache in the shape that the plan reads; zeros (a public share) where it is shorter."""
        cache = self._held.get((model, spec.name), _Cache(spec.axis))
        masked, mask = (
            first_rows(stored, spec) if held else None for held, stored in zip(_parts(self._role), (cache.masked, cache.mask), strict=True)
        )
        return Share(spec.shape, spec.fraction, 64, masked, mask)

    def rewind(self, model: str, plan: Plan, position: int) -> None:
        """Forget rows from ``position`` on of the states that the plan writes. Raises InputError when rows before it are missing."""
        for spec, length in zip(plan.states, self.lengths(model, plan), strict=True):
            if spec.write >= 0 and position > length:
                raise InputError(f"position {position} lies beyond the {length} rows that this session stored; run the earlier ones first")
            if spec.write >= 0 and position < length:
                self._held[model, spec.name].cut(position)

    def write(self, model: str, plan: Plan, position: int, results: Mapping[int, Any]) -> None:
        """Store the new rows of every state at ``position``, up to which it was rewound."""
        for spec in plan.states:
            if spec.write >= 0:
                cache = self._held.setdefault((model, spec.name), _Cache(spec.axis))
                cache.store(position, results[spec.write])

    @property
    def nbytes(self) -> int:
        """Memory held, spare capacity included."""
        return sum(part.nbytes for cache in self._held.values() for part in (cache.masked, cache.mask) if part is not None)


def _parts(role: Role) -> tuple[bool, bool]:
    """Whether a role holds the masked part, and a mask."""
    return role in (Role.P1, Role.P2), role in (Role.P0, Role.P1, Role.P2)


def first_rows(stored: Words | None, spec: StateSpec) -> Words:
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
    """Rows behind ``length`` are zero."""

    axis: int
    length: int = 0
    masked: Words | None = None
    mask: Words | None = None

    def cut(self, length: int) -> None:
        for part in (self.masked, self.mask):
            if part is not None:
                part[(slice(None),) * self.axis + (slice(length, None),)] = 0
        self.length = length

    def store(self, position: int, rows: Share) -> None:
        count = rows.shape[self.axis]
        self.masked = self._placed(self.masked, position, rows.masked)
        self.mask = self._placed(self.mask, position, rows.mask)
        self.length = position + count

    def _placed(self, held: Words | None, position: int, rows: Words | None) -> Words | None:
        if rows is None:
            return held
        axis, end = self.axis, position + rows.shape[self.axis]
        if held is None or held.shape[axis] < end:
            shape = list(rows.shape)
            shape[axis] = end if held is None else max(end, 2 * held.shape[axis])
            grown = np.zeros(shape, np.uint64)
            if held is not None:
                grown[(slice(None),) * axis + (slice(0, held.shape[axis]),)] = held
            held = grown
        held[(slice(None),) * axis + (slice(position, end),)] = rows
        return held


class Constants:
    """A plan's public constants at one position."""

    def __init__(self, bound: Bound, position: int | None) -> None:
        self._bound, self._row = bound, position_row(bound.plan, position)

    def constant(self, index: int) -> Words:
        words = self._bound.constants[index]
        return words[self._row] if self._bound.plan.constants[index].by_position else words


def position_row(plan: Plan, position: int | None) -> int:
    """The row of by-position constants. Raises InputError when the plan does not serve the position."""
    if not plan.positions:
        return 0
    if position is None:
        raise InputError("this plan runs at a position; give one")
    row = position - plan.first_position
    if not 0 <= row < plan.positions:
        last = plan.first_position + plan.positions - 1
        raise InputError(
            f"position {position} is outside {plan.first_position}..{last}, which this plan serves: "
            "the prompt or cache is too long; shorten it, or deploy a plan for longer ones"
        )
    return row


class PartySources(Constants):
    """What a plan reads at a compute party."""

    def __init__(self, bound: Bound, model_name: str, model: Model, states: States, position: int | None) -> None:
        super().__init__(bound, position)
        self._name, self._model, self._states = model_name, model, states

    def input(self, index: int) -> Words | None:
        return None

    def weight(self, index: int) -> Weight | Share:
        return self._model.weights[self._bound.plan.weights[index].name].value

    def state(self, index: int) -> Share:
        return self._states.read(self._name, self._bound.plan.states[index])


class ClientSources(Constants):
    """What a plan reads at the client: its inputs; of weights and caches only the shapes."""

    def __init__(self, bound: Bound, inputs: list[Words], position: int | None) -> None:
        super().__init__(bound, position)
        self._inputs = inputs

    def input(self, index: int) -> Words | None:
        return self._inputs[index]

    def weight(self, index: int) -> Weight | Share:
        w = self._bound.plan.weights[index]
        return Weight(w.shape, w.fraction) if w.packed else Share(w.shape, w.fraction)

    def state(self, index: int) -> Share:
        s = self._bound.plan.states[index]
        return Share(s.shape, s.fraction)
