"""Share a model's weights, once: ``m = encode(w) + l1 + l2`` streamed to P1 and P2; l1 and l2 come from keys that the parties
already hold when the stream begins, so P0 receives two keys and no words.

A matrix that P1 knows (:class:`~moiety.mpc.matrix.Held`) goes to P1 as it is, in few octets, and to P2 as ``W + l1``;
nothing of l2 is drawn.

Every piece of every tensor has its own address under keys that are fresh for each sharing. Before a weight counts, P1 and P2
compare tags of everything that came, and each compares with P0 the manifest and the mask key they share: a model owner
cannot make the parties disagree.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from moiety import ring
from moiety.compile.forecast import parts_of
from moiety.compile.plan import OCTETS
from moiety.engine import keys
from moiety.engine.messages import Agreement, Deploy, Supply, Tensor, hear, say
from moiety.engine.pieces import (
    PIECE_WORDS,
    Masks,
    Matrix,
    Piece,
    Tags,
    add_clear,
    given,
    held_shape,
    integers,
    pieces,
    total,
    words_of,
)
from moiety.engine.room import Place
from moiety.engine.session import Session, agree
from moiety.engine.store import Stored
from moiety.errors import InconsistentInput, InputError
from moiety.mpc.matrix import Held, Weight
from moiety.mpc.party import Key
from moiety.mpc.rounds import Role, Words
from moiety.mpc.share import Share
from moiety.net import Kind

Weights = Mapping[str, Any]
"""Numpy or torch tensors by name, or callables that make one."""
PIECES: Final = 4
"""Pieces that a party has in hand while weights come."""


def sharing_of(session: Session, message: Deploy | Supply, tensor: Tensor) -> bytes:
    """What names these masks of this tensor, for all who took part."""
    return keys.digest("moiety sharing", session.id, message.number, tensor.name)


def send_weights(session: Session, message: Deploy, weights: Weights, streams: Mapping[Key, bytes]) -> None:
    """The owner's side: encode, mask and stream every tensor of the manifest. Memory: one tensor and what a channel may queue."""
    masks = Masks(streams, session.id, message.number)
    links = [session.send[role] for role in (Role.P1, Role.P2)]
    for index, tensor in enumerate(message.tensors):
        matrix = Matrix(tensor, weights[tensor.name])
        for piece in pieces(tensor):
            for link, words in zip(links, told(masks, matrix, index, piece), strict=True):
                link.send(Kind.INPUT, [words.data], wave=index, layout=piece.number)


def told(masks: Masks, matrix: Matrix, index: int, piece: Piece) -> tuple[Words, Words]:
    """What the owner sends of a piece to P1 and to P2."""
    if not matrix.tensor.clear:
        words = matrix.masked(piece, masks.parts(index, piece))
        return words, words
    clear, mask = matrix.clear(piece), masks.known_to_p1(index, piece)
    assert mask is not None, "an owner has both streams"
    return clear, add_clear(clear, mask)


def needed_bytes(message: Deploy, role: Role) -> int:
    """Memory that the weights of a manifest take at a party while they come; what stays is a little less."""
    sizes = [words_of(tensor) for tensor in message.tensors]
    kept = sum(parts_of(role, tensor.clear) * size for tensor, size in zip(message.tensors, sizes, strict=True))
    return int(8 * kept) + held_bytes(PIECES * min(PIECE_WORDS, max(sizes, default=0)), role)


def held_bytes(words: int, role: Role, clear: int = 0) -> int:
    """Memory of so many words of weights at a party: P0 holds their mask, P1 and P2 also what is masked; less where P1 is told them."""
    return int(8 * words * parts_of(role, clear))


def prepare(session: Session, message: Deploy | Supply, wait_s: float) -> Masks:
    """Agree on what is shared, at all three parties. Raises PlanMismatch, InconsistentInput, ConfigError."""
    streams = given(session.role, message.key_d, message.key_e)
    manifest = msgspec.msgpack.encode(msgspec.structs.replace(message, key_d=b"", key_e=b""))
    agree(session, keys.digest("moiety deploy", session.id, manifest), streams, wait_s)
    return Masks(streams, session.id, message.number)


def tags(session: Session, number: int) -> Tags | None:
    """What P1 and P2 tag the words of a sharing with; None at P0."""
    key = session.pairs.get(Key.C)
    return None if key is None else Tags(ring.derive(key, b"moiety tags of weights", session.id, number.to_bytes(8, "little")))


