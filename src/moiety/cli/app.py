"""The commands and their options. What a command needs is imported when it runs, so that a compute party loads no PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from moiety.cli import app_audit, app_bench, app_claims, app_models
from moiety.cli.failures import EPILOG, reported
from moiety.cli.options import (
    CheckRanges,
    Context,
    Data,
    File,
    Folder,
    HeldBy,
    Inputs,
    Json,
    Lengths,
    Link,
    Model,
    Party,
    Public,
    Ranges,
    Reveal,
)

app = typer.Typer(
    help="Private AI inference between parties that do not trust each other.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

QUESTION = "What is the capital of France?"

Tokens = Annotated[int, typer.Option("--tokens", "-n", min=1, help="At most so many new tokens.")]
Tokenizer = Annotated[str | None, typer.Option(help="The tokenizer of a model deployed under another name.")]


def _version(wanted: bool) -> None:
    if wanted:
        import moiety

        print(f"moiety {moiety.__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Private AI inference between parties that do not trust each other."""


@app.command()
@reported
def demo(
    prompt: Annotated[str, typer.Option(help="The private question.")] = QUESTION,
    tokens: Tokens = 16,
    reveal: Reveal = "logits",
    link: Link = None,
    as_json: Json = False,
    model: Annotated[str, typer.Option(hidden=True)] = "smollm2",
) -> None:
    """See it work: a language model answers privately, five processes on this machine, some minutes, about 9 GB of memory."""
    from moiety.cli.demo import demo as run

    if not run(prompt=prompt, tokens=tokens, reveal=reveal, model=model, link=link, as_json=as_json):
        raise typer.Exit(1)


@app.command()
@reported
def generate(
    prompt: Annotated[str, typer.Argument(help="The private question.")],
    tokens: Tokens = 16,
    reveal: Reveal = "logits",
    whole: Annotated[bool, typer.Option("--whole", help="Run to the limit, so that no party sees where the answer ends.")] = False,
    federation: File = None,
    party: Party = None,
    identity: Folder = None,
    model: Annotated[str, typer.Option(help="The model's name; without --federation smollm2 or stories.")] = "smollm2",
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Answer a private prompt, on parties started for it or on running ones."""
    from moiety.cli.generate import generate as run

    run(
        prompt,
        tokens=tokens,
        reveal=reveal,
        whole=whole,
        model=model,
        tokenizer=tokenizer,
        federation=federation,
        party=party,
        identity=identity,
        as_json=as_json,
    )


@app.command()
@reported
def embed(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Private sentences.")],
    federation: File = None,
    party: Party = None,
    identity: Folder = None,
    model: Annotated[str, typer.Option(help="The model's name; without --federation minilm.")] = "minilm",
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Embed private sentences, and say how alike they are."""
    from moiety.cli.embed import embed as run

    run(texts, model=model, tokenizer=tokenizer, federation=federation, party=party, identity=identity, as_json=as_json)


@app.command()
@reported
def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Private image files.")],
    federation: File = None,
    party: Party = None,
    identity: Folder = None,
    model: Annotated[str, typer.Option(help="The model's name; without --federation efficientnet.")] = "efficientnet",
    as_json: Json = False,
) -> None:
    """Say what private images show: the five likeliest of 1,000 classes."""
    from moiety.cli.classify import classify as run

    run(images, model=model, federation=federation, party=party, identity=identity, as_json=as_json)


@app.command()
@reported
def keys(
    name: Annotated[str, typer.Argument(help="Your name in the federation.")],
    folder: Annotated[Path | None, typer.Option(help="Where the key is to lie; default: a folder of that name here.")] = None,
    role: Annotated[str, typer.Option(help="p0, p1 or p2 for a compute party; owner for model and data owners.")] = "owner",
    address: Annotated[str | None, typer.Option(help="host:port of a compute party.")] = None,
    as_json: Json = False,
) -> None:
    """Make an identity, and print its lines for the federation file."""
    from moiety.cli.party import keys as run

    run(name, folder, role, address, as_json)


