"""The federation file: every party with its certificate, and who may deploy, query and receive which model.

Every member keeps its own copy; nothing in it is secret. Unknown keys are errors that name the nearest known one.
``docs/federation.md`` has a full example.
"""

import difflib
import os
import ssl
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from moiety.engine.limits import MODEST, Limits
from moiety.errors import ConfigError, PolicyRefused
from moiety.mpc.rounds import Role
from moiety.net.identity import Peer, check_name, fingerprint

COMPUTE: Final = {"p0": Role.P0, "p1": Role.P1, "p2": Role.P2}
ANY_MODEL: Final = "*"
"""The pattern of every model; rules under a name or a longer pattern come first."""

Verb = Literal["deploy", "query", "receive"]
VERBS: Final[tuple[Verb, ...]] = ("deploy", "query", "receive")
Count = Annotated[int, msgspec.Meta(ge=1)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One party as the file gives it. ``certificate`` is a PEM file, relative to the federation file."""

    roles: tuple[str, ...]
    certificate: str
    fingerprint: str
    address: str = ""
    run_by: str = ""
    """Of P1: the owner who runs it, who may let it hold the weights of its own models in the clear."""


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the members may do with a model. Names of owners may be patterns such as ``clinic-*``."""

    deploy: tuple[str, ...] = ()
    """Who may share its weights and add plans."""
    query: tuple[str, ...] = ()
    """Who may start runs."""
    receive: tuple[str, ...] = ()
    """Who may get the outputs of runs."""
    reveal: Literal["logits", "token"] = "logits"
    """``token``: plans may open nothing but the places of largest values, so no client sees a score."""
    trace: bool = True
    """Whether who runs it may ask where the time went, wave by wave: it shows how busy this party is."""
    runs_per_minute: Count | None = None
    """Runs that one owner may start within any minute; a generated token is a run."""
    answers_per_day: Count | None = None
    """Runs whose outputs one owner may receive within one day (UTC): what the model may leak through its answers."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    parties: dict[str, Entry]
    models: dict[str, Rules] = {}
    limits: Limits = MODEST


@dataclass(frozen=True)
class Directory:
    """A federation file that was read and checked."""

    path: Path
    peers: Mapping[str, Peer]
    roles: Mapping[str, Role]
    """Roles of the compute parties; everybody else is an owner."""
    models: Mapping[str, Rules]
    certificates: Mapping[str, Path]
    limits: Limits = MODEST
    runs_p1: str = ""
    """The owner who runs P1, if one does."""

    def folder(self, name: str) -> Path:
        """Where the party's certificate lies here; at the party itself its key lies beside it."""
        return self.certificates[name].parent

    def compute(self, role: Role) -> Peer:
        """The party that holds a compute role."""
        return next(self.peers[name] for name, held in self.roles.items() if held is role)

    @property
    def members(self) -> tuple[str, str, str]:
        """Names of P0, P1 and P2."""
        return (self.compute(Role.P0).name, self.compute(Role.P1).name, self.compute(Role.P2).name)

    def others(self, name: str) -> dict[str, Peer]:
        """Everybody but ``name``. Raises ConfigError when the file does not know it."""
        self.check_known(name)
        return {other: peer for other, peer in self.peers.items() if other != name}

    def check_known(self, name: str) -> None:
        """Raises ConfigError unless ``name`` is a party of this federation."""
        if name not in self.peers:
            raise ConfigError(f"{self.path} has no party {name!r}{_nearest(name, self.peers)}")

    def check_holder(self, owner: str, model: str) -> None:
        """Raises PolicyRefused unless P1 is run by ``owner``, so that it may hold the weights of the owner's models in the clear."""
        if self.runs_p1 != owner:
            holder, known = self.compute(Role.P1).name, f"says {self.runs_p1!r}" if self.runs_p1 else "does not say"
            raise PolicyRefused(
                f"{owner} would let {holder} (P1) hold weights of {model!r} in the clear, which only an owner may who runs it; who does, "
                f"the federation file {known} (run_by in [parties.{holder}], at every party)"
            )

    def rules(self, model: str) -> Rules:
        """The rules of a model: under its own name, else under the pattern with the most literal characters that matches.

        Raises PolicyRefused when there are none.
        """
        if model in self.models:
            return self.models[model]
        matching = [pattern for pattern in self.models if fnmatchcase(model, pattern)]
        if not matching:
            known = ", ".join(sorted(self.models)) or "no model"
            raise PolicyRefused(f"the federation file names no model {model!r} (it names {known}); add [models.{model}] at every party")
        return self.models[max(matching, key=lambda pattern: sum(character not in "*?" for character in pattern))]

    def allow(self, verb: Verb, model: str, party: str) -> Rules:
        """The model's rules. Raises PolicyRefused unless ``party`` may ``verb`` it."""
        rules = self.rules(model)
        allowed: tuple[str, ...] = getattr(rules, verb)
        if not any(fnmatchcase(party, pattern) for pattern in allowed):
            raise PolicyRefused(f"{party} may not {verb} the model {model!r}; the federation file allows {', '.join(allowed) or 'nobody'}")
        return rules


def load(path: str | os.PathLike[str]) -> Directory:
    """Read and check a federation file. Raises ConfigError that names the key to correct."""
    place = Path(path)
    try:
        raw = tomllib.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the federation file {place} cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place} is not TOML: {error}") from None
    _check_keys(place, raw)
    try:
        file = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {error}") from None
    peers = {name: _peer(place, name, entry) for name, entry in file.parties.items()}
    _check_distinct(place, peers)
    roles = _roles(place, file.parties)
    _check_rules(place, file, roles)
    certificates = {name: place.parent / entry.certificate for name, entry in file.parties.items()}
    return Directory(place, peers, roles, file.models, certificates, file.limits, _runs_p1(place, file.parties, roles))


