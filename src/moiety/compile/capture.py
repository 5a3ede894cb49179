"""From an unmodified PyTorch module to a flat graph in which every value is public, the model owner's, or secret.

``torch.export`` without decomposition keeps linear layers, attention and activations whole; functionalising removes mutation.
What depends on no secret is never lowered: it is evaluated, here.
"""

import contextlib
import functools
import json
import logging
import operator
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree

from moiety.errors import PlanError


class Source(NamedTuple):
    """A line of somebody's source."""

    file: str = ""
    line: int = 0
    function: str = ""
    code: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}: {self.code}" if self.file else ""


@dataclass(frozen=True, slots=True)
class Captured:
    """A functional graph, the tensors it closes over, and the names of what a caller passes in."""

    graph: fx.Graph
    public: Mapping[str, torch.Tensor]
    """Placeholder name -> constant of the architecture (not in the state dict, so not the owner's secret)."""
    owned: Mapping[str, tuple[str, torch.Tensor]]
    """Placeholder name -> (parameter name, tensor) of the model owner."""
    inputs: tuple[str, ...]
    """Placeholder names of the caller's inputs, in the order of the flattened (args, kwargs)."""
    structure: str
    """The output's structure as JSON: {"leaf": i}, {"tuple" | "list": [...]}, {"dict": {...}}, {"none": true}."""
    arguments: str = ""
    """The input's structure as JSON, leaves in the order of ``inputs``."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Node name -> path of the user's module that it came from."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Node name -> where it is in the user's source: the innermost line that is not PyTorch's own, if there is one."""


