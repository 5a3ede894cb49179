"""Plans of small models, run by all roles in one process, against the float model."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree

from moiety.compile import signature
from moiety.compile.model import Compiled, compile_model
from moiety.compile.plan import LINKS, Plan
from moiety.compile.rehearse import States, rehearse
from moiety.engine.executor import on_wire
from moiety.mpc.lockstep import Transcript
from moiety.mpc.rounds import Role, Words


def run_lockstep(
    plan: Plan, weights: Mapping[str, Any], words: Sequence[Words], position: int = 0, states: States | None = None
) -> Transcript:
    """Run the plan at all roles, after its journey as bytes."""
    return rehearse(Plan.decode(plan.encode()), weights, words, position=position, states=states)


def answer(plan: Plan, transcript: Transcript) -> Any:
    """What the client makes of what it received."""
    got = transcript.results[Role.CLIENT]
    flag = plan.flag >= 0 and bool(got[plan.flag].any())
    return signature.decode_outputs(plan, [got[o.node] for o in plan.outputs], flag, tensors=True)


def waves_of(transcript: Transcript) -> list[Counter[tuple[Role, Role]]]:
    """Payload bytes by link, wave by wave, as they were spoken and dealt."""
    waves, begin = [], 0
    for words, end in zip([*transcript.waves, []], [*transcript.dealt_by, len(transcript.dealt)], strict=True):
        wave: Counter[tuple[Role, Role]] = Counter()
        for word in (*words, *transcript.dealt[begin:end]):
            wave[word.sender, word.receiver] += on_wire(word.value, word.spec).nbytes
        waves.append(wave)
        begin = end
    return waves if waves[-1] else waves[:-1]


def assert_costs(plan: Plan, transcript: Transcript) -> None:
    """The wave table says exactly what was spoken and dealt on every link in every wave, and no other link was used."""
    spoken = waves_of(transcript)
    assert [tuple(wave[link] for link in LINKS) for wave in spoken] == list(plan.waves)
    assert all(link in LINKS for wave in spoken for link, nbytes in wave.items() if nbytes)


@dataclass
class Case:
    """A compiled model with the inputs it was compiled for."""

    model: torch.nn.Module
    compiled: Compiled
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def plan(self) -> Plan:
        return self.compiled.plan

    @property
    def ops(self) -> Counter[str]:
        return Counter(node.op for node in self.plan.nodes)

    @property
    def truncations(self) -> int:
        """By nodes of their own and at the end of products."""
        return sum(node.op.startswith("rescale") or bool(node.params.get("drop")) for node in self.plan.nodes if node.op != "out_of_range")

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The private answer to these inputs (else those of the compilation); checks the cost on the way."""
        args, kwargs = (args, kwargs) if args or kwargs else (self.args, self.kwargs)
        words = signature.encode_inputs(self.plan, args, kwargs)
        transcript = run_lockstep(self.plan, self.compiled.weights, words)
        assert_costs(self.plan, transcript)
        return answer(self.plan, transcript)

    def expected(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = (args, kwargs) if args or kwargs else (self.args, self.kwargs)
        with torch.no_grad():
            return self.model(*args, **kwargs)

    def error(self, *args: Any, **kwargs: Any) -> float:
        """Largest absolute error of a single output."""
        return float((self.run(*args, **kwargs) - self.expected(*args, **kwargs)).abs().max())

    def of_stated(self, *args: Any, **kwargs: Any) -> list[float]:
        """Largest error of every output as a share of the one that the plan states."""
        found, wanted = self.run(*args, **kwargs), self.expected(*args, **kwargs)
        if isinstance(found, signature.Outputs):
            found, wanted = list(found.values()), [wanted[name] for name in found]
        pairs = zip(*map(_pytree.tree_leaves, (found, wanted)), self.plan.outputs, strict=True)
        return [float((one - other).abs().max()) / output.error for one, other, output in pairs if output.error is not None]


def compiled(model: torch.nn.Module | Callable[..., Any], *args: Any, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Case:
    """Compile a module, or a function of tensors; ranges are those of ``args`` and of ``calibration`` alone."""
    options.setdefault("calibration", ())
    module = (model if isinstance(model, torch.nn.Module) else Lambda(model)).eval()
    return Case(module, compile_model(module, args, kwargs, **options), args, dict(kwargs or {}))


class Lambda(torch.nn.Module):
    """A function of up to three tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any, y: Any = None, z: Any = None) -> Any:
        given = [value for value in (x, y, z) if value is not None]
        return self.function(*given)


def spread(*shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """Values that fill [low, high] evenly, both ends included."""
    count = int(np.prod(shape))
    return torch.linspace(low, high, count)[torch.randperm(count)].reshape(shape)


class All(torch.nn.Module):
    """Several functions of parts of one input: a capture takes longer than a run."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = functions
        self.layers = torch.nn.ModuleList(f for f in functions.values() if isinstance(f, torch.nn.Module))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {name: function(x) for name, function in self.functions.items()}


def errors_above(tolerance: float, case: Case) -> dict[str, float]:
    """Which outputs of a case of ``All`` are off by more, and by how much."""
    found, wanted = case.run(), case.expected()
    assert all(found[name].shape == wanted[name].shape for name in wanted)
    errors = {name: float((found[name] - wanted[name]).abs().max()) for name in wanted}
    return {name: error for name, error in errors.items() if not error < tolerance}
