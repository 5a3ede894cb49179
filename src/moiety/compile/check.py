"""Everything that stands between a model and its private run, found at once: lower the model, and where that is refused go on
with a stand-in.

The capture itself stops at its first obstacle (a branch on data, usually), so of those one is found at a time.
"""

import contextlib
import io
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import torch
from torch import fx

from moiety.compile.builder import Builder
from moiety.compile.capture import Source, innermost, operation
from moiety.compile.lower import IGNORED, RULES, Lowering
from moiety.compile.model import Draft
from moiety.compile.values import Index, Secret, Value
from moiety.errors import InputError, MoietyError, PlanError, UnsupportedOp

OPERATION: Final = "operation"
PUBLIC: Final = "public"
BRANCH: Final = "branch"
EXPORT: Final = "export"
RANGE: Final = "range"

SELECT: Final = "compute for both cases and multiply by a mask, or take torch.where"
OTHERWISE: Final = "compute it outside the private part, before the input or after the answer, or by operations of docs/operations.md"
_COUNT = "which places count would show in a shape: multiply by a mask instead of selecting"
_CHANCE = "a forward that draws random numbers cannot be compared with itself: switch it off in eval()"
_STEPS = "rounding a secret takes a comparison for every step: leave it out of the private part"
_COMPLEX = "complex numbers have no private form: write the transform as a product with a public matrix"
ADVICE: Final = (
    {"sort": "sorting secrets has no private form: if the largest alone matter, take max, argmax or topk"}
    | dict.fromkeys(("nonzero", "masked_select", "unique"), _COUNT)
    | dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "bernoulli", "multinomial"), _CHANCE)
    | dict.fromkeys(("round", "floor", "ceil", "trunc"), _STEPS)
    | dict.fromkeys(("fft_rfft", "fft_fft", "fft_irfft", "fft_ifft", "_fft_r2c", "_fft_c2c", "_fft_c2r", "stft"), _COMPLEX)
)
"""What to do about operations, by name, where there is more to say than that no rule exists."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One obstacle. ``kind``: operation, public, branch, export or range; ``module``: path in the user's model; ``file``, ``line``,
    ``code``: place in the user's source, as far as it is known; ``advice``: what to do, if there is something."""

    kind: str
    what: str
    module: str = ""
    file: str = ""
    line: int = 0
    code: str = ""
    shape: tuple[int, ...] = ()
    why: str
    advice: str = ""


class Given(msgspec.Struct, frozen=True):
    """An input as the model would take it: ``public``, ``secret`` (real numbers), ``looked up`` (secret integers) or ``unused``."""

    name: str
    shape: tuple[int, ...]
    form: str


class Checked(msgspec.Struct, frozen=True):
    """What a check found. ``operations``: how many the graph has, and how many of them touch a secret."""

    findings: tuple[Finding, ...]
    inputs: tuple[Given, ...] = ()
    operations: int = 0
    secret_operations: int = 0

    @property
    def ok(self) -> bool:
        """Whether the model can run privately."""
        return not self.findings


def check(make: Callable[[], Draft]) -> Checked:
    """Capture and measure by ``make`` (``model.draft``, ``decoder.draft_prefill``), then lower, collecting every refusal."""
    try:
        with _unheard():
            drafted = make()
    except PlanError as error:
        return Checked((_of_capture(error),))
    lowering = drafted.lowering_as(Checking)
    lowering.run()
    return Checked(tuple(lowering.findings), tuple(_inputs(lowering, drafted.public)), lowering.met, lowering.secret)


