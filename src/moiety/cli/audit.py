"""``moiety audit``: check, show and anchor the audit log of a compute party. Works on a copy too, without key or federation file."""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from moiety.cli.output import paper, print_json, remark
from moiety.engine.audit import Entry, Head, follow, torn_tail
from moiety.engine.audit import verify as check
from moiety.errors import AuditError, ConfigError

SHOWN = ("n", "time", "what", "by", "model", "plan")
HIDDEN = frozenset({"v", "party", "prev", "hash", "session", *SHOWN})


def verify(files: Sequence[Path], anchors: Sequence[str], as_json: bool) -> None:
    """Check the chain; raises AuditError at the first entry that does not fit."""
    found = check(_readable(files), [anchor(text) for text in anchors])
    if as_json:
        print_json({**msgspec.to_builtins(found), "head": written(found.head), "entries": found.head.number - found.first + 1})
        return
    if not found.first:
        print("no entries")
        return
    print(f"{found.head.number - found.first + 1} entries, none altered, missing or out of order; the last is of {found.time}")
    print(f"head {written(found.head)}")
    if found.first > 1:
        remark(f"it begins with entry {found.first}: give the earlier files first to check them too")
    if found.unfinished:
        remark(f"{found.unfinished} line(s) were cut while they were written (a crash or power loss); the chain goes on around them")
    if not anchors:
        remark("whether entries were cut off its end shows only against a head that was kept elsewhere: --anchor N:HASH")


def head(file: Path, as_json: bool) -> None:
    """Print what to keep elsewhere."""
    found = check(_readable([file]))
    if as_json:
        print_json({"number": found.head.number, "hash": found.head.hash, "time": found.time})
    else:
        print(written(found.head))


def show(file: Path, as_json: bool) -> None:
    """Print the entries, checked one after another."""
    _readable([file])
    entries, problem = read(file)
    if as_json and problem is None:
        print_json(entries)
    elif not as_json:
        paper().print(table(entries))
        if torn := torn_tail(file):
            remark(f"the last line ({len(torn)} bytes) was cut while it was written, or is being written")
    if problem is not None:
        raise problem


def read(file: Path) -> tuple[list[Entry], AuditError | None]:
    """All entries up to the first that does not fit, and what is wrong with that one."""
    entries: list[Entry] = []
    try:
        with file.open("rb") as lines:
            entries.extend(found.entry for found in follow(lines))
    except AuditError as error:
        return entries, AuditError(f"{file}: {error}")
    return entries, None


def table(entries: Sequence[Entry]) -> Table:
    """A line for each entry."""
    out = Table(box=None, pad_edge=False)
    for name in (*SHOWN, "what happened"):
        out.add_column(name, justify="right" if name == "n" else "left", overflow="fold")
    for entry in entries:
        rest = " ".join(f"{key}={msgspec.json.encode(value).decode()}" for key, value in entry.items() if key not in HIDDEN)
        cells = [str(entry.get(name, "")) for name in SHOWN]
        out.add_row(cells[0], cells[1].removesuffix("Z")[:19], *cells[2:5], cells[5][:12], rest)
    return out


def anchor(text: str) -> Head:
    """A head as ``moiety audit head`` prints it. Raises ConfigError."""
    found = re.fullmatch(r"(\d+):([0-9a-f]{64})", text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is no head of an audit log; give what `moiety audit head` printed, N:HASH")
    return Head(int(found[1]), found[2])


def written(at: Head) -> str:
    """A head as people keep it."""
    return f"{at.number}:{at.hash}"


def _readable(files: Sequence[Path]) -> Sequence[Path]:
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file} is no file; a party's audit log is audit.jsonl in the folder with its key")
    return files
