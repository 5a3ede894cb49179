"""The model owner's side: load a model, compile it, share its weights. It never sees a prompt; of the input it knows a length.

As a process, ``python -m moiety.cli.vendor REQUEST``: the request comes as JSON, events go to stdout as lines of JSON, and it
ends when its standard input does, so that it cannot outlive the command that started it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from moiety.cli.source import Asked, Source
from moiety.compile.plan import Plan
from moiety.errors import ConfigError, InputError, MoietyError

if TYPE_CHECKING:
    from moiety.engine.federation import Federation


class Request(msgspec.Struct, frozen=True):
    """What to deploy, where and as whom. ``lengths``: numbers of tokens of a prompt or sentence, for which plans are made."""

    federation: str
    party: str | None
    model: str
    name: str
    lengths: tuple[int, ...]
    context: int = 64
    reveal: str = "logits"
    identity: str | None = None
    replace: bool = False
    check: bool = True
    """Let the data owner learn, in one bit a run, whether a value left its measured range."""
    held_by: str | None = None
    """``P1``: it is told the matrices of linear layers."""
    inputs: tuple[str, ...] = ()
    public: tuple[str, ...] = ()
    ranges: str | None = None
    data: str | None = None
    link: str | None = None
    """Send as slowly as such a link would."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the process: ``begin``, ``progress`` or ``end`` of a stage, ``error``, or ``done`` with its report."""

    kind: str
    stage: str = ""
    done: float = 0
    of: float = 0
    code: str = ""
    message: str = ""
    status: int = 1
    report: dict[str, Any] = {}


Tell = Callable[[Event], None]


def deploy(request: Request, tell: Tell) -> dict[str, Any]:
    """Do what is asked; returns a report. Raises MoietyError, FileNotFoundError."""
    if not request.lengths or min(request.lengths) < 1:
        raise InputError("name at least one length of at least one token")
    tell(Event("begin", "load"))
    import moiety.compile.model  # noqa: F401  (so that loading PyTorch counts as loading)
    from moiety.engine.federation import connect
    from moiety.engine.report import peak_memory_bytes

    source = _asked(request).source()
    tell(Event("end", "load"))
    with connect(request.federation, party=request.party, identity=request.identity, link=request.link) as federation:
        federation.expect(request.name, source.model, held_by=request.held_by)
        tell(Event("begin", "compile"))
        plans, weights = _compile(source, request, tell)
        tell(Event("end", "compile"))
        tell(Event("begin", "share"))
        shared = _share(federation, request, plans, weights, tell)
        tell(Event("end", "share"))
    parameters = sum(tensor.numel() for tensor in source.model.parameters())
    return {
        "parameters": parameters,
        "plans": [plan.hash for plan in plans],
        "peak_memory_bytes": peak_memory_bytes(),
        "made_up": source.made_up and request.ranges is None,
        **shared,
    }


def _asked(request: Request) -> Asked:
    ranges, data = (Path(file) if file else None for file in (request.ranges, request.data))
    lengths = ",".join(map(str, request.lengths))
    return Asked(request.model, request.inputs, request.public, lengths, request.context, request.reveal, ranges, data)


def _compile(source: Source, request: Request, tell: Tell) -> tuple[list[Plan], Mapping[str, Any]]:
    from moiety.compile.builder import Options

    drafts = list(_asked(request).drafts(source, Options(margin=source.margin, check_ranges=request.check)))
    plans, weights = list[Plan](), dict[str, Any]()
    for _, make in drafts:
        compiled = make().compiled().held(request.held_by)
        plans.append(compiled.plan)
        weights |= {name: tensor for name, tensor in compiled.weights.items() if name not in weights}
        tell(Event("progress", "compile", len(plans), len(drafts)))
    return plans, weights


def _share(federation: "Federation", request: Request, plans: list[Plan], weights: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    total, given = sum(tensor.numel() for tensor in weights.values()), 0

    def counted(tensor: Any) -> Callable[[], Any]:
        def give() -> Any:
            nonlocal given
            tell(Event("progress", "share", min(given, total), total))
            given += tensor.numel()
            return tensor

        return give

    sources = {name: counted(tensor) for name, tensor in weights.items()}
    shared = federation.deploy_plans(request.name, plans, sources, replace=request.replace)
    # One masked word for P1 and one for P2, or the integer that P1 is told.
    octets = {w.name: 8 + (w.clear or 8) for plan in plans for w in plan.weights}
    payload = sum(octets[name] * weights[name].numel() for name in shared)
    return {"weights": len(weights), "shared": len(shared), "payload_bytes": payload}


def main() -> int:
    """The process. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command that started it decides, by closing the pipe
    threading.Thread(target=_follow, name="moiety-parent", daemon=True).start()
    turn = threading.Lock()

    def tell(event: Event) -> None:
        with turn:
            sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
            sys.stdout.flush()

    try:
        tell(Event("done", report=deploy(msgspec.json.decode(sys.argv[1], type=Request), tell)))
    except MoietyError as error:
        tell(Event("error", code=error.code, message=str(error), status=error.exit_status))
        return error.exit_status
    except FileNotFoundError as error:
        tell(Event("error", code=ConfigError.code, message=str(error), status=ConfigError.exit_status))
        return ConfigError.exit_status
    return 0


def _follow() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
