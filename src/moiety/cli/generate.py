"""``moiety generate``: text from a private prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moiety.cli import answers, models
from moiety.cli.local import Place, elsewhere, local
from moiety.cli.output import print_json, remark
from moiety.cli.screen import Bars, Screen, screen
from moiety.engine.cost import PROMISE


@contextmanager
def place(name: str, federation: str | None, party: str | None, identity: str | None, shown: Screen) -> Iterator[Place]:
    """The federation of a file, or one that is started for this command."""
    with local(name, shown) if federation is None else elsewhere(federation, party, name, identity) as found:
        yield found


def generate(
    prompt: str,
    *,
    tokens: int,
    reveal: str,
    whole: bool,
    model: str,
    tokenizer: str | None,
    federation: str | None,
    party: str | None,
    identity: str | None,
    as_json: bool,
) -> None:
    """Answer ``prompt``; the text goes to stdout, everything else to stderr."""
    known = models.known(tokenizer or model, models.DECODER)
    shown = screen(silent=as_json)
    with shown, place(model, federation, party, identity, shown) as found:
        with shown.stage("tokenise"):
            reader = known.tokenizer()
            ids = known.tokens(reader, prompt)
        found.deploy(known.name, (len(ids),), len(ids) + tokens, reveal, shown)
        answer = answers.ask(found.private(), reader, ids, tokens, shown, whole=whole)
    if as_json:
        print_json(as_data(answer, shown))
        return
    if isinstance(shown, Bars):
        print(answer.text)
    remark(f"{len(ids)} prompt tokens, {len(answer.tokens)} new: {answers.brief(answer.runs)}")
    remark(PROMISE)


def as_data(answer: answers.Answer, shown: Screen) -> dict[str, Any]:
    """An answer as plain data."""
    return {
        "text": answer.text,
        "tokens": answer.ids,
        "ended": answer.ended,
        "prompt_tokens": len(answer.prompt),
        "costs": answers.costs(answer.runs),
        "members": answers.members(answer.runs),
        "seconds": {name: round(seconds, 3) for name, seconds in shown.seconds.items()},
    }
