"""How long a run will take on a named link: the plan's waves, played through.

```
P0      computes wave after wave, and deals ahead of the others as fast as it computes and its two links carry
P1, P2  start when the order to run has come and they agree (three delays after the client's word)
wave    an evaluator computes; what takes a dealt value waits for it first; then it speaks, and goes on when all words to it are there
link    leaves = max(spoken, when what was before has left) + bytes / bandwidth;  arrives = leaves + delay
end     one delay after the last wave, with the client
```

Bytes are those of the wave table, as TLS carries them. Seconds of computing are measured here (``engine/effort.py``), as if every party
had a machine like this; where all share one, they slow each other down. Two constants stand for what is measured nowhere else: a wave's
framing, checks and switch of threads, and a byte's way through TLS and the kernel. Left out: congestion, and opening a session.
"""

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from moiety.compile import program
from moiety.compile.plan import LINKS, Plan
from moiety.engine.effort import Effort
from moiety.mpc.cost import Costs
from moiety.mpc.rounds import Role
from moiety.net import Net
from moiety.net import net as by_name
from moiety.net.shape import on_wire

EVALUATORS: Final = (Role.P1, Role.P2)
WAVE_S: Final = 200e-6
"""Of a wave at an evaluator, and of a frame at the dealer: Python around the protocol. Measured roughly, on an x86 server."""
BYTE_S: Final = 0.8e-9
"""Of a byte at its sender, and again at its receiver: TLS, and copies in and out of the kernel."""
BEGIN_DELAYS: Final = 3
"""Until the evaluators begin: the owner's order, P0's word, the other evaluator's word."""


def net(link: str = "lan", rtt: str | None = None, bandwidth: str | None = None) -> Net:
    """A link by name or numbers, with its round trip (``20ms``) or bandwidth (``100Mbit``) replaced. Raises ConfigError."""
    found = by_name(link)
    if rtt is None and bandwidth is None:
        return found
    delay_s = found.delay_s if rtt is None else by_name(f"{rtt.strip()},1Gbit").delay_s / 2
    rate = found.bytes_per_s if bandwidth is None else by_name(f"1ms,{bandwidth.strip()}").bytes_per_s
    return Net(f"{2000 * delay_s:g} ms, {rate * 8e-6:g} Mbit/s", delay_s, rate, found.shared)


class Prediction(msgspec.Struct, frozen=True):
    """Seconds of one run on ``net``, and the parts of an evaluator's time by themselves, some of which pass at once.

    ``latency_s``: delays of its rounds. ``transfer_s``: bytes of every round on the fullest link. ``dealt_s``: bytes that P0 deals to one
    evaluator. ``compute_s``: what it computes. ``helper_s``: what P0 does.
    """

    net: Net
    seconds: float
    latency_s: float
    transfer_s: float
    dealt_s: float
    compute_s: float
    helper_s: float


class _Segments(NamedTuple):
    """Seconds that each role computes before every wave, and after the last. ``taking``: of nodes to which P0 deals in the wave."""

    helper: list[float]
    evaluator: list[float]
    client: list[float]
    taking: list[float]


def predict(plan: Plan, net: Net, efforts: Sequence[Effort]) -> Prediction:
    """The model of this file. ``efforts`` are those of the plan's nodes."""
    online = [i for i, link in enumerate(LINKS) if link[0] is not Role.P0]
    spoken = [max(row[i] for i in online) for row in plan.waves]
    dealt = max(sum(row[LINKS.index((Role.P0, role))] for row in plan.waves) for role in EVALUATORS)
    segments = _segments(program.costs(plan), plan, efforts)
    return Prediction(
        net,
        _play(plan, net, segments),
        sum(1 for most in spoken if most) * net.delay_s,
        sum(spoken) / net.bytes_per_s,
        dealt / net.bytes_per_s,
        sum(segments.evaluator) + sum(segments.taking),
        sum(segments.helper),
    )


def _segments(found: Costs, plan: Plan, efforts: Sequence[Effort]) -> _Segments:
    """Each piece of a node where the schedule runs it: a node begins when its inputs are there, and lives a wave for each exchange."""
    out = _Segments(*([0.0] * (len(found.waves) + 1) for _ in range(4)))
    first: dict[int, int] = {}
    taken: set[tuple[int, int]] = set()
    for number, wave in enumerate(found.waves):
        taken |= {(address.path[0], number) for address in wave.dealt}
        for step in wave.spoken:
            first.setdefault(step, number)
    ends: list[int] = []
    for i, (node, effort) in enumerate(zip(plan.nodes, efforts, strict=True)):
        begin = first.get(i, max((ends[j] for j in node.inputs), default=0))
        for number, (helper, evaluator, client) in enumerate(zip(*effort, strict=True), begin):
            out.helper[number] += helper
            (out.taking if (i, number) in taken else out.evaluator)[number] += evaluator
            out.client[number] += client
        ends.append(begin + max(0, len(effort.helper_s) - 1))
    return out


def _play(plan: Plan, net: Net, segments: _Segments) -> float:
    """The run, wave by wave; returns when the client has everything."""
    at = {Role.P0: net.delay_s, Role.P1: BEGIN_DELAYS * net.delay_s, Role.P2: BEGIN_DELAYS * net.delay_s, Role.CLIENT: 0.0}
    free = dict.fromkeys(LINKS, 0.0)
    crowd = 3 / cores() if net.shared else 1.0

    def sent(link: tuple[Role, Role], nbytes: int) -> float:
        """When it is there."""
        sender, _ = link
        at[sender] += BYTE_S * nbytes
        free[link] = max(free[link], at[sender]) + on_wire(nbytes) / net.bytes_per_s
        return free[link] + net.delay_s + BYTE_S * nbytes

    helped = _helper_ends(segments, net, crowd)
    for number, row in enumerate(plan.waves):
        dealt = dict.fromkeys(EVALUATORS, 0.0)
        links = {link: nbytes for link, nbytes in zip(LINKS, row, strict=True) if nbytes}
        at[Role.P0] += segments.helper[number] * max(1.0, crowd)
        for link, nbytes in links.items():
            if link[0] is Role.P0:
                at[Role.P0] += WAVE_S
                dealt[link[1]] = sent(link, nbytes)
        for role in EVALUATORS:
            slow = max(1.0, crowd if at[role] < helped else crowd * 2 / 3)
            at[role] = max(at[role] + segments.evaluator[number] * slow, dealt[role]) + segments.taking[number] * slow + WAVE_S
        at[Role.CLIENT] += segments.client[number]
        arrivals = [(link[1], sent(link, nbytes)) for link, nbytes in links.items() if link[0] is not Role.P0]
        for role, arrival in arrivals:
            at[role] = max(at[role], arrival)
    last = max(at[role] + segments.evaluator[-1] for role in EVALUATORS)
    return max(last + net.delay_s, at[Role.CLIENT] + segments.client[-1])


def _helper_ends(segments: _Segments, net: Net, crowd: float) -> float:
    """When P0 has computed everything, about: until then it takes its part of a processor that is shared."""
    return net.delay_s + max(1.0, crowd) * sum(segments.helper)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
