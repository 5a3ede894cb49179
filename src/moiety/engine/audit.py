"""The audit log of a compute party: what it was asked and what it did, in a file that only grows.

Entry n is one line of JSON, ``{"v":1,"n":n,"time":...,"party":...,"what":...,...,"prev":H,"hash":h}``. h is the SHA-256, in
hex, of the line's bytes before ``,"hash":``; H is the h of entry n - 1 (64 zeros before the first). There is nothing to
re-encode: the bytes in the file are the canonical ones. ``docs/audit.md`` says what such a chain shows and what it cannot.

An entry is with the operating system when ``write`` returns, so it survives the end of this process, kill -9 included; it is on
disk within about a second, or when the party stops. A full file is set aside and the chain goes on in a new one.
"""

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from moiety.errors import AuditError

AUDIT_FILE: Final = "audit.jsonl"
VERSION: Final = 1
FULL_BYTES: Final = 64 << 20
SYNC_S: Final = 1.0
_MARK: Final = b',"hash":"'
_TAIL: Final = len(_MARK) + 64 + len(b'"}')

Entry = dict[str, Any]


class Head(NamedTuple):
    """The last entry of a chain: whoever keeps it elsewhere can later tell that nothing before it was changed or cut."""

    number: int
    hash: str


GENESIS: Final = Head(0, "0" * 64)


class Read(NamedTuple):
    """One entry as it was read, and the head of the chain with it. ``torn``: bytes of a line before it that was never finished."""

    entry: Entry
    head: Head
    torn: int = 0


def encode(number: int, previous: str, party: str, what: str, fields: Entry, time: datetime) -> tuple[bytes, Head]:
    """The line of an entry, and the chain's new head."""
    stamp = time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry = {"v": VERSION, "n": number, "time": stamp, "party": party, "what": what, **fields, "prev": previous}
    bare = msgspec.json.encode(entry)[:-1]
    found = hashlib.sha256(bare).hexdigest()
    return bare + _MARK + found.encode() + b'"}\n', Head(number, found)


def decode(line: bytes) -> tuple[Entry, Head] | None:
    """An entry, or None when the line is none. Raises AuditError when it was altered, or is of a later version."""
    bare, mark = line[:-_TAIL], line[-_TAIL : -_TAIL + len(_MARK)]
    if mark != _MARK or line[-2:] != b'"}':
        return None
    with contextlib.suppress(msgspec.MsgspecError, KeyError, TypeError):
        entry = msgspec.json.decode(line)
        number, stored = entry["n"], entry["hash"]
        if entry["v"] != VERSION:
            raise AuditError(f"entry {number} has the version {entry['v']}; read it with the release of moiety that wrote it")
        if hashlib.sha256(bare).hexdigest() != stored:
            raise AuditError(f"entry {number} was altered: its hash is not that of its text")
        return entry, Head(number, stored)
    return None


def follow(lines: Iterable[bytes], head: Head | None = None) -> Iterator[Read]:
    """The entries of a file, checked one after another, from ``head`` on (default: wherever the file begins).

    A last line without an end is left out: see :func:`torn_tail`. Raises AuditError, naming the line, at the first that is altered,
    missing or out of order.
    """
    torn = b""
    for place, raw in enumerate(lines, 1):
        if not raw.endswith(b"\n"):
            return
        try:
            found = decode(raw[:-1])
        except AuditError as error:
            raise AuditError(f"line {place}: {error}") from None
        if found is None:
            if torn or not raw.strip():
                raise AuditError(f"line {place} is no entry: something else was written into the log")
            torn = raw[:-1]
            continue
        entry, now = found
        _check_torn(place, torn, entry)
        _check_order(place, entry, head)
        head = now
        yield Read(entry, now, len(torn))
        torn = b""
    if torn:
        raise AuditError("the last line is no entry: something else was written into the log")


