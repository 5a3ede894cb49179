"""Every error code has exactly one page, every page a code, and the page says of the class what the class says of itself."""

import re
import traceback
from pathlib import Path

import pytest

from moiety import errors
from moiety.cli.explain import PLACES, pages
from moiety.errors import MoietyError, PeerLost

FOLDER = Path(__file__).parents[1] / "docs" / "errors"


def kinds() -> dict[str, type[MoietyError]]:
    found: dict[str, type[MoietyError]] = {}
    pending: list[type[MoietyError]] = [MoietyError]
    while pending:
        kind = pending.pop()
        if kind.__module__ == errors.__name__:
            assert kind.code not in found, f"{kind.__name__} and {found[kind.code].__name__} have one code"
            found[kind.code] = kind
        pending += kind.__subclasses__()
    return found


KINDS = kinds()


def test_no_page_is_missing_and_none_is_an_orphan() -> None:
    assert FOLDER in PLACES
    assert {page.name for page in FOLDER.iterdir()} == {f"{code}.md" for code in KINDS} | {"README.md"}
    assert set(pages()) == set(KINDS)


@pytest.mark.parametrize("code", sorted(KINDS))
def test_page(code: str) -> None:
    kind, text = KINDS[code], (FOLDER / f"{code}.md").read_text(encoding="utf-8")
    again = "may be retried" if kind.transient else "not retried"
    assert re.match(rf"# {code}: [^\n]+\n\n`{kind.__name__}` · exit status {kind.exit_status} · {again}\n\n", text)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["What happened", "Why", "What to do", "Example"]
    assert f"```text\nerror [{code}]: " in text
    assert all(len(part.strip()) > 40 for part in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:])


def test_codes_that_pages_mention_exist() -> None:
    mentioned = {code for page in pages().values() for code in re.findall(r"MOI-\d{3}", page.read_text(encoding="utf-8"))}
    assert mentioned - set(KINDS) == {"MOI-999"}  # the example of an unknown one


def test_a_traceback_names_the_code() -> None:
    shown = "".join(traceback.format_exception(PeerLost("bob is gone")))
    assert "PeerLost: bob is gone" in shown
    assert "MOI-301" in shown
    assert "moiety explain MOI-301" in shown
