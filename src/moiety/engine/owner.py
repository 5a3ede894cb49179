"""The owner's end of a session: deploy a model, fetch its plans, run one. Model owners and clients are both owners."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from moiety.compile.plan import Plan
from moiety.engine import keys, seals
from moiety.engine.deploy import Weights, send_weights, sharing_of
from moiety.engine.directory import Directory
from moiety.engine.executor import Execution, Unwatched, Watcher
from moiety.engine.messages import (
    PLAN_LIMIT,
    AddPlan,
    Ask,
    Close,
    Deploy,
    Done,
    Expect,
    Fetch,
    Fine,
    Holding,
    Keep,
    Run,
    Supply,
    Tensor,
    Timed,
    hear,
    say,
)
from moiety.engine.pieces import Masks, floats
from moiety.engine.policy import accept_plan, check_plan
from moiety.engine.report import RunReport, RunResult, Timeline, peak_memory_bytes
from moiety.engine.reporting import make_report, wire_bytes
from moiety.engine.session import PARTIES, USUAL, Deadlines, Session, Wrap, open_as_owner, unchanged
from moiety.engine.store import ClientSources, position_row
from moiety.engine.timeline import Recorder, TracedExecution, checked
from moiety.engine.waves import Bound
from moiety.errors import ChannelError, DeadlineExceeded, FrameError, InputError, MoietyError, NameTaken, NotDeployed, PeerAborted, PeerLost
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.party import Key
from moiety.mpc.rounds import Role, Words
from moiety.net import AbortReceived, Identity, Kind, Link

Progress = Callable[[int, int], None]
"""Called with waves done and waves in all."""

CAUSE_S: Final = 0.5
"""How long an owner looks for the first cause when a channel ends without a word."""
CONSEQUENCES: Final = frozenset({ChannelError.code, PeerLost.code, PeerAborted.code})
"""Codes of errors that mostly follow from another member's."""


def open_session(
    directory: Directory,
    identity: Identity,
    *,
    deadlines: Deadlines = USUAL,
    wrap: Wrap = unchanged,
    watcher: Watcher | None = None,
) -> "OwnerSession":
    """Open a session with the three parties. Raises IdentityError, ChannelError, PolicyRefused, PlanMismatch."""
    try:
        return OwnerSession(open_as_owner(directory, identity, deadlines, wrap), identity, deadlines, watcher)
    except AbortReceived as error:
        raise as_told(error) from None


def as_told(error: AbortReceived) -> MoietyError:
    """The peer's error as its own class, so that a refusal by a party looks like one found here."""
    pending: list[type[MoietyError]] = [MoietyError]
    while pending:
        kind = pending.pop()
        if kind.code == error.peer_code and kind not in (MoietyError, AbortReceived):
            return kind(str(error))
        pending += kind.__subclasses__()
    return PeerAborted(str(error))