def receive_weights(session: Session, message: Deploy, wait_s: float, place: Place = ring.aligned) -> dict[str, Stored]:
    """A party's side. Raises InconsistentInput before anything is kept when parties were told or sent different things."""
    masks, tagged = prepare(session, message, wait_s), tags(session, message.number)
    seen, out = list[bytes](), {}
    for index, tensor in enumerate(message.tensors):
        value = _receive(session, masks, tagged, index, tensor, seen, wait_s, place)
        out[tensor.name] = Stored(tensor, value, sharing_of(session, message, tensor), session.owner)
    compare(session, total(seen), wait_s)
    return out


def _receive_held(
    session: Session, masks: Masks, tagged: Tags | None, index: int, tensor: Tensor, seen: list[bytes], wait_s: float, place: Place
) -> Held:
    """P1 computes what P2 was told, and both tag that."""
    kind = integers(tensor) if session.role is Role.P1 else np.dtype(np.uint64)
    part = place((words_of(tensor) * kind.itemsize // 8,)).view(kind).reshape(held_shape(tensor))
    for piece in pieces(tensor):
        words, mask = part.reshape(-1)[piece.begin : piece.end], masks.known_to_p1(index, piece)
        if tagged is None:
            words[:] = mask
            continue
        read_piece(session, index, tensor, piece.number, words, wait_s)
        seen.append(tagged.tag(index, piece, words if mask is None else add_clear(words, mask)))
    shape = (tensor.shape[0], tensor.shape[1])
    return Held(shape, tensor.fraction, tensor.clear, ring.packed(shape, part))


def _receive(
    session: Session, masks: Masks, tagged: Tags | None, index: int, tensor: Tensor, seen: list[bytes], wait_s: float, place: Place
) -> Any:
    if tensor.clear:
        return _receive_held(session, masks, tagged, index, tensor, seen, wait_s, place)
    mask = place(held_shape(tensor))
    masked = None if tagged is None else place(held_shape(tensor))
    for piece in pieces(tensor):
        here = slice(piece.begin, piece.end)
        mask.reshape(-1)[here] = masks.whole(index, piece)
        if masked is not None and tagged is not None:
            words = masked.reshape(-1)[here]
            read_piece(session, index, tensor, piece.number, words, wait_s)
            seen.append(tagged.tag(index, piece, words))
    if not tensor.packed:
        return Share(tensor.shape, tensor.fraction, 64, masked, mask)
    shape = (tensor.shape[0], tensor.shape[1])
    return Weight(shape, tensor.fraction, None if masked is None else ring.packed(shape, masked), ring.packed(shape, mask))


def read_piece(session: Session, index: int, tensor: Tensor, number: int, words: Words, wait_s: float) -> None:
    """The next piece from the owner, into ``words``."""
    awaited = f"the weight {tensor.name!r}"
    link = session.receive[Role.CLIENT]
    link.receive_into(Kind.INPUT, [words.data], wave=index, layout=number, deadline_s=wait_s, awaited=awaited)


def compare(session: Session, mine: bytes, wait_s: float) -> None:
    """P1 and P2 compare what came from the owner. Raises InconsistentInput."""
    other = {Role.P1: Role.P2, Role.P2: Role.P1}.get(session.role)
    if other is None:
        return
    say(session.send[other], Agreement(mine))
    if hear(session.receive[other], Agreement, deadline_s=wait_s, awaited="its digest of the weights").subject != mine:
        raise InconsistentInput(f"{session.owner} sent different weights to P1 and P2; none of them is kept")


def check_manifest(message: Deploy | Supply) -> None:
    """Raises InputError for tensors that nobody could share."""
    for tensor in message.tensors:
        if tensor.packed and len(tensor.shape) != 2:
            raise InputError(f"the weight {tensor.name!r} is to be packed but is no matrix")
        if not tensor.packed and isinstance(message, Supply):
            raise InputError(f"the weight {tensor.name!r} is to be streamed in every run but is not packed; share it once")
        if tensor.clear not in (0, *OCTETS) or (tensor.clear and not tensor.packed):
            raise InputError(f"the weight {tensor.name!r} cannot be held by P1 in {tensor.clear} octets; compile the model again")
        if not 0 <= tensor.fraction <= 62:
            raise InputError(f"the weight {tensor.name!r} has {tensor.fraction} fraction bits; 0 to 62 fit the ring")
    if len({tensor.name for tensor in message.tensors}) != len(message.tensors):
        raise InputError("the manifest names a weight twice; compile the model again")
