"""Lowering of recurrent layers. What comes from the input is one layer for all time steps; a step of a GRU or an LSTM takes 8 rounds, of
a plain layer with tanh 4: the state's projection 1, gates 2, products and a second look-up 4, truncation 1.

Gates are looked up with as few fraction bits as keep the products after them in the ring, so that nothing is truncated in between; one
table serves a gate at all time steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from moiety.compile.builder import ROOM, Builder
from moiety.compile.known import known
from moiety.compile.lower import Call, aten, rule
from moiety.compile.recurrent import layers
from moiety.compile.rules_functions import ACTIVATION
from moiety.compile.rules_nn import as_owned
from moiety.compile.rules_piecewise import positive_part
from moiety.compile.rules_shape import as_secret
from moiety.compile.tables import Function
from moiety.compile.values import Owned, Secret
from moiety.errors import UnsupportedOp
from moiety.mpc.functions import activations

GATE_FRACTION = 24
"""Fraction bits of looked-up gates; the products that they enter leave no room for more."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """One layer in one direction while it is lowered. Projections have ``fraction`` bits, states ``state_fraction``."""

    call: Call
    name: str
    weight: int
    shift: int | None
    width: int
    state_fraction: int
    fraction: int

    @property
    def builder(self) -> Builder:
        return self.call.builder

    def bound(self, what: str) -> float:
        """Largest magnitude inside, with margin."""
        found = self.builder.range_of(f"{self.call.site}|{self.name} {what}")
        return max(found.bound * self.builder.options.margin, 2.0**-6)

    def kept(self, state: Secret) -> Secret:
        """The state's projection: 1 round."""
        terms = [] if self.shift is None else [self.shift]
        node = self.builder.emit("linear", state.node, self.weight, *terms)
        return Secret(node, (state.shape[0], self.width), self.fraction, self.bound("kept"))

    def sum(self, x: Secret, y: Secret, what: str) -> Secret:
        """Two secrets of one fraction."""
        return replace(x, node=self.builder.emit("add", x.node, y.node), bound=self.bound(what))

    def table(self, f: Function, x: Secret, what: str, fraction: int) -> Secret:
        """2 rounds, within the range of all time steps."""
        b, found = self.builder, self.builder.range_of(f"{self.call.site}|{self.name} {what}")
        reach = (b.options.margin - 1) * max(found.high - found.low, abs(found.low), abs(found.high), 1.0)
        return b.table(f, x, found.low - reach, found.high + reach, fraction, ACTIVATION, 1.0)

    def lifted(self, x: Secret, fraction: int) -> Secret:
        """x with more fraction bits: local."""
        more = fraction - x.fraction
        return replace(x, node=self.builder.emit("scale", x.node, factor=1 << more, fraction=more), fraction=fraction) if more else x

    def part(self, x: Secret, first: int, last: int) -> Secret:
        """Some columns."""
        node = self.builder.emit("cut", x.node, axis=1, start=first, stop=last, step=1)
        return replace(x, node=node, shape=(x.shape[0], last - first))

    def product(self, x: Secret, y: Secret, bound: float) -> Secret:
        """1 round, exact."""
        return self.builder.multiply(x, y, x.shape, bound)

    def room(self, what: str, taken: int) -> int:
        """Fraction bits that are left beside ``taken`` ones for a value of this range."""
        return min(self.builder.options.table_fraction, ROOM - 1 - taken - max(0, math.ceil(math.log2(self.bound(what)))))


Step = Callable[[_Cell, Secret, list[Secret]], list[Secret]]


def _gru(cell: _Cell, given: Secret, states: list[Secret]) -> list[Secret]:
    n = states[0].shape[1]
    kept = cell.kept(states[0])
    gates = cell.sum(cell.part(given, 0, 2 * n), cell.part(kept, 0, 2 * n), "gates")
    gates = cell.table(activations.sigmoid, gates, "gates", min(GATE_FRACTION, cell.room("kept", cell.fraction)))
    reset, update = cell.part(gates, 0, n), cell.part(gates, n, 2 * n)
    inner = cell.product(reset, cell.part(kept, 2 * n, 3 * n), cell.bound("kept"))
    inner = cell.sum(inner, cell.lifted(cell.part(given, 2 * n, 3 * n), inner.fraction), "new")
    new = cell.table(activations.tanh, inner, "new", cell.room("state", update.fraction + 1))
    old = cell.lifted(states[0], new.fraction)
    change = replace(old, node=cell.builder.emit("subtract", old.node, new.node), bound=old.bound + 1)
    moved = cell.product(update, change, change.bound)
    return [cell.builder.settled(cell.sum(moved, cell.lifted(new, moved.fraction), "state"), cell.state_fraction)]


