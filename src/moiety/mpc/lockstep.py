"""All roles in one process, wave by wave: for unit tests and debugging, never for real data."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.cost import Link
from moiety.mpc.draws import KeyedDraws
from moiety.mpc.party import Draws, Key, Party
from moiety.mpc.rounds import Address, Protocol_, Role, Round, Spec, Word, Words
from moiety.mpc.share import Share, dtype_of, wrap

KEYS_OF = {
    Role.P0: (Key.A, Key.B, Key.D, Key.E),
    Role.P1: (Key.A, Key.C, Key.D),
    Role.P2: (Key.B, Key.C, Key.E),
    Role.CLIENT: (Key.D, Key.E),
}


def test_draws(role: Role, seed: int = 0) -> KeyedDraws:
    """Reproducible streams for one role. For tests only: real keys come from the parties' own randomness."""
    return KeyedDraws({key: bytes([key]) + seed.to_bytes(15) for key in KEYS_OF[role]})


class Box:
    """The dealt values in flight, by receiver and address."""

    def __init__(self) -> None:
        self.values: dict[tuple[Role, Address], Words] = {}
        self.log: list[Word] = []

    def put(self, receiver: Role, address: Address, spec: Spec, value: Words) -> None:
        if value.dtype != dtype_of(spec.bits) or value.shape != spec.shape:
            raise ProtocolMisuse(f"dealt {value.dtype} {value.shape} where {spec} was announced")
        self.values[receiver, address] = value
        self.log.append(Word(Role.P0, receiver, spec, value))

    def take(self, receiver: Role, address: Address, spec: Spec) -> Words:
        return self.values.pop((receiver, address))


@dataclass(slots=True)
class Transcript:
    """What happened: every role's result, payload bytes by link, every spoken word by wave, every dealt value in order.

    ``dealt_by`` counts, for each wave, the values that were dealt by the time it was spoken.
    """

    results: dict[Role, Any]
    waves: list[list[Word]] = field(default_factory=list)
    dealt: list[Word] = field(default_factory=list)
    dealt_by: list[int] = field(default_factory=list)

    @property
    def links(self) -> Counter[Link]:
        total: Counter[Link] = Counter()
        for word in (w for words in (*self.waves, self.dealt) for w in words):
            total[word.sender, word.receiver] += word.spec.nbytes
        return total


def run(
    protocols: Callable[[Party], Protocol_] | Mapping[Role, Callable[[Party], Protocol_]],
    *,
    draws: Callable[[Role], Draws] = test_draws,
    roles: tuple[Role, ...] = tuple(Role),
) -> Transcript:
    """Drive one protocol at all roles. Fails when a role leaves early, or a message is not the one expected."""
    box, transcript = Box(), Transcript({})
    programs = {}
    for role in roles:
        start = protocols if callable(protocols) else protocols[role]
        programs[role] = start(Party(role, draws(role), box))
    try:
        with np.errstate(over="ignore"):  # words wrap around; numpy would warn of it for those of no axes
            _converse(programs, box, transcript)
    finally:
        for program in programs.values():  # where one role failed, the others must not be left un-awaited
            program.close()
    transcript.dealt = box.log
    return transcript


def _converse(programs: Mapping[Role, Protocol_], box: Box, transcript: Transcript) -> None:
    mail: dict[Role, list[Words] | None] = dict.fromkeys(programs)
    while True:
        said: dict[Role, Round] = {}
        for role, program in programs.items():  # P0 first: what it deals is there when the others take it
            try:
                said[role] = program.send(mail[role])
            except StopIteration as stop:
                transcript.results[role] = stop.value
        if not said:
            return
        if len(said) != len(programs):
            silent = [role.name for role in programs if role not in said]
            raise ProtocolMisuse(f"{', '.join(silent)} finished while others still speak: every role must await equally often")
        mail = dict(_deliver(said))
        transcript.dealt_by.append(len(box.log))
        transcript.waves.append([word for r in said.values() for word in r.send])


def _deliver(said: Mapping[Role, Round]) -> list[tuple[Role, list[Words] | None]]:
    sent = {role: list(r.send) for role, r in said.items()}
    out: list[tuple[Role, list[Words] | None]] = []
    for role, r in said.items():
        mail = []
        for word in r.expect:
            i = next((i for i, w in enumerate(sent.get(word.sender, [])) if w.receiver is role), None)
            if i is None:
                raise ProtocolMisuse(f"{role.name} expects a word from {word.sender.name} that nobody sent")
            got = sent[word.sender].pop(i)
            if got.spec != word.spec or got.value is None:
                raise ProtocolMisuse(f"{role.name} expects {word.spec} from {word.sender.name}, got {got.spec}")
            mail.append(got.value)
        out.append((role, mail))
    left = [w for words in sent.values() for w in words]
    if left:
        raise ProtocolMisuse(f"{left[0].sender.name} sent a word that {left[0].receiver.name} does not expect")
    return out


def share_out(words: Words, fraction: int = 0, bits: int = 64, seed: int = 0) -> dict[Role, Share]:
    """Shares of public test data for every role (seeded masks; tests only)."""
    generator = np.random.default_rng(seed)
    dtype = dtype_of(bits)
    top = (1 << bits) - 1
    l1, l2 = (generator.integers(0, top, words.shape, dtype, endpoint=True) for _ in range(2))
    m = wrap(words.astype(dtype) + l1 + l2, bits)
    shape = words.shape
    return {
        Role.P0: Share(shape, fraction, bits, None, wrap(l1 + l2, bits)),
        Role.P1: Share(shape, fraction, bits, m, l1),
        Role.P2: Share(shape, fraction, bits, m, l2),
        Role.CLIENT: Share(shape, fraction, bits),
    }


def opened(results: Mapping[Role, Share]) -> Words:
    """Reconstruct from P0's mask and P1's masked part; fails when P1 and P2 disagree or the masks do not add up."""
    zero, one, two = (results[r] for r in (Role.P0, Role.P1, Role.P2))
    if (
        one.masked is None
        or two.masked is None
        or zero.mask is None
        or not np.array_equal(wrap(one.masked, one.bits), wrap(two.masked, two.bits))
    ):
        raise ProtocolMisuse("P1 and P2 hold different masked values")
    if (
        one.mask is not None
        and two.mask is not None
        and not np.array_equal(wrap(one.mask + two.mask, one.bits), wrap(zero.mask, zero.bits))
    ):
        raise ProtocolMisuse("the masks of P1 and P2 do not add up to that of P0")
    return wrap(one.masked - zero.mask, one.bits)
