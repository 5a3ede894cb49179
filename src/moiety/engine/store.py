"""What a compute party keeps, in memory only: shared weights and plans by model; and what a plan reads of it in a run."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moiety.compile import program
from moiety.compile.plan import Plan
from moiety.engine import keys
from moiety.engine.messages import Tensor
from moiety.engine.states import States
from moiety.engine.waves import Bound
from moiety.errors import InputError, LimitReached, NotDeployed, PlanMismatch, PolicyRefused
from moiety.mpc.matrix import Held, Streamed, Weight
from moiety.mpc.rounds import Words
from moiety.mpc.share import Share

if TYPE_CHECKING:
    from moiety.engine.supplied import Delivery, Supplied


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight as this party holds it, or who streams it. ``sharing`` says under which masks, so that parties never mix two sharings."""

    tensor: Tensor
    value: "Weight | Held | Share | Supplied"
    sharing: bytes
    owner: str
    seal: bytes = b""
    """By which its owner recognises it (``engine/seals.py``)."""

    @property
    def nbytes(self) -> int:
        value = self.value
        held = (value.part,) if isinstance(value, Held) else ()
        parts = (value.masked, value.mask) if isinstance(value, Weight | Share) else held
        return sum(part.nbytes for part in parts if part is not None)


@dataclass(slots=True)
class Model:
    """The weights and plans under one model name."""

    weights: dict[str, Stored] = field(default_factory=dict)
    plans: dict[str, Bound] = field(default_factory=dict)
    generation: int = 0
    """How often it was replaced here: caches of one generation do not serve another."""

    def sharing(self, plan: Plan) -> bytes:
        """A digest of the sharings that the plan reads. Raises PlanMismatch when a weight is missing or of another shape."""
        parts: list[bytes | str] = []
        for wanted in plan.weights:
            held = self.weights.get(wanted.name)
            if held is None:
                raise NotDeployed(
                    f"the plan reads the weight {wanted.name!r}, which was not shared here, or is streamed by its owner, who has left; "
                    "deploy the model again"
                )
            if held.tensor != Tensor.of(wanted):
                raise PlanMismatch(
                    f"the weight {wanted.name!r} was shared in another shape (or precision, or form) than the plan reads; "
                    "let its owner replace the model (moiety deploy --replace), or deploy under another name"
                )
            parts += [wanted.name, held.sharing]
        return keys.digest("moiety weights", *parts)

    @property
    def nbytes(self) -> int:
        """Memory of its weights and plans."""
        return sum(stored.nbytes for stored in self.weights.values()) + sum(bound.nbytes for bound in self.plans.values())

    def weight_bytes(self, plan: Plan) -> int:
        """Memory of the weights that a plan reads."""
        return sum(self.weights[name].nbytes for name in {wanted.name for wanted in plan.weights})

    def check_streamed(self, plan: Plan) -> None:
        """Raises PlanMismatch when what is streamed is read by anything but linear layers."""
        for wanted in {wanted.name for wanted in plan.weights} - program.streamable(plan):
            if not isinstance(self.weights[wanted].value, Weight | Held | Share):
                raise PlanMismatch(f"the weight {wanted!r} is streamed, but not only linear layers read it; share it once")

    def check_owner(self, names: Iterable[str], owner: str) -> None:
        """Raises PolicyRefused when one of these weights is somebody else's: a plan may open whatever it reads."""
        for name in names:
            if name in self.weights and self.weights[name].owner != owner:
                raise PolicyRefused(f"the weight {name!r} is not one that {owner} shared; let its owner go on, or replace the model")


class Store:
    """All models of a party. Sessions share it; what is stored is never changed, only added or replaced."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._deploying: set[str] = set()
        self._turn = threading.Lock()

    def model(self, name: str) -> Model:
        """A snapshot of the model: later additions do not touch it."""
        with self._turn:
            held = self._models.get(name, Model())
            return Model(dict(held.weights), dict(held.plans), held.generation)

    def models(self) -> dict[str, Model]:
        """A snapshot of all models, by name."""
        with self._turn:
            return {name: Model(dict(held.weights), dict(held.plans), held.generation) for name, held in self._models.items()}

    @contextlib.contextmanager
    def deploying(self, name: str, most: int) -> Iterator[None]:
        """Until the block ends nobody else deploys this model: two at once could leave other weights at other parties.

        Raises LimitReached when somebody does, or when it would be a model more than ``most``.
        """
        with self._turn:
            if name in self._deploying:
                raise LimitReached(f"the model {name!r} is being deployed in another session; try again when that has ended")
            if name not in self._models and len(self._models.keys() | self._deploying) >= most:
                raise LimitReached(f"this party already holds {most} models, as many as its limits allow; use a name that is deployed")
            self._deploying.add(name)
        try:
            yield
        finally:
            with self._turn:
                self._deploying.discard(name)

    def add_weights(self, name: str, weights: Mapping[str, Stored], *, replace: bool = False) -> int:
        """Add to a model; ``replace`` drops its former weights and plans. Returns by how many bytes it grew."""
        with self._turn:
            before = self._models.get(name, Model())
            model = Model(generation=before.generation + 1) if replace else before
            for weight, stored in weights.items():
                model.check_owner((weight,), stored.owner)
            self._models[name] = Model({**model.weights, **weights}, model.plans, model.generation)
            return self._models[name].nbytes - before.nbytes

    def drop(self, name: str, supplied: "Supplied") -> None:
        """Forget weights that are streamed no longer."""
        with self._turn:
            model = self._models.get(name, Model())
            left = {weight: stored for weight, stored in model.weights.items() if stored.value is not supplied}
            if left or model.plans:
                self._models[name] = Model(left, model.plans, model.generation)
            else:
                self._models.pop(name, None)

    def add_plan(self, name: str, bound: Bound, owner: str) -> int:
        """Add a plan of ``owner``, returns by how many bytes the model grew.

        Raises PlanMismatch when a weight is missing, PolicyRefused when one is somebody else's.
        """
        with self._turn:  # together: nobody may put other weights under these names between the check and the plan
            model = self._models.get(name, Model())
            model.sharing(bound.plan)
            model.check_owner((wanted.name for wanted in bound.plan.weights), owner)
            model.check_streamed(bound.plan)
            grown = 0 if bound.hash in model.plans else bound.nbytes
            self._models[name] = Model(model.weights, {**model.plans, bound.hash: bound}, model.generation)
            return grown


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

    def __init__(
        self, bound: Bound, model_name: str, model: Model, states: States, position: int | None, deliveries: "Mapping[str, Delivery]"
    ) -> None:
        super().__init__(bound, position)
        self._name, self._model, self._states, self._deliveries = model_name, model, states, deliveries

    def input(self, index: int) -> Words | None:
        return None

    def weight(self, index: int) -> Weight | Held | Share | Streamed:
        name = self._bound.plan.weights[index].name
        value = self._model.weights[name].value
        return value if isinstance(value, Weight | Held | Share) else self._deliveries[name].weight(name)

    def state(self, index: int) -> Share:
        return self._states.read(self._name, self._bound.plan.states[index])


class ClientSources(Constants):
    """What a plan reads at the client: its inputs; of weights and caches only the shapes."""

    def __init__(self, bound: Bound, inputs: list[Words], position: int | None) -> None:
        super().__init__(bound, position)
        self._inputs = inputs

    def input(self, index: int) -> Words | None:
        return self._inputs[index]

    def weight(self, index: int) -> Weight | Held | Share:
        return program.bare(self._bound.plan.weights[index])

    def state(self, index: int) -> Share:
        s = self._bound.plan.states[index]
        return Share(s.shape, s.fraction)
