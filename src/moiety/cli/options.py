"""Options that many commands share, with one wording."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
File = Annotated[str | None, typer.Option("--federation", help="Use the running parties of this federation file.")]
Party = Annotated[str | None, typer.Option("--party", help="Your name in the federation file.")]
Folder = Annotated[str | None, typer.Option("--identity", help="The folder with your key, if not beside your certificate.")]


def _bundled(text: str) -> list[str]:
    """Names that a MODEL may begin with, for completion."""
    from moiety.cli.models import KNOWN

    return [name for name in KNOWN if name.startswith(text)]


Model = Annotated[
    str,
    typer.Argument(
        help="A bundled name (smollm2, minilm, efficientnet, stories), path/to/file.py:function, or a HuggingFace folder or cached name.",
        metavar="MODEL",
        autocompletion=_bundled,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="An example input as \\[NAME=]SHAPE\\[:KIND], like 4x8 or ids=1x16:int1000. May be repeated."),
]
Public = Annotated[list[str] | None, typer.Option(help="An input that all parties may know. May be repeated.")]
Lengths = Annotated[str | None, typer.Option(help="Of a language model: numbers of tokens of a prompt or sentence, like 8,16,20-24.")]
Context = Annotated[int, typer.Option(min=1, help="Of a language model: tokens of prompt and answer together.")]
Reveal = Annotated[str, typer.Option(help="What the data owner learns of each token: all [b]logits[/b], or the [b]token[/b] alone.")]
Ranges = Annotated[Path | None, typer.Option(help="Ranges that `moiety calibrate` found.")]
Data = Annotated[Path | None, typer.Option(help="Examples of the inputs to measure ranges on: .npz, .pt, or .txt for language models.")]
HeldBy = Annotated[
    str | None,
    typer.Option("--held-by", help="P1: it is told the matrices of linear layers as they are. For an owner who runs P1 itself."),
]
Link = Annotated[
    str | None,
    typer.Option(help="Let all processes send as slowly as by this link: lan, wan, or delay one way and bandwidth, like 20ms,100Mbit."),
]
CheckRanges = Annotated[bool, typer.Option("--check/--no-check", help="Tell the data owner if a value left its measured range.")]
