"""Forms that only a whole run can decide: fewer rounds for more bytes, wherever the link carries the run sooner with them.

Three rewrites of a program whose rings are being found (:mod:`.narrow`), each exact in the ring:

- *wide*: a product that drops bits and is then raised to its reader's ring takes two rounds. In a ring that holds the reader's bits and the
  dropped ones it takes one, which no value can make fail; what it reads then needs that ring, too.
- *factor*: what a look-up yields multiplies something at once, in two rounds for both instead of three
  (:mod:`~moiety.mpc.functions.factor`), for as many dealt words more as the cells' polynomials have coefficients.
- *layer*: a linear layer of ``r x``, where every row has one looked-up r, is ``r (x W)``: the layer need not wait for the look-up, whose
  first round it shares. A norm and the layer behind it then take one round less; the words are those of the layer's results.

All places alike (operation and shapes) take the same form. The run is played on the link with all of them; then, one kind after another, it
is played without, and keeps that where it is no slower.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from moiety.compile import passes, program
from moiety.compile.choose import run_seconds
from moiety.compile.passes import PRODUCTS
from moiety.compile.plan import Choice, Node, Plan
from moiety.net import Net

Shapes = Sequence[tuple[int, ...]]
STEPS = {
    "layers": ("layer of a norm", "before the look-up", "after it"),
    "factors": ("product with a look-up", "as its factor", "after it"),
    "wide": ("product in a larger ring", "at once", "raised later"),
}
"""By kind: a step, its form of fewer rounds, and the other one."""


class Forms(NamedTuple):
    """Nodes that take the form of fewer rounds."""

    layers: frozenset[int]
    factors: frozenset[int]
    wide: frozenset[int]

    def without(self, kind: str, nodes: Collection[int]) -> "Forms":
        """All others, of one kind."""
        return self._replace(**{kind: getattr(self, kind) - set(nodes)})


class Factor(NamedTuple):
    """A product with a look-up that nothing else reads: their nodes, what else is multiplied, and a public factor of the look-up."""

    table: int
    other: int
    public: int | None = None


Narrowed = Callable[[Plan, Collection[int]], Plan]
"""A plan in its rings, for nodes whose product is wide."""


def decided(plan: Plan, shapes: Shapes, narrowed: Narrowed, link: Net) -> Plan:
    """The plan in its rings and in the forms that the link carries soonest; it says why (``choices``)."""
    factors = looked_up(plan, shapes)
    layers = scaled_layers(plan, shapes, factors)
    wide = [i for i, node in enumerate(plan.nodes) if node.op in PRODUCTS and "width" in node.params]

    def made(forms: Forms) -> Plan:
        taken = {i: factors[i] for i in forms.factors}
        first = {i: layers[i] for i in forms.layers if layers[i] in taken}
        return _Rewrite(narrowed(plan, forms.wide), shapes, taken, first).run() if taken else narrowed(plan, forms.wide)

    def seconds(made: Plan) -> float:
        return run_seconds(link, program.wave_table(program.costs(passes.prune(made))))

    forms = Forms(frozenset(layers), frozenset(factors), frozenset(wide))
    choices: list[Choice] = []
    now = made(forms)
    best = seconds(now) if any(forms) else 0.0
    for kind, nodes in _alike(plan, shapes, forms):
        step, few, many = STEPS[kind]
        others = forms.without(kind, nodes)
        plain = made(others)
        if plain.nodes == now.nodes:  # mostly, no ring would be larger
            continue
        without = seconds(plain)
        if without != best:  # else the link does not tell them apart
            found = {few: best, many: without} if best < without else {many: without, few: best}
            choices.append(Choice(plan.modules[nodes[0]], step, link.name, found, len(nodes), whole=True))
        if without <= best:
            forms, now, best = others, plain, without
    return msgspec.structs.replace(now, choices=(*plan.choices, *choices))


def _alike(plan: Plan, shapes: Shapes, forms: Forms) -> list[tuple[str, list[int]]]:
    """Nodes of every kind whose operation and shapes are the same."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for kind in STEPS:
        for i in sorted(getattr(forms, kind)):
            alike.setdefault((kind, plan.nodes[i].op, shapes[i], *(shapes[j] for j in plan.nodes[i].inputs)), []).append(i)
    return [(key[0], nodes) for key, nodes in alike.items()]


