"""A private answer as the data owner has it, and what it cost: the numbers behind every table and every ``--json``."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from moiety.cli.screen import Screen
from moiety.compile.plan import Plan
from moiety.engine.deployed import Private
from moiety.engine.owner import Progress
from moiety.engine.report import RunReport, RunResult
from moiety.mpc.rounds import Words
from moiety.private.generate import Decoder, Token, generate

PROTOCOL = "rep3 in helper form: shares mod 2^64, P0 deals masks ahead, P1 and P2 evaluate"


@dataclass(slots=True)
class Answer:
    """The tokens of one answer in the order in which they were revealed, and its text without the mark of its end.

    ``hidden`` are runs after its end, made so that nobody learns where it was.
    """

    prompt: list[int]
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    ended: bool = False
    hidden: list[RunReport] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def runs(self) -> list[RunReport]:
        return [run for token in self.tokens for run in token.runs] + self.hidden


@dataclass(slots=True)
class Watched:
    """A deployed model whose reports are kept."""

    private: Private
    reports: list[RunReport] = field(default_factory=list)

    @property
    def plans(self) -> list[Plan]:
        """Those of the model."""
        return self.private.plans

    @property
    def begun(self) -> int:
        """Answers begun with the model."""
        return self.private.begun

    def run(self, plan: Plan, inputs: list[Words], *, position: int | None = None, on_progress: Progress | None = None) -> RunResult:
        """As ``Private.run``."""
        result = self.private.run(plan, inputs, position=position, on_progress=on_progress)
        self.reports.append(result.report)
        return result


def ask(private: Private, tokenizer: Any, prompt: list[int], limit: int, screen: Screen, *, whole: bool = False) -> Answer:
    """Generate privately, on the screen; with ``whole`` to the limit even after the answer's end."""
    answer, stage, watched = Answer(prompt), "prefill", Watched(private)
    decoder = Decoder.of(private.plans)

    def progress(done: int, of: int) -> None:
        before = 0 if stage == "prefill" else len(answer.tokens) - 1
        screen.progress(stage, before + done / of, 1 if stage == "prefill" else max(1, limit - 1))

    tokens = generate(watched, prompt, max_new_tokens=limit, whole=whole, on_progress=progress)
    screen.begin(stage)
    for token in tokens:
        if stage == "prefill":
            screen.end(stage)
            stage = "tokens"
            screen.begin(stage)
        answer.tokens.append(token)
        answer.ended = token.id in decoder.end
        text = readable(tokenizer, answer.ids, decoder.end)
        screen.text(text.removeprefix(answer.text))
        answer.text = text
    screen.end(stage)
    answer.hidden = watched.reports[len(answer.runs) :]
    return answer


def readable(tokenizer: Any, ids: Sequence[int], end: Iterable[int]) -> str:
    """The text so far. The bytes of a character that is not complete wait for the next token."""
    text: str = tokenizer.decode([i for i in ids if i not in tuple(end)])
    return text.rstrip("\ufffd")


def costs(runs: Sequence[RunReport]) -> dict[str, Any]:
    """Rounds, payload and bytes on the wire, and seconds of some runs together."""
    return {
        "runs": len(runs),
        "rounds": sum(run.of("P1").rounds for run in runs),
        "payload_bytes": sum(run.payload_bytes for run in runs),
        "wire_bytes": sum(wire_bytes(run) for run in runs),
        "seconds": sum(run.seconds for run in runs),
    }


def wire_bytes(run: RunReport) -> int:
    """What came in at all members: TLS and control messages included. Received, for what is sent may still lie in a queue."""
    return sum(received for member in run.members for _, received in member.wire.values())


def members(runs: Sequence[RunReport]) -> list[dict[str, Any]]:
    """What every member of the runs received and sent (payload), and its memory."""

    def total(role: str, pick: Callable[[str], bool]) -> int:
        return sum(t.payload_bytes for run in runs for link, t in run.of(role).links.items() if pick(link))

    out = []
    for last in runs[-1].members:
        role = last.role
        out.append(
            {
                "name": last.name,
                "role": role,
                "received_bytes": total(role, lambda link, role=role: link.endswith("->" + role)),  # type: ignore[misc]
                "sent_bytes": total(role, lambda link, role=role: link.startswith(role + "->")),  # type: ignore[misc]
                "peak_memory_bytes": max(run.of(role).peak_memory_bytes for run in runs),
                "weight_bytes": last.weight_bytes,
                "cache_bytes": last.state_bytes,
                "kernels": last.kernels.get("isa", ""),
                "loads_torch": "torch" in last.packages,
            }
        )
    return out


def size(nbytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def brief(runs: Sequence[RunReport]) -> str:
    """One line of costs."""
    c = costs(runs)
    overhead = c["wire_bytes"] / max(1, c["payload_bytes"]) - 1
    return f"{c['rounds']:,} rounds, {size(c['payload_bytes'])} payload (+{overhead:.1%} on the wire), {c['seconds']:.1f} s"
