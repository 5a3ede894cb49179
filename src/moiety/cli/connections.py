"""What ``moiety doctor`` finds out about one member of a federation: its identity, its clock, and its way to every compute party."""

import datetime
import socket
import stat
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from moiety.errors import ConfigError, IdentityError

if TYPE_CHECKING:
    from moiety.engine.directory import Directory
    from moiety.engine.status import Reach
    from moiety.net import Identity

SOON: Final = datetime.timedelta(days=30)
AWRY_S: Final = 60.0
WRONG_S: Final = 600.0
"""Certificates are made valid from so long ago, because clocks differ."""
SLOW_BYTES_PER_S: Final = 12.5e6
FAR_S: Final = 0.05
LISTENS_S: Final = 1.0


class Check(msgspec.Struct, frozen=True):
    """One verdict: ok, poor (it works, but) or bad, with what to ``do``. Paths and fingerprints are shown, keys never."""

    what: str
    verdict: Literal["ok", "poor", "bad"]
    found: str
    do: str = ""


def good(what: str, found: str) -> Check:
    """Nothing to do."""
    return Check(what, "ok", found)


def poor(what: str, found: str, do: str) -> Check:
    """It works, but."""
    return Check(what, "poor", found, do)


def bad(what: str, found: str, do: str) -> Check:
    """It does not work."""
    return Check(what, "bad", found, do)


def examine(federation: str, party: str | None, identity: str | None) -> "tuple[list[Check], list[Reach]]":
    """Identity, pins and connections. Raises ConfigError when the file cannot be read or does not say who we are."""
    from moiety.cli.status import member
    from moiety.engine.directory import load
    from moiety.engine.status import PROBE_BYTES, look

    directory = load(federation)
    if party is not None:
        directory.check_known(party)
    try:
        _, mine = member(federation, party, identity)
    except (ConfigError, IdentityError) as error:
        return [*_pins(directory), bad("identity", str(error), "mend that first: no connection was tried")], []
    reached = look(directory, mine, probe_bytes=PROBE_BYTES)
    own = [_listens(directory, mine)] if mine.name in directory.roles else []
    return [*_identity(directory, mine), *_pins(directory), *own, *_clock(reached), *(_way(reach) for reach in reached)], reached


def _identity(directory: "Directory", mine: "Identity") -> list[Check]:
    mode = stat.S_IMODE(mine.key_path.stat().st_mode)
    out = [good("identity", f"{mine.name}, key {mine.key_path} (mode {mode:04o})")]
    pinned = directory.peers[mine.name]
    if pinned.certificate == mine.certificate:
        out.append(good("fingerprint", mine.fingerprint))
    else:
        found = f"the federation file pins {pinned.fingerprint} for {mine.name}, the identity here is {mine.fingerprint}"
        out.append(bad("fingerprint", found, "put this identity's certificate into everybody's federation file"))
    return out


def _pins(directory: "Directory") -> list[Check]:
    """How long the certificates of the file are valid."""
    from moiety.net.identity import validity

    now, out = datetime.datetime.now(datetime.UTC), []
    for name, peer in directory.peers.items():
        begin, end = validity(peer.certificate)
        if now > end:
            out.append(bad("certificate", f"that of {name} expired on {end:%Y-%m-%d}", f"let {name} make a new identity and tell all"))
        elif now < begin:
            out.append(bad("certificate", f"that of {name} is valid from {begin:%Y-%m-%d %H:%M} UTC only", "set this machine's clock"))
        elif end - now < SOON:
            out.append(poor("certificate", f"that of {name} expires on {end:%Y-%m-%d}", f"let {name} make a new identity in time"))
    first = min(validity(peer.certificate)[1] for peer in directory.peers.values())
    return out or [good("certificates", f"all {len(directory.peers)} are valid; the first expires on {first:%Y-%m-%d}")]


def _listens(directory: "Directory", mine: "Identity") -> Check:
    """Whether something listens at our own address; who it is, the others find out."""
    peer = directory.peers[mine.name]
    try:
        socket.create_connection((peer.host, peer.port), timeout=LISTENS_S).close()
    except OSError as error:
        start = f"start it: moiety party --name {mine.name} --federation {directory.path}"
        return bad("this party", f"nothing listens at {peer.host}:{peer.port} ({error.strerror or error})", start)
    return good("this party", f"listens at {peer.host}:{peer.port}")


def _clock(reached: "list[Reach]") -> list[Check]:
    ahead = {reach.name: reach.ahead_s for reach in reached if reach.ahead_s is not None}
    if not ahead:
        return []
    name, most = max(ahead.items(), key=lambda item: abs(item[1]))
    found = f"that of {name} is {abs(most):.1f} s {'ahead of' if most > 0 else 'behind'} ours"
    if abs(most) > WRONG_S:
        return [bad("clock", found, "set the wrong one: certificates are judged by it")]
    return [poor("clock", found, "set the wrong one") if abs(most) > AWRY_S else good("clock", f"within {abs(most):.1f} s of the others'")]


def _way(reach: "Reach") -> Check:
    what = f"{reach.name} ({reach.role})"
    if not reach.ok or reach.round_trip_s is None or reach.standing is None:
        return bad(what, f"[{reach.code}] {reach.why}", REMEDIES.get(reach.code, "look at the log of that party"))
    up, down = (8e-6 * (rate or 0.0) for rate in (reach.up_bytes_per_s, reach.down_bytes_per_s))
    trip = 1000 * reach.round_trip_s
    found = f"TLS 1.3, {reach.address}, round trip {trip:.2f} ms, {up:,.0f} Mbit/s there, {down:,.0f} Mbit/s back"
    if other := _other_release(reach):
        return bad(what, f"{found}; {other}", "run one release of moiety everywhere")
    slow = min(up, down) * 1e6 / 8 < SLOW_BYTES_PER_S or reach.round_trip_s > FAR_S
    advice = f"rounds will wait: see how long with `moiety plan MODEL --rtt {trip:.0f}ms --bandwidth {min(up, down):.0f}Mbit`"
    return poor(what, found, advice) if slow else good(what, found)


def _other_release(reach: "Reach") -> str:
    from moiety.compile.plan import FORMAT
    from moiety.engine.session import VERSION

    theirs = reach.standing
    assert theirs is not None, "asked of those that were reached"
    if (theirs.wire, theirs.plan_format) == (VERSION, FORMAT):
        return ""
    return f"it speaks version {theirs.wire} and plans of format {theirs.plan_format}, we {VERSION} and {FORMAT}"


REMEDIES: Final = {
    "MOI-100": "correct the address in the federation file",
    "MOI-200": "compare fingerprints over another way, and correct the federation file of the one that is wrong",
    "MOI-302": "start that party; if it runs, open the way: a firewall, a port, an address",
    "MOI-300": "make sure that a moiety party listens there, and nothing in between ends TLS",
    "MOI-403": "let that party run this release of moiety, and compare the federation files",
}
