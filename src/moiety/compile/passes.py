"""Rewrites of a finished program: plan in, plan out."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from moiety.compile.plan import Node, Plan
from moiety.compile.program import kept

PRODUCTS = ("convolution", "linear", "matmul", "multiply")


class Truncation(NamedTuple):
    """A rescale node: fraction bits it drops, and the gross errors to expect if its product dropped them in its own round."""

    drop: int
    risk: float


def merge_truncations(plan: Plan, truncations: Mapping[int, Truncation], budget: float) -> Plan:
    """Do truncations in their product's round, least risky first, while the budget lasts. A budget of 0 merges none."""
    uses = Counter(j for node in plan.nodes for j in node.inputs)
    nodes, expected = list(plan.nodes), 0.0
    for i, cut in sorted(truncations.items(), key=lambda item: item[1].risk):
        product = nodes[nodes[i].inputs[0]]
        if product.op not in PRODUCTS or uses[nodes[i].inputs[0]] != 1:
            continue
        if expected + cut.risk > budget:
            break
        expected += cut.risk
        nodes[i] = Node(product.op, product.inputs, {**product.params, "drop": cut.drop})
    return msgspec.structs.replace(plan, nodes=tuple(nodes), expected_failures=expected)


SMALL_CHECK = 1 << 13
"""Elements of a range check that may wait for others: what it reads is held as long."""
JOINED_CHECK = 1 << 16
"""Elements of several range checks that became one."""
JOINED_BITS = 8
"""Small checks read a multiple of so many bits, that more of them are alike."""


def join_checks(plan: Plan, shapes: Sequence[tuple[int, ...]]) -> Plan:
    """Have small range checks of about equal width done together, where the last of them is: one comparison of many is less work.

    A check becomes wider by dropping fewer bits, which makes it only stricter. Counts are added up in any case, so nothing else changes.
    """
    nodes, modules = list(plan.nodes), list(plan.modules)
    for flag in [i for i, node in enumerate(nodes) if node.op == "any_flag"]:
        groups = _alike(nodes, shapes, sorted(set(nodes[flag].inputs)))
        for group in groups:
            if len(group) > 1:
                nodes[group[-1]] = _joined([_wider(nodes[i]) for i in group])
                modules[group[-1]] = modules[flag]
        nodes[flag] = Node("any_flag", tuple(sorted(group[-1] for group in groups)), {})
    return msgspec.structs.replace(plan, nodes=tuple(nodes), modules=tuple(modules))


def _alike(nodes: Sequence[Node], shapes: Sequence[tuple[int, ...]], checks: Iterable[int]) -> list[list[int]]:
    """Checks by what may be done together, each group in the order of the program."""
    done: list[list[int]] = []
    waiting: dict[int, tuple[list[int], int]] = {}  # by bits: the checks of a group that is not full, and their elements
    for i in checks:
        count, bits = math.prod(shapes[nodes[i].inputs[0]]), _wider(nodes[i]).params["bits"]
        group, before = waiting.get(bits, ([], 0))
        if count > SMALL_CHECK:
            done.append([i])
        elif before + count > JOINED_CHECK:
            done.append(group)
            waiting[bits] = [i], count
        else:
            waiting[bits] = [*group, i], before + count
    return done + [group for group, _ in waiting.values()]


def _wider(check: Node) -> Node:
    drop, bits = check.params["drop"], check.params["bits"]
    more = min(drop, -bits % JOINED_BITS)
    return Node(check.op, check.inputs, {**check.params, "drop": drop - more, "bits": bits + more})


def _joined(checks: Sequence[Node]) -> Node:
    ends = {f"{end}s": tuple(check.params[end] for check in checks) for end in ("low", "high", "drop")}
    return Node("all_out_of_range", tuple(check.inputs[0] for check in checks), {**ends, "bits": checks[0].params["bits"]})


def reveal_last(plan: Plan) -> Plan:
    """Every reveal waits for whatever any output, the range flag and the states need: a run that aborts has opened nothing."""
    reveals = [i for i, node in enumerate(plan.nodes) if node.op == "reveal"]
    awaited = {plan.nodes[i].inputs[0] for i in reveals} | {s.write for s in plan.states if s.write >= 0}
    order = [i for i, node in enumerate(plan.nodes) if node.op != "reveal"] + reveals
    place = {old: new for new, old in enumerate(order)}
    nodes, modules = [], []
    for i in order:
        inputs = plan.nodes[i].inputs
        if i in reveals:
            inputs = (inputs[0], *sorted(awaited - {inputs[0]}))
        nodes.append(Node(plan.nodes[i].op, tuple(place[j] for j in inputs), plan.nodes[i].params))
        modules.append(plan.modules[i] if i < len(plan.modules) else "")
    return msgspec.structs.replace(plan, nodes=tuple(nodes), modules=tuple(modules), **moved(plan, place))


def moved(plan: Plan, place: Mapping[int, int]) -> dict[str, Any]:
    """What refers to nodes, after they moved."""
    return {
        "outputs": tuple(msgspec.structs.replace(o, node=place[o.node]) for o in plan.outputs),
        "states": tuple(msgspec.structs.replace(s, write=place[s.write] if s.write >= 0 else -1) for s in plan.states),
        "flag": place[plan.flag] if plan.flag >= 0 else -1,
    }


def prune(plan: Plan) -> Plan:
    """The plan without nodes, constants and weights that no reveal, state or input depends on."""
    needed = set(kept(plan))
    for i in reversed(range(len(plan.nodes))):
        if i in needed or plan.nodes[i].op == "input":
            needed.add(i)
            needed.update(plan.nodes[i].inputs)
    place = [-1] * len(plan.nodes)
    nodes: list[Node] = []
    modules: list[str] = []
    lists = {"constant": plan.constants, "weight": plan.weights}
    used: dict[str, list[int]] = {"constant": [], "weight": []}
    for i in sorted(needed):
        node, place[i] = plan.nodes[i], len(nodes)
        params = node.params
        if node.op in lists:
            if params["index"] not in used[node.op]:
                used[node.op].append(params["index"])
            params = {"index": used[node.op].index(params["index"])}
        nodes.append(Node(node.op, tuple(place[j] for j in node.inputs), params))
        modules.append(plan.modules[i] if i < len(plan.modules) else "")
    return msgspec.structs.replace(
        plan,
        nodes=tuple(nodes),
        modules=tuple(modules),
        constants=tuple(plan.constants[i] for i in used["constant"]),
        weights=tuple(plan.weights[i] for i in used["weight"]),
        **moved(plan, dict(enumerate(place))),
    )
