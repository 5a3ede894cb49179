"""What commands print: data on stdout, remarks on stderr."""

import sys
from typing import Any, Final

import msgspec
from rich.console import Console

WIDTH: Final = 110
MADE_UP: Final = "! ranges were measured on made-up inputs: give examples with --data, or ranges with --ranges"


def print_json(data: Any) -> None:
    """One JSON document."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """A line for people, beside the data."""
    Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDTH).print(
        text, style="dim", markup=False, soft_wrap=True
    )


def paper() -> Console:
    """Stdout for tables: as wide as the terminal, or as a page."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
