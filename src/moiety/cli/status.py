"""``moiety status``: a federation as one of its members sees it."""

from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table

from moiety.cli.answers import size
from moiety.cli.output import paper, print_json, remark

if TYPE_CHECKING:
    from moiety.engine.directory import Directory
    from moiety.engine.status import Reach
    from moiety.net import Identity


def status(federation: str, party: str | None, identity: str | None, seconds: float, *, as_json: bool) -> bool:
    """Ask, and print. Returns whether every compute party was reached. Raises ConfigError, IdentityError."""
    from moiety.engine.status import look

    directory, mine = member(federation, party, identity)
    found = look(directory, mine, deadline_s=seconds)
    ok = all(reach.ok for reach in found)
    if as_json:
        print_json({"federation": str(directory.path), "member": mine.name, "ok": ok, "parties": [as_data(reach) for reach in found]})
        return ok
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("party", "role", "address", "round trip", "version", "up", "sessions", "memory"):
        table.add_column(heading, overflow="fold")
    for reach in found:
        _row(table, reach)
    console = paper()
    console.print(table)
    for reach in found:
        if not reach.ok:
            console.print(f"! {reach.name}: \\[{reach.code}] {reach.why}", style="red", soft_wrap=True)
    _models(found)
    remark(f"a party tells {mine.name} only what concerns it" + ("" if ok else "; `moiety doctor --federation FILE` looks closer"))
    return ok


def member(federation: str, party: str | None, identity: str | None) -> "tuple[Directory, Identity]":
    """The federation and who we are in it: an owner, or a compute party by name. Raises ConfigError, IdentityError."""
    from moiety.engine.directory import load
    from moiety.engine.federation import identity_folder
    from moiety.errors import ConfigError
    from moiety.net import load_identity

    directory = load(federation)
    mine = load_identity(identity if identity is not None else identity_folder(directory, party))
    directory.check_known(mine.name)
    if party is not None and mine.name != party:
        raise ConfigError(f"{identity} holds the identity of {mine.name}, not of {party}; point to the right folder")
    return directory, mine


def as_data(reach: "Reach") -> dict[str, Any]:
    """As plain data."""
    data: dict[str, Any] = msgspec.to_builtins(reach)
    if data["standing"] is not None:
        del data["standing"]["type"]
    return data


def _row(table: Table, reach: "Reach") -> None:
    standing = reach.standing
    if standing is None:
        table.add_row(reach.name, reach.role, reach.address, "[red]not reached[/red]")
        return
    sessions = f"{standing.own_sessions} of yours" + ("" if standing.sessions is None else f", {standing.sessions} in all")
    memory = "" if standing.memory_bytes is None else size(standing.memory_bytes)
    trip = f"{1000 * (reach.round_trip_s or 0):.2f} ms"
    table.add_row(reach.name, reach.role, reach.address, trip, standing.version, _age(standing.up_s), sessions, memory)


def _models(found: "list[Reach]") -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("model", "plans", "held by", "hashes"):
        table.add_column(heading, overflow="fold")
    held: dict[str, dict[str, Any]] = {}
    for reach in found:
        for model in reach.standing.models if reach.standing is not None else ():
            held.setdefault(model.name, {})[reach.name] = model
    for name, parties in held.items():
        plans = {plan for model in parties.values() for plan in model.plans}
        where = ", ".join(f"{party} ({size(model.nbytes)})" for party, model in parties.items())
        lacking = [reach.name for reach in found if reach.standing is not None and reach.name not in parties]
        if lacking:
            where += f"; [red]missing at {', '.join(lacking)}[/red]: deploy it again"
        table.add_row(name, str(len(plans)), where, " ".join(sorted(plan[:12] for plan in plans)[:4]) + (" ..." if len(plans) > 4 else ""))
    console = paper()
    if held:
        console.print(table)
    for reach in found:
        trouble = reach.standing.last_error if reach.standing is not None else None
        if trouble is not None:
            text = f": {trouble.text}" if trouble.text else ""
            console.print(
                f"last error at {reach.name}, {_age(trouble.seconds_ago)} ago, of {trouble.owner}: {trouble.code}{text}", markup=False
            )


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
