"""The error to expect of a plan's answers against the model in float, forecast while the plan is made: nothing runs on integers.

The graph is evaluated on calibration inputs as it is, and PROBES times with the errors that the plan makes (:mod:`.noise`). What the
answers then differ by is how the model passes these errors on, dependences and cancellations included. The method is that of stochastic
arithmetic (J. Vignes, Mathematics and Computers in Simulation 35, 1993). Stated is

```
FACTOR * max(largest difference, SPREAD * root mean square of all differences) + 1 unit + 2^-24 of the largest answer
```

to two digits. It is what to expect for inputs like those of calibration, no bound: a value beyond its range breaks it, and so may a
decision (a comparison, a place) that goes the other way because its operands lie within their errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import torch

from moiety.compile.lower import Lowering
from moiety.compile.noise import Noise, leaves
from moiety.compile.plan import Output

PROBES: Final = 4
ENOUGH: Final = 2000
"""Differences of every output after which there are no further probes: of many elements two show the largest ones."""
FACTOR: Final = 2.0
SPREAD: Final = 3.0
"""Of few elements the largest difference that was met may be a small one."""


def stated(lowering: Lowering, examples: Sequence[Sequence[Any]]) -> tuple[Output, ...]:
    """The outputs of a lowering that was run, with their errors. ``examples``: flattened inputs of the graph, of which PROBES are used.

    Whole numbers and truth values have none: they are right, or were decided the other way.
    """
    written = {leaf: name for name, (_, leaf) in lowering.states.items()}
    spreads: dict[int, _Spread] = {}
    rows: dict[str, float] = {}
    exact: dict[int, list[Any]] = {}
    for seed in range(PROBES):
        if seed > 1 and all(spreads[leaf].count >= ENOUGH for leaf in answers(lowering) if leaf in spreads):
            break
        place = seed % len(examples)
        if place not in exact:
            exact[place] = leaves(lowering.captured, examples[place])
        noise = Noise(lowering, seed, rows)
        moved = leaves(lowering.captured, examples[place], noise.given, noise.applied)
        for leaf, (found, wanted) in enumerate(zip(moved, exact[place], strict=True)):
            if isinstance(wanted, torch.Tensor) and wanted.is_floating_point():
                spreads.setdefault(leaf, _Spread()).add(found, wanted)
        rows = {name: spreads[leaf].deviation * 3**0.5 for leaf, name in written.items()}
    return tuple(_with_error(output, spreads.get(leaf)) for output, leaf in zip(lowering.builder.outputs, answers(lowering), strict=True))


def answers(lowering: Lowering) -> list[int]:
    """Which leaf of the graph every output of the plan is: those that are written to a state stay with the parties."""
    written = {leaf for _, leaf in lowering.states.values()}
    every: Any = lowering.captured.graph.output_node().args[0]
    return [leaf for leaf, node in enumerate(every) if node is not None and leaf not in written]


@dataclass(slots=True)
class _Spread:
    """Differences of an output, all probes together."""

    largest: float = 0.0
    squares: float = 0.0
    count: int = 0
    size: float = 0.0
    """Largest magnitude of the output itself."""

    def add(self, found: torch.Tensor, wanted: torch.Tensor) -> None:
        apart = (found.double() - wanted.double()).flatten()
        known = apart[apart.isfinite()]
        if known.numel():
            self.largest = max(self.largest, float(known.abs().max()))
            self.size = max(self.size, float(wanted[wanted.isfinite()].abs().max()))
        self.squares += float(known.square().sum())
        self.count += known.numel()

    @property
    def deviation(self) -> float:
        """Root mean square."""
        return math.sqrt(self.squares / max(self.count, 1))


def _with_error(output: Output, spread: _Spread | None) -> Output:
    if spread is None or not spread.count or output.form != "fixed" or output.fraction <= 0:
        return output
    expected = FACTOR * max(spread.largest, SPREAD * spread.deviation)
    return msgspec.structs.replace(output, error=_rounded_up(expected + 2.0**-output.fraction + 2.0**-24 * spread.size))


def _rounded_up(x: float) -> float:
    """To two digits: the plan tells of the weights no more than that."""
    digit = 10.0 ** (math.floor(math.log10(x)) - 1)
    return float(f"{math.ceil(x / digit) * digit:.1e}")
