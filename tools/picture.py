"""The README's picture: run ``moiety demo``, and write what it prints as docs/pictures/demo.svg. ``make picture``.

The table of stages is left out: its seconds are those of this machine on this day, and the README has them with what they were
measured on.
"""

import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

FILE = Path(__file__).parents[1] / "docs" / "pictures" / "demo.svg"
COMMAND = "moiety demo"
WIDTH = 112
LEFT_OUT = "stage "
# Fonts of the reader's own machine: a picture asks no third party for anything.
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def printed() -> str:
    """What the command prints on a terminal with colours."""
    colours = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    command = [sys.executable, "-m", "moiety.cli", *COMMAND.split()[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=colours, check=True)
    return done.stdout


def picture(output: str) -> str:
    """The command and its output as SVG."""
    shown = [Text.from_ansi(part) for part in output.strip("\n").split("\n\n")]
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, highlight=False)
    console.print(f"[bold green]$[/] {COMMAND}")
    for part in shown:
        if not part.plain.startswith(LEFT_OUT):
            part.rstrip()
            console.print(part)
            console.print()
    svg = console.export_svg(title=COMMAND, theme=MONOKAI, unique_id="demo")
    svg = re.sub(r" *<!--.*?-->\n", "", svg)
    return FONTS.sub("", svg).replace("Fira Code", "Menlo, Consolas, DejaVu Sans Mono").rstrip() + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(picture(printed()), encoding="utf-8")
