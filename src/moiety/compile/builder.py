"""The builder that collects a plan's nodes while a model is lowered, and what it may choose."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from moiety import ring
from moiety.compile import tables
from moiety.compile.bounds import Claim
from moiety.compile.calibrate import Range, Ranges
from moiety.compile.choose import Form, compared
from moiety.compile.later import Later
from moiety.compile.passes import Truncation
from moiety.compile.plan import Choice, Constant, Input, Lookup, Node, Output, State, Weight
from moiety.compile.values import Owned, Public, Secret
from moiety.errors import BudgetExceeded, PlanError
from moiety.net import NETS, Net

ROOM = 61
"""Bits a product may fill: failure-free truncation needs |z| < 2^62."""
MOST_SPARE = 8
"""More fraction bits that small activations may get: their products then need no more room than those of values below 1."""
LARGE = 1 << 22
"""Elements of a matrix above which no second one is held that has a gain folded in."""
SIGNIFICANT = 12
"""Bits that the largest value of a tensor keeps, however little room a product has."""


VARIANTS = {"puma": ("gelu", "rsqrt", "silu", "softmax")}
"""Published approximations that may be chosen instead of tables, and the functions that each has."""


def variants_of(given: Mapping[str, str] | str) -> dict[str, str]:
    """Variant by function, or by "module:function", of what a caller chose. Raises PlanError for one that does not exist."""
    named = dict.fromkeys(VARIANTS.get(given, (given,)), given) if isinstance(given, str) else dict(given)
    for name, variant in named.items():
        if variant != "exact" and name.rpartition(":")[2] not in VARIANTS.get(variant, ()):
            known = "; ".join(f"{v}: {', '.join(functions)}" for v, functions in VARIANTS.items())
            raise PlanError(f"no variant {variant!r} of {name}; functions are exact unless one of these is chosen: {known}")
    return named


@dataclass(frozen=True, slots=True)
class Options:
    """What the compiler may choose; all of it ends up in the plan."""

    activation_fraction: int = 14
    """Of activations that reach 1 or more; smaller ones get more, see :meth:`Builder.activation_fraction`."""
    weight_fraction: int = 16
    """Of weights that reach 1; see :meth:`Builder.weight_fraction`."""
    table_fraction: int = 30
    """Fraction bits of looked-up activations; the next product's truncation removes them."""
    row_fraction: int = 40
    """Fraction bits of looked-up reciprocals and inverse roots, one a row."""
    margin: float = 1.5
    """Calibrated ranges are widened by this factor."""
    variants: Mapping[str, str] | str = field(default_factory=dict)
    """Variant by function name, or by "module:function" for one layer: ``{"gelu": "puma"}``; a lone name stands for all its functions."""
    fuse: bool = True
    """Look up hand-written functions of one secret as the one function that they are, see :mod:`moiety.compile.fuse`."""
    check_ranges: bool = True
    link: Net = NETS["lan"]
    """What rounds and bytes are weighed by where a step has several forms."""
    failure_budget: float = 0.0
    """Expected gross truncation errors a run may have; 0 keeps every truncation failure-free. It is a leakage budget, too."""


class Rounding(NamedTuple):
    """A value that is rounded: its node, that of the result, and the result's real unit, before a pending gain."""

    node: int
    result: int
    unit: float