@dataclass(slots=True)
class OwnerSession:
    """Not for several threads at once. After any error but InputError it is closed: open a new one, nothing of it is reused."""

    session: Session
    identity: Identity
    deadlines: Deadlines
    watcher: Watcher | None = None
    closed: bool = False
    _bound: dict[str, Bound] = field(default_factory=dict)
    _runs: int = 0
    _deployments: int = 0

    def holding(self, model: str) -> Holding:
        """Weights and plans that all three parties hold of a model."""
        return _common(self._holdings(model))

    def _holdings(self, model: str) -> list[Holding]:
        with self.guarded():
            self._tell_all(lambda role: Ask(model))
            return [self._hear(role, Holding, f"what it holds of {model!r}") for role in PARTIES]

    def holds(self, model: str, plans: Sequence[Plan], weights: Weights) -> bool:
        """Whether the parties hold nothing under the name but these weights and plans, or part of them."""
        held = self.holding(model)
        return seals.covers(weights, held.weights) and not seals.difference(held, plans, weights, self._secret())

    def deploy(self, model: str, plans: Sequence[Plan], weights: Weights, *, replace: bool = False) -> dict[str, bytes]:
        """Share the weights that the plans read and some party does not hold, then give them the plans.

        Returns the names of those weights, each with what names its new sharing.

        What one party lost is shared again with all three, under fresh masks: nobody keeps the old ones, and two contents under
        one mask would tell their difference. ``weights`` maps names to float arrays, or to callables that make one when its turn
        comes. ``replace`` all that was held under the model's name, or add to it: what its owner shared there before must be the same.
        Raises NameTaken where it is not.
        """
        shared, held = self.share(model, plans, weights, replace=replace)
        self.give(model, [plan for plan in plans if plan.hash not in held])
        return shared

    def share(
        self, model: str, plans: Sequence[Plan], weights: Weights, *, replace: bool = False, apart: Collection[str] = ()
    ) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """The first half of ``deploy``, but for the weights named in ``apart``. Returns also the hashes of plans that all hold."""
        held = Holding({}, ()) if replace else self.holding(model)
        if other := seals.difference(held, plans, weights, self._secret()):
            raise NameTaken(
                f"another model is deployed as {model!r}: {other}. Replace it (--replace, or replace=True in Python), or take another name"
            )
        wanted = {w.name: Tensor.of(w) for plan in plans for w in plan.weights}
        fresh = tuple(tensor for name, tensor in wanted.items() if name not in held.weights and name not in apart)
        if missing := [tensor.name for tensor in fresh if tensor.name not in weights]:
            raise InputError(f"the plans read the weight {missing[0]!r}, which was neither given nor shared before; give it")
        with self.guarded():
            shared = self._share(model, fresh, weights, replace) if fresh or replace else {}
        return shared, held.plans

    def give(self, model: str, plans: Sequence[Plan]) -> None:
        """Give the parties plans whose weights they have."""
        with self.guarded():
            for plan in plans:
                self._add(model, plan)

    def _share(self, model: str, tensors: tuple[Tensor, ...], weights: Weights, replace: bool) -> dict[str, bytes]:
        self._deployments += 1
        streams = {Key.D: os.urandom(32), Key.E: os.urandom(32)}
        message = Deploy(model, self._deployments, tensors, replace)
        self._tell_all(lambda role: Deploy(model, self._deployments, tensors, replace, **_given(role, streams)))
        digests: dict[str, bytes] = {}
        send_weights(
            self.session, message, {tensor.name: _noted(weights, tensor.name, digests, self._secret()) for tensor in tensors}, streams
        )
        self._all_fine("that it has the weights")
        sharings = {tensor.name: sharing_of(self.session, message, tensor) for tensor in tensors}
        keep = Keep(tuple(seals.seal(self._secret(), sharing, digests[name]) for name, sharing in sharings.items()))
        self._tell_all(lambda role: keep)
        self._all_fine("that it keeps the weights")
        return sharings

    def _secret(self) -> bytes:
        return self.identity.secret(seals.PURPOSE)

    def expect(self, model: str, words: int, clear: int = 0) -> None:
        """Let the parties set memory aside for about so many words of weights, which this session will deploy. For 0 they do no longer.

        ``clear``: in how many octets P1 is to be told them; 0 where they are shared.
        """
        with self.guarded():
            self._tell_all(lambda role: Expect(model, words, clear))
            self._all_fine("that it expects the weights")

    def supply(self, model: str, tensors: tuple[Tensor, ...]) -> tuple[Supply, Masks]:
        """Announce weights that are streamed into every run while this session lasts, which from now on is for that alone.

        Returns what the parties agreed on, and the masks.
        """
        self._deployments += 1
        streams = {Key.D: os.urandom(32), Key.E: os.urandom(32)}
        message = Supply(model, self._deployments, tensors)
        with self.guarded():
            self._tell_all(lambda role: Supply(model, self._deployments, tensors, **_given(role, streams)))
            self._all_fine("that it agrees to the weights")
            self._tell_all(lambda role: Keep())
            self._all_fine("that it awaits the weights")
        return message, Masks(streams, self.session.id, message.number)

    def _add(self, model: str, plan: Plan) -> None:
        data = plan.encode()
        for role in PARTIES:
            say(self._link(role), AddPlan(model, plan.hash))
            self._link(role).send(Kind.CONTROL, [data])
        self._all_fine("that it accepts the plan")

    def fetch_plans(self, model: str) -> list[Plan]:
        """The plans that all three parties hold, checked here as every party checked them.

        Raises NotDeployed when a party lacks what others hold, and nothing is common to all.
        """
        found, heard = [], self._holdings(model)
        names = [self.session.names[role] for role in PARTIES]
        having, lacking = ([name for name, one in zip(names, heard, strict=True) if bool(one.plans) is held] for held in (True, False))
        plans = _common(heard).plans
        if having and not plans:
            who = f"{_listed(lacking)} {'hold' if len(lacking) > 1 else 'holds'} no plan of it" if lacking else "no plan is common to all"
            raise NotDeployed(
                f"the model {model!r} is deployed at {_listed(having)}, but {who}: what a party holds is gone when it is started anew, "
                "so let the model's owner deploy it again"
            )
        for wanted in plans:
            with self.guarded():
                say(self._link(Role.P1), Fetch(model, wanted))
                data = self._link(Role.P1).receive_message(
                    Kind.CONTROL, deadline_s=self.deadlines.result_s, awaited="a plan", limit_bytes=PLAN_LIMIT
                )
                bound = self._bound[wanted] = accept_plan(data, wanted, Role.CLIENT)
            found.append(bound.plan)
        return found

    def run(
        self,
        model: str,
        plan: Plan,
        inputs: list[Words],
        *,
        position: int | None = None,
        on_progress: Progress | None = None,
        trace: bool = False,
    ) -> RunResult:
        """One private run: only this owner learns the outputs. ``trace``: every member also tells where its time went.

        Raises InputError before anything is sent, else what ended the run.
        """
        began, cpu_s, bound = time.perf_counter(), time.process_time(), self._bind(plan)
        check_inputs(plan, inputs, position)
        self._runs += 1
        streams = {Key.D: os.urandom(32), Key.E: os.urandom(32)}
        with self.guarded():
            wire = wire_bytes(self.session)
            self._tell_all(lambda role: Run(self._runs, model, bound.hash, position, trace=trace, **_given(role, streams)))
            held = keys.run_keys(Role.CLIENT, {}, streams, self.session.id, self._runs, bound.hash)
            watcher = _Progress(on_progress, bound, self.watcher or Unwatched())
            recorder = Recorder() if trace else None
            made = Execution if recorder is None else functools.partial(TracedExecution, recorder=recorder)
            run = made(bound, self.session.send, self.session.receive, KeyedDraws(held), wait_s=self.deadlines.result_s, watcher=watcher)
            results = run.run(ClientSources(bound, inputs, position))
            reports = [self._hear(role, Done, "its report").report for role in PARTIES]
            seconds, taken = time.perf_counter() - began, (peak_memory_bytes(), time.process_time() - cpu_s)
            timelines = () if recorder is None else self._timelines(plan, recorder)
        reports.append(make_report(self.session.owner, bound, self.session, run.tally, wire, seconds, 0, 0, *taken))
        flag = None if plan.flag < 0 else bool(results[plan.flag].any())
        return RunResult([results[output.node] for output in plan.outputs], flag, RunReport(tuple(reports), seconds), timelines)

    def _timelines(self, plan: Plan, own: Recorder) -> tuple[Timeline, ...]:
        told = [checked(self._hear(role, Timed, "its timeline").timeline, plan, role) for role in PARTIES]
        return (*told, own.timeline(self.session.owner, Role.CLIENT))

    def close(self) -> None:
        """End the session in good order. May be called twice; never raises."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(MoietyError):
                self._tell_all(lambda role: Close())
            self.session.close()

    def __enter__(self) -> "OwnerSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bind(self, plan: Plan) -> Bound:
        wanted = next((bound for bound in self._bound.values() if bound.plan is plan), None)
        if wanted is None:
            wanted = check_plan(plan, Role.CLIENT)
            self._bound[wanted.hash] = wanted
        return wanted

    def _link(self, role: Role) -> Link:
        return self.session.send[role]

    def _tell_all(self, message: Callable[[Role], Any]) -> None:
        for role in PARTIES:
            say(self._link(role), message(role))

    def _hear(self, role: Role, wanted: type[Any], awaited: str) -> Any:
        return hear(self._link(role), wanted, deadline_s=self.deadlines.result_s, awaited=awaited)

    def _all_fine(self, awaited: str) -> None:
        for role in PARTIES:
            self._hear(role, Fine, awaited)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Any error ends the session at everybody, and is raised as the error of whoever met it first."""
        if self.closed:
            raise ChannelError("this session is over; open a new one")
        try:
            yield
        except BaseException as error:
            cause = self._cause(error)
            self.closed = True
            self.session.abort(getattr(cause, "code", MoietyError.code), "the owner ends the session after an error")
            if cause is error:
                raise
            raise cause from None

    def _cause(self, error: BaseException) -> BaseException:
        """The first cause: what a party found explains more than that another hung up on it."""
        told = [error] if isinstance(error, AbortReceived) else []
        if not told and (not isinstance(error, ChannelError) or isinstance(error, DeadlineExceeded | FrameError)):
            return error
        for role in PARTIES:
            if told and told[-1].peer_code not in CONSEQUENCES:
                break
            try:
                self._link(role).receive_message(Kind.CONTROL, deadline_s=CAUSE_S, awaited="why the session ends")
            except AbortReceived as another:
                told.append(another)
            except MoietyError:
                continue
        first = next((one for one in told if one.peer_code not in CONSEQUENCES), told[0] if told else None)
        return as_told(first) if first is not None else error