def write(path: str | os.PathLike[str], parties: Mapping[str, Entry], models: Mapping[str, Rules], limits: Limits = MODEST) -> None:
    """Write a federation file, at once as a whole, so that nobody reads half of it."""
    lines = ["# Federation file: every party keeps its own copy. Nothing here is secret.", ""]
    tables = [(f"{table}.{_toml(name)}", one) for table, all_ in (("parties", parties), ("models", models)) for name, one in all_.items()]
    for heading, entry in [*tables, *([("limits", limits)] if limits != MODEST else [])]:
        lines.append(f"[{heading}]")
        lines += [f"{key} = {_toml(value)}" for key, value in msgspec.to_builtins(entry).items()]
        lines.append("")
    place = Path(path)
    draft = place.with_name(place.name + ".new")
    draft.write_text("\n".join(lines), encoding="utf-8")
    draft.replace(place)


def _toml(value: Any) -> str:
    # A JSON string is a TOML basic string, a JSON array of them a TOML array.
    return msgspec.json.encode(value).decode()


def _check_keys(place: Path, raw: Mapping[str, Any]) -> None:
    def check(where: str, table: Any, known: Iterable[str]) -> None:
        for key in table if isinstance(table, dict) else ():
            if key not in known:
                raise ConfigError(f"{place}: unknown key {key!r} in {where}{_nearest(key, known)}")

    check("the file", raw, _File.__struct_fields__)
    check("[limits]", raw.get("limits"), Limits.__struct_fields__)
    for section, kind in (("parties", Entry), ("models", Rules)):
        tables = raw.get(section, {})
        for name, table in tables.items() if isinstance(tables, dict) else ():
            check(f"[{section}.{name}]", table, kind.__struct_fields__)


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; it may be one of {', '.join(sorted(known))}"


def _peer(place: Path, name: str, entry: Entry) -> Peer:
    where = f"{place}: [parties.{name}]"
    check_name(name)
    try:
        certificate = ssl.PEM_cert_to_DER_cert((place.parent / entry.certificate).read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(f"{where} certificate {entry.certificate!r} cannot be read ({error.strerror}); correct the path") from None
    except ValueError:
        raise ConfigError(f"{where} certificate {entry.certificate!r} is not a PEM certificate; ask {name} for it again") from None
    if fingerprint(certificate) != entry.fingerprint:
        raise ConfigError(
            f"{where} certificate has the fingerprint {fingerprint(certificate)}, but {entry.fingerprint!r} is pinned; "
            f"compare it with {name} over another way before you correct either"
        )
    host, port = _address(where, entry)
    return Peer(name, host, port, certificate)


def _address(where: str, entry: Entry) -> tuple[str, int]:
    if not entry.address:
        if any(role in COMPUTE for role in entry.roles):
            raise ConfigError(f'{where} has a compute role but no address; add address = "host:port"')
        return "", 0
    host, colon, port = entry.address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{where} address {entry.address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_distinct(place: Path, peers: Mapping[str, Peer]) -> None:
    seen: dict[bytes, str] = {}
    for name, peer in peers.items():
        if peer.certificate in seen:
            raise ConfigError(f"{place}: {seen[peer.certificate]} and {name} have one certificate; each party needs its own")
        seen[peer.certificate] = name


def _roles(place: Path, parties: Mapping[str, Entry]) -> dict[str, Role]:
    found: dict[str, Role] = {}
    for name, entry in parties.items():
        for role in entry.roles:
            if role not in COMPUTE and role != "owner":
                raise ConfigError(f"{place}: [parties.{name}] unknown role {role!r}{_nearest(role, (*COMPUTE, 'owner'))}")
        if len(entry.roles) != 1:
            raise ConfigError(f"{place}: [parties.{name}] needs exactly one role; a party with two needs an identity for each")
        if entry.roles[0] in COMPUTE:
            found[name] = COMPUTE[entry.roles[0]]
    for key, wanted in COMPUTE.items():
        holders = [name for name, held in found.items() if held is wanted]
        if len(holders) != 1:
            raise ConfigError(f"{place}: exactly one party must have the role {key!r}, not {len(holders)} ({', '.join(holders) or 'none'})")
    return found


def _runs_p1(place: Path, parties: Mapping[str, Entry], roles: Mapping[str, Role]) -> str:
    found = ""
    for name, entry in parties.items():
        if entry.run_by and roles.get(name) is not Role.P1:
            raise ConfigError(f"{place}: [parties.{name}] has run_by, which only P1 may have: no other party can hold weights")
        if entry.run_by and (entry.run_by not in parties or entry.run_by in roles):
            owners = [owner for owner in parties if owner not in roles]
            raise ConfigError(f"{place}: [parties.{name}] run_by names {entry.run_by!r}, who is no owner{_nearest(entry.run_by, owners)}")
        found = found or entry.run_by
    return found


def _check_rules(place: Path, file: _File, roles: Mapping[str, Role]) -> None:
    owners = [name for name in file.parties if name not in roles]
    for model, rules in file.models.items():
        for verb in VERBS:
            for pattern in getattr(rules, verb):
                if not any(fnmatchcase(owner, pattern) for owner in owners):
                    raise ConfigError(
                        f"{place}: [models.{model}] {verb} names {pattern!r}, who is no owner here{_nearest(pattern, owners)}"
                    )
