"""Compile a module: capture, calibrate, lower, cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from moiety.compile import passes, program, rules_arithmetic, rules_nn, rules_shape  # noqa: F401  (importing them registers the rules)
from moiety.compile.builder import Builder, Options
from moiety.compile.calibrate import Ranges, calibrate
from moiety.compile.capture import Captured, capture, flatten
from moiety.compile.lower import Lowering
from moiety.compile.plan import Plan
from moiety.compile.signature import fingerprint


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan and what only the model owner holds: the tensors behind the plan's weights."""

    plan: Plan
    weights: Mapping[str, torch.Tensor]
    ranges: Ranges


def compile_model(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    public: Sequence[str] = (),
    calibration: Sequence[tuple[Any, ...]] | None = None,
    ranges: Ranges | None = None,
    check_ranges: bool = False,
    variants: Mapping[str, str] | None = None,
    failure_budget: float = 0.0,
    options: Options | None = None,
) -> Compiled:
    """Compile ``model`` for inputs of these shapes and these values of its public inputs.

    ``calibration``: further public example inputs (positional) that widen the ranges; ``ranges``: ranges found before.
    Raises UnsupportedOp (all operations at once), PlanError, InputError.
    """
    captured = capture(model, args, kwargs)
    leaves = flatten(args, kwargs or {})
    examples = [leaves, *(flatten(example, {}) for example in calibration or ())]
    found = join(calibrate(captured, examples), ranges or {})
    chosen = options or Options(variants=variants or {}, check_ranges=check_ranges, failure_budget=failure_budget)
    given = dict(zip(captured.inputs, leaves, strict=True))
    named = {name: given[name] for name in captured.inputs if name in public or not isinstance(given[name], torch.Tensor)}
    builder = Lowering(captured, found, chosen, public=named).run()
    plan = finish(builder, captured, named)
    return Compiled(plan, builder.tensors, found)


def join(found: Ranges, known: Ranges) -> Ranges:
    """Ranges of both, joined by site."""
    return {site: found[site].join(known[site]) if site in found and site in known else (found | known)[site] for site in found | known}


def finish(builder: Builder, captured: Captured, public: Mapping[str, Any], **further: Any) -> Plan:
    """Add the range flag, tidy the program, then find the wave table by running it on shapes."""
    flag = -1
    if builder.checks:
        builder.module = "range check"
        flag = builder.emit("reveal", builder.emit("any_flag", *builder.checks))
    draft = Plan(
        nodes=tuple(builder.nodes),
        constants=tuple(builder.constants),
        inputs=tuple(builder.inputs),
        weights=tuple(builder.weights),
        states=tuple(builder.states),
        outputs=tuple(builder.outputs),
        flag=flag,
        modules=tuple(builder.modules),
        lookups=tuple(builder.lookups),
        arguments=captured.inputs,
        public=tuple((name, fingerprint(value)) for name, value in public.items()),
        structure=captured.structure,
        **further,
    )
    plan = passes.prune(passes.merge_truncations(draft, builder.truncations, builder.options.failure_budget))
    plan = msgspec.structs.replace(plan, leakage=_leakage(plan))
    return msgspec.structs.replace(plan, waves=program.wave_table(program.costs(plan)))


def _leakage(plan: Plan) -> tuple[str, ...]:
    """What is learned beyond one's own inputs, by whom."""
    shapes = ", ".join(f"{o.name} {o.shape}" for o in plan.outputs)
    lines = [f"the data owner receives {shapes}", "all parties know the program, its shapes and the calibrated ranges"]
    if plan.flag >= 0:
        lines.append("the data owner learns one bit: whether any value left its calibrated range")
    if plan.expected_failures:
        lines.append(f"expected truncation failures a run: {plan.expected_failures:.2g}; a retry would tell as much about a value")
    return tuple(lines)
