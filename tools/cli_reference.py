"""The generated parts of docs/cli.md: every command with its arguments and options, between marks, from the command line itself.

``python tools/cli_reference.py`` rewrites them (a new command is added at the end); a test compares.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from moiety.cli.app import app
from moiety.cli.failures import STATUSES

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
MARKUP = re.compile(r"\[/?(?:b|i|bold|dim)?\]")


def commands(command: Any = None, path: tuple[str, ...] = ("moiety",)) -> Iterator[tuple[str, Any]]:
    """Every command that runs something, with its full name, in the order of the help."""
    command = get_command(app) if command is None else command
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
    for name, one in (inner or {}).items():
        yield from commands(one, (*path, name))


def section(name: str, command: Any) -> str:
    """Heading, purpose, usage and options of one command."""
    shown = [param for param in command.params if not getattr(param, "hidden", False) and param.name != "help"]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    usage = " ".join([name, *map(_called, arguments)])
    rows = [f"| {_names(param)} | {_default(param)} | {plain(param.help)} |" for param in shown]
    table = ["| | default | |", "| --- | --- | --- |", *rows] if rows else []
    purpose = plain(command.help).splitlines()[0]
    return "\n".join([f"### {name}", "", purpose, "", "```console", f"$ {usage}", "```", "", *table])


def _called(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper()).strip("[]")
    return name if argument.required else f"[{name}]"


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{_called(param)}`"
    longest = max(param.opts, key=len)
    return ", ".join(f"`{one}`" for one in (longest, *(one for one in (*param.opts, *param.secondary_opts) if one != longest)))


def _default(param: Any) -> str:
    if param.required:
        return "required"
    if param.default is None or param.default is False:
        return ""
    return f"`{param.opts[0] if param.default is True else param.default}`"


def plain(text: str | None) -> str:
    """Help without its markup, in a table's cell."""
    return MARKUP.sub("", (text or "").replace("\\[", "\0")).replace("\0", "[").replace("|", "\\|").strip()


def statuses() -> str:
    """The table of exit statuses."""
    return "\n".join(["| status | meaning |", "| --- | --- |", *(f"| {status} | {meaning} |" for status, meaning in STATUSES.items())])


def written(page: str) -> str:
    """The page with its generated parts as they should be."""
    parts = {"exit statuses": statuses()} | {name: section(name, command) for name, command in commands()}
    for name, text in parts.items():
        block = f"<!-- begin {name} -->\n{text}\n<!-- end {name} -->"
        marked = re.compile(rf"<!-- begin {re.escape(name)} -->\n.*?<!-- end {re.escape(name)} -->", re.DOTALL)
        page = marked.sub(lambda _, block=block: block, page) if marked.search(page) else f"{page.rstrip()}\n\n{block}\n"
    known = set(re.findall(r"<!-- begin (.*?) -->", page)) - parts.keys()
    for name in known:  # a command that is gone
        page = re.sub(rf"<!-- begin {re.escape(name)} -->\n.*?<!-- end {re.escape(name)} -->\n*", "", page, flags=re.DOTALL)
    return page


def main() -> int:
    """Rewrite the page."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