def capture(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, *, whole: Collection[Any] = ()
) -> Captured:
    """Export ``module`` on example inputs. Raises PlanError with torch's reason when it cannot be exported.

    ``whole``: operations that stay as they are, beside WHOLE; what else meets an input is taken apart as far as PyTorch can.
    """
    with torch.no_grad(), _without_cache(module), _evaluating(module), _unlogged(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own internals here; nothing a user could act on
        try:
            program = torch.export.export(module, args, kwargs=dict(kwargs or {}), strict=False)
            apart = _taken_apart(program, whole)
            if apart or not _is_functional(program.graph):
                program = program.run_decompositions(apart)
        except Exception as error:
            raise PlanError(f"torch.export cannot capture {type(module).__name__}: {error}. Make its forward exportable first") from error
    return _captured(program)


aten = torch.ops.aten
WHOLE = {
    aten.__and__.Tensor,
    aten.__or__.Tensor,
    aten.chunk.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.flatten.using_ints,
    aten.layer_norm.default,
    aten.linear.default,
    aten.matmul.default,
    aten.reshape.default,
    aten.scaled_dot_product_attention.default,
    aten.softmax.int,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.unflatten.int,
}
"""Composite operations that need no taking apart: they have a rule, or only meet public values."""


def _taken_apart(program: Any, whole: Collection[Any]) -> dict[Any, Any]:
    """PyTorch's own decompositions of all operations but those that stay whole; none where no input meets such an operation."""
    given = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    reached: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.name in given or any(used in reached for used in node.all_input_nodes):
            reached.add(node)
    stay = WHOLE.union(whole)
    met = {node.target for node in reached if node.op == "call_function"} - stay
    known = _decompositions() if met else {}
    return {} if met.isdisjoint(known) else {target: apart for target, apart in known.items() if target not in stay}


@functools.cache
def _decompositions() -> Mapping[Any, Any]:
    return dict(torch.export.default_decompositions().items())


def _is_functional(graph: fx.Graph) -> bool:
    """No mutation, no sub-graph, nothing composite: most models, and functionalising would only double the time of the export."""
    return all(node.op != "get_attr" and (node.op != "call_function" or _is_pure(node.target)) for node in graph.nodes)


def _is_pure(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return target is operator.getitem
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return not target._schema.is_mutable and (not composite or target in WHOLE)


def _captured(program: Any) -> Captured:
    changed = [str(spec.target) for spec in program.graph_signature.output_specs if spec.kind is not OutputKind.USER_OUTPUT]
    if changed:
        raise PlanError(
            f"the model's forward changes {', '.join(changed)}; what a run leaves behind has no place in a plan: return it instead"
        )
    public: dict[str, torch.Tensor] = {}
    owned: dict[str, tuple[str, torch.Tensor]] = {}
    inputs = []
    for spec in program.graph_signature.input_specs:
        name, target = spec.arg.name, spec.target
        match spec.kind:
            case InputKind.USER_INPUT:
                inputs.append(name)
            case InputKind.PARAMETER:
                owned[name] = (target, program.state_dict[target].detach())
            case InputKind.BUFFER if spec.persistent:  # integers, too: quantised weights are
                owned[name] = (target, program.state_dict[target].detach())
            case _:
                held = program.state_dict.get(target)
                public[name] = (held if held is not None else program.constants[target]).detach()
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    return Captured(
        graph=program.graph,
        public=public,
        owned=owned,
        inputs=tuple(inputs),
        structure=json.dumps(_describe(program.call_spec.out_spec, _numbered(program.graph.output_node().args[0]))),
        arguments=json.dumps(_describe(program.call_spec.in_spec, iter(range(1 << 20)))),
        modules={n.name: _module_of(n) for n in nodes},
        sources={n.name: _source_of(n) for n in nodes},
    )


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return str(path).removeprefix("L['self'].").replace("L['self']", "")


_FRAME = re.compile(r'File "(.*)", line (\d+), in (.*)')
_TORCH = str(Path(torch.__file__).parent)


def _source_of(node: fx.Node) -> Source:
    lines = (node.meta.get("stack_trace") or "").splitlines()
    pairs = zip(lines, [*lines[1:], ""], strict=False)  # a frame's line, and its code in the line after it
    found = [(match, code.strip()) for line, code in pairs if (match := _FRAME.match(line.strip()))]
    return innermost(Source(match[1], int(match[2]), match[3], code) for match, code in found)


def operation(node: fx.Node) -> str:
    """What people call the operation of a node, ``aten.linear.default`` for example."""
    return str(node.target) if isinstance(node.target, torch._ops.OpOverload) else str(getattr(node.target, "__name__", node.target))


def innermost(frames: Iterable[Source]) -> Source:
    """The last of the frames, outermost first, that is not PyTorch's own; if all are, the last."""
    frames = list(frames)
    own = [frame for frame in frames if not frame.file.startswith(_TORCH)]
    return (own or frames or [Source()])[-1]


def _numbered(values: Iterable[Any]) -> Iterator[int | None]:
    """The number of every value that is one."""
    count = iter(range(1 << 20))
    return (None if value is None else next(count) for value in values)


def _describe(spec: Any, leaves: Iterator[int | None]) -> dict[str, Any]:
    """A pytree spec as plain data; model outputs become dicts."""
    if spec.is_leaf():
        leaf = next(leaves)
        return {"none": True} if leaf is None else {"leaf": leaf}
    children = [_describe(child, leaves) for child in spec.children()]
    if spec.type in (tuple, list):
        return {spec.type.__name__: children}
    if spec.type is type(None) or not children:
        return {"none": True}
    keys = spec.context if isinstance(spec.context, list) else list(spec.context[0]) if isinstance(spec.context, tuple) else None
    if keys is None:
        raise PlanError(f"an output of type {spec.type} cannot be described; return tensors, tuples, lists or dicts")
    return {"dict": dict(zip(map(str, keys), children, strict=True))}


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, for as long as it takes."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Let PyTorch log no traceback of its own internals for what is raised anyhow."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def _without_cache(module: torch.nn.Module) -> Iterator[None]:
    """Switch off the mutable cache of HuggingFace models for a single pass."""
    config = getattr(module, "config", None)
    before = getattr(config, "use_cache", None)
    if config is None or before is None:
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before


def flatten(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Leaves of the call in the order of ``Captured.inputs``."""
    leaves, _ = _pytree.tree_flatten((tuple(args), dict(kwargs)))
    return leaves


def evaluate(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """Run one node of the graph in the clear."""
    mapped: Any = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    args, kwargs = mapped
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]
