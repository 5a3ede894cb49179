"""A deployed model, called as the model itself."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from moiety.compile import signature
from moiety.compile.garbage import uncollected
from moiety.compile.plan import Plan
from moiety.engine.cost import Cost, cost
from moiety.engine.deploy import Weights
from moiety.engine.notice import noticed
from moiety.engine.owner import OwnerSession, Progress
from moiety.engine.report import RunReport, RunResult
from moiety.engine.trace import Trace
from moiety.errors import ConfigError, InputError, MoietyError, NotDeployed, PlanError
from moiety.mpc.rounds import Words

if TYPE_CHECKING:
    from moiety.engine.federation import Federation


class Source:
    """The caller's own model, when it has one: what further shapes are compiled from."""

    def __init__(
        self,
        model: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        public: tuple[str, ...],
        options: Mapping[str, Any],
        memory: int | None = None,
        held_by: str | None = None,
    ) -> None:
        self.model, self.args, self.kwargs, self.public, self.options = model, args, dict(kwargs), public, options
        self.weights: dict[str, Any] = {}
        self.memory, self.held_by = memory, held_by
        self.ranges: Any = None


class Private:
    """A deployed model: call it as the model itself. Only the caller sees the answer.

    Threads may share one: their calls take turns in one session. A decoder's session holds the caches of one answer, so answers that are
    to grow at the same time need one of these each (``federation.model(name)``).
    """

    def __init__(self, federation: "Federation", name: str, source: Source | None) -> None:
        self.name, self.plans = name, list[Plan]()
        self._federation, self._source = federation, source
        self.begun = 0
        """Answers that were begun with caches of their own."""
        self._turn = threading.RLock()
        self._closed = False
        self._session: OwnerSession | None = None
        self._last: tuple[Plan, RunReport | None] | None = None

    def __call__(self, *args: Any, on_progress: Progress | None = None, retries: int = 0, **kwargs: Any) -> Any:
        """The model's answer in the model's own structure: torch tensors for torch tensors, numpy arrays for all else.

        ``retries`` as for ``run``. A deployer's inputs of another shape compile and deploy another plan first, for the model's own example
        in that shape.

        Raises InputError for inputs that no deployed plan takes, RangeViolation when the answer would be meaningless.
        """
        plan = self._fitting(args, kwargs)
        result = self.run(plan, signature.encode_inputs(plan, args, kwargs), on_progress=on_progress, retries=retries)
        return self._answer(plan, result, args, kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Trace:
        """As a call, but the run tells where its time goes: ``print`` what is returned, ``save`` it for Perfetto. Run the model once
        before, to leave out what happens only the first time. Tracing costs some time itself.

        Raises also PolicyRefused where a party tells no timelines of the model.
        """
        plan = self._fitting(args, kwargs)
        result = self._run(plan, signature.encode_inputs(plan, args, kwargs), None, None, trace=True)
        return Trace(plan, result.report, result.timelines, self._answer(plan, result, args, kwargs))

    @staticmethod
    def _answer(plan: Plan, result: RunResult, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        tensors = any(hasattr(value, "detach") for value in (*args, *kwargs.values()))
        return signature.decode_outputs(plan, result.outputs, bool(result.flag), tensors=tensors)

    def run(
        self, plan: Plan, inputs: list[Words], *, position: int | None = None, on_progress: Progress | None = None, retries: int = 0
    ) -> RunResult:
        """Run one of the plans on ring elements. After a failed run the next one opens a new session; its caches are gone.

        ``retries``: how often to run again after a transient error (a peer, a connection or a deadline was lost), in a new
        session, so with other masks throughout. A deployer also restores what a party lost that was started anew.
        """
        if retries and plan.states:
            raise InputError("a run that uses caches cannot be repeated by itself: they ended with its session; repeat the whole answer")
        while True:
            try:
                return self._run(plan, inputs, position, on_progress)
            except MoietyError as error:
                lost = isinstance(error, NotDeployed) and self._source is not None
                if not retries or not (lost or error.transient):
                    raise
            retries -= 1
            if lost:
                self.restore()

    def restore(self) -> tuple[str, ...]:
        """Share again what some party no longer holds; returns the names of those weights. Raises ConfigError for a client."""
        if self._source is None:
            raise ConfigError(f"only who deployed {self.name!r} can restore it; ask its owner to deploy it again")
        return self._federation.deploy_plans(self.name, self.plans, self._source.weights, memory=self._source.memory)

    @property
    def weights(self) -> Weights:
        """What the caller shared as this model; nothing for who did not deploy it."""
        return self._source.weights if self._source is not None else {}

    def _fitting(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Plan:
        with self._turn:
            return next((plan for plan in self.plans if signature.fits(plan, args, kwargs)), None) or self._further(args, kwargs)

    def _run(
        self, plan: Plan, inputs: list[Words], position: int | None, on_progress: Progress | None, *, trace: bool = False
    ) -> RunResult:
        with self._turn:
            if self._closed:
                raise ConfigError(f"this model {self.name!r} is closed; ask the federation for another: federation.model({self.name!r})")
            if self._session is None or self._session.closed:
                self._session = self._federation.open()
            self.begun += bool(plan.states) and not position
            with noticed(self._federation.directory, self._federation.identity, f"a run of {self.name!r}"):
                result = self._session.run(self.name, plan, inputs, position=position, on_progress=on_progress, trace=trace)
            self._last = (plan, result.report)
            return result

    @property
    def cost(self) -> Cost:
        """Rounds, bytes, time, memory and leakage of the plan that ran last (before any run: of the first)."""
        plan, report = self._last or (self.plans[0], None)
        return cost(plan, report)

    @property
    def report(self) -> RunReport | None:
        """What the last run cost at every member."""
        return self._last[1] if self._last is not None else None

    def fetch(self) -> None:
        """Ask the parties for the plans. Raises InputError when they hold none."""
        with self._federation.open() as session:
            self.plans = session.fetch_plans(self.name)
        if not self.plans:
            raise InputError(f"the parties hold no model {self.name!r}; ask its owner to deploy it")

    @uncollected()
    def compile(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, replace: bool = False) -> Plan:
        """Compile the caller's model for public inputs like these and deploy the plan; shared weights stay.

        ``replace`` what is deployed under the name, unless that has the same weights.
        """
        from moiety.compile.model import compile_model  # the model owner's side alone needs PyTorch

        source = self._source
        assert source is not None, "only a deployer compiles"
        compiled = compile_model(source.model, args, dict(kwargs), public=source.public, ranges=source.ranges, **source.options)
        compiled = compiled.held(source.held_by)
        plan = compiled.plan
        source.weights.update(compiled.weights)
        source.ranges = compiled.ranges
        replace = replace and not self._federation.holds(self.name, [plan], compiled.weights)
        self._federation.deploy_plans(self.name, [plan], source.weights, replace=replace, memory=source.memory)
        self.plans.append(plan)
        return plan

    def close(self) -> None:
        """End the session with the parties; the model can't be called any more. May be called twice."""
        self._closed = True
        if self._session is not None:
            self._session.close()

    def _further(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Plan:
        refused = signature.refused(self.name, self.plans, args, kwargs)
        if self._source is None:
            raise InputError(f"{refused}. Ask the model's owner for another")
        examples = signature.arguments(self.plans[0], self._source.args, self._source.kwargs)
        given = signature.arguments(self.plans[0], args, kwargs)
        if any(_rank(given[name]) != _rank(example) for name, example in examples.items()):
            raise InputError(f"{refused}. Give as many axes as the example had")
        public = {name for name, _ in self.plans[0].public}
        likeness = {name: value if name in public else like(examples[name], value) for name, value in given.items()}
        count = len(args)
        try:
            return self.compile(tuple(list(likeness.values())[:count]), dict(list(likeness.items())[count:]))
        except PlanError as error:
            if type(error) is not PlanError:
                raise
            raise InputError(f"{refused}. The model itself does not take them: {error}") from error

    def __repr__(self) -> str:
        return f"<Private {self.name}, {len(self.plans)} plans>"


def _rank(value: Any) -> int | None:
    shape = signature.shape(value)
    return None if shape is None else len(shape)


def like(example: Any, value: Any) -> Any:
    """The public example repeated to the shape of ``value``: a plan is public, so it is never compiled from a secret."""
    shape = signature.shape(value)
    if shape is None or not hasattr(example, "shape") or tuple(example.shape) == shape:
        return example
    if hasattr(example, "detach"):
        return example.new_tensor(np.resize(example.detach().cpu().numpy(), shape))
    return np.resize(example, shape)
