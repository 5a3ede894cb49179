"""Greedy generation by the data owner: the prompt goes in as a secret, every next token comes out, to the caller alone.

The first run takes as much of the prompt as a prefill plan holds, further runs take one token each, at public positions, with
the caches that the parties keep for the session. What the others learn is the number of tokens. The caller needs no model.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moiety.compile import signature
from moiety.compile.plan import Plan
from moiety.engine.owner import Progress
from moiety.engine.report import RunReport, RunResult
from moiety.errors import InputError, MoietyError, PlanError
from moiety.mpc.rounds import Words


class Runner(Protocol):
    """What runs plans in one session: ``engine.deployed.Private``."""

    @property
    def plans(self) -> list[Plan]: ...

    @property
    def begun(self) -> int: ...

    def run(self, plan: Plan, inputs: list[Words], *, position: int | None = None, on_progress: Progress | None = None) -> RunResult: ...


@dataclass(frozen=True, slots=True)
class Token:
    """One revealed token. ``logits`` is None where only the token is revealed; ``runs``: the reports of all runs it took."""

    id: int
    number: int
    logits: NDArray[np.float32] | None
    runs: tuple[RunReport, ...]

    @property
    def seconds(self) -> float:
        """How long its runs took."""
        return sum(run.seconds for run in self.runs)

    def __repr__(self) -> str:  # the token is the caller's secret
        return f"<Token {self.number}, {self.seconds:.3g} s>"


@dataclass(frozen=True, slots=True)
class Decoder:
    """The plans of a deployed decoder, by what they are for; found from the plans alone."""

    prefill: dict[int, Plan]
    steps: tuple[Plan, ...]

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> "Decoder":
        """Sort the plans. Raises PlanError when they are not those of a decoder."""
        prefill = {plan.inputs[0].shape[1]: plan for plan in plans if plan.inputs and plan.states and not plan.positions}
        steps = sorted((plan for plan in plans if plan.positions), key=lambda plan: plan.first_position)
        if not prefill or not steps:
            raise PlanError("these are not the plans of a decoder (a prefill and its steps); deploy it with compile_decoder")
        return cls(dict(sorted(prefill.items())), tuple(steps))

    @property
    def context(self) -> int:
        """How many tokens, prompt and answer, fit."""
        return max(plan.first_position + plan.positions for plan in self.steps)

    @property
    def end(self) -> tuple[int, ...]:
        """The tokens after which an answer is over."""
        return self.steps[0].end

    @property
    def reveals_logits(self) -> bool:
        """Whether the caller receives all logits, or the token alone."""
        return all(plan.outputs[0].fraction > 0 for plan in (*self.prefill.values(), *self.steps))

    def step(self, position: int) -> Plan:
        """The plan that takes the token at ``position``."""
        return next(plan for plan in self.steps if 0 <= position - plan.first_position < plan.positions)

    def opening(self, count: int) -> int:
        """The longest prefill within ``count`` tokens. Raises InputError when all are longer."""
        fitting = [length for length in self.prefill if length <= count]
        if not fitting:
            known = ", ".join(map(str, self.prefill))
            raise InputError(f"the prompt has {count} tokens, but the shortest deployed prefill takes {known}; write a longer prompt")
        return max(fitting)

    def check(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Raises InputError unless the prompt and so many new tokens can be run."""
        if not prompt or max_new_tokens < 1:
            raise InputError("a prompt of at least one token and at least one new token are needed")
        if len(prompt) + max_new_tokens > self.context:
            raise InputError(
                f"{len(prompt)} prompt tokens and {max_new_tokens} new ones exceed the deployed context of {self.context} tokens; "
                "shorten the prompt or ask for fewer"
            )
        classes = self.prefill[self.opening(len(prompt))].inputs[0].classes
        if not 0 <= min(prompt) <= max(prompt) < classes:
            raise InputError(f"token ids must lie within 0 and {classes - 1}; use the deployed model's own tokenizer")


def generate(
    runner: Runner,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    end: Collection[int] | None = None,
    whole: bool = False,
    retries: int = 0,
    on_progress: Progress | None = None,
) -> Iterator[Token]:
    """Yield tokens as they are revealed, the likeliest each time, until one of ``end`` (which is yielded too) or the limit.

    ``end`` is by default what the plans name. The number of runs tells the parties how long the answer is; with ``whole`` the
    runs go on to the limit after its end, so that they learn nothing of it. After a transient error, ``retries`` times at most,
    a new session takes in again what is known so far, and the answer goes on.

    Raises InputError here, before anything is sent, when prompt and answer do not fit what is deployed; while running RangeViolation
    when a value left its calibrated range, and InputError when another answer was begun with the same runner, whose caches are gone.
    """
    decoder = Decoder.of(runner.plans)
    decoder.check(prompt, max_new_tokens)
    reading = _Reading(runner, decoder, list(prompt), retries, on_progress)
    return _tokens(reading, len(prompt) + max_new_tokens, decoder.end if end is None else end, whole)


class _Reading:
    """Takes tokens in, private run after private run; ``stored`` of them are in the caches of the runner's session."""

    def __init__(self, runner: Runner, decoder: Decoder, tokens: list[int], retries: int, on_progress: Progress | None) -> None:
        self.tokens = tokens
        self._runner, self._decoder, self._retries, self._on_progress = runner, decoder, retries, on_progress
        self._opening = decoder.opening(len(tokens))
        self._stored = self._begun = 0

    def run(self) -> tuple[Plan, RunResult, list[RunReport]]:
        """Take in every token that is not stored; the plan and the result of the last one, and all reports."""
        reports: list[RunReport] = []
        while True:
            try:
                plan, result = self._next()
                reports.append(result.report)
                if self._stored == len(self.tokens):
                    return plan, result, reports
            except MoietyError as error:
                if not error.transient or not self._retries:
                    raise
                self._retries -= 1
                self._stored = 0  # the caches ended with their session

    def _next(self) -> tuple[Plan, RunResult]:
        count = 1 if self._stored else self._opening
        plan = self._decoder.step(self._stored) if self._stored else self._decoder.prefill[count]
        part = self.tokens[self._stored : self._stored + count]
        if self._stored and self._runner.begun != self._begun:
            raise InputError("another answer was begun in this session, which holds one: take a model of its own for each")
        result = _run(self._runner, plan, part, self._stored or None, self._on_progress)
        self._begun = self._runner.begun
        self._stored += count
        return plan, result


def _tokens(reading: _Reading, limit: int, end: Collection[int], whole: bool) -> Iterator[Token]:
    over, first = False, len(reading.tokens)
    while True:
        plan, result, reports = reading.run()
        chosen, logits = _chosen(plan, result)
        if not over:
            yield Token(chosen, len(reading.tokens) - first, logits, tuple(reports))
        over = over or chosen in end
        reading.tokens.append(chosen)
        if len(reading.tokens) == limit or (over and not whole):
            return


def _run(runner: Runner, plan: Plan, tokens: list[int], position: int | None, on_progress: Progress | None) -> RunResult:
    inputs = signature.encode_inputs(plan, (np.asarray([tokens], np.int64),), {})
    return runner.run(plan, inputs, position=position, on_progress=on_progress)


def _chosen(plan: Plan, result: RunResult) -> tuple[int, NDArray[np.float32] | None]:
    revealed: Any = np.asarray(signature.decode_outputs(plan, result.outputs, bool(result.flag)))
    if plan.outputs[0].fraction == 0:
        return int(revealed.reshape(-1)[0]), None
    logits: NDArray[np.float32] = revealed.reshape(-1).astype(np.float32)
    return int(logits.argmax()), logits
