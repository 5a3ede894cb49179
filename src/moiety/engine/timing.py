"""How long a run will take on a named network: a simple model, whose parts can be read.

```
online  = rounds * rtt / 2 + bytes of every round on its fullest link / bandwidth + computation of an evaluator
dealt   = bytes that P0 deals to one evaluator / bandwidth          (ahead of the rounds, at the same time)
run     = max(online, dealt, computation of P0)
```

P1 and P2 speak at once, so a round costs one way, not two. The computation is estimated from what the plan does and from rates that
are measured on this machine, as if each party had one like it; on loopback the three share it. Left out: TLS's own cost beyond the
bandwidth, congestion, and the time to open a session.
"""

import functools
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
import numpy as np

from moiety import ring
from moiety.compile import program
from moiety.compile.plan import LINKS, Constant, Input, Node, Output, Plan
from moiety.errors import ConfigError
from moiety.mpc import lockstep
from moiety.mpc.rounds import Role, Words


class Net(msgspec.Struct, frozen=True):
    """A network between every two members: round trip in seconds, bandwidth of each direction in bytes a second."""

    name: str
    rtt_s: float
    bytes_per_s: float
    shared: bool = False
    """All parties are on one machine."""


NETS: Final = {
    net.name: net
    for net in (
        Net("loopback", 0.0002, 2e9, shared=True),
        Net("lan", 0.001, 125e6),
        Net("wan", 0.040, 12.5e6),
    )
}
"""Between processes here; 1 ms and 1 Gbit/s; 40 ms and 100 Mbit/s."""
_RTT = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)")
_BANDWIDTH = re.compile(r"(\d+(?:\.\d+)?)\s*(k|M|G)bit(?:/s)?")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BITS: Final = {"k": 1e3, "M": 1e6, "G": 1e9}


def net(name: str = "lan", rtt: str | None = None, bandwidth: str | None = None) -> Net:
    """A network by name, with its round trip (``20ms``) or bandwidth (``100Mbit``) replaced. Raises ConfigError."""
    if name not in NETS:
        raise ConfigError(f"{name!r} is no known network; take {', '.join(NETS)}, or give --rtt 20ms --bandwidth 100Mbit")
    found = NETS[name]
    if rtt is None and bandwidth is None:
        return found
    seconds = found.rtt_s if rtt is None else _number(_RTT, rtt, _SECONDS, "a round trip like 20ms")
    rate = found.bytes_per_s if bandwidth is None else _number(_BANDWIDTH, bandwidth, _BITS, "a bandwidth like 100Mbit") / 8
    if rate <= 0:
        raise ConfigError("a bandwidth must be above zero")
    return Net(f"{1000 * seconds:g} ms, {rate * 8 / 1e6:g} Mbit/s", seconds, rate, found.shared)


def _number(form: re.Pattern[str], text: str, units: Mapping[str, float], what: str) -> float:
    match = form.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not {what}")
    return float(match[1]) * units[match[2]]


class Work(msgspec.Struct, frozen=True):
    """What an evaluator computes: nodes, words that it says or hears, cells of tables, multiply-adds, and words of weights read."""

    nodes: int = 0
    words: int = 0
    cells: int = 0
    products: int = 0
    weight_words: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)))


def work(plan: Plan) -> list[Work]:
    """The work of every node, as far as it counts."""
    shapes = program.shapes(plan)
    return [_work(plan, shapes, i) for i in range(len(plan.nodes))]


def _work(plan: Plan, shapes: list[tuple[int, ...]], i: int) -> Work:
    node, size = plan.nodes[i], math.prod(shapes[i])
    match node.op:
        case "weight" | "constant" | "state" | "input" | "reveal":
            return Work()
        case "linear":
            inner, outer = shapes[node.inputs[1]]
            return Work(1, size, 0, 2 * size * inner, 2 * inner * outer)
        case "matmul":
            return Work(1, size, 0, 2 * size * shapes[node.inputs[0]][-1])
        case "table":
            cells = sum(1 << int(bits) for bits in node.params["windows"][3::4])
            return Work(1, 2 * size, size * cells)
    return Work(1, size)


