"""The public interface: a federation, and models that run privately in it.

with moiety.local(parties=3) as federation:
    private = federation.deploy(model, example_inputs)
    logits = private(tokens)
    print(private.cost)
"""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from moiety import ring
from moiety.compile import forecast, program, signature
from moiety.compile.plan import Plan
from moiety.engine import launch
from moiety.engine.cost import Cost, cost
from moiety.engine.deploy import Weights
from moiety.engine.directory import Directory, load
from moiety.engine.expecting import Expecting
from moiety.engine.injection import shaping
from moiety.engine.limits import in_bytes
from moiety.engine.messages import Tensor
from moiety.engine.notice import noticed
from moiety.engine.owner import OwnerSession, Progress, open_session
from moiety.engine.report import RunReport, RunResult
from moiety.engine.session import USUAL, Deadlines
from moiety.engine.supplier import Supplier
from moiety.engine.trace import Trace
from moiety.errors import ConfigError, InputError, MoietyError, NotDeployed, PlanError
from moiety.mpc.rounds import Words
from moiety.net import Identity, load_identity
from moiety.net.identity import KEY_FILE

ELSEWHERE: Final = "go to the folder where it lies, or name that (--identity, or identity= in Python)"


def local(*, parties: int = 3, link: str | None = None, device: str | None = None, deadlines: Deadlines = USUAL) -> "Federation":
    """Three compute parties as processes on this machine, with fresh certificates, for one caller who is model owner and client.

    The same code as between organisations; but one machine hides nothing from its owner: this is for trying and measuring.
    ``link``: everybody sends as slowly as by ``lan``, ``wan``, or a link of such a delay one way and bandwidth: ``20ms,100Mbit``.
    ``device``: where the parties' products run, like ``cuda``; they share it.
    """
    launch.require_three(parties)
    started = launch.start(deadlines=deadlines, link=link, device=device)
    try:
        owners = started.identity(launch.MODEL_OWNER), started.identity(launch.CLIENT)
        return Federation(started.directory, *owners, deadlines=deadlines, started=started, link=link)
    except BaseException:
        started.stop()
        raise


def connect(
    path: str | os.PathLike[str],
    *,
    party: str | None = None,
    identity: str | os.PathLike[str] | None = None,
    link: str | None = None,
    deadlines: Deadlines = USUAL,
) -> "Federation":
    """A federation whose parties run elsewhere, as the owner ``party``.

    ``identity`` is the folder with the key, by default that of the party's certificate in the federation file. Without
    ``party``, the one owner whose key is there. ``link``, for measurements: this owner sends as slowly as such a link would (``local``).
    """
    directory = load(path)
    mine = load_identity(identity if identity is not None else identity_folder(directory, party))
    directory.check_known(mine.name)
    if party is not None and mine.name != party:
        raise ConfigError(f"{identity} holds the identity of {mine.name}, not of {party}; point to the right folder")
    if mine.name in directory.roles:
        raise ConfigError(f"{mine.name} is a compute party; connect as an owner")
    return Federation(directory, mine, mine, deadlines=deadlines, link=link)


def identity_folder(directory: Directory, party: str | None = None) -> Path:
    """Where the key of ``party`` lies, by default beside its certificate; without a name, of the one owner whose key is here.

    Raises ConfigError.
    """
    if party is not None:
        directory.check_known(party)
    owners = [party] if party is not None else [name for name in directory.peers if name not in directory.roles]
    folders = {name: directory.folder(name) for name in owners}
    found = [name for name, folder in folders.items() if (folder / KEY_FILE).exists()]
    if party is not None and not found:
        raise ConfigError(f"the key of {party} is not here: there is no {folders[party] / KEY_FILE}; {ELSEWHERE}")
    if not found:
        raise ConfigError(f"the key of no owner in {directory.path} is here; {ELSEWHERE}")
    if len(found) > 1:
        raise ConfigError(f"the keys of {len(found)} owners in {directory.path} are here ({', '.join(found)}); say which party you are")
    return folders[found[0]]


OWNERS_KEPT: Final = 128 << 20
"""Bytes that an owner's process keeps for its next arrays: the pieces in which weights are encoded, and frames on their way."""


