"""Greedy generation: which plan takes which token, what is refused before anything is sent, and the real thing."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from moiety import ring
from moiety.compile.plan import Input, Node, Output, Plan, State
from moiety.engine.federation import Federation
from moiety.engine.report import Report, RunReport, RunResult
from moiety.errors import InputError, MoietyError, PeerLost, PlanError, RangeViolation
from moiety.private.generate import Decoder, generate

CLASSES = 10
REPORT = RunReport(tuple(Report(role, role, 1, 1, 0.0, 0.0, {}, {}, 0) for role in ("P0", "P1", "P2", "CLIENT")), 0.5)


def plan(count: int, first: int = 0, positions: int = 0, fraction: int = 8) -> Plan:
    return Plan(
        nodes=(Node("input", (), {"index": 0}),),
        inputs=(Input("input_ids", (1, count), "one_hot", classes=CLASSES),),
        states=(State("cache 0", (1, 1, 0, 1), 2, 14, 0),),
        outputs=(Output("output 0", 0, (1, CLASSES) if fraction else (1,), fraction, 100.0),),
        arguments=("input_ids",),
        structure='{"leaf": 0}',
        first_position=first,
        positions=positions,
        end=(9,),
    )


class Counting:
    """Answers every token with the next number, and remembers what it was asked."""

    def __init__(self, *plans: Plan) -> None:
        self.plans, self.begun = list(plans), 0
        self.asked: list[tuple[int, int | None]] = []

    def run(self, plan: Plan, inputs: list[Any], *, position: int | None = None, on_progress: Any = None) -> RunResult:
        token = int(inputs[0][0, -1].argmax())
        self.begun += position is None
        self.asked.append((inputs[0].shape[1], position))
        [output] = plan.outputs
        chosen = np.eye(CLASSES)[None, token + 1] if output.fraction else np.array([float(token + 1)])
        return RunResult([ring.encode(chosen, output.fraction)], None, REPORT)


STEPS = (plan(1, 1, 7), plan(1, 8, 8))


def test_longest_prefill_then_steps() -> None:
    runner = Counting(plan(2), plan(4), plan(8), *STEPS)
    tokens = list(generate(runner, [0, 0, 0, 0, 0, 3], max_new_tokens=4))
    assert [token.id for token in tokens] == [4, 5, 6, 7]
    assert runner.asked == [(4, None), (1, 4), (1, 5), (1, 6), (1, 7), (1, 8)]
    assert [len(token.runs) for token in tokens] == [3, 1, 1, 1]
    assert tokens[0].seconds == 1.5


def test_ends_where_the_plans_say() -> None:
    runner = Counting(plan(2), *STEPS)
    assert [token.id for token in generate(runner, [0, 6], max_new_tokens=9)] == [7, 8, 9]
    assert [token.id for token in generate(runner, [0, 6], max_new_tokens=9, end=[8])] == [7, 8]


def test_whole_runs_do_not_tell_where_the_answer_ends() -> None:
    early, late = Counting(plan(2), *STEPS), Counting(plan(2), *STEPS)
    assert [token.id for token in generate(early, [0, 4], max_new_tokens=4, whole=True, end=(6,))] == [5, 6]
    assert [token.id for token in generate(late, [0, 1], max_new_tokens=4, whole=True)] == [2, 3, 4, 5]
    assert early.asked == late.asked


def test_token_alone() -> None:
    runner = Counting(plan(2, fraction=0), plan(1, 1, 7, fraction=0))
    tokens = list(generate(runner, [0, 3], max_new_tokens=2))
    assert [token.id for token in tokens] == [4, 5]
    assert tokens[0].logits is None
    assert not Decoder.of(runner.plans).reveals_logits


@pytest.mark.parametrize(
    ("prompt", "new", "text"),
    [
        ([], 1, "a prompt of at least one token"),
        ([1, 2], 0, "at least one new token"),
        ([1], 1, "the prompt has 1 tokens, but the shortest deployed prefill takes 2, 4"),
        ([1] * 10, 7, "10 prompt tokens and 7 new ones exceed the deployed context of 16 tokens"),
        ([1] * 5 + [CLASSES], 2, "token ids must lie within 0 and 9"),
        ([-1, 2, 3], 2, "token ids must lie within 0 and 9"),
    ],
)
def test_refused_before_anything_is_sent(prompt: list[int], new: int, text: str) -> None:
    runner = Counting(plan(2), plan(4), *STEPS)
    with pytest.raises(InputError, match=text):
        generate(runner, prompt, max_new_tokens=new)
    assert runner.asked == []


def test_no_decoder() -> None:
    with pytest.raises(PlanError, match="not the plans of a decoder"):
        generate(Counting(plan(2)), [1, 2], max_new_tokens=1)


def test_value_out_of_range() -> None:
    narrow = plan(2)
    narrow = msgspec.structs.replace(narrow, outputs=(msgspec.structs.replace(narrow.outputs[0], bound=1e-3),))
    with pytest.raises(RangeViolation):
        next(generate(Counting(narrow, *STEPS), [0, 3], max_new_tokens=2))


class Losing(Counting):
    """Loses its session, with the caches, at the runs whose numbers are given."""

    def __init__(self, lost: set[int], *plans: Plan, error: type[MoietyError] = PeerLost) -> None:
        super().__init__(*plans)
        self.lost, self.error = lost, error

    def run(self, plan: Plan, inputs: list[Any], **options: Any) -> RunResult:
        result = super().run(plan, inputs, **options)
        if len(self.asked) - 1 in self.lost:
            raise self.error("a test")
        return result


def test_retries_take_in_again_what_is_known() -> None:
    """The prompt and the tokens so far, from the first run on: nothing of a lost session can be used."""
    runner = Losing({0, 4}, plan(2), *STEPS)
    tokens = list(generate(runner, [0, 0, 3], max_new_tokens=4, retries=2))
    assert [token.id for token in tokens] == [4, 5, 6, 7]
    again = [(2, None), (1, 2), (1, 3), (1, 4)]
    assert runner.asked == [(2, None), *again[:3], again[3], *again, (1, 5)]


def test_retries_end() -> None:
    for lost, error, retries in (({0, 1}, PeerLost, 1), ({0}, PeerLost, 0), ({0}, RangeViolation, 5)):
        with pytest.raises(error):
            list(generate(Losing(lost, plan(2), *STEPS, error=error), [0, 3], max_new_tokens=2, retries=retries))


def test_secrets_stay_out_of_repr() -> None:
    [token] = generate(Counting(plan(2), *STEPS), [0, 3], max_new_tokens=1)
    assert repr(token) == "<Token 0, 0.5 s>"


def test_two_answers_do_not_grow_in_one_session() -> None:
    """Their caches would be mixed, without a word."""
    runner = Counting(plan(2), *STEPS)
    first = generate(runner, [0, 3], max_new_tokens=4)
    assert [next(first).id, next(first).id] == [4, 5]
    second = generate(runner, [0, 5], max_new_tokens=4)
    assert next(second).id == 6
    with pytest.raises(InputError, match="another answer was begun in this session"):
        next(first)
    assert [token.id for token in second] == [7, 8, 9]


@pytest.mark.slow
def test_stories(data_folder: Path, owner: Federation, client: Federation) -> None:
    from moiety.compile.builder import Options
    from moiety.compile.decoder import compile_decoder
    from moiety.models import calibration, stories

    tokenizer, model = stories.load()
    prompt = tokenizer("Once upon a time")["input_ids"]
    compiled = compile_decoder(
        model, prompt_lengths=[len(prompt) - 1], context=64, calibration=calibration.stories(tokenizer), options=Options(margin=1.25)
    )
    owner.deploy_plans("stories", [*compiled.prefill.values(), *compiled.steps.values()], compiled.weights)
    private = client.model("stories")
    assert Decoder.of(private.plans).end == (2,)
    for lost in (False, True):  # a session may answer one prompt after another, or be lost between two tokens
        tokens = generate(private, prompt, max_new_tokens=12, retries=int(lost))
        found = [next(tokens)]
        if lost:
            private._session.session.links()[1].close()  # type: ignore[union-attr]
        found += tokens
        with torch.no_grad():
            wanted = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
            logits = model(torch.tensor([prompt + wanted])).logits[0, len(prompt) - 1 :]
        assert [token.id for token in found] == wanted
        errors = [float(np.abs(token.logits - logits[i].numpy()).max()) for i, token in enumerate(found) if token.logits is not None]
        assert len(errors) == 12
        assert max(errors) < 0.05
        assert len(found[0].runs) == 2
        decoder = Decoder.of(private.plans)
        for plan, run in zip([decoder.prefill[len(prompt) - 1], decoder.step(len(prompt) - 1)], found[0].runs, strict=True):
            assert run.payload_bytes == sum(map(sum, plan.waves))
        assert all(run.of("P0").sent_bytes > 0 and not any(link.endswith("->P0") for link in run.of("P0").links) for run in found[0].runs)
