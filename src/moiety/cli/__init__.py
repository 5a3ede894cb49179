"""The command line, ``moiety``.

app        the commands and their options
failures   errors as one line and an exit status
screen     stages with progress: bars, lines or silence
models     the models that the commands know by name
local      a federation on this machine for one command, or one that runs elsewhere
vendor     the model owner's process
answers    a private answer and what is told about it
demo, generate, embed, party, doctor    one command each
"""


def main() -> None:
    """The command ``moiety``."""
    from moiety.cli.app import app  # what a command needs is loaded by that command

    app(prog_name="moiety")
