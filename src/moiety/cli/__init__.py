"""The command line, ``moiety``.

app            the commands and their options; app_models, app_claims, app_audit more of them, options what they share
failures       errors as one line and an exit status
screen         stages with progress: bars, lines or silence
output         tables, documents, remarks
models         the models that the commands know by name
source         what MODEL means: a bundled name, a user's file, a HuggingFace folder
local          a federation on this machine for one command, or one that runs elsewhere
vendor         the model owner's process
answers        a private answer and what is told about it
connections    what doctor finds out about one member of a federation
demo, generate, embed, check, plan, compare, calibrate, party, doctor, status, claims, audit    a command or a few each
"""


def main() -> None:
    """The command ``moiety``."""
    from moiety.cli.app import app  # what a command needs is loaded by that command

    app(prog_name="moiety")
