"""A plan bound to one role: what this role says, expects, deals and takes in every wave, from the plan's own cost on shapes.

A run is checked against this table before anything is sent, and every frame carries a 64-bit hash of its layout: the shapes
and widths of its segments, and the steps that speak in it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from moiety.compile import program
from moiety.compile.client import prepare_client
from moiety.compile.forecast import run_bytes
from moiety.compile.plan import LINKS, Plan
from moiety.mpc.cost import Link, Wave
from moiety.mpc.rounds import Address, Role, Spec, Words
from moiety.net import Kind

PROGRESS_STEPS: Final = 20
NODE_BYTES: Final = 1700
FRAME_BYTES: Final = 500
"""What Python keeps of a node and of a frame or dealt value, measured roughly."""
_KINDS: Final = {Role.P0: Kind.DEALT, Role.CLIENT: Kind.INPUT}


class Frame(NamedTuple):
    """One frame of one wave: the other end, the kind, its segments in order."""

    peer: Role
    kind: Kind
    specs: tuple[Spec, ...]
    nbytes: int
    layout: int


class Dealt(NamedTuple):
    """A frame of dealt values: where each lies, in the order of addresses."""

    frame: Frame
    places: Mapping[Address, tuple[int, Spec]]


class Entry(NamedTuple):
    """One wave at one role."""

    sends: tuple[Frame, ...]
    expects: tuple[Frame, ...]
    dealt: tuple[Dealt, ...]
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A verified plan, ready to run at ``role`` any number of times."""

    plan: Plan
    hash: str
    role: Role
    entries: tuple[Entry, ...]
    spoken: int
    """Waves in which anybody awaits; one more entry may hold only dealt values."""
    rounds: int
    constants: tuple[Words, ...]
    rows: tuple[int, ...]
    """How many rows of every state a run writes; 0 where it only reads."""
    run_bytes: int
    """The most that one run takes here, weights and caches not included."""
    layers: tuple[str, ...]
    """The weights of linear layers in the order in which a run reads them."""
    prepared: program.Prepared

    @property
    def nbytes(self) -> int:
        """Memory of the plan itself, about: its constants, and the objects of its nodes and frames."""
        frames = sum(len(entry.sends) + len(entry.expects) + len(entry.dealt) for entry in self.entries)
        places = sum(len(dealt.places) for entry in self.entries for dealt in entry.dealt)
        return sum(words.nbytes for words in self.constants) + NODE_BYTES * len(self.plan.nodes) + FRAME_BYTES * (frames + places)

    @property
    def progress_every(self) -> int:
        """P1 tells the client after every so many waves that it got there: fixed by the table, whatever the data."""
        return max(1, -(-self.spoken // PROGRESS_STEPS))

    def __repr__(self) -> str:
        return f"<Plan {self.hash[:12]} at {self.role.name}, {self.spoken} waves>"


def bind(plan: Plan, role: Role, found: program.Driven) -> Bound:
    """The table of ``role``. ``found`` comes from ``program.check_waves(plan)``."""
    labels, costs = [step_label(plan, i) for i in range(len(plan.nodes))], found.costs
    entries = tuple(_entry(role, number, wave, labels, len(costs.waves)) for number, wave in enumerate(costs.waves))
    last = costs.waves[-1] if costs.waves else None
    tail = last is not None and not last.spoken and all(sender is Role.P0 for sender, _ in last.links)
    spoken = len(costs.waves) - tail
    constants = tuple(np.frombuffer(c.data, "<u8").reshape(c.shape) for c in plan.constants)
    rows = tuple(found.kept[s.write].shape[s.axis] if s.write >= 0 else 0 for s in plan.states)
    return Bound(
        plan,
        plan.hash,
        role,
        entries,
        spoken,
        costs.rounds,
        constants,
        rows,
        run_bytes(found, role),
        program.layers(plan, found.order),
        prepare_client(plan, found, spoken) if role is Role.CLIENT else program.prepare(plan),
    )


def step_label(plan: Plan, i: int) -> str:
    """What people call a node. Labels come from the model's owner, so they are cut and cleaned."""
    text = plan.modules[i] if i < len(plan.modules) else ""
    clean = "".join(c for c in text[:80] if c.isprintable())
    return f"{clean} ({plan.nodes[i].op})" if clean else f"node {i} ({plan.nodes[i].op})"


def payload(plan: Plan) -> dict[Link, tuple[int, int]]:
    """Frames and payload bytes of one run on every link, as the plan's wave table has them."""
    return {link: (sum(1 for row in plan.waves if row[i]), sum(row[i] for row in plan.waves)) for i, link in enumerate(LINKS)}


def _entry(role: Role, number: int, wave: Wave, labels: list[str], total: int) -> Entry:
    steps = tuple(step for step, nbytes in wave.spoken.items() if nbytes)
    names = ", ".join(labels[step] for step in steps[:3]) + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")
    label = f"wave {number} of {total} ({names or 'dealt values'})"
    sends: list[Frame] = []
    expects: list[Frame] = []
    dealt: list[Dealt] = []
    for link, specs in wave.segments.items():
        if role in link and all(spec.nbytes for spec in specs):
            frame = _frame(role, link, tuple(specs), steps, number)
            (sends if link[0] is role else expects).append(frame)
    for receiver in (Role.P1, Role.P2):
        places = {address: (at, word.spec) for address, (at, word) in wave.dealt.items() if word.receiver is receiver}
        if places and role in (Role.P0, receiver):
            frame = _frame(role, (Role.P0, receiver), tuple(spec for _, spec in places.values()), (), number)
            dealt.append(Dealt(frame, places))
    return Entry(tuple(sends), tuple(expects), tuple(dealt), label)


def _frame(role: Role, link: Link, specs: tuple[Spec, ...], steps: tuple[int, ...], number: int) -> Frame:
    sender, receiver = link
    kind = Kind.OUTPUT if receiver is Role.CLIENT else _KINDS.get(sender, Kind.WAVE)
    text = repr((number, int(sender), int(receiver), [(spec.shape, spec.bits) for spec in specs], steps))
    layout = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return Frame(receiver if sender is role else sender, kind, specs, sum(spec.nbytes for spec in specs), layout)