def _lstm(cell: _Cell, given: Secret, states: list[Secret]) -> list[Secret]:
    """Columns: input, forget and output gates, then what is new (the owner has put them in this order)."""
    n, b = states[0].shape[1], cell.builder
    both = cell.sum(given, cell.kept(states[0]), "gates")
    gates = cell.table(activations.sigmoid, cell.part(both, 0, 3 * n), "gates", GATE_FRACTION)
    fraction = cell.room("cell", GATE_FRACTION + 1)
    new = cell.table(activations.tanh, cell.part(both, 3 * n, 4 * n), "new", fraction)
    first, forget, out = (cell.part(gates, i * n, (i + 1) * n) for i in range(3))
    held = cell.product(forget, cell.lifted(states[1], fraction), states[1].bound)
    fresh = cell.sum(cell.product(first, new, 1.0), held, "cell")
    shown = cell.product(out, cell.table(activations.tanh, fresh, "cell", b.options.table_fraction), 1.0)
    return [b.settled(replace(shown, bound=cell.bound("state")), cell.state_fraction), b.settled(fresh, states[1].fraction)]


def _tanh(cell: _Cell, given: Secret, states: list[Secret]) -> list[Secret]:
    new = cell.table(activations.tanh, cell.sum(given, cell.kept(states[0]), "new"), "new", cell.builder.options.table_fraction)
    return [cell.builder.settled(replace(new, bound=cell.bound("state")), cell.state_fraction)]


def _relu(cell: _Cell, given: Secret, states: list[Secret]) -> list[Secret]:
    new = cell.builder.settled(cell.sum(given, cell.kept(states[0]), "new"), cell.state_fraction)
    return [replace(positive_part(cell.builder, new), fraction=cell.state_fraction, bound=cell.bound("state"))]


@rule(aten.gru.input)
def gru(call: Call) -> tuple[Secret, Secret]:
    """A GRU of any number of layers, in one direction or both."""
    out, [last] = _recurrent(call, _gru, [call.args[1]])
    return out, last


@rule(aten.lstm.input)
def lstm(call: Call) -> tuple[Secret, Secret, Secret]:
    """An LSTM of any number of layers, in one direction or both."""
    out, [last, cell] = _recurrent(call, _lstm, list(call.args[1]))
    return out, last, cell


@rule(aten.rnn_tanh.input, aten.rnn_relu.input)
def rnn(call: Call) -> tuple[Secret, Secret]:
    """A plain recurrent layer."""
    out, [last] = _recurrent(call, _tanh if call.node.target is aten.rnn_tanh.input else _relu, [call.args[1]])
    return out, last


def _recurrent(call: Call, step: Step, initial: list[Any]) -> tuple[Secret, list[Secret]]:
    b, (parameters, biases, count, _, _, both, batch_first) = call.builder, call.args[2:9]
    like = next(v for v in (call.args[0], *initial) if isinstance(v, Secret))
    x, starts = (b.plain(as_secret(call, call.args[0], like)), [b.plain(as_secret(call, v, like)) for v in initial])
    x = _swapped(b, x) if batch_first else x
    last: list[list[Secret]] = [[] for _ in starts]
    for directions in layers([as_owned(p) for p in parameters], biases, count, both):
        outs = []
        for direction in directions:
            cell, given = _projected(call, direction.name, direction.parameters, x, step)
            states = [_state(cell, start, len(last[0]), what) for start, what in zip(starts, ("state", "cell"), strict=False)]
            rows = []
            for t in range(x.shape[0])[:: -1 if direction.back else 1]:
                states = step(cell, _row(b, given, t), states)
                rows.append(states[0])
            outs.append(_stacked(b, rows[::-1] if direction.back else rows))
            for kept, state in zip(last, states, strict=True):
                kept.append(state)
        x = outs[0] if len(outs) == 1 else _beside(b, outs)
    return _swapped(b, x) if batch_first else x, [_stacked(b, _alike(b, kept)) for kept in last]


