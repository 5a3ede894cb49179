"""Share a model's weights, once: ``m = encode(w) + l1 + l2`` streamed to P1 and P2; l1 and l2 come from keys that the parties
already hold when the stream begins, so P0 receives two keys and no words.

Every chunk of every tensor has its own address under keys that are fresh for each sharing. Before a weight counts, P1 and P2
compare digests of everything that came, and each compares with P0 the manifest and the mask key they share: a model owner
cannot make the parties disagree.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from moiety import ring
from moiety.engine import keys
from moiety.engine.messages import Agreement, Deploy, Tensor, hear, say
from moiety.engine.session import Session, agree
from moiety.engine.store import Stored
from moiety.errors import ConfigError, InconsistentInput, InputError
from moiety.mpc import rep3
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.party import Key, Kind, Party
from moiety.mpc.rounds import Address, Role, Spec, Words
from moiety.mpc.share import Share
from moiety.net import Kind as FrameKind

CHUNK_WORDS: Final = 1 << 20
Weights = Mapping[str, Any]
"""Numpy or torch tensors by name, or callables that make one."""


def chunks(tensor: Tensor) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of every chunk of a tensor."""
    size = int(np.prod(tensor.shape, dtype=np.int64))
    for number, start in enumerate(range(0, size, CHUNK_WORDS)):
        yield number, start, min(size, start + CHUNK_WORDS)


def mask(draws: KeyedDraws, key: Key, tensor: int, chunk: int, count: int) -> Words:
    """The masks of one chunk from one stream."""
    return draws.words(key, Address((tensor,), Kind.INPUT_MASK, chunk), Spec((count,), 64))


def stream_keys(session: Session, message: Deploy) -> dict[Key, bytes]:
    """The streams that this role was given, checked for length. Raises ConfigError."""
    return given(session.role, message.key_d, message.key_e)


def sharing_of(session: Session, message: Deploy, tensor: Tensor) -> bytes:
    """What names these masks of this tensor, for all who took part."""
    return keys.digest("moiety sharing", session.id, message.number, tensor.name)


def given(role: Role, key_d: bytes, key_e: bytes) -> dict[Key, bytes]:
    """Input streams that belong to a role. Raises ConfigError when the owner gave too few, too many or short keys."""
    wanted = {key for key in (Key.D, Key.E) if key in keys.KEYS_OF[role]}
    found = {key: value for key, value in ((Key.D, key_d), (Key.E, key_e)) if value}
    if set(found) != wanted or any(len(value) != 32 for value in found.values()):
        raise ConfigError(f"the owner gave {role.name} other mask keys than it must have; let it run the same release of moiety")
    return found


def send_weights(session: Session, message: Deploy, weights: Weights, streams: Mapping[Key, bytes]) -> None:
    """The owner's side: encode, mask and stream every tensor of the manifest. Memory: one tensor and what a channel may queue."""
    draws = KeyedDraws({key: keys.deploy_key(value, session.id, message.number) for key, value in streams.items()})
    links = [session.send[role] for role in (Role.P1, Role.P2)]
    for index, tensor in enumerate(message.tensors):
        source = weights[tensor.name]
        array = floats(source() if callable(source) else source)
        if array.shape != tensor.shape:
            raise InputError(f"the weight {tensor.name!r} has shape {array.shape}, the plan reads {tensor.shape}")
        flat = np.ascontiguousarray(array).reshape(-1)
        for number, start, stop in chunks(tensor):
            words = ring.encode(flat[start:stop], tensor.fraction)
            words += mask(draws, Key.D, index, number, stop - start)
            words += mask(draws, Key.E, index, number, stop - start)
            for link in links:
                link.send(FrameKind.INPUT, [words.data], wave=index, layout=number)


