"""Two verbs and a scheduler: how protocols talk without knowing a network.

A protocol is a coroutine. It may await exactly one thing, :func:`exchange`: "this is what I say in this wave, this is what I
expect". Whoever drives it (all roles in one process, shapes only, or a real network) merges what all live protocols say into
one frame a peer. Independent steps therefore share their rounds by construction, and a cost is the protocol run on shapes.

Order is a correctness hazard: if two roles started two independent products in different orders, equal shapes would cross
silently. So randomness is *addressed* (:class:`Address`) rather than streamed, and a wave is spoken in the order of addresses.
"""

import math
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from moiety.errors import ProtocolMisuse

Words = NDArray[Any]  # uint64, or uint8 for octets


class Role(IntEnum):
    """Who a process is within one run. P0 deals mask-only data ahead; P1 and P2 evaluate; the client gives input, gets output."""

    P0 = 0
    P1 = 1
    P2 = 2
    CLIENT = 3


class Spec(NamedTuple):
    """Shape and ring width of one array on the wire; ``nbytes`` is its exact payload: as many octets an element as its ring fills."""

    shape: tuple[int, ...]
    bits: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * -(-self.bits // 8)

    @property
    def memory_bytes(self) -> int:
        """What it takes in memory, where words have eight octets whatever their ring."""
        return math.prod(self.shape) * (1 if self.bits == 8 else 8)

    @property
    def passing_bytes(self) -> int:
        """What it takes while it is sent or received: in memory, and on the wire where that is another form."""
        return self.memory_bytes + (0 if self.bits in (8, 64) else self.nbytes)


class Word(NamedTuple):
    """One array from one role to another within a wave. ``value`` is None where only shapes are known."""

    sender: Role
    receiver: Role
    spec: Spec
    value: Words | None = None


class Round(NamedTuple):
    """What one role says and expects in one wave; anything not announced here aborts the run."""

    send: tuple[Word, ...] = ()
    expect: tuple[Word, ...] = ()


SILENCE = Round()
Protocol_ = Coroutine[Round, Any, Any]


@types.coroutine
def exchange(said: Round) -> Generator[Round, list[Words], list[Words]]:
    """The one trap: speak ``said`` in this wave; returns the arrays of ``said.expect`` in order."""
    return (yield said)


class Address(NamedTuple):
    """Where a draw or a dealt value belongs: plan node, nesting path, kind and counter. Never used twice within a run."""

    path: tuple[int, ...]
    kind: int
    serial: int

    def nonce(self) -> bytes:
        """Injective 12-byte encoding: node 24 bits, three nesting levels of 16 bits, kind 8 bits, counter 16 bits."""
        prefix, kind, serial = _prefix(self.path), self.kind, self.serial
        if prefix is None or kind >= 1 << 8 or serial >= 1 << 16:
            raise ProtocolMisuse(f"address {self} does not fit 12 bytes; split the op into several plan nodes")
        return (prefix | kind << 16 | serial).to_bytes(12)


@lru_cache(maxsize=1 << 14)
def _prefix(path: tuple[int, ...]) -> int | None:
    """The nine octets of a nonce that encode a path, above three of zeros; None if it does not fit."""
    number, *levels = path
    if number >= 1 << 24 or len(levels) > 3 or max(levels, default=0) >= 0xFFFF:
        return None
    for level in levels:
        number = number << 16 | level + 1
    return number << 16 * (3 - len(levels)) + 24


class Scope:
    """The part of a run that one op owns: hands out its addresses and the scopes of its concurrent parts."""

    __slots__ = ("_children", "_draws", "path")

    def __init__(self, path: tuple[int, ...]) -> None:
        self.path = path
        self._draws = 0
        self._children = 0

    def address(self, kind: int) -> Address:
        self._draws += 1
        return Address(self.path, kind, self._draws - 1)

    def child(self) -> "Scope":
        self._children += 1
        return Scope((*self.path, self._children - 1))


class Scoped(Protocol):
    """Anything whose current scope the scheduler may set (a :class:`moiety.mpc.party.Party`)."""

    scope: Scope


class _Task:
    """A coroutine with the scope in which each of its steps runs."""

    __slots__ = ("coroutine", "result", "said", "scope")

    def __init__(self, coroutine: Protocol_, scope: Scope) -> None:
        self.coroutine, self.scope = coroutine, scope
        self.said: Round | None = None
        self.result: Any = None

    def share_of(self, mail: list[Words]) -> list[Words]:
        """Take off the front of a wave's mail what this task expects, so that nobody else holds it."""
        count = len(self.said.expect) if self.said else 0
        mine = mail[:count]
        del mail[:count]
        return mine

    def step(self, party: Scoped, mail: list[Words] | None) -> bool:
        """Run to the next exchange; True while it has more to say."""
        outer, party.scope = party.scope, self.scope
        self.said = None  # what was sent is not held while the next step computes
        try:
            self.said = self.coroutine.send(mail)
            return True
        except StopIteration as stop:
            self.said, self.result = None, stop.value
            return False
        finally:
            party.scope = outer


def _merge(tasks: Iterable[_Task]) -> Round:
    said = [task.said or SILENCE for task in tasks]
    if len(said) == 1:
        return said[0]
    return Round(tuple(w for r in said for w in r.send), tuple(w for r in said for w in r.expect))


async def together(party: Scoped, *protocols: Protocol_) -> list[Any]:
    """Run independent protocols in shared waves; returns their results in order. Rounds: the longest one's."""
    tasks = [_Task(protocol, party.scope.child()) for protocol in protocols]
    try:
        live = [task for task in tasks if task.step(party, None)]
        while live:
            mail = await exchange(_merge(live))
            following = []
            for task in live:
                if task.step(party, task.share_of(mail)):
                    following.append(task)
            live = following
    finally:
        for task in tasks:  # after an abort some may not even have started
            task.coroutine.close()
    return [task.result for task in tasks]


class Step(NamedTuple):
    """One node of a plan, ready to be scheduled: ``start`` gets the results of ``inputs``, returns a value or a coroutine."""

    start: Callable[..., Any]
    inputs: tuple[int, ...]
    label: str = ""


Order = Callable[[list[int]], Sequence[int]]


class Graph:
    """Which steps read which, and whose results are kept: made once, for any number of schedules."""

    __slots__ = ("keep", "reads", "users")

    def __init__(self, inputs: Iterable[tuple[int, ...]], keep: Iterable[int]) -> None:
        self.keep = frozenset(keep)
        self.reads = tuple([tuple(dict.fromkeys(each)) for each in inputs])
        """The steps that each step reads, each once."""
        self.users: tuple[list[int], ...] = tuple([[] for _ in self.reads])
        for i, read in enumerate(self.reads):
            for j in read:
                self.users[j].append(i)


class Schedule:
    """Runs a graph of steps in shared waves and drops every value at its last use.

    ``order`` may permute the order in which ready steps start (tests use it); results and frames do not depend on it.
    """

    def __init__(self, party: Scoped, steps: Sequence[Step], graph: Graph, order: Order = sorted) -> None:
        self._party, self._steps, self._graph, self._order = party, steps, graph, order
        self._missing = list(map(len, graph.reads))
        self._uses = list(map(len, graph.users))  # a kept value has one use more, which never ends
        for i in graph.keep:
            self._uses[i] += 1
        self.values: dict[int, Any] = {}
        self.live: dict[int, _Task] = {}

    async def run(self) -> dict[int, Any]:
        """Results of the kept steps. Each awaited exchange is one wave; ``live`` names the steps that speak in it."""
        ready = [i for i, missing in enumerate(self._missing) if missing == 0]
        while True:
            while ready:
                ready = [user for i in self._order(ready) for user in self._start(i)]
            if not self.live:
                return {i: self.values[i] for i in self._graph.keep}
            tasks = sorted(self.live.items())
            mail = await exchange(_merge(task for _, task in tasks))
            for i, task in tasks:
                ready += self._advance(i, task, task.share_of(mail))

    def _start(self, i: int) -> list[int]:
        step = self._steps[i]
        scope = Scope((i,))
        outer, self._party.scope = self._party.scope, scope
        try:
            result = step.start(*[self.values[j] for j in step.inputs])
        except Exception as error:
            error.add_note(f"in {step.label or f'step {i}'}")
            raise
        finally:
            self._party.scope = outer
        if isinstance(result, types.CoroutineType):  # much faster to ask than for the abstract class
            return self._advance(i, _Task(result, scope), None)
        return self._finish(i, result)

    def _advance(self, i: int, task: _Task, mail: list[Words] | None) -> list[int]:
        try:
            speaking = task.step(self._party, mail)
        except Exception as error:
            error.add_note(f"in {self._steps[i].label or f'step {i}'}")
            raise
        if speaking:
            self.live[i] = task
            return []
        self.live.pop(i, None)
        return self._finish(i, task.result)

    def _finish(self, i: int, result: Any) -> list[int]:
        uses, missing, ready = self._uses, self._missing, []
        if uses[i]:
            self.values[i] = result
        for j in self._graph.reads[i]:
            uses[j] -= 1
            if not uses[j]:
                del self.values[j]
        for user in self._graph.users[i]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
        return ready

    def spoken(self) -> dict[int, int]:
        """Bytes that every live step says in the wave it now awaits."""
        return {i: sum(w.spec.nbytes for w in task.said.send) for i, task in self.live.items() if task.said}

    def close(self) -> None:
        """Close what is still suspended (after an abort), so that nothing is left un-awaited."""
        for task in self.live.values():
            task.coroutine.close()
        self.live.clear()
