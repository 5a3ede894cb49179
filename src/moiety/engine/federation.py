"""The public interface: a federation, and models that run privately in it.

with moiety.local(parties=3) as federation:
    private = federation.deploy(model, example_inputs)
    logits = private(tokens)
    print(private.cost)
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from moiety import ring
from moiety.compile import forecast, program
from moiety.compile.garbage import uncollected
from moiety.compile.plan import Plan
from moiety.engine import launch
from moiety.engine.deploy import Weights
from moiety.engine.deployed import Private, Source
from moiety.engine.directory import Directory, load
from moiety.engine.expecting import Expecting
from moiety.engine.injection import shaping
from moiety.engine.limits import in_bytes
from moiety.engine.messages import Tensor
from moiety.engine.owner import OwnerSession, open_session
from moiety.engine.session import USUAL, Deadlines
from moiety.engine.supplier import Supplier
from moiety.errors import ConfigError
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


USUAL_CLEAR: Final = 4
"""Octets of an integer that P1 is told, of most matrices; its plan says it of each."""


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
        private = Private(self, called, Source(model, args, kwargs, tuple(public), options, limit, held_by))
        self.expect(called, model, memory=limit, held_by=held_by)
        try:
            private.compile(args, kwargs, replace=True)
        finally:
            self._expecting.end(called)
        self._privates.append(private)
        return private

    def expect(self, name: str, model: Any, *, memory: int | None = None, held_by: str | None = None) -> None:
        """Let the parties set memory aside for the numbers of a PyTorch module, while the caller compiles it to deploy it as ``name``.

        ``deploy_plans`` uses it; ``deploy`` does all this by itself. ``memory`` (bytes) and ``held_by`` as there. Where the parties hold
        something under that name already they set nothing aside.
        """
        words = sum(parameter.numel() for parameter in getattr(model, "parameters", tuple)())
        clear = 0 if held_by is None else USUAL_CLEAR
        self._expecting.begin(name, words if memory is None else min(words, forecast.most_words(memory, clear)), clear)

    @uncollected()
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
            if apart and not shared:
                session.expect(name, 0)  # nothing came for which memory was set aside, and what is streamed needs some
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


def _split(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs), {}) if isinstance(example_inputs, tuple | list) else ((example_inputs,), {})
