"""``moiety chaos``: random faults on real processes, and the table of how the runs ended."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table

from moiety.cli.output import paper, print_json, remark
from moiety.engine.chaos import EXPECTED, KINDS, Outcome, Subject, chaos

TOLERANCE: Final = 0.02
"""Of answers whose standard deviation is near 1."""


def run(count: int, seed: int, jobs: int, link: str | None, as_json: bool) -> bool:
    """Commit the faults and print what came of them; whether every run ended as it should."""
    began = time.monotonic()
    outcomes = chaos(subjects(), count, seed, jobs=jobs, link=link, tell=_complain)
    seconds = round(time.monotonic() - began, 1)
    bad = [one for one in outcomes if not one.expected]
    if as_json:
        rows = [{**vars(one), "kind": one.kind, "expected": one.expected} for one in outcomes]
        print_json({"runs": count, "seed": seed, "table": table(outcomes), "unexpected": len(bad), "seconds": seconds, "outcomes": rows})
        return not bad
    show(outcomes)
    remark(f"{seconds:.0f} s, {60 * count / seconds:.0f} faults a minute")
    return not bad


def subjects() -> list[Subject]:
    """A multi-layer perceptron with GELU, and a transformer layer; small, with random weights."""
    import torch

    torch.manual_seed(0)
    mlp = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
    return [_subject("mlp", mlp.eval(), torch.randn(2, 8)), _subject("transformer", layer.eval(), torch.randn(1, 4, 16))]


def _subject(name: str, model: Any, example: Any) -> Subject:
    from moiety.compile import signature
    from moiety.compile.model import compile_model

    compiled = compile_model(model, (example,))
    inputs = signature.encode_inputs(compiled.plan, (example,), {})
    return Subject(name, compiled.plan, compiled.weights, inputs, model(example).detach().numpy(), TOLERANCE)


def _complain(outcome: Outcome) -> None:
    if not outcome.expected:
        remark(f"unexpected: {outcome.fault} on {outcome.model}: {outcome.end} after {outcome.seconds} s. {outcome.message}")


def table(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """How often each kind of fault ended how; faults for which a run gave no occasion stand by themselves."""
    rows: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for one in outcomes:
        rows[one.kind][one.end if one.struck else f"not struck, {one.end}"] += 1
    return {kind: dict(sorted(row.items())) for kind, row in rows.items()}


def show(outcomes: Sequence[Outcome]) -> None:
    """The table for people."""
    rows = table(outcomes)
    ends = sorted({end for row in rows.values() for end in row})
    shown = Table("fault", *ends, "slowest", "expected", title=f"{len(outcomes)} faults")
    for kind in KINDS:
        seconds = [one.seconds for one in outcomes if one.kind is kind]
        cells = [str(rows[kind].get(end, "")) for end in ends]
        shown.add_row(kind, *cells, f"{max(seconds, default=0.0):.1f} s", ", ".join(sorted(EXPECTED[kind])))
    paper().print(shown)
    failed = [one for one in outcomes if one.end != "right"]
    halves, unexpected = Counter(one.halves for one in failed), sum(not one.expected for one in outcomes)
    repeated = sum(one.repeated > 0 for one in outcomes)
    remark(
        f"{unexpected} ended otherwise than expected; {repeated} were repeated, since a deadline was missed that the fault does not explain"
    )
    remark(
        f"of {len(failed)} runs that ended in an error the client had no word of an output in {halves[0]}, one uniformly random half "
        f"in {halves[1]}, both halves in {halves[2]} (something was lost after the last wave)"
    )