def floats(tensor: Any) -> "np.ndarray[Any, Any]":
    """A numpy array of a numpy or torch tensor, whatever its precision."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return np.asarray(tensor)


def needed_bytes(message: Deploy, role: Role) -> int:
    """Memory that the weights of a manifest take at a party while they come; what stays is a little less."""
    sizes = [8 * math.prod(padded(tensor)) for tensor in message.tensors]
    parts = 1 if role is Role.P0 else 2
    return parts * (sum(sizes) + 2 * max(sizes, default=0))  # the largest exists unpacked too, in parts


def padded(tensor: Tensor) -> tuple[int, ...]:
    """The shape in which a tensor is kept: packed matrices have whole panels of columns."""
    if not tensor.packed:
        return tensor.shape
    return (*tensor.shape[:-1], -(-tensor.shape[-1] // ring.PANEL) * ring.PANEL)


def receive_weights(session: Session, message: Deploy, wait_s: float) -> dict[str, Stored]:
    """A party's side. Raises InconsistentInput before anything is kept when parties were told or sent different things."""
    streams = stream_keys(session, message)
    manifest = keys.digest("moiety manifest", message.model, message.number, message.replace, msgspec.msgpack.encode(message.tensors))
    agree(session, keys.digest("moiety deploy", session.id, manifest), streams, wait_s)
    draws = KeyedDraws({key: keys.deploy_key(value, session.id, message.number) for key, value in streams.items()})
    seen, out = hashlib.sha256(manifest), {}
    for index, tensor in enumerate(message.tensors):
        share = _receive(session, draws, index, tensor, seen, wait_s)
        party = Party(session.role, draws, _NoDealer())
        value = rep3.pack(party, share) if tensor.packed else share
        out[tensor.name] = Stored(tensor, value, sharing_of(session, message, tensor), session.owner)
    _compare(session, seen.digest(), wait_s)
    return out


def _receive(session: Session, draws: KeyedDraws, index: int, tensor: Tensor, seen: Any, wait_s: float) -> Share:
    size = int(np.prod(tensor.shape, dtype=np.int64))
    own = np.empty(size, np.uint64)
    masked = None if session.role is Role.P0 else np.empty(size, np.uint64)
    streams = [key for key in (Key.D, Key.E) if key in keys.KEYS_OF[session.role]]
    for number, start, stop in chunks(tensor):
        own[start:stop] = mask(draws, streams[0], index, number, stop - start)
        for key in streams[1:]:
            own[start:stop] += mask(draws, key, index, number, stop - start)
        if masked is not None:
            part = masked[start:stop]
            awaited = f"the weight {tensor.name!r}"
            session.receive[Role.CLIENT].receive_into(
                FrameKind.INPUT, [part.data], wave=index, layout=number, deadline_s=wait_s, awaited=awaited
            )
            seen.update(part.data)
    shape = tensor.shape
    return Share(shape, tensor.fraction, 64, None if masked is None else masked.reshape(shape), own.reshape(shape))


def _compare(session: Session, mine: bytes, wait_s: float) -> None:
    other = {Role.P1: Role.P2, Role.P2: Role.P1}.get(session.role)
    if other is None:
        return
    say(session.send[other], Agreement(mine))
    if hear(session.receive[other], Agreement, deadline_s=wait_s, awaited="its digest of the weights").subject != mine:
        raise InconsistentInput(f"{session.owner} sent different weights to P1 and P2; none of them is kept")


def check_manifest(message: Deploy) -> None:
    """Raises InputError for tensors that nobody could share."""
    for tensor in message.tensors:
        if tensor.packed and len(tensor.shape) != 2:
            raise InputError(f"the weight {tensor.name!r} is to be packed but is no matrix")
        if not 0 <= tensor.fraction <= 62:
            raise InputError(f"the weight {tensor.name!r} has {tensor.fraction} fraction bits; 0 to 62 fit the ring")
    if len({tensor.name for tensor in message.tensors}) != len(message.tensors):
        raise InputError("the manifest names a weight twice; compile the model again")


class _NoDealer:
    """Packing is local: nothing may be dealt."""

    def put(self, receiver: Role, address: Address, spec: Spec, value: Words) -> None:
        raise AssertionError

    def take(self, receiver: Role, address: Address, spec: Spec) -> Words:
        raise AssertionError
