"""``moiety demo``: a private answer by five processes, the same answer in the clear, and what everybody saw and what it cost."""

from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moiety.cli import answers, models
from moiety.cli.answers import Answer, size
from moiety.cli.generate import as_data
from moiety.cli.local import local
from moiety.cli.output import paper, print_json
from moiety.cli.screen import Bars, Screen, screen
from moiety.engine.cost import PROMISE

NAME: Final = "demo"
SAW: Final = {
    "P0": "only that it ran: it deals masks ahead and gets nothing back",
    "P1": "shares and masked values, uniformly random to it alone",
    "P2": "shares and masked values, uniformly random to it alone",
}
LIMITS: Final = (
    "not protected: against parties that depart from the protocol or collude; how long prompt and answer are (`moiety generate "
    "--whole` hides the latter); and that the model owner deploys the model it promised",
    "one machine hides nothing from its owner: here you see the mechanism; between organisations each party runs `moiety party`",
)


NEXT: Final = "a model of your own: docs/guides/own-model.md (`. .venv/bin/activate` after `make` puts moiety on your path)"


@dataclass(slots=True)
class Clear:
    """The same tokens without any privacy, and the largest difference of a logit (None where no logits were revealed)."""

    tokens: list[int]
    text: str
    largest_difference: float | None


def demo(*, prompt: str, tokens: int, reveal: str, model: str, link: str | None, as_json: bool) -> bool:
    """Run it all. Returns whether the private answer is that in the clear."""
    known = models.known(model, models.DECODER)
    shown = screen(silent=as_json, keep=True)
    if not as_json:
        console = paper()
        console.print("Five processes on this machine: three compute parties, a model owner, and this one, the data owner.")
        console.print(f"[bold]{known.title}[/bold] is the model owner's secret; so is the question to its owner: ", end="")
        console.print(prompt, style="italic", markup=False)
        console.print()
    with shown:
        answer, reader, vendor, leakage = _privately(known, prompt, tokens, reveal, link, shown)
        with shown.stage("check"):
            clear = in_the_clear(known, reader, answer, tokens)
    agree = clear.tokens == answer.ids
    if as_json:
        print_json(_data(prompt, answer, clear, vendor, leakage, shown))
        return agree
    _compare(console, answer, clear, shown)
    _who(console, answer, vendor)
    _costs(console, answer, vendor, shown)
    _trust(console, answer, leakage)
    return agree


def _privately(
    known: models.Known, prompt: str, tokens: int, reveal: str, link: str | None, shown: Screen
) -> tuple[Answer, Any, dict[str, Any], tuple[str, ...]]:
    with local(NAME, shown, link) as place:
        with shown.stage("tokenise"):
            reader = known.tokenizer()
            ids = known.tokens(reader, prompt)
        place.deploy(known.name, (len(ids),), len(ids) + tokens, reveal, shown)
        private = place.private()
        answer = answers.ask(private, reader, ids, tokens, shown)
        return answer, reader, place.vendor or {}, private.plans[0].leakage


def in_the_clear(known: models.Known, reader: Any, answer: Answer, limit: int) -> Clear:
    """Let the model's own ``generate`` answer the same prompt here."""
    import torch

    _, model = known.load()
    ids = torch.tensor([answer.prompt])
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    found = out.sequences[0, ids.shape[1] :].tolist()
    end = model.generation_config.eos_token_id
    text = answers.readable(reader, found, end if isinstance(end, list) else [end])
    differences = []
    for token, theirs, logits in zip(answer.tokens, found, out.logits, strict=False):
        if token.logits is not None:
            differences.append(float(abs(token.logits - logits[0].float().numpy()).max()))
        if token.id != theirs:  # from here on the two answer different texts
            break
    return Clear(found, text, max(differences, default=None))


def _compare(console: Console, answer: Answer, clear: Clear, shown: Screen) -> None:
    if isinstance(shown, Bars):
        console.print()
    same = clear.tokens == answer.ids
    console.print("The same prompt in the clear, run here after the private run (a real data owner has no model to do so):")
    console.print(f"  {clear.text}", markup=False)
    difference = "" if clear.largest_difference is None else f"; the largest error of a logit is {clear.largest_difference:.3f}"
    if same:
        console.print(f"[bold green]All {len(answer.ids)} tokens agree[/bold green]{difference}")
    else:
        first = next((i for i, (a, b) in enumerate(zip(answer.ids, clear.tokens, strict=False)) if a != b), len(answer.ids))
        console.print(f"[bold red]The answers disagree from token {first + 1} on[/bold red]{difference}")
    console.print()


