"""Plans written by hand, and the words that go in and come out."""

from typing import Any

import msgspec
import numpy as np
from scipy.special import erf

from moiety import ring
from moiety.compile import program
from moiety.compile.plan import Constant, Input, Node, Output, Plan, State, Weight
from moiety.mpc.functions.table import Window, fit

FRACTION = 12


def finished(plan: Plan) -> Plan:
    """The plan with its wave table."""
    return msgspec.structs.replace(plan, waves=program.wave_table(program.costs(plan)))


def gelu(x: Any) -> Any:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def mlp(rows: int = 4, width: int = 16, hidden: int = 32, out: int = 8) -> Plan:
    """x -> linear -> gelu by table -> linear, all at 12 fraction bits."""
    window = Window(-(1 << 15), 0, 9, 7)  # +-8 in cells of 1/8
    words = fit(gelu, window, 2.0**-FRACTION, 30).coefficients
    nodes = (
        Node("input", (), {"index": 0}),
        Node("weight", (), {"index": 0}),
        Node("linear", (0, 1)),
        Node("rescale", (2,), {"fraction": FRACTION}),
        Node("constant", (), {"index": 0}),
        Node("table", (3, 4), {"windows": tuple(window), "fraction": 30}),
        Node("rescale", (5,), {"fraction": FRACTION}),
        Node("weight", (), {"index": 1}),
        Node("linear", (6, 7)),
        Node("rescale", (8,), {"fraction": FRACTION}),
        Node("reveal", (9,)),
    )
    return finished(
        Plan(
            nodes=nodes,
            constants=(Constant.of(words),),
            inputs=(Input("x", (rows, width), "fixed", FRACTION, 8.0),),
            weights=(Weight("w0", (width, hidden), FRACTION, True), Weight("w1", (hidden, out), FRACTION, True)),
            outputs=(Output("y", 10, (rows, out), FRACTION, 100.0),),
            modules=("x", "", "first", "first", "", "gelu", "gelu", "", "second", "second", "y"),
        )
    )


def mlp_weights(seed: int = 1, width: int = 16, hidden: int = 32, out: int = 8) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"w0": generator.normal(size=(width, hidden)) / 4, "w1": generator.normal(size=(hidden, out)) / 4}


def mlp_float(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return gelu(x @ weights["w0"]) @ weights["w1"]


def chain(count: int, shape: tuple[int, ...] = (4,)) -> Plan:
    """``count`` dependent rescales: as many rounds, next to no work."""
    nodes = [Node("input", (), {"index": 0})]
    for _ in range(count):
        nodes.append(Node("as_fraction", (len(nodes) - 1,), {"fraction": FRACTION + 1}))
        nodes.append(Node("rescale", (len(nodes) - 1,), {"fraction": FRACTION}))
    nodes.append(Node("reveal", (len(nodes) - 1,)))
    return finished(
        Plan(
            nodes=tuple(nodes),
            inputs=(Input("x", shape, "fixed", FRACTION, 8.0),),
            outputs=(Output("y", len(nodes) - 1, shape, FRACTION, 100.0),),
        )
    )


def running_sum(rows: int, width: int = 3) -> Plan:
    """y = sum of the cache's first ``rows`` rows + x + table[position]; x becomes the cache's row at the position."""
    steps = np.arange(rows, dtype=np.float64)[:, None] * np.ones((1, width))
    nodes = (
        Node("input", (), {"index": 0}),
        Node("state", (), {"index": 0}),
        Node("total", (1,), {"axes": (0,), "keepdims": True}),
        Node("add", (0, 2)),
        Node("constant", (), {"index": 0}),
        Node("add_public", (3, 4)),
        Node("reveal", (5,)),
    )
    return finished(
        Plan(
            nodes=nodes,
            constants=(Constant.of(ring.encode(steps, FRACTION), by_position=True),),
            inputs=(Input("x", (1, width), "fixed", FRACTION, 8.0),),
            states=(State("cache", (rows, width), 0, FRACTION, write=0),),
            outputs=(Output("y", 6, (1, width), FRACTION, 100.0),),
            positions=rows,
        )
    )


def words(x: np.ndarray) -> list[np.ndarray]:
    return [ring.encode(x, FRACTION)]


def reals(result: Any) -> np.ndarray:
    return ring.decode(result.outputs[0], FRACTION)
