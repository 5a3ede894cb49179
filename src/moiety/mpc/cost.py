"""What a protocol costs, found by running its text on shapes: there is no formula that could drift from the code."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moiety.errors import ProtocolMisuse
from moiety.mpc.party import ShapeParty
from moiety.mpc.rounds import Address, Protocol_, Role, Spec, Word

Link = tuple[Role, Role]


@dataclass(slots=True)
class Wave:
    """One round: bytes and arrays on every link, where each dealt value lies in its frame, and bytes by the step that speaks."""

    links: Counter[Link] = field(default_factory=Counter)
    segments: dict[Link, list[Spec]] = field(default_factory=dict)
    dealt: dict[Address, tuple[int, Word]] = field(default_factory=dict)
    spoken: Mapping[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Costs:
    """The wave table of a protocol and all its draws. The last wave may hold only dealt values (nothing is spoken after it)."""

    waves: list[Wave] = field(default_factory=list)
    draws: list[tuple[Address, Spec]] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return sum(1 for wave in self.waves if any(Role.P0 not in link for link in wave.links))

    def nbytes(self, link: Link) -> int:
        return sum(wave.links[link] for wave in self.waves)

    @property
    def total_bytes(self) -> int:
        return sum(sum(wave.links.values()) for wave in self.waves)


def drive_on_shapes(start: Callable[[ShapeParty], Protocol_], spoken: Callable[[], Mapping[int, int]] = dict) -> tuple[Any, Costs]:
    """Run a protocol for all roles at once, on shapes only. Returns its result and its costs; fails if two draws share an address.

    ``spoken`` is asked after every wave for the bytes that each step says in it (see ``Schedule.spoken``).
    """
    party, costs = ShapeParty(), Costs()
    program = start(party)
    while True:
        try:
            said = program.send(None if not costs.waves else [])
        except StopIteration as stop:
            if party.dealt:
                costs.waves.append(_wave(party, ()))
            costs.draws = party.draws
            _check_distinct(costs)
            return stop.value, costs
        by_step = spoken()  # first: what was dealt since the wave before is still with the party
        wave = _wave(party, said.send)
        wave.spoken = by_step
        costs.waves.append(wave)


def _wave(party: ShapeParty, said: tuple[Word, ...]) -> Wave:
    wave = Wave()
    for word in said:
        wave.links[word.sender, word.receiver] += word.spec.nbytes
        wave.segments.setdefault((word.sender, word.receiver), []).append(word.spec)
    for address, word in sorted(party.dealt, key=lambda entry: entry[0]):
        link = (word.sender, word.receiver)
        wave.dealt[address] = (wave.links[link], word)
        wave.links[link] += word.spec.nbytes
    party.dealt.clear()
    return wave


def _check_distinct(costs: Costs) -> None:
    seen: set[Address] = set()
    for address, _ in costs.draws:
        if address in seen:
            raise ProtocolMisuse(f"two draws at {address}: masks would repeat")
        seen.add(address)