def _who(console: Console, answer: Answer, vendor: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("process", "left"), ("learned", "left"), ("received", "right"), ("sent", "right"), ("peak memory", "right")):
        table.add_column(title, justify=justify, no_wrap=title != "learned")  # type: ignore[arg-type]
    for member in answers.members(answer.runs):
        role = member["role"]
        what = SAW.get(role, f"the answer: {_revealed(answer)}")
        label = f"{role} {member['name']}" if role in SAW else "data owner"
        row = (size(member["received_bytes"]), size(member["sent_bytes"]), size(member["peak_memory_bytes"]))
        table.add_row(label, what, *row)
    if vendor:
        saw = f"the length of the prompt, {len(answer.prompt)} tokens; it left before the prompt was shared"
        table.add_row("model owner", saw, "0 B", size(vendor["payload_bytes"]), size(vendor["peak_memory_bytes"]))
    console.print(table)
    console.print()


def _revealed(answer: Answer) -> str:
    count = len(answer.tokens)
    return f"{count} tokens, nothing else" if answer.tokens[0].logits is None else f"the logits of {count} tokens"


def _costs(console: Console, answer: Answer, vendor: dict[str, Any], shown: Screen) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "seconds", "rounds", "payload", "on the wire"):
        table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
    seconds = shown.seconds
    table.add_row("start parties, split text", f"{seconds['start'] + seconds['tokenise']:.1f}", "", "", "")
    table.add_row("load the model", f"{seconds['load']:.1f}", "", "", "")
    table.add_row("compile", f"{seconds['compile']:.1f}", "", "", "")
    table.add_row("share the weights", f"{seconds['share']:.1f}", "", size(vendor["payload_bytes"]) if vendor else "", "")
    first, rest = list(answer.tokens[0].runs), [run for token in answer.tokens[1:] for run in token.runs]
    _runs(table, f"prompt of {len(answer.prompt)} tokens", first)
    if rest:
        _runs(table, f"each of {len(rest)} further tokens", rest)
    _runs(table, "whole answer", answer.runs, each=False)
    console.print(table)
    console.print()


def _runs(table: Table, title: str, runs: list[Any], *, each: bool = True) -> None:
    c, n = answers.costs(runs), len(runs) if each else 1
    overhead = c["wire_bytes"] / c["payload_bytes"] - 1
    table.add_row(title, f"{c['seconds'] / n:.1f}", f"{c['rounds'] // n:,}", size(c["payload_bytes"] / n), f"+{overhead:.1%}")


def _trust(console: Console, answer: Answer, leakage: tuple[str, ...]) -> None:
    kernels = {member["kernels"] for member in answers.members(answer.runs)}
    table = Table.grid(padding=(0, 4, 0, 0))
    table.add_row("protocol", f"{answers.PROTOCOL}; kernels {', '.join(sorted(kernels))}; mutual TLS 1.3 between all")
    table.add_row("promise", PROMISE)
    for title, lines in (("leakage", leakage), ("limits", LIMITS), ("next", (NEXT,))):
        for line in lines:
            table.add_row(title, Text(line))
    console.print(table)


def _data(prompt: str, answer: Answer, clear: Clear, vendor: dict[str, Any], leakage: tuple[str, ...], shown: Screen) -> dict[str, Any]:
    first, rest = list(answer.tokens[0].runs), [run for token in answer.tokens[1:] for run in token.runs]
    return {
        "prompt": prompt,
        **as_data(answer, shown),
        "clear": {"text": clear.text, "tokens": clear.tokens},
        "agree": clear.tokens == answer.ids,
        "largest_logit_error": clear.largest_difference,
        "prefill": answers.costs(first),
        "further_tokens": answers.costs(rest),
        "model_owner": vendor,
        "protocol": answers.PROTOCOL,
        "promise": PROMISE,
        "leakage": leakage,
        "limits": LIMITS,
    }
