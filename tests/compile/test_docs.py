"""The journey's blocks run, in order, in one session, and show what the text says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "journey.md"


def test_the_journey_can_be_followed(capsys) -> None:
    text = PAGE.read_text(encoding="utf8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    session: dict[str, object] = {"__name__": "journey"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"journey.md, block {number}", "exec"), session)
    assert (session["answer"] - session["model"](session["x"])).abs().max() < 2.0**-12
    assert len(session["plan"].waves) == 4, "the text explains four rows"
    printed = capsys.readouterr().out
    assert "aten.linear" in printed
    assert "rules_nn" in printed


def test_the_seven_files_exist() -> None:
    for path in re.findall(r"^\| \d \| `(.*?)` \|", PAGE.read_text(encoding="utf8"), re.MULTILINE):
        assert (PAGE.parents[1] / "src" / "moiety" / path).is_file()