def _projected(call: Call, name: str, parameters: Sequence[Any], x: Secret, step: Step) -> tuple[_Cell, Secret]:
    """The layer's cell, and what it takes from the input: one product for all time steps."""
    b = call.builder
    if len(parameters) not in (2, 4) or not all(isinstance(p, Owned) for p in parameters):
        raise UnsupportedOp(f"{call.node.target} in {b.module} projects its state, or its weights are not parameters; neither has a form")
    w_input, w_state, *shifts = (_in_order(p) for p in parameters) if step is _lstm else parameters
    site = f"{call.site}|{name} "
    state = b.activation_fraction(b.range_of(site + "state").bound * b.options.margin)
    fraction = min(b.weight_fraction(w_state), 18)
    x = b.settled(x)
    bound = b.range_of(site + "given").bound * b.options.margin
    w_fraction = b.weight_fraction(w_input)
    x = b.fitting_weight(x, w_fraction, bound)
    terms = [b.weight(shift, x.fraction + w_fraction, packed=False) for shift in shifts[:1]]
    weights = b.weight(_turned(w_input), w_fraction, packed=True)
    given = Secret(b.emit("linear", x.node, weights, *terms), (*x.shape[:2], w_input.tensor.shape[0]), x.fraction + w_fraction, bound)
    shift_ = b.weight(shifts[1], state + fraction, packed=False) if shifts else None
    kept = b.weight(_turned(w_state), fraction, packed=True)
    return _Cell(call, name, kept, shift_, w_state.tensor.shape[0], state, state + fraction), b.settled(given, state + fraction)


def _in_order(parameter: Owned) -> Owned:
    """Rows for input, forget, cell and output gate, the cell's last."""
    made = known("gates first", lambda p: torch.cat([p.chunk(4)[i] for i in (0, 1, 3, 2)]), parameter)
    return made if isinstance(made, Owned) else parameter


def _turned(w: Owned) -> Owned:
    return Owned(w.tensor.T, f"{w.name}.T")


def _state(cell: _Cell, start: Secret, place: int, what: str) -> Secret:
    """The initial state of one layer and direction."""
    bound = max(cell.bound(what), start.bound)
    fraction = cell.state_fraction if what == "state" else cell.builder.activation_fraction(bound)
    return replace(cell.builder.settled(_row(cell.builder, start, place), fraction), bound=bound)


def _row(b: Builder, x: Secret, place: int) -> Secret:
    cut = b.emit("cut", x.node, axis=0, start=place, stop=place + 1, step=1)
    return replace(x, node=b.emit("reshape", cut, shape=x.shape[1:]), shape=x.shape[1:])


def _alike(b: Builder, xs: list[Secret]) -> list[Secret]:
    fraction = min(x.fraction for x in xs)
    return [b.settled(x, fraction) for x in xs]


def _stacked(b: Builder, xs: list[Secret]) -> Secret:
    rows = [b.emit("reshape", x.node, shape=(1, *x.shape)) for x in xs]
    node = rows[0] if len(rows) == 1 else b.emit("concat", *rows, axis=0)
    return replace(xs[0], node=node, shape=(len(xs), *xs[0].shape), bound=max(x.bound for x in xs))


def _beside(b: Builder, xs: list[Secret]) -> Secret:
    xs = _alike(b, xs)
    shape = (*xs[0].shape[:-1], sum(x.shape[-1] for x in xs))
    return replace(xs[0], node=b.emit("concat", *(x.node for x in xs), axis=2), shape=shape, bound=max(x.bound for x in xs))


def _swapped(b: Builder, x: Secret) -> Secret:
    return replace(x, node=b.emit("permute", x.node, dims=(1, 0, 2)), shape=(x.shape[1], x.shape[0], x.shape[2]))
