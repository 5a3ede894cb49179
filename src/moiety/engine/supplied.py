"""Weights that a party does not keep: their owner streams them into every run that reads them, in the order of their use.

One session of the owner carries them, and lasts as long as it is willing. Its thread at P1 and P2 reads a piece, tags it and puts it
into the window of the run that wants it; the run's thread takes it, uses it and drops it. The window is bounded, and what does
not fit waits with the owner. P0 makes its masks itself and is sent nothing. Keys, masks and words are the same in every run, as if
the shares were kept: P1 and P2 compare tags of a tensor before its last piece counts for the first time, and with those later.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np

from moiety import ring
from moiety.engine import deploy
from moiety.engine.messages import Close, Supply, Tensor, Want, hear_pass, say
from moiety.engine.pieces import PIECE_WORDS, Piece, add_clear, integers, pieces, total
from moiety.engine.session import Session
from moiety.engine.store import Model
from moiety.engine.waves import Bound
from moiety.errors import ChannelError, DeadlineExceeded, FrameError, InconsistentInput, MoietyError, PeerAborted, PeerLost, PlanMismatch
from moiety.mpc.matrix import Block, Streamed
from moiety.mpc.rounds import Role, Words

WINDOW: Final = 8
"""Pieces that may wait for a run at a party."""
WINDOW_BYTES: Final = 8 * PIECE_WORDS * (WINDOW + deploy.PIECES)
"""Memory that the weights of a run take, however many they are."""
LOOK_S: Final = 0.1


class Arrived(NamedTuple):
    """A piece and its masked words, at P1 and P2; at P1 the integers of a matrix that it knows."""

    tensor: int
    piece: Piece
    words: Words


class Supplied:
    """The weights of one ``Supply``, at a party."""

    def __init__(self, session: Session, message: Supply, wait_s: float) -> None:
        self.masks = deploy.prepare(session, message, wait_s)
        self.model, self.tensors = message.model, {tensor.name: (i, tensor) for i, tensor in enumerate(message.tensors)}
        self.changed = threading.Condition()
        self.failure: MoietyError | None = None
        self._session, self._wait_s, self._tags = session, wait_s, deploy.tags(session, message.number)
        self.evaluates = self._tags is not None
        self._deliveries: dict[bytes, Delivery] = {}
        self._seen: dict[int, bytes] = {}

    def deliver(self, run: bytes, plan: str, names: tuple[str, ...], look: Callable[[], None], first_s: float) -> "Delivery":
        """Weights for a run that reads them under these names, in this order. ``look`` raises what ended the run elsewhere."""
        delivery = Delivery(self, names, look, (first_s, self._wait_s))
        if self.evaluates and names:
            with self.changed:
                self.check()
                self._deliveries[run] = delivery
                say(self._session.send[Role.CLIENT], Want(run, plan))
        return delivery

    def check(self) -> None:
        """Raises what ended the supply, as an error of who needs it."""
        if self.failure is None:
            return
        text = f"{self._session.owner} streams weights of {self.model!r} into every run, and that has ended: {self.failure}"
        raise (PeerLost if isinstance(self.failure, ChannelError | PeerAborted) else type(self.failure))(text)

    def serve(self, stopping: Callable[[], bool]) -> None:
        """Until the owner closes the session, or the party is stopping and no run reads. Raises what else ended it."""
        try:
            while True:
                self._drop_closed()
                if stopping() and not self._deliveries:
                    return
                try:
                    with self._session.watch.inattentive():
                        heard = hear_pass(self._session.receive[Role.CLIENT], LOOK_S)
                except DeadlineExceeded:
                    continue
                if isinstance(heard, Close):
                    return
                self._pass(heard.run)
        except MoietyError as error:
            self.end(error)
            raise
        finally:
            self.end(PeerLost(f"{self._session.owner} left"))

    def end(self, error: MoietyError) -> None:
        """No run gets anything any more."""
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()

    def _drop_closed(self) -> None:
        with self.changed:
            if any(delivery.closed for delivery in self._deliveries.values()):
                raise PeerLost(f"a run of {self.model!r} ended before it had read the weights that it had asked for")

    def _pass(self, run: bytes) -> None:
        delivery = self._deliveries.get(run)
        if delivery is None:
            raise FrameError(f"{self._session.owner} streams weights into a run that asked for none")
        for name in delivery.names:
            for arrived in self._arriving(*self.tensors[name]):
                delivery.put(arrived)
        with self.changed:
            del self._deliveries[run]

    def _arriving(self, index: int, tensor: Tensor) -> Iterator[Arrived]:
        """The pieces of a tensor, the last one when the tags of all agree."""
        assert self._tags is not None, "P0 is sent nothing"
        found, last = [], None
        for piece in pieces(tensor):
            mask = self.masks.known_to_p1(index, piece) if tensor.clear else None
            words = np.empty(piece.end - piece.begin, np.uint64 if mask is None else integers(tensor))
            deploy.read_piece(self._session, index, tensor, piece.number, words, self._wait_s)
            found.append(self._tags.tag(index, piece, words if mask is None else add_clear(words, mask)))
            if last is not None:
                yield last
            last = Arrived(index, piece, words)
        if last is not None:
            self._verify(index, tensor, total(found))
            yield last

    def _verify(self, index: int, tensor: Tensor, found: bytes) -> None:
        if index not in self._seen:
            deploy.compare(self._session, found, self._wait_s)
            self._seen[index] = found
        elif self._seen[index] != found:
            raise InconsistentInput(
                f"{self._session.owner} streamed other words of {tensor.name!r} than in an earlier run; let it deploy the model again"
            )


class Delivery:
    """The weights of one run on their way. Close it when the run is over."""

    def __init__(self, source: Supplied, names: tuple[str, ...], look: Callable[[], None], wait_s: tuple[float, float]) -> None:
        self._source, self.names, self._look = source, names, look
        self._first_s, self._next_s = wait_s
        self._window: deque[Arrived] = deque()
        self._place = 0
        self._left = sum(1 for name in names for _ in pieces(source.tensors[name][1]))
        self.nbytes, self.closed = 0, False

    def weight(self, name: str) -> Streamed:
        """A matrix that one product may read."""
        tensor = self._source.tensors[name][1]
        return Streamed(tensor.shape, tensor.fraction, lambda: self._blocks(name), tensor.clear)

    def close(self) -> None:
        """Nothing is read any more; what was asked for and not read ends the supply, whose owner would go on with it."""
        with self._source.changed:
            self.closed = self._left > 0
            self._source.changed.notify_all()

    def put(self, arrived: Arrived) -> None:
        """The supply's thread: wait for room in the window, then hand over. Raises PeerLost when the run has ended."""
        with self._source.changed:
            while len(self._window) >= WINDOW and not self.closed:
                self._source.changed.wait()
            if self.closed:
                raise PeerLost(f"a run of {self._source.model!r} ended before it had read all its weights")
            self._window.append(arrived)
            self._source.changed.notify_all()

    def _blocks(self, name: str) -> Iterator[Block]:
        index, tensor = self._source.tensors[name]
        if self._source.evaluates and self.names[self._place] != name:
            raise PlanMismatch(f"the run reads {name!r} where its plan reads {self.names[self._place]!r}")
        self._place += 1
        for piece in pieces(tensor):
            shape = (piece.rows.stop - piece.rows.start, piece.columns.stop - piece.columns.start)
            words = self._take(index, piece, name) if self._source.evaluates else None
            masked = None if words is None else ring.packed(shape, words.reshape(piece.panels))
            mask = self._mask(index, tensor, piece)
            yield Block(piece.rows, piece.columns, masked, None if mask is None else ring.packed(shape, mask.reshape(piece.panels)))

    def _mask(self, index: int, tensor: Tensor, piece: Piece) -> Words | None:
        """What this party uses of the mask: of a matrix that P1 knows P0 alone, the whole of it."""
        if not tensor.clear:
            return self._source.masks.whole(index, piece)
        return None if self._source.evaluates else self._source.masks.known_to_p1(index, piece)

    def _take(self, index: int, piece: Piece, name: str) -> Words:
        seconds = self._next_s if self.nbytes else self._first_s
        deadline = time.monotonic() + seconds
        while True:
            with self._source.changed:
                if not self._window:
                    self._source.check()
                    self._source.changed.wait(LOOK_S)
                if self._window:
                    arrived = self._window.popleft()
                    self._left -= 1
                    self._source.changed.notify_all()
                    break
            self._look()
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"the owner of {self._source.model!r} did not stream {name!r} within {seconds:.3g} s; is it busy?")
        if (arrived.tensor, arrived.piece) != (index, piece):
            raise PlanMismatch(f"another piece of the weights came than the run reads next, {name!r}")
        self.nbytes += arrived.words.nbytes
        return arrived.words


@contextlib.contextmanager
def delivered(bound: Bound, model: Model, run: bytes, look: Callable[[], None], first_s: float) -> Iterator[dict[str, Delivery]]:
    """What is streamed into one run, by the names of the weights, within the block. Asks for it."""
    sources = {name: value for name in bound.layers if isinstance(value := model.weights[name].value, Supplied)}
    found = dict[str, Delivery]()
    try:
        for source in dict.fromkeys(sources.values()):
            names = tuple(name for name in bound.layers if sources.get(name) is source)
            found |= dict.fromkeys(names, source.deliver(run, bound.hash, names, look, first_s))
        yield found
    finally:
        for delivery in found.values():
            delivery.close()
