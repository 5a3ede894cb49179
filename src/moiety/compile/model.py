"""Compile a module: capture, calibrate, lower, cost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import torch

from moiety.compile import (  # noqa: F401  (importing them registers the rules)
    bounds,
    error,
    forms,
    narrow,
    passes,
    points,
    program,
    rules_arithmetic,
    rules_attention,
    rules_compare,
    rules_conv,
    rules_extremes,
    rules_functions,
    rules_fused,
    rules_gather,
    rules_nn,
    rules_norms,
    rules_piecewise,
    rules_pool,
    rules_powers,
    rules_recurrent,
    rules_shape,
    rules_top,
)
from moiety.compile.builder import Builder, Options
from moiety.compile.calibrate import Ranges, calibrate, join
from moiety.compile.capture import Captured, capture, flatten
from moiety.compile.garbage import uncollected
from moiety.compile.hold import hold
from moiety.compile.later import Later
from moiety.compile.lower import RULES, Lowering
from moiety.compile.plan import Plan
from moiety.compile.signature import fingerprint
from moiety.errors import InputError
from moiety.net import net

L = TypeVar("L", bound=Lowering)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan and what only the model owner holds: the tensors behind the plan's weights."""

    plan: Plan
    weights: Mapping[str, torch.Tensor | Later]
    ranges: Ranges

    def held(self, by: str | None) -> "Compiled":
        """The same where that party knows the matrices of linear layers (:func:`~moiety.compile.hold.hold`); itself for None."""
        return self if by is None else replace(self, plan=hold(self.plan, self.weights, by))


