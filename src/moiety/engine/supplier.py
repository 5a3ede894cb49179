"""The owner's side of weights that parties do not keep: stream them into every run that asks for them.

A thread serves one session with the three parties. If that fails it opens another one, under fresh keys: a run that was
reading is lost, the next one is not. What is streamed a second time under the same masks has to be the same: the owner keeps a tag
of every piece, and stops before it sends another content.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from moiety.engine.deploy import Weights, told
from moiety.engine.messages import Pass, Supply, Tensor, Want, hear, say
from moiety.engine.owner import OwnerSession
from moiety.engine.pieces import Masks, Matrix, Tags, pieces
from moiety.errors import DeadlineExceeded, InputError, LimitReached, MoietyError, PeerAborted
from moiety.mpc.rounds import Role
from moiety.net import Kind

LOOK_S: Final = 0.05
AGAIN_S: Final = (0.0, 0.2, 1.0, 5.0, 20.0)
"""Pauses before it tries again, while it fails without having served anybody."""
PASSING: Final = (PeerAborted, LimitReached)
"""What a party may say while it is still busy with the end of the session before."""


class Supplier:
    """Streams ``tensors`` from ``weights`` until it is stopped. ``opened`` makes a session as the model's owner."""

    def __init__(self, opened: Callable[[], OwnerSession], model: str, tensors: tuple[Tensor, ...], weights: Weights) -> None:
        self.model, self.tensors, self._opened, self.weights = model, tensors, opened, weights
        self.passes = 0
        self._orders: dict[str, tuple[str, ...]] = {}
        self._names = {tensor.name: i for i, tensor in enumerate(tensors)}
        self._changed = threading.Condition()
        self._ready, self._stopping = False, threading.Event()
        self._failure: MoietyError | None = None
        self._thread: threading.Thread | None = None

    def serves(self, plan: str, order: tuple[str, ...]) -> None:
        """The plan with this hash reads weights in this order."""
        self._orders[plan] = tuple(name for name in order if name in self._names)

    def ensure(self, seconds: float) -> None:
        """Start it if it does not run; return when the parties know it. Raises what keeps it from that, or DeadlineExceeded."""
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._failure = None
                self._thread = threading.Thread(target=self._run, name=f"moiety-supply-{self.model}", daemon=True)
                self._thread.start()
            self._changed.wait_for(lambda: self._ready or self._failure is not None, seconds)
            if self._failure is not None:
                raise type(self._failure)(str(self._failure))
            if not self._ready:
                raise DeadlineExceeded(f"the parties did not accept the weights of {self.model!r} within {seconds:.3g} s")

    def stop(self) -> None:
        """End it, in good order if it is idle. May be called twice; never raises."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        failed = 0
        while not self._stopping.is_set():
            before = self.passes
            try:
                self._serve()
            except MoietyError as error:
                failed = 0 if self.passes > before else failed + 1
                if not (error.transient or isinstance(error, PASSING)) or failed >= len(AGAIN_S):
                    self._settle(False, error)
                    return
                self._settle(False)
                self._stopping.wait(AGAIN_S[failed])

    def _settle(self, ready: bool, failure: MoietyError | None = None) -> None:
        with self._changed:
            self._ready, self._failure = ready, failure
            self._changed.notify_all()

    def _serve(self) -> None:
        with self._opened() as session:
            message, masks = session.supply(self.model, self.tensors)
            self._settle(True)
            feed = _Feed(session, message, masks, self.weights)
            with session.guarded():
                try:
                    while (want := feed.wanted(self._stopping.is_set)) is not None:
                        feed.stream(want, [self._names[name] for name in self._order(want.plan)])
                        self.passes += 1
                except MoietyError as error:
                    self._settle(False)  # before anybody hears of it: who does, may ask at once whether it serves again
                    if isinstance(error, InputError):  # whose run it is can do nothing about it, but should know
                        session.session.abort(error.code, str(error))
                    raise

    def _order(self, plan: str) -> tuple[str, ...]:
        if plan not in self._orders:
            raise InputError(f"a run of the plan {plan[:12]} asks for weights of {self.model!r}, which was deployed elsewhere since")
        return self._orders[plan]


class _Feed:
    """What is streamed in one session."""

    def __init__(self, session: OwnerSession, message: Supply, masks: Masks, weights: Weights) -> None:
        self._session, self._message, self._masks, self._weights = session, message, masks, weights
        self._links = [session.session.send[role] for role in (Role.P1, Role.P2)]
        self._tags, self._sent = Tags(os.urandom(16)), dict[tuple[int, int], bytes]()
        self._asked = deque[Want]()
        self._waiting: set[bytes] = set()

    def wanted(self, stopping: Callable[[], bool]) -> Want | None:
        """The next run that both P1 and P2 ask for; None when it is time to stop."""
        deadline = math.inf
        while not stopping():
            # to both in turn: either may end the session, and while one has, no run gets so far that the other asks for anything
            self._asked += self._heard(Role.P1)
            self._waiting.update(want.run for want in self._heard(Role.P2))
            if not self._asked:
                continue
            if self._asked[0].run in self._waiting:
                self._waiting.discard(self._asked[0].run)
                return self._asked.popleft()
            deadline = min(deadline, time.monotonic() + self._session.deadlines.result_s)
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"P2 did not ask for the weights of a run that P1 asked for within {self._session.deadlines.result_s:.3g} s"
                )
        return None

    def _heard(self, role: Role) -> list[Want]:
        """What a party asks for, if it does so soon. Raises what ended the session there."""
        try:
            return [hear(self._session.session.send[role], Want, deadline_s=LOOK_S, awaited="a run that reads weights")]
        except DeadlineExceeded:
            return []

    def stream(self, want: Want, order: list[int]) -> None:
        """All weights of one run, as fast as its parties take them."""
        for link in self._links:
            say(link, Pass(want.run))
        for index in order:
            tensor = self._message.tensors[index]
            matrix = Matrix(tensor, self._weights[tensor.name])
            for piece in pieces(tensor):
                sent = told(self._masks, matrix, index, piece)
                tag = self._tags.tag(index, piece, sent[1])
                if self._sent.setdefault((index, piece.number), tag) != tag:
                    raise InputError(f"the weight {tensor.name!r} has changed since it was first streamed; deploy the model again")
                for link, words in zip(self._links, sent, strict=True):
                    link.send(Kind.INPUT, [words.data], wave=index, layout=piece.number)