class Rates(NamedTuple):
    """Seconds for one of each on this machine, on one thread of one party."""

    node_s: float
    word_s: float
    cell_s: float
    product_s: float
    weight_word_s: float

    def seconds(self, done: Work) -> float:
        """Of one evaluator. A product with few rows is as slow as its weights are read."""
        reading = max(self.product_s * done.products, self.weight_word_s * done.weight_words)
        return self.node_s * done.nodes + self.word_s * done.words + self.cell_s * done.cells + reading


class Prediction(msgspec.Struct, frozen=True):
    """Seconds of one run on ``net``, and the parts that they are made of."""

    net: Net
    seconds: float
    latency_s: float
    transfer_s: float
    dealt_s: float
    compute_s: float


def predict(plan: Plan, net: Net, rates: Rates, done: Work | None = None) -> Prediction:
    """The model of this file. ``done``: the plan's work, if it is known already."""
    total = done if done is not None else sum(work(plan), Work())
    online = [i for i, link in enumerate(LINKS) if link[0] is not Role.P0]
    spoken = [max(row[i] for i in online) for row in plan.waves]
    latency = sum(1 for most in spoken if most) * net.rtt_s / 2
    transfer = sum(spoken) / net.bytes_per_s
    dealt = max(sum(row[LINKS.index((Role.P0, role))] for row in plan.waves) for role in (Role.P1, Role.P2)) / net.bytes_per_s
    alone = rates.seconds(total)
    compute = alone * max(1.0, 3 / cores()) if net.shared else alone
    return Prediction(net, max(latency + transfer + compute, dealt), latency, transfer, dealt, compute)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def rates() -> Rates:
    """Measured here, in about a second: small plans by all roles in one process, and two products."""
    short, long = (_lockstep_s(_rescales(8, n)) / 3 / 8 for n in (4, 1 << 15))
    word = max(long - short, 0.0) / (1 << 15)
    table = _lockstep_s(_look_up(1 << 12)) / 3
    cell = max(table - short - 2 * word * (1 << 12), 0.0) / ((1 << 12) * 256)
    return Rates(short, word, cell, *_products())


def _products() -> tuple[float, float]:
    generator = np.random.default_rng(0)

    def words(*shape: int) -> Words:
        return generator.integers(0, 1 << 63, shape, np.uint64)

    packed, many, one = ring.pack(words(1024, 1024)), words(64, 1024), words(1, 1024)
    product = _best(lambda: ring.multiply(many, packed)) / (64 * 1024 * 1024)
    return product, _best(lambda: ring.multiply(one, packed)) / (1024 * 1024)


def _best(call: Callable[[], object], times: int = 5) -> float:
    def once() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return min(once() for _ in range(times))


FRACTION: Final = 14


def _plan(nodes: list[Node], size: int, constants: tuple[Constant, ...] = ()) -> Plan:
    nodes.append(Node("reveal", (len(nodes) - 1,)))
    given, out = Input("x", (size,), "fixed", FRACTION, 8.0), Output("y", len(nodes) - 1, (size,), FRACTION, 8.0)
    return Plan(nodes=tuple(nodes), constants=constants, inputs=(given,), outputs=(out,))


def _rescales(count: int, size: int) -> Plan:
    nodes = [Node("input", (), {"index": 0})]
    for _ in range(count):
        nodes.append(Node("as_fraction", (len(nodes) - 1,), {"fraction": FRACTION + 1}))
        nodes.append(Node("rescale", (len(nodes) - 1,), {"fraction": FRACTION}))
    return _plan(nodes, size)


def _look_up(size: int) -> Plan:
    coefficients = Constant.of(np.ones((3, 256), np.uint64))
    nodes = [Node("input", (), {"index": 0}), Node("constant", (), {"index": 0})]
    nodes.append(Node("table", (0, 1), {"windows": (-(1 << 15), 0, 8, 8), "fraction": FRACTION}))
    return _plan(nodes, size, (coefficients,))


class _Inputs(program.ShapeSources):
    def __init__(self, plan: Plan, words: Words) -> None:
        super().__init__(plan)
        self._words = words

    def input(self, index: int) -> Words | None:
        return self._words


def _lockstep_s(plan: Plan) -> float:
    """All roles in one process, in turn."""
    sources = _Inputs(plan, np.zeros(plan.inputs[0].shape, np.uint64))
    return _best(lambda: lockstep.run(lambda party: program.schedule(plan, party, sources).run()), 3)
