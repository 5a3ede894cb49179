"""``moiety party``, ``moiety keys`` and ``moiety deploy``: what organisations run to form a federation."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from moiety.cli.output import MADE_UP, print_json, remark
from moiety.engine.directory import COMPUTE, load
from moiety.engine.injection import seam
from moiety.engine.party import serve
from moiety.engine.party_main import settle
from moiety.errors import ConfigError
from moiety.net import create_identity, load_identity
from moiety.net.identity import CERTIFICATE_FILE, KEY_FILE
from moiety.ring import use_device


def party(name: str, federation: Path, folder: Path | None, port: int | None, faults: Path | None, device: str | None) -> None:
    """Run one compute party until it is told to stop. Its log goes to stderr."""
    use_device(device)
    wrap = seam(name, faults=faults)
    place = folder
    if place is None:
        directory = load(federation)
        directory.check_known(name)
        place = directory.folder(name)
    settle()
    serve(place, federation, name, port=port, wrap=wrap)


def keys(name: str, folder: Path | None, role: str, address: str | None, as_json: bool) -> None:
    """Make an identity, or show the one that is there, with its lines for the federation file."""
    if role not in (*COMPUTE, "owner"):
        raise ConfigError(f"role is p0, p1, p2 or owner, not {role!r}")
    assumed = role in COMPUTE and address is None
    if assumed:
        address = f"127.0.0.1:{7000 + COMPUTE[role]}"
    place = folder or Path(name)
    fresh = not (place / KEY_FILE).exists()
    identity = create_identity(name, place) if fresh else load_identity(place)
    if identity.name != name:
        raise ConfigError(f"{place} holds the identity of {identity.name}; choose another folder for {name}")
    certificate = str(place / CERTIFICATE_FILE)
    entry = {"roles": [role], "certificate": certificate, "fingerprint": identity.fingerprint} | ({"address": address} if address else {})
    if as_json:
        print_json({"name": name, "created": fresh, "key": str(identity.key_path), **entry})
        return
    remark(f"{'made' if fresh else 'kept'} the key {identity.key_path}: it never leaves this machine")
    remark(f"fingerprint {identity.fingerprint}: tell it to the others over a second way, for example by telephone")
    if role == "owner":
        remark("this is an owner; a compute party says --role p0, p1 or p2, and --address host:port where the others reach it")
    if assumed:
        remark(f"! no --address was given, so others will look for {name} at {address}, which is their own machine")
    remark("to stdout go the lines of everybody's federation file (the path of the certificate is relative to that file):")
    table = name if "." not in name else f'"{name}"'
    print(f"[parties.{table}]", *(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in entry.items()), "", sep="\n")
    remark("who may do what with which model goes there too: docs/federation.md")


def deploy(
    model: str,
    *,
    name: str | None,
    federation: str,
    party: str | None,
    identity: str | None,
    lengths: str | None,
    context: int,
    reveal: str,
    replace: bool,
    check: bool,
    held_by: str | None,
    inputs: Sequence[str],
    public: Sequence[str],
    ranges: Path | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Load, compile and share a model, as its owner."""
    from moiety.cli import models, vendor
    from moiety.cli.local import show
    from moiety.cli.screen import screen
    from moiety.cli.source import PROMPT, numbers
    from moiety.engine.federation import connect

    shown, known = screen(silent=as_json, keep=True), models.KNOWN.get(model)
    wanted = numbers(lengths) if lengths is not None else known.lengths if known else (PROMPT,)
    request = vendor.Request(
        federation,
        party,
        model,
        name or _called(model),
        wanted,
        context,
        reveal,
        identity,
        replace,
        check,
        held_by,
        tuple(inputs),
        tuple(public),
        str(ranges) if ranges else None,
        str(data) if data else None,
    )
    with connect(federation, party=party, identity=identity) as joined, joined.open() as session:
        if held_by is not None:
            joined.directory.check_holder(joined.identity.name, request.name)
        session.holding(request.name)  # what is wrong with file, key, parties or rules shows before the long work
    with shown:
        report = vendor.deploy(request, lambda event: show(event, shown))
    if as_json:
        print_json({"name": request.name, "lengths": wanted, **report, "seconds": shown.seconds})
        return
    kept = report["weights"] - report["shared"]
    if kept:
        remark(f"of {report['weights']} weights {kept} were there already, the same as yours: they and their plans stay")
    plans = f"{len(report['plans'])} {'plan' if len(report['plans']) == 1 else 'plans'}"
    ready = f"all three parties hold {request.name!r}: {plans} over {report['parameters']:,} parameters"
    remark(f"{ready}, {'which P1 knows' if held_by else 'each useless to a party alone'}")
    if report["made_up"]:
        remark(MADE_UP)


def _called(model: str) -> str:
    """The name of a deployment, where none is given: the last part of the model's."""
    return Path(model).name.rpartition(":")[2]