def _check_torn(place: int, torn: bytes, entry: Entry) -> None:
    """A line that was never finished is good when the party noted it as it started again."""
    noted = entry.get("torn")
    if noted != ({"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()} if torn else None):
        raise AuditError(f"line {place - 1} is no entry, and entry {entry['n']} after it does not say why: it was altered")


def _check_order(place: int, entry: Entry, head: Head | None) -> None:
    number = entry["n"]
    before = head if head is not None else GENESIS if number == 1 else None
    if before is None:  # a later file of a chain: what came before it is not here
        return
    if number != before.number + 1:
        raise AuditError(f"line {place}: entry {number} follows entry {before.number}; entries were removed, repeated or moved")
    if entry["prev"] != before.hash:
        raise AuditError(f"line {place}: entry {number} does not continue entry {before.number}; one of them was replaced")


def torn_tail(path: Path) -> bytes:
    """What lies behind the last end of a line: an entry that was never finished."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 16)))
        return file.read().rpartition(b"\n")[2]


@dataclass(slots=True)
class Summary:
    """What a whole chain says of itself."""

    first: int = 0
    head: Head = GENESIS
    time: str = ""
    unfinished: int = 0
    """Lines that were cut in the writing, the last one included if it is."""


def verify(paths: Iterable[Path], anchors: Iterable[Head] = ()) -> Summary:
    """Check files that form one chain, in order, against heads that were kept elsewhere. Raises AuditError."""
    out, head, left = Summary(), None, set(anchors)
    for path in paths:
        out.unfinished += bool(torn_tail(path))
        with path.open("rb") as file:
            try:
                for found in follow(file, head):
                    head = found.head
                    out.first = out.first or head.number
                    out.head, out.time = head, found.entry["time"]
                    out.unfinished += bool(found.torn)
                    left.discard(head)
            except AuditError as error:
                raise AuditError(f"{path}: {error}") from None
    if left:
        missing = min(left)
        raise AuditError(
            f"entry {missing.number} with the hash {missing.hash[:16]}... is not in this chain, which ends with entry {out.head.number}: "
            "its end was cut off, or it was written anew"
        )
    return out


class AuditLog:
    """The log in a party's folder. Any thread may write. Raises AuditError when what is there is no whole chain."""

    def __init__(self, folder: str | os.PathLike[str], party: str, *, full_bytes: int = FULL_BYTES) -> None:
        self._path, self._party, self._full_bytes = Path(folder) / AUDIT_FILE, party, full_bytes
        self._turn = threading.Lock()
        self._failure: str | None = None
        self._file = self._open()
        try:
            self._torn, self._head = self._resume()
        except AuditError as error:
            os.close(self._file)
            raise AuditError(
                f"the audit log in the folder of {party} is no whole chain: {error}; keep its files as evidence elsewhere, then start again"
            ) from None
        self._dirty, self._closing = threading.Event(), threading.Event()
        self._syncing = threading.Thread(target=self._sync, name=f"moiety-audit-{party}", daemon=True)
        self._syncing.start()

    def entries(self) -> Iterator[Entry]:
        """What the present file and the one before it hold."""
        for path in (*self._aside()[-1:], self._path):
            with path.open("rb") as file:
                for found in follow(file):
                    yield found.entry

    def check(self) -> None:
        """Raises AuditError once an entry could not be written: nothing is done then that would go unrecorded."""
        if self._failure is not None:
            raise AuditError(self._failure)

    def write(self, what: str, **fields: Any) -> None:
        """Append an entry. Names, plans, sizes and codes only: nothing secret. Raises AuditError when it cannot be written."""
        with self._turn:
            self.check()
            if not self._torn and os.fstat(self._file).st_size >= self._full_bytes:
                self._set_aside()
            noted = {"torn": {"bytes": len(self._torn), "sha256": hashlib.sha256(self._torn).hexdigest()}} if self._torn else {}
            line, head = encode(self._head.number + 1, self._head.hash, self._party, what, fields | noted, datetime.now(UTC))
            self._append((b"\n" if self._torn else b"") + line)
            self._head, self._torn = head, b""
        self._dirty.set()

    def close(self) -> None:
        """Everything on disk; no more entries. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        self._syncing.join()
        with self._turn:
            self._failure = self._failure or "the audit log of this party is closed; start the party again"
            with contextlib.suppress(OSError):
                os.fsync(self._file)
                os.close(self._file)

    def _open(self) -> int:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
            os.close(handle)
            raise AuditError(f"the file {AUDIT_FILE} of this party can be opened by others; run in its folder: chmod 600 {AUDIT_FILE}")
        return handle

    def _resume(self) -> tuple[bytes, Head]:
        tail = torn_tail(self._path)
        if tail and decode(tail) is not None:  # nothing but the end of the line is missing
            self._append(b"\n")
            tail = b""
        head = None
        for path in (*self._aside()[-1:], self._path):
            with path.open("rb") as file:
                for found in follow(file, head):
                    head = found.head
        return tail, head or GENESIS

    def _aside(self) -> list[Path]:
        """Full files, oldest first."""
        return sorted(self._path.parent.glob("audit-*.jsonl"))

    def _append(self, data: bytes) -> None:
        try:
            if os.write(self._file, data) == len(data):
                return
            reason = "no room on the disk"
        except OSError as error:
            reason = str(error.strerror)
        self._failure = (
            f"the audit log of {self._party} cannot be written ({reason}); it serves nobody until that is mended and it is started again"
        )
        raise AuditError(self._failure)

    def _set_aside(self) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)
        self._path.replace(self._path.with_name(f"audit-{self._head.number:09}.jsonl"))
        self._file = self._open()

    def _sync(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._closing.wait(SYNC_S)  # what comes meanwhile goes along
            self._dirty.clear()
            with contextlib.suppress(OSError):
                os.fsync(self._file)
