"""``moiety explain``: the page of an error code. Its one source is ``docs/errors``, which wheels carry within the package."""

from pathlib import Path
from typing import Final

from rich.markdown import Markdown

from moiety.cli.output import paper, print_json
from moiety.errors import ConfigError

PLACES: Final = (Path(__file__).parents[1] / "docs" / "errors", Path(__file__).parents[3] / "docs" / "errors")


def pages() -> dict[str, Path]:
    """Every page by its code. Raises ConfigError when the installation has none."""
    for place in PLACES:
        if found := {page.stem: page for page in sorted(place.glob("MOI-*.md"))}:
            return found
    raise ConfigError("this installation has no pages about errors; install moiety again")


def explain(code: str | None, as_json: bool) -> None:
    """Print the page of ``code`` (``MOI-302``, ``moi-302`` or ``302``), or a line about every code. Raises ConfigError."""
    known = pages()
    if code is None:
        titles = {name: title(page) for name, page in known.items()}
        if as_json:
            print_json(titles)
            return
        for name, text in titles.items():
            print(f"{name}  {text}")
        return
    wanted = f"MOI-{code.upper().removeprefix('MOI').removeprefix('-')}"
    if wanted not in known:
        raise ConfigError(f"there is no error {code!r}; the codes are {', '.join(known)}")
    text = known[wanted].read_text(encoding="utf-8")
    if as_json:
        print_json({"code": wanted, "title": title(known[wanted]), "page": text})
    elif paper().is_terminal:
        paper().print(Markdown(text))
    else:
        print(text, end="")


def title(page: Path) -> str:
    """What a page's heading says behind the code."""
    return page.read_text(encoding="utf-8").partition("\n")[0].partition(": ")[2]