@app.command()
@reported
def party(
    name: Annotated[str, typer.Option(help="Your name in the federation file.")],
    federation: Annotated[Path, typer.Option(help="Your copy of the federation file.")] = Path("federation.toml"),
    folder: Annotated[Path | None, typer.Option(help="The folder with your key, if not beside your certificate.")] = None,
    port: Annotated[int | None, typer.Option(help="Listen here instead of at the file's port.")] = None,
    faults: Annotated[Path | None, typer.Option(help="For tests: fail on purpose, as this file says (docs/failures.md).")] = None,
    device: Annotated[str | None, typer.Option(help="Run the products on this device, like cuda (docs/gpu.md).")] = None,
) -> None:
    """Run one compute party until it is stopped."""
    from moiety.cli.party import party as run

    run(name, federation, folder, port, faults, device)


@app.command()
@reported
def deploy(
    model: Model,
    federation: Annotated[str, typer.Option(help="The federation file.")] = "federation.toml",
    party: Party = None,
    identity: Folder = None,
    name: Annotated[str | None, typer.Option(help="Deploy it under this name.")] = None,
    lengths: Lengths = None,
    context: Context = 128,
    reveal: Reveal = "logits",
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Put this model in the place of all that is deployed under the name. Without it the same model gets further plans, "
            "and another one is refused.",
        ),
    ] = False,
    check: CheckRanges = True,
    held_by: HeldBy = None,
    inputs: Inputs = None,
    public: Public = None,
    ranges: Ranges = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Compile a model and share its weights with running parties, as its owner."""
    from moiety.cli.party import deploy as run

    run(
        model,
        name=name,
        federation=federation,
        party=party,
        identity=identity,
        lengths=lengths,
        context=context,
        reveal=reveal,
        replace=replace,
        check=check,
        held_by=held_by,
        inputs=inputs or (),
        public=public or (),
        ranges=ranges,
        data=data,
        as_json=as_json,
    )


@app.command()
@reported
def explain(
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="Such as MOI-302, or 302; none: list all.")] = None,
    as_json: Json = False,
) -> None:
    """Say what an error code means, why it happens and what to do."""
    from moiety.cli.explain import explain as run

    run(code, as_json)


@app.command()
@reported
def chaos(
    runs: Annotated[int, typer.Option(min=1, help="How many faults.")] = 100,
    seed: Annotated[int, typer.Option(help="Draws the same faults again.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Federations that suffer at once.")] = 1,
    link: Link = None,
    as_json: Json = False,
) -> None:
    """Let random faults befall private runs on real processes; 1 if any does not end in the right answer or an expected error."""
    from moiety.cli.chaos import run

    if not run(runs, seed, jobs, link, as_json):
        raise typer.Exit(1)


@app.command()
@reported
def doctor(
    federation: Annotated[str | None, typer.Option(help="Also try the connections of this federation file.")] = None,
    party: Party = None,
    identity: Folder = None,
    as_json: Json = False,
) -> None:
    """Look at this machine and installation, and at this member's way to every compute party."""
    from moiety.cli.doctor import doctor as run

    if not run(federation, party, identity, as_json=as_json):
        raise typer.Exit(1)


@app.command()
@reported
def status(
    federation: Annotated[str, typer.Option(help="The federation file.")] = "federation.toml",
    party: Party = None,
    identity: Folder = None,
    seconds: Annotated[float, typer.Option("--wait", min=0.1, help="Seconds to try to reach a party.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Show a federation as one of its members may see it: who is up, what is deployed, sessions, the last error."""
    from moiety.cli.status import status as run

    if not run(federation, party, identity, seconds, as_json=as_json):
        raise typer.Exit(1)


app_models.register(app)
app_claims.register(app)
app_bench.register(app)
app.add_typer(app_audit.app, name="audit")