def looked_up(plan: Plan, shapes: Shapes) -> dict[int, Factor]:
    """Products that may take a look-up of one level as a factor, by node."""
    uses = Counter(j for node in plan.nodes for j in node.inputs)
    uses.update(state.write for state in plan.states)
    found: dict[int, Factor] = {}
    for i, node in enumerate(plan.nodes):
        if node.op != "multiply":
            continue
        for source, other in (node.inputs, node.inputs[::-1]):
            table, public = source, None
            if plan.nodes[source].op == "multiply_public":
                table, public = plan.nodes[source].inputs[0], source
            alone = plan.nodes[table].op == "table" and uses[table] == uses[source] == 1 and len(plan.nodes[table].inputs) == 2
            if alone and np.broadcast_shapes(shapes[source], shapes[table], shapes[other]) == shapes[other]:
                found[i] = Factor(table, other, public)
                break
    return found


def scaled_layers(plan: Plan, shapes: Shapes, factors: Mapping[int, Factor]) -> dict[int, int]:
    """Linear layers of a product with one looked-up factor a row that keeps all its bits: the layer, and that product."""
    found: dict[int, int] = {}
    for i, node in enumerate(plan.nodes):
        if node.op != "linear":
            continue
        j = node.inputs[0]
        while plan.nodes[j].op == "reshape" and shapes[plan.nodes[j].inputs[0]][-1] == shapes[j][-1]:
            j = plan.nodes[j].inputs[0]
        if j in factors and not {"drop", "width"} & plan.nodes[j].params.keys():
            scalars = (factors[j].table, factors[j].public or factors[j].table)
            if all(shapes[one][-1] == 1 for one in scalars):
                found[i] = j
    return found


class _Rewrite:
    """Writes a plan anew whose products have look-ups as factors. A public factor of a look-up goes to what it is multiplied by."""

    def __init__(self, plan: Plan, shapes: Shapes, factors: Mapping[int, Factor], layers: Mapping[int, int]) -> None:
        self._plan, self._shapes, self._factors, self._layers = plan, shapes, factors, layers
        self._tables = {factor.table for factor in factors.values()}
        self._gone = {factor.public for factor in factors.values()}
        self._nodes: list[Node] = []
        self._modules: list[str] = []
        self._place: dict[int, int] = {}

    def run(self) -> Plan:
        """The plan; what nothing reads any longer is still there."""
        for i, node in enumerate(self._plan.nodes):
            if i in self._gone:
                continue
            inputs = tuple(self._place[j] for j in node.inputs if j not in self._gone)
            if i in self._layers:
                self._place[i] = self._layer(i, inputs[1:])
            elif i in self._factors:
                self._place[i] = self._put(i, "multiply_factor", (self._place[self._factors[i].table], self._other(i)), node.params)
            else:
                self._place[i] = self._put(i, "table_factor" if i in self._tables else node.op, inputs, node.params)
        moved = passes.moved(self._plan, self._place)
        return msgspec.structs.replace(self._plan, nodes=tuple(self._nodes), modules=tuple(self._modules), **moved)

    def _put(self, i: int, op: str, inputs: tuple[int, ...], params: dict[str, Any]) -> int:
        self._nodes.append(Node(op, inputs, params))
        self._modules.append(self._plan.modules[i])
        return len(self._nodes) - 1

    def _other(self, i: int) -> int:
        """What a product multiplies the look-up by."""
        _, other, public = self._factors[i]
        if public is None:
            return self._place[other]
        moved = self._plan.nodes[public]
        return self._put(i, moved.op, (self._place[other], self._place[moved.inputs[1]]), moved.params)

    def _layer(self, i: int, held: tuple[int, ...]) -> int:
        """The layer of what is not yet scaled, in the product's ring, then the product with the look-up, which takes bias and cut."""
        node, product = self._plan.nodes[i], self._layers[i]
        weight, *bias = held
        ring = {key: value for key, value in self._plan.nodes[product].params.items() if key == "bits"}
        rows, out = self._shapes[product][:-1], self._shapes[i]
        x = self._reshaped(i, self._other(product), self._shapes[product], self._shapes[node.inputs[0]])
        x = self._reshaped(i, self._put(i, "linear", (x, weight), ring), out, (*rows, out[-1]))
        x = self._put(i, "multiply_factor", (self._place[self._factors[product].table], x, *bias), node.params)
        return self._reshaped(i, x, (*rows, out[-1]), out)

    def _reshaped(self, i: int, x: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
        return x if before == after else self._put(i, "reshape", (x,), {"shape": after})