def check_inputs(plan: Plan, inputs: Sequence[Words], position: int | None) -> None:
    """Raises InputError when inputs or position do not fit the plan."""
    if len(inputs) != len(plan.inputs):
        raise InputError(f"the plan takes {len(plan.inputs)} inputs ({', '.join(i.name for i in plan.inputs)}), {len(inputs)} were given")
    for spec, words in zip(plan.inputs, inputs, strict=True):
        shape = (*spec.shape, spec.classes) if spec.form == "one_hot" else spec.shape
        if tuple(words.shape) != tuple(shape) or words.dtype != "uint64":
            raise InputError(f"the input {spec.name!r} must be uint64 words of shape {shape}, not {words.dtype} {words.shape}")
    position_row(plan, position)


def _common(heard: Sequence[Holding]) -> Holding:
    """What all hold."""
    # Equal sharings: after a deployment that failed halfway the parties may hold one name under different masks.
    weights = set.intersection(*(set(one.weights.items()) for one in heard))
    plans = set.intersection(*(set(one.plans) for one in heard))
    sealed = {name: heard[1].seals[name] for name, _ in weights if name in heard[1].seals}
    serves = {plan: heard[1].serves[plan] for plan in plans if plan in heard[1].serves}
    return Holding(dict(sorted(weights)), tuple(plan for plan in heard[1].plans if plan in plans), sealed, serves)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _noted(weights: Weights, name: str, digests: dict[str, bytes], secret: bytes) -> Callable[[], Any]:
    """The weight, when its turn comes; its digest is noted then."""

    def give() -> Any:
        array = floats(weights[name])
        digests[name] = seals.content(array, secret)
        return array

    return give


def _given(role: Role, streams: dict[Key, bytes]) -> dict[str, bytes]:
    """The input streams as fields of a message, each only to those who hold it."""
    held = keys.KEYS_OF[role]
    return {name: streams[key] for name, key in (("key_d", Key.D), ("key_e", Key.E)) if key in held}


class _Progress:
    """A watcher that calls the owner back at the waves where P1 reports."""

    def __init__(self, call: Progress | None, bound: Bound, then: Watcher) -> None:
        self._call, self._bound, self._then = call, bound, then

    def wave_started(self, wave: int, label: str) -> None:
        if self._call is not None and wave % self._bound.progress_every == 0:
            self._call(wave, self._bound.spoken)
        self._then.wave_started(wave, label)

    def wave_ended(self, wave: int, label: str) -> None:
        self._then.wave_ended(wave, label)
        if self._call is not None and wave + 1 == self._bound.spoken:
            self._call(wave + 1, self._bound.spoken)

    def run_failed(self, wave: int, error: BaseException) -> None:
        self._then.run_failed(wave, error)