@dataclass(frozen=True, slots=True)
class Draft:
    """A model captured and measured, ready to be lowered. ``settings`` go to the lowering, ``further`` into the plan."""

    captured: Captured
    ranges: Ranges
    options: Options
    public: Mapping[str, Any]
    inputs: Sequence[Any] = ()
    """The example inputs, flattened: what a caller would give, in the order of ``captured.inputs``."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, Any] = field(default_factory=dict)
    called: Captured | None = None
    """The call as its caller knows it, where that is not the captured one."""
    examples: Sequence[Sequence[Any]] = ()
    """Flattened inputs of the captured graph, of which errors are forecast; without any, none are stated."""

    def lowering(self) -> Lowering:
        """A lowering of the draft, not yet run."""
        return self.lowering_as(Lowering)

    def lowering_as(self, kind: type[L]) -> L:
        """As ``lowering``, of another class."""
        return kind(self.captured, self.ranges, self.options, public=self.public, **self.settings)

    @uncollected()
    def compiled(self) -> Compiled:
        """The plan, with its weights."""
        lowering = self.lowering()
        builder = lowering.run()
        return Compiled(self.plan(lowering), builder.tensors, self.ranges)

    def plan(self, lowering: Lowering) -> Plan:
        """The plan of what was lowered."""
        if self.examples:
            lowering.builder.outputs = list(error.stated(lowering, self.examples))
        called = self.called or self.captured
        public = {name: value for name, value in self.public.items() if name in called.inputs}
        return finish(lowering.builder, called, public, **self.further)


def compile_model(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, **options: Any) -> Compiled:
    """Compile ``model`` for inputs of these shapes and these values of its public inputs. ``options`` are those of :func:`draft`.

    Raises UnsupportedOp (all operations at once), PlanError, InputError.
    """
    return draft(model, args, kwargs, **options).compiled()


@uncollected()
def draft(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    public: Sequence[str] = (),
    calibration: Sequence[tuple[Any, ...]] | None = None,
    ranges: Ranges | None = None,
    check_ranges: bool = True,
    variants: Mapping[str, str] | str | None = None,
    failure_budget: float = 0.0,
    link: str = "lan",
    options: Options | None = None,
) -> Draft:
    """Capture ``model`` and measure its ranges.

    ``calibration``: public example inputs (positional) on which ranges are measured beside ``args``; without them, inputs like
    ``args`` are made up. ``ranges``: ranges found before; they join those measured here. ``variants``: as in :class:`Options`, for instance
    ``"puma"``. ``link``: between the parties, by name (``"wan"``) or as delay and bandwidth (``"20ms,100Mbit"``): steps take the form that
    it carries soonest. Raises PlanError, InputError, ConfigError.
    """
    captured = capture(model, args, kwargs, whole=RULES)
    leaves = flatten(args, kwargs or {})
    given = dict(zip(captured.inputs, leaves, strict=True))
    if unknown := sorted(set(public) - set(given)):
        raise InputError(f"public names {', '.join(unknown)}, but the model takes {', '.join(given)}; correct the name")
    named = {name: given[name] for name in captured.inputs if name in public or not isinstance(given[name], torch.Tensor)}
    further = inputs_like(given, named) if calibration is None else [flatten(example, {}) for example in calibration]
    found = join(calibrate(captured, [leaves, *further]), ranges or {})
    chosen = options or Options(variants=variants or {}, check_ranges=check_ranges, failure_budget=failure_budget, link=net(link))
    return Draft(captured, found, chosen, named, leaves, examples=[leaves, *further][: error.PROBES])


def inputs_like(given: Mapping[str, Any], public: Mapping[str, Any], count: int = 4) -> list[list[Any]]:
    """Made-up inputs for calibration: reals of the same mean and a quarter more deviation, integers shuffled. Seeded.

    Where an example has no negative value, what is made up has none either: the model may need that.
    """
    generator = torch.Generator().manual_seed(0)

    def like(name: str, value: Any) -> Any:
        if name in public or value.numel() < 2:
            return value
        if not value.is_floating_point():
            return value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
        made = value.mean() + 1.25 * value.std() * torch.randn(value.shape, generator=generator)
        return (made.clamp(min=float(value.min())) if value.min() >= 0 else made).to(value.dtype)

    return [[like(name, value) for name, value in given.items()] for _ in range(count)]


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
        choices=tuple(builder.choices),
        arguments=captured.inputs,
        public=tuple((name, fingerprint(value)) for name, value in public.items()),
        structure=captured.structure,
        **further,
    )
    plan = passes.merge_truncations(draft, builder.truncations, builder.options.failure_budget)
    plan = points.chosen(passes.reveal_last(passes.prune(_narrowed(plan, builder))), builder.options.link)
    plan = msgspec.structs.replace(plan, leakage=_leakage(plan, builder.disclosed))
    return msgspec.structs.replace(plan, waves=program.wave_table(program.costs(plan)))


def _narrowed(plan: Plan, builder: Builder) -> Plan:
    """In rings no larger than hard bounds ask for, which the weights decide, and in the forms that the link asks for."""
    drops = {i: cut.drop for i, cut in builder.truncations.items()}
    shapes = program.shapes(plan)
    found = bounds.find(plan, shapes, builder.tensors, drops, builder.claims, builder.slacks)
    plan = narrow.checks_needed(narrow.cut_products(plan, builder.truncations, found), found, builder.slacks)

    def narrowed(plan: Plan, wide: Collection[int]) -> Plan:
        return passes.join_checks(narrow.narrow(plan, builder.truncations, found, wide), shapes)

    return forms.decided(plan, shapes, narrowed, builder.options.link)


def _leakage(plan: Plan, disclosed: Sequence[str]) -> tuple[str, ...]:
    """What is learned beyond one's own inputs, by whom."""
    shapes = ", ".join(f"{o.name} {o.shape}" for o in plan.outputs)
    lines = [
        f"the data owner receives {shapes}",
        "all parties know the program, its shapes, its constants, the calibrated ranges and the sizes of its rings, which say within a "
        "factor of 256 how far the weights let a value go",
    ]
    if any(o.error is not None for o in plan.outputs):
        lines.append("all parties know the stated errors, to two digits: weights and calibration inputs decide them")
    lines += [
        f"all parties know which pairs the mask in {module or 'the model'} excludes, though weights decide it" for module in disclosed
    ]
    if plan.flag >= 0:
        lines.append("the data owner learns one bit: whether any value left its calibrated range")
    if any(node.op == "top" for node in plan.nodes):
        lines.append("P1 and P2 see the ranking of shuffled lists, in an order that says nothing about their values")
    if plan.positions:
        lines.append(
            "all parties know the position of every run, so how many tokens are generated (generate(..., whole=True) hides the end)"
        )
    if plan.expected_failures:
        lines.append(f"expected truncation failures a run: {plan.expected_failures:.2g}; a retry would tell as much about a value")
    return tuple(lines)