class Federation:
    """Compute parties and the caller's identities. Close it, or use it as a context manager."""

    def __init__(
        self,
        directory: Directory,
        model_owner: Identity,
        client: Identity,
        *,
        deadlines: Deadlines = USUAL,
        started: launch.LocalParties | None = None,
        link: str | None = None,
    ) -> None:
        self.directory, self.deadlines = directory, deadlines
        self._model_owner, self._client = model_owner, client
        self._started = started
        self._wrap = shaping(link)
        self._privates: list[Private] = []
        self._closed = False
        self._suppliers: dict[str, list[Supplier]] = {}
        self._expecting = Expecting(lambda: self._as(self._model_owner))
        ring.keep_freed(OWNERS_KEPT)

    def deploy(
        self,
        model: Any,
        example_inputs: Any,
        *,
        name: str | None = None,
        public: Sequence[str] = (),
        memory: int | str | None = None,
        held_by: str | None = None,
        **options: Any,
    ) -> "Private":
        """Compile a PyTorch module for inputs like these, share its weights, give the parties the plan.

        ``example_inputs`` (a tensor, a tuple, or a dict of keyword arguments) are public: shapes and ranges follow from them.
        ``public`` names inputs that are no secret; ``options`` go to ``compile_model``. A model of the same name is replaced.
        Deploying the same weights again shares only what some party does not hold, for example since it was started anew.

        ``memory``: what each party's process may take for this model, in bytes or as ``"6GiB"``. Weights that do not fit are not kept
        there: as long as this federation is open, it streams them into every run. Raises LimitReached when that is not enough.

        ``held_by="P1"``: P1 is told the matrices of linear layers as they are, which saves memory and most of the work of products. For an
        owner who runs P1 itself, as all federation files must say (``run_by``): whoever sees P1's machine sees the weights.
        Raises PolicyRefused where the files do not say so.
        """
        args, kwargs = _split(example_inputs)
        called = name or type(model).__name__.lower()
        limit = None if memory is None else in_bytes(memory)
        if held_by is not None:
            self.directory.check_holder(self._model_owner.name, called)
        private = Private(self, called, _Source(model, args, kwargs, tuple(public), options, limit, held_by))
        if limit is None and held_by is None:
            self.expect(called, model)
        try:
            private.compile(args, kwargs, replace=True)
        finally:
            self._expecting.end(called)
        self._privates.append(private)
        return private

    def expect(self, name: str, model: Any) -> None:
        """Let the parties set memory aside for the numbers of a PyTorch module, while the caller compiles it to deploy it as ``name``.

        ``deploy_plans`` uses it. ``deploy`` does all this by itself, but with a limit of memory: then the plan says what is kept. Where the
        parties hold something under that name already they set nothing aside.
        """
        self._expecting.begin(name, sum(parameter.numel() for parameter in getattr(model, "parameters", tuple)()))

    def deploy_plans(
        self, name: str, plans: Sequence[Plan], weights: Weights, *, replace: bool = False, memory: int | None = None
    ) -> tuple[str, ...]:
        """Give the parties plans that were compiled before, and the weights that some party does not hold; returns their names.

        ``memory`` as for ``deploy``, in bytes. Raises NameTaken when another model is deployed under the name, unless it is to
        ``replace`` that.
        """
        if replace or any(supplier.weights is not weights for supplier in self._suppliers.get(name, ())):
            self._end_supply(name)
        for supplier in self._suppliers.get(name, ()):
            supplier.ensure(self.deadlines.result_s)
        apart = frozenset[str]() if memory is None else forecast.to_stream(plans, memory)
        with self._expecting.session(name) as session:
            shared, held = session.share(name, plans, weights, replace=replace, apart=apart)
            self._supply(name, plans, weights, apart)
            session.give(name, [plan for plan in plans if plan.hash not in held])
        return tuple(shared)

    def _supply(self, name: str, plans: Sequence[Plan], weights: Weights, apart: frozenset[str]) -> None:
        """Stream what is read apart and is not streamed yet, in the order of these plans, too."""
        suppliers = self._suppliers.setdefault(name, [])
        known = {tensor.name for supplier in suppliers for tensor in supplier.tensors}
        read = {w.name: Tensor.of(w) for plan in plans for w in plan.weights}
        fresh = tuple(tensor for key, tensor in read.items() if key in apart - known)
        if fresh:
            suppliers.append(Supplier(lambda: self._as(self._model_owner), name, fresh, weights))
        for plan in plans if suppliers else ():
            order = program.layers(plan, program.drive(plan).order)
            for supplier in suppliers:
                supplier.serves(plan.hash, order)
        for supplier in suppliers:
            supplier.ensure(self.deadlines.result_s)

    def _end_supply(self, name: str) -> None:
        for supplier in self._suppliers.pop(name, ()):
            supplier.stop()

    def holds(self, name: str, plans: Sequence[Plan], weights: Weights) -> bool:
        """Whether what the parties hold under the name is these plans and weights, or part of them."""
        with self._as(self._model_owner) as session:
            return session.holds(name, plans, weights)

    def model(self, name: str) -> "Private":
        """A model that somebody deployed, by the plans that all parties hold. The caller needs no PyTorch for it."""
        private = Private(self, name, None)
        private.fetch()
        self._privates.append(private)
        return private

    def open(self) -> OwnerSession:
        """A session as the client, for callers who run plans themselves."""
        return self._as(self._client)

    def _as(self, identity: Identity) -> OwnerSession:
        if self._closed:
            raise ConfigError("the federation is closed: ask within its `with` block, or before close(); to go on, connect again")
        return open_session(self.directory, identity, deadlines=self.deadlines, wrap=self._wrap)

    @property
    def identity(self) -> Identity:
        """Who asks here: the client."""
        return self._client

    def close(self) -> None:
        """End all sessions, and the parties if they were started here; nothing can be asked any more. May be called twice."""
        self._closed = True
        for private in self._privates:
            private.close()
        self._expecting.close()
        for name in list(self._suppliers):
            self._end_supply(name)
        if self._started is not None:
            self._started.stop()

    def __enter__(self) -> "Federation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Federation of {', '.join(self.directory.members)} for {self._client.name}>"


class _Source:
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

    def __init__(self, federation: Federation, name: str, source: _Source | None) -> None:
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


def _split(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs), {}) if isinstance(example_inputs, tuple | list) else ((example_inputs,), {})