class Checking(Lowering):
    """A lowering that goes on: a refused operation yields a secret of its shape and range."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.findings: list[Finding] = []
        self.met = self.secret = 0
        self._guessed: set[fx.Node] = set()
        """Stand-ins that are no tensor of reals: what comes of them proves nothing."""

    def _unsupported(self) -> list[str]:
        return []  # they are met one by one

    def _call(self, node: fx.Node) -> Any:
        self.met += 1
        try:
            return super()._call(node)
        except Exception as error:
            if self._guessed.isdisjoint(node.all_input_nodes):
                raise
            return self.refused(node, PlanError(str(error)))

    def _lowered(self, node: fx.Node, used: Any) -> Value:
        self.secret += 1
        if _sizes(node) is None and all(_sizes(n) is not None for n in node.all_input_nodes):
            raise _Branch(f"the size of what {operation(node)} yields depends on a secret, which would show it to everybody")
        if node.target not in RULES and node.target not in IGNORED:
            raise UnsupportedOp(f"{operation(node)} has no private form")
        return super()._lowered(node, used)

    def refused(self, node: fx.Node, error: PlanError | InputError) -> Value:
        """Note it and go on. What follows from a guess is no finding, unless it would have no rule anyhow."""
        value = node.meta.get("val")
        follows = not self._guessed.isdisjoint(node.all_input_nodes)
        if not follows or isinstance(error, _Branch) or (node.target not in RULES and isinstance(value, torch.Tensor)):
            self.findings.append(self._finding(node, error))
        if _sizes(node) is None or not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            self._guessed.add(node)
        stand_in: Value = _stand_in(self.builder, node.name, value, self._reach(node))
        return stand_in

    def _outputs(self, leaves: Any) -> None:
        try:
            super()._outputs(leaves)
        except MoietyError as error:
            self.findings.append(Finding(kind=PUBLIC if isinstance(error, InputError) else RANGE, what="output", why=str(error)))

    def _reach(self, node: fx.Node) -> float:
        found = self.builder.ranges.get(self.sites.get(node, ""))
        return max(found.bound, 1e-3) if found else 1.0

    def _finding(self, node: fx.Node, error: MoietyError) -> Finding:
        source = self.captured.sources.get(node.name, Source())
        kinds = {_Branch: BRANCH, UnsupportedOp: OPERATION, InputError: PUBLIC}
        kind = kinds.get(type(error), RANGE)
        return Finding(
            kind=kind,
            what=operation(node),
            module=self.captured.modules.get(node.name, ""),
            file=source.file,
            line=source.line,
            code=source.code,
            shape=_sizes(node) or (),
            why=str(error),
            advice=self._publish(node) if kind == PUBLIC else SELECT if kind == BRANCH else _advice(node.target),
        )

    def _publish(self, node: fx.Node) -> str:
        """Which inputs would have to be public."""
        given = [n for n in _origins(node) if n.name in self.captured.inputs and n.name not in self.public]
        names = [n.name for n in given if isinstance(self.values[n], Index)] or [n.name for n in given]
        return f"name {' and '.join(names)} public, if all parties may know it" if names else ""


class _Branch(PlanError):
    """A size that depends on a secret."""


def _sizes(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of what a node yields; None where it depends on data."""
    shape = tuple(getattr(node.meta.get("val"), "shape", ()))
    return shape if all(isinstance(n, int) for n in shape) else None


def _stand_in(builder: Builder, name: str, value: Any, reach: float) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_stand_in(builder, f"{name}.{i}", part, reach) for i, part in enumerate(value))
    shape = tuple(n if isinstance(n, int) else 1 for n in getattr(value, "shape", ()))
    return Secret(builder.emit("stand-in", name=name), shape, builder.options.activation_fraction, reach)


def _origins(node: fx.Node) -> list[fx.Node]:
    """The placeholders that a node depends on."""
    seen: dict[fx.Node, None] = {}
    left = [node]
    while left:
        for used in left.pop().all_input_nodes:
            if used not in seen:
                seen[used] = None
                left.append(used)
    return [n for n in seen if n.op == "placeholder"]


def _advice(target: Any) -> str:
    """What is known about an operation, else the other forms of it that have a rule, else what may be done about any."""
    name = str(target).split(".")[1] if "." in str(target) else ""
    if name in ADVICE:
        return ADVICE[name]
    forms = [] if target in RULES else sorted(other for other in map(str, RULES) if other.split(".")[1:2] == [name])
    return f"another form of it is supported: {', '.join(forms)}" if forms else OTHERWISE


def _inputs(lowering: Checking, public: Mapping[str, Any]) -> list[Given]:
    used = {given.name: "looked up" if given.form == "one_hot" else "secret" for given in lowering.builder.inputs}
    out = []
    for node in lowering.captured.graph.nodes:
        if node.op == "placeholder" and node.name in lowering.captured.inputs:
            state = "cache" if node.name in lowering.reads else "position" if (lowering.position or ("",))[0] == node.name else ""
            form = state or ("public" if node.name in public else used.get(node.name, "unused"))
            out.append(Given(node.name, tuple(int(n) for n in getattr(node.meta.get("val"), "shape", ())), form))
    return out


def _of_capture(error: PlanError) -> Finding:
    """Why the model could not be captured, and where in the user's source that was."""
    cause = error.__cause__
    if cause is None:
        return Finding(kind=EXPORT, what="forward", why=str(error))
    frames = traceback.extract_tb(cause.__traceback__)
    here = str(__file__).rpartition("/")[0]
    users = [Source(f.filename, f.lineno or 0, f.name, f.line or "") for f in frames if not f.filename.startswith((here, "<"))]
    source = innermost(users)
    place: dict[str, Any] = {"file": source.file, "line": source.line, "code": source.code}
    if "DataDependent" in type(cause).__name__:
        why = "the flow of the program depends on a secret, which would show it to everybody"
        return Finding(kind=BRANCH, what="branch", why=why, advice=SELECT, **place)
    why = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return Finding(kind=EXPORT, what=type(cause).__name__, why=f"torch.export stopped: {why}", **place)


@contextlib.contextmanager
def _unheard() -> Any:
    """What torch prints while it fails is said better in a finding."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