class Builder:
    """Collects nodes, constants and weights; every method emits the least that yields what its name says."""

    def __init__(self, options: Options, ranges: Ranges) -> None:
        self.options, self.ranges = options, ranges
        self._variants = variants_of(options.variants)
        self._asked: set[str] = set()
        self.nodes: list[Node] = []
        self.modules: list[str] = []
        self.constants: list[Constant] = []
        self.inputs: list[Input] = []
        self.weights: list[Weight] = []
        self.states: list[State] = []
        self.outputs: list[Output] = []
        self.tensors: dict[str, torch.Tensor | Later] = {}
        self.checks: list[int] = []
        self.lookups: list[Lookup] = []
        self.choices: list[Choice] = []
        self.truncations: dict[int, Truncation] = {}
        self.claims: dict[int, Claim] = {}
        self.slacks: dict[int, int] = {}
        self.roundings: list[Rounding] = []
        self.disclosed: list[str] = []
        self.module = ""
        self._known: dict[tuple[Any, ...], int] = {}

    def emit(self, op: str, *inputs: int, **params: Any) -> int:
        """Append a node, or return the one that already computes the same. Only reveals are never shared."""
        key = (op, inputs, tuple(sorted(params.items())))
        if key in self._known and op != "reveal":
            return self._known[key]
        self.nodes.append(Node(op, inputs, params))
        self.modules.append(self.module)
        self._known[key] = len(self.nodes) - 1
        return self._known[key]

    def stands_for(self, node: int, op: str, *inputs: int, **params: Any) -> None:
        """Have a node taken where the same would be computed by another operation."""
        self._known.setdefault((op, inputs, tuple(sorted(params.items()))), node)

    def constant(self, words: np.ndarray[Any, Any], *, by_position: bool = False) -> int:
        """A public array of ring elements as a node."""
        made = Constant.of(np.ascontiguousarray(words), by_position=by_position)
        if made not in self.constants[-64:]:
            self.constants.append(made)
        return self.emit("constant", index=len(self.constants) - 1 - self.constants[::-1].index(made))

    def encoded(self, x: Public, fraction: int, factor: float = 1.0) -> int:
        """A public tensor as ring elements ``round(x / factor * 2^fraction)``."""
        if x.rows is not None:
            rows = [ring.encode(_array(row) / factor, fraction) for row in x.rows]
            return self.constant(np.stack(rows), by_position=True)
        return self.constant(ring.encode(_array(x.value) / factor, fraction))

    def weight(self, x: Owned, fraction: int, *, packed: bool, factor: float = 1.0) -> int:
        """A tensor of the owner as a shared node, encoded at ``fraction`` after division by ``factor``."""
        name = f"{x.name}@{fraction}" + (f"/{factor!r}" if factor != 1.0 else "") + ("#packed" if packed else "")
        if name not in self.tensors:
            assert factor == 1.0 or x.gain is None, "a matrix that waits for its gain has no factor"
            self.tensors[name] = Later(x.gain, x.tensor) if x.gain is not None else x.tensor if factor == 1.0 else x.tensor / factor
            self.weights.append(Weight(name, tuple(x.tensor.shape), fraction, packed))
        index = next(i for i, w in enumerate(self.weights) if w.name == name)
        return self.emit("weight", index=index)

    def activation_fraction(self, bound: float) -> int:
        """Fraction bits for activations within ``bound``: small ones get more, so that every layer keeps about as many significant bits.

        Large ones start from the same fraction; they give up bits where a product needs the room, see :meth:`fitting`.
        """
        spare = -math.ceil(math.log2(max(bound, 2.0**-MOST_SPARE)))
        return self.options.activation_fraction + max(0, spare)

    def weight_fraction(self, x: Owned) -> int:
        """Fraction bits for a tensor of weights: small ones get more, so that every layer keeps about as many significant bits."""
        rows = x.tensor if x.gain is None else torch.stack([x.tensor.amin(1), x.tensor.amax(1)], 1) * x.gain[:, None]
        largest = max(abs(float(end)) for end in torch.aminmax(rows)) if rows.numel() else 1.0
        spare = -math.ceil(math.log2(max(largest, 2.0**-6)))
        return self.options.weight_fraction + max(-4, min(spare, 6))

    def rescaled(self, x: Secret, fraction: int) -> Secret:
        """x with at most ``fraction`` fraction bits."""
        if x.fraction <= fraction:
            return x
        if x.bits > ROOM:
            reach = f"{x.bound:.3g} at {x.fraction} fraction bits"
            raise BudgetExceeded(f"a value of {self.module} may reach {reach}, too much for the ring; use fewer fraction bits")
        node = self.emit("rescale", x.node, fraction=fraction)
        self.roundings.append(Rounding(x.node, node, abs(x.factor) * 2.0**-fraction))
        self.truncations[node] = Truncation(x.fraction - fraction, math.prod(x.shape) * 2.0 ** (x.bits - 64))
        return replace(x, node=node, fraction=fraction)

    def plain(self, x: Secret) -> Secret:
        """x without pending gain and shift."""
        if x.gain is None and x.shift is None:
            return x
        out = x
        if (gain := x.gain) is not None:
            fraction = self.weight_fraction(gain)
            x = self.fitting_weight(x, fraction, x.bound)
            node = self.emit("multiply", x.node, self.weight(gain, fraction, packed=False))
            out = replace(x, node=node, fraction=x.fraction + fraction)
        if x.shift is not None:
            w = self.weight(x.shift, out.fraction, packed=False, factor=out.factor)
            out = replace(out, node=self.emit("add", out.node, w))
        return replace(out, gain=None, shift=None)

    def settled(self, x: Secret, fraction: int | None = None) -> Secret:
        """x as a plain value of factor 1 at the activations' fraction."""
        x = self.plain(x)
        return self.at_fraction(self.of_factor_one(x), self.activation_fraction(x.bound) if fraction is None else fraction)

    def of_factor_one(self, x: Secret) -> Secret:
        """A plain x without its factor: a power of two only moves the fraction."""
        if x.factor == 1.0:
            return x
        power = math.log2(abs(x.factor))
        if x.factor < 0 or power != round(power):
            return self._absorb_factor(x)
        fraction = x.fraction - round(power)
        return replace(x, node=self.emit("as_fraction", x.node, fraction=fraction), fraction=fraction, factor=1.0)

    def at_fraction(self, x: Secret, fraction: int) -> Secret:
        """The same value with more fraction bits, which is free, or fewer."""
        if x.fraction < fraction:
            lift = fraction - x.fraction
            return replace(x, node=self.emit("scale", x.node, factor=1 << lift, fraction=lift), fraction=fraction)
        return self.rescaled(x, fraction)

    def _absorb_factor(self, x: Secret) -> Secret:
        """Multiply by the factor itself, to 16 significant bits; a large one finds the fraction bits that it magnifies."""
        shift = 15 - math.floor(math.log2(abs(x.factor)))
        x = self.rescaled(x, self.activation_fraction(x.bound) + max(0, 16 - shift))
        node = self.emit("scale", x.node, factor=round(x.factor * 2.0**shift), fraction=shift)
        return replace(x, node=node, fraction=x.fraction + shift, factor=1.0)

    def fitting(self, x: Secret, y: Secret, bound: float) -> tuple[Secret, Secret]:
        """Operands whose product, bounded by ``bound``, stays within the ring: high fractions are rescaled only where they must.

        First to the activations' fractions; then the one with more significant bits gives up some, then both alike.
        """
        for first in (x.fraction >= y.fraction, x.fraction < y.fraction):
            if self._excess(x, y, bound) > 0:
                x, y = (self._cut(x), y) if first else (x, self._cut(y))
        excess = max(0, self._excess(x, y, bound))
        lead = min(excess, int(abs(x.bits - y.bits)))
        both = (excess - lead + 1) // 2
        more = (lead, 0) if x.bits > y.bits else (0, lead)
        return self._deeper(x, both + more[0]), self._deeper(y, both + more[1])

    def fitting_weight(self, x: Secret, fraction: int, bound: float) -> Secret:
        """x whose product with a public factor or a weight of ``fraction`` fraction bits stays within the ring, as :meth:`fitting`."""
        weight = Secret(-1, (), fraction, 1.0)
        if self._excess(x, weight, bound) > 0:
            x = self._cut(x)
        return self._deeper(x, max(self._excess(x, weight, bound), x.fraction + fraction - ROOM))

    def _cut(self, x: Secret) -> Secret:
        return self.rescaled(x, self.activation_fraction(x.bound))

    def _deeper(self, x: Secret, bits: int) -> Secret:
        """x with ``bits`` fraction bits fewer. Raises BudgetExceeded when fewer than SIGNIFICANT bits would be left."""
        if bits <= 0:
            return x
        if bits > x.fraction or x.bits - bits < SIGNIFICANT:
            raise BudgetExceeded(
                f"a product in {self.module} leaves no room for a value of {x.bound:.3g} at {x.fraction} fraction bits: {bits} too many"
            )
        return self.rescaled(x, x.fraction - bits)

    @staticmethod
    def _excess(x: Secret, y: Secret, bound: float) -> int:
        """Bits by which a product of that bound leaves the room for one; negative where some are left."""
        return math.ceil(math.log2(max(bound, 1e-9) / abs(x.factor * y.factor)) + x.fraction + y.fraction - ROOM)

    def _just_fitting(self, x: Secret, y: Secret, bound: float) -> tuple[Secret, Secret]:
        """As :meth:`fitting`, but only the larger operand is cut to its activation fraction, which later products find room in. The
        other is often a row of reciprocals, whose relative error is that of every product: it gives up no bit more than it must. Of equals
        what a table yields stays: a product drops bits while the other is looked up, they would take it a round of their own."""
        larger = (math.prod(x.shape), not self._looked_up(x)) >= (math.prod(y.shape), not self._looked_up(y))
        for first in (larger, not larger):
            excess = self._excess(x, y, bound)
            if excess > 0:
                cut = x if first else y
                least = self.activation_fraction(cut.bound)
                done = self.rescaled(cut, least if first is larger else max(least, cut.fraction - excess))
                x, y = (done, y) if first else (x, done)
        return self.fitting(x, y, bound)

    def _looked_up(self, x: Secret) -> bool:
        return self.nodes[x.node].op == "table"

    def multiply(self, x: Secret, y: Secret, shape: tuple[int, ...], bound: float, op: str = "multiply", *further: int) -> Secret:
        """Exact product of two secrets, left at the sum of their fractions. ``further``: what else the operation reads."""
        x, y = self._just_fitting(self.plain(x), self.plain(y), bound)
        return Secret(self.emit(op, x.node, y.node, *further), shape, x.fraction + y.fraction, bound, x.factor * y.factor)

    def table(self, f: tables.Function, x: Secret, low: float, high: float, fraction: int, wanted: tables.Wanted, bound: float) -> Secret:
        """Look f up at x, which lies in [low, high]."""
        x = self.in_units(x, low, high)
        choice = tables.choose(f, tables.Span(low, high, x.unit), fraction, wanted)
        self.check(x, low, high, choice.levels[0].window.cell * x.unit)
        self.lookups.append(Lookup(self.module, f.__name__, low, high, choice.error, wanted.floor is not None))
        levels = [self.constant(level.table.coefficients) for level in choice.levels]
        windows = tuple(int(v) for level in choice.levels for v in level.window)
        node = self.emit("table", x.node, *levels, windows=windows, fraction=fraction)
        return Secret(node, x.shape, fraction, bound)

    def in_units(self, x: Secret, low: float, high: float) -> Secret:
        """x, which lies in [low, high], as what a function can be evaluated at: plain, of a positive factor, with room in the ring."""
        x = self.plain(x)
        if x.factor < 0 or x.fraction < SIGNIFICANT:  # whole numbers have no fraction bits for the place within a cell
            x = self.settled(x)
        excess = math.ceil(math.log2(max(abs(low), abs(high)) / x.unit) - ROOM)
        # a small value's products may have left it more fraction bits than the range has room for
        return self.rescaled(x, x.fraction - excess) if excess > 0 else x

    def check(self, x: Secret, low: float, high: float, slack: float = 0.0) -> None:
        """Have the run notice when x leaves [low, high] by ``slack``, if the options ask for it; what is closer need not be noticed."""
        if self.options.check_ranges:
            ends = {"low": math.floor(low / x.unit), "high": math.ceil(high / x.unit) + 1}
            node = self.emit("out_of_range", x.node, **ends)
            self.slacks[node] = math.floor(slack / x.unit)
            self.checks.append(node)

    def form(self, step: str, forms: Mapping[str, Form]) -> str:
        """The form of a step that the link carries soonest; the plan keeps why."""
        made = Choice(self.module, step, self.options.link.name, compared(self.options.link, forms))
        alike = next((i for i, one in enumerate(self.choices) if (one.step, one.seconds) == (made.step, made.seconds)), None)
        if alike is None:
            self.choices.append(made)
        else:
            self.choices[alike] = msgspec.structs.replace(self.choices[alike], places=self.choices[alike].places + 1)
        return next(iter(made.seconds))

    def range_of(self, site: str) -> Range:
        """Calibrated range of an operation. Raises PlanError when calibration never reached it."""
        if site not in self.ranges:
            raise PlanError(f"no calibrated range for {site}; give calibration inputs that reach it")
        return self.ranges[site]

    def published(self, valid: Public | Owned) -> Public:
        """Which pairs a mask lets count, as everybody will know it. Where weights decide that, the plan says so in its leakage."""
        if isinstance(valid, Public):
            return valid
        if self.module not in self.disclosed and not bool(valid.tensor.all()):
            self.disclosed.append(self.module)
        return Public(valid.tensor)

    def variant(self, function: str) -> str:
        """Which form of a function this layer uses."""
        layer = f"{self.module}:{function}"
        self._asked.add(layer)
        return self._variants.get(layer, self._variants.get(function, "exact"))

    def check_variants(self) -> None:
        """Raises PlanError when a variant was chosen for a layer that never asked for that function."""
        for name in self._variants:
            if ":" in name and name not in self._asked:
                layers = ", ".join(sorted(self._asked)) or "none"
                raise PlanError(f"no layer {name} in this model, for which a variant was chosen; layers that have variants: {layers}")


def _array(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value.detach().double().numpy() if isinstance(value, torch.Tensor) else float(value))
