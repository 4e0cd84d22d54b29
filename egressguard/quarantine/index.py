"""What is held, as SQLite: for lists, look-ups and selections that need not walk the Maildir.

Contract
    The Maildir and its sidecars are the truth; this is a copy, and losing it loses nothing: `reconcile` brings it up
    to date with them, from nothing if need be. A file that is damaged is made anew.
    A path is where the message was last seen; mail programs move messages (HoldMaildir.locate).
    Blocking, from any thread; raises sqlite3.Error.
"""

# ruff: noqa: S608 -- statements are put together from our own words only; values are parameters

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from egressguard.quarantine.maildir import HoldMaildir, folder_of, held_at
from egressguard.store.schema import migrate

log = logging.getLogger(__name__)

FILE = Path("envelopes") / "index.sqlite"
"""Below the quarantine's Maildir."""
END = 2**62
_PAGE = 1000
_LOOK = "SELECT number, id, path, held_at, size_octets, facts FROM held"

_MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE held (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        path TEXT NOT NULL,  -- below the Maildir
        folder TEXT NOT NULL,
        held_at REAL NOT NULL,
        size_octets INTEGER NOT NULL,
        rule TEXT NOT NULL,
        verdict TEXT NOT NULL,
        sender TEXT NOT NULL,  -- in lower case
        recipients TEXT NOT NULL,  -- in lower case, a line each, and a line feed in front
        facts TEXT NOT NULL  -- JSON, as in the sidecar
    );
    CREATE INDEX held_folder ON held (folder, held_at);
    """,
)


@dataclass(frozen=True, slots=True)
class Held:
    """One message. `facts` are relay.held's; {}: its sidecar is lost."""

    number: int
    message_id: str
    path: Path
    held_at: float
    size_octets: int
    facts: Mapping[str, Any]

    @property
    def folder(self) -> str:
        return folder_of(self.path)

    @property
    def verdict(self) -> str:
        """The scan's, "" = not known."""
        return str(self.facts.get("verdict", ""))

    def row(self) -> dict[str, Any]:
        """Ready for JSON."""
        facts = self.facts
        return {
            "id": self.message_id,
            "held_at": self.held_at,
            "folder": self.folder,
            "rule": facts.get("rule", ""),
            "verdict": self.verdict,
            "sender": facts.get("reverse_path", ""),
            "recipients": facts.get("forward_paths", []),
            "released": facts.get("released", []),
            "learned": facts.get("learned", {}),
            "declined": facts.get("declined", []),
            "findings": facts.get("findings", []),
            "client": facts.get("client", ""),
            "user": facts.get("user"),
            "size_octets": self.size_octets,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages somebody means: all that is named must hold. Letters' case does not count in addresses.

    `sender` and `recipient` are addresses or "*@domain"; the null reverse-path is "". `ids` None: any."""

    ids: tuple[str, ...] | None = None
    sender: str | None = None
    recipient: str | None = None
    rule: str | None = None
    verdict: str | None = None
    folder: str | None = None
    held_before: float | None = None
    held_after: float | None = None


@dataclass(frozen=True, slots=True)
class Reconciled:
    """`gone`: no file any more, twice in a row; a mail program expunged them."""

    added: int
    moved: int
    gone: tuple[str, ...]


class Index:
    """`octets` is the size of all that is held."""

    def __init__(self, maildir: HoldMaildir) -> None:
        self._maildir = maildir
        self._root = maildir.root
        self._lock = threading.Lock()
        self._missing: set[str] = set()
        self._db = _opened(self._root / FILE)
        self.octets = self._sum()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(self, message_id: str, path: Path, facts: Mapping[str, Any], size_octets: int) -> None:
        """A message that lies there; one that is known is known by this from now on."""
        with self._lock, self._transaction():
            self.octets += size_octets - self._delete(message_id)
            self._insert(message_id, path, facts, size_octets)

    def change_facts(self, message_id: str, facts: Mapping[str, Any]) -> None:
        with self._lock, self._transaction():
            told = (json.dumps(facts), _recipients(facts), message_id)
            self._db.execute("UPDATE held SET facts = ?, recipients = ? WHERE id = ?", told)

    def remove(self, message_id: str) -> None:
        with self._lock, self._transaction():
            self.octets -= self._delete(message_id)

    def find(self, message_id: str) -> Held | None:
        rows = self._rows(f"{_LOOK} WHERE id = ?", (message_id,))
        return rows[0] if rows else None

    def page(self, wanted: Wanted, after: int = 0, until: int = END, limit: int = _PAGE) -> list[Held]:
        """What is wanted behind the number `after`, in the order in which it was held."""
        condition, values = _condition(wanted)
        statement = f"{_LOOK} WHERE number > ? AND number <= ?{condition} ORDER BY number LIMIT ?"
        return self._rows(statement, (after, until, *values, limit))

    def count(self, wanted: Wanted) -> tuple[int, int, int]:
        """(messages, their octets, the number of the last one)."""
        condition, values = _condition(wanted)
        counts = "COUNT(*), COALESCE(SUM(size_octets), 0), COALESCE(MAX(number), 0)"
        with self._lock:
            row = self._db.execute(f"SELECT {counts} FROM held WHERE 1{condition}", values).fetchone()
        messages, octets, last = row
        return messages, octets, last

    def totals(self) -> dict[str, tuple[int, int]]:
        """By folder: (messages, octets)."""
        with self._lock:
            rows = self._db.execute("SELECT folder, COUNT(*), SUM(size_octets) FROM held GROUP BY folder").fetchall()
        return {folder: (messages, octets) for folder, messages, octets in rows}

    def over_size(self, folder: str, max_octets: int, limit: int) -> list[str]:
        """Ids of the oldest messages in a folder, those without which the others have room in `max_octets`."""
        statement = (
            "SELECT id FROM (SELECT id, held_at, number, SUM(size_octets) OVER (ORDER BY held_at DESC, number DESC)"
            " AS octets FROM held WHERE folder = ?) WHERE octets > ? ORDER BY held_at, number LIMIT ?"
        )
        with self._lock:
            return [row[0] for row in self._db.execute(statement, (folder, max_octets, limit))]

    def reconcile(self) -> Reconciled:
        """Take in what the Maildir holds and this does not know, and where messages lie now. Raises OSError, too.

        What is missing for the first time may be on its way from one directory to another."""
        with self._lock:
            known = dict(self._db.execute("SELECT id, path FROM held").fetchall())
        found = dict(self._maildir.names())
        added = sorted(found.keys() - known.keys(), key=lambda one: (held_at(Path(found[one])), one))
        moved = [one for one in found.keys() & known.keys() if found[one] != known[one]]
        missing = known.keys() - found.keys()
        gone = tuple(sorted(missing & self._missing))
        self._missing = set(missing) - set(gone)
        self._take_in(added, found)
        with self._lock, self._transaction():
            for one in moved:
                folder = folder_of(Path(found[one]))
                self._db.execute("UPDATE held SET path = ?, folder = ? WHERE id = ?", (found[one], folder, one))
            for one in gone:
                self._delete(one)
            self.octets = self._sum()
        return Reconciled(len(added), len(moved), gone)

    def _take_in(self, ids: Sequence[str], found: Mapping[str, str]) -> None:
        for start in range(0, len(ids), _PAGE):
            read = [(one, self._root / found[one]) for one in ids[start : start + _PAGE]]
            facts = [(one, path, self._maildir.facts(one), _size(path)) for one, path in read]
            with self._lock, self._transaction():
                for one, path, told, size in facts:
                    self._insert(one, path, told, size)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _insert(self, message_id: str, path: Path, facts: Mapping[str, Any], size_octets: int) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO held (id, path, folder, held_at, size_octets, rule, verdict, sender, recipients,"
            " facts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                message_id,
                str(path.relative_to(self._root)),
                folder_of(path),
                held_at(path),
                size_octets,
                str(facts.get("rule", "")),
                str(facts.get("verdict", "")),
                str(facts.get("reverse_path", "")).lower(),
                _recipients(facts),
                json.dumps(facts),
            ),
        )

    def _delete(self, message_id: str) -> int:
        """Its octets, 0 = it was not there."""
        row = self._db.execute("DELETE FROM held WHERE id = ? RETURNING size_octets", (message_id,)).fetchone()
        return int(row[0]) if row else 0

    def _sum(self) -> int:
        (octets,) = self._db.execute("SELECT COALESCE(SUM(size_octets), 0) FROM held").fetchone()
        return int(octets)

    def _rows(self, statement: str, values: Sequence[object]) -> list[Held]:
        with self._lock:
            rows = self._db.execute(statement, values).fetchall()
        return [_held(self._root, row) for row in rows]


def every_message(root: Path) -> Iterator[Held]:
    """All that is held below the quarantine `root`, for whoever only looks (a rescan): never in memory whole.

    Files may go and move meanwhile. Raises sqlite3.Error: no index there, or it cannot be read."""
    db = sqlite3.connect(f"file:{quote(str(root / FILE))}?mode=ro", uri=True, isolation_level=None, timeout=2)
    try:
        after = 0
        while True:
            rows = db.execute(f"{_LOOK} WHERE number > ? ORDER BY number LIMIT ?", (after, _PAGE)).fetchall()
            if not rows:
                return
            yield from (_held(root, row) for row in rows)
            after = rows[-1][0]
    finally:
        db.close()


def _held(root: Path, row: Sequence[Any]) -> Held:
    number, message_id, path, at, size, facts = row
    return Held(number, message_id, root / path, at, size, json.loads(facts))


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _open(path)
    except sqlite3.DatabaseError as wrong:
        log.error("the quarantine's index is damaged and made anew", extra={"fields": {"why": str(wrong)}})
        for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            name.unlink(missing_ok=True)
        return _open(path)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a power cut may take the last rows: `reconcile` brings them back
        migrate(db, path, _MIGRATIONS)
        db.execute("SELECT COUNT(*) FROM held").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _condition(wanted: Wanted) -> tuple[str, list[object]]:
    """SQL behind a WHERE, and its values."""
    asked: list[tuple[str, object]] = []
    if wanted.ids is not None:
        asked.append(("id IN (SELECT value FROM json_each(?))", json.dumps(wanted.ids)))
    if wanted.sender is not None:
        asked.append(("sender LIKE ? ESCAPE '\\'", _pattern(wanted.sender)))
    if wanted.recipient is not None:
        asked.append(("recipients LIKE ? ESCAPE '\\'", f"%{_line_pattern(wanted.recipient)}\n%"))
    for column in ("rule", "verdict", "folder"):
        if (value := getattr(wanted, column)) is not None:
            asked.append((f"{column} = ?", value))
    if wanted.held_before is not None:
        asked.append(("held_at <= ?", wanted.held_before))
    if wanted.held_after is not None:
        asked.append(("held_at >= ?", wanted.held_after))
    return "".join(f" AND {condition}" for condition, _ in asked), [value for _, value in asked]


def _pattern(address: str) -> str:
    escaped = address.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped[1:]}" if escaped.startswith("*@") else escaped


def _line_pattern(address: str) -> str:
    pattern = _pattern(address)
    return pattern[1:] if pattern.startswith("%@") else f"\n{pattern}"


def _recipients(facts: Mapping[str, Any]) -> str:
    return "\n" + "".join(f"{path}\n" for path in facts.get("forward_paths", ())).lower()


def _size(path: Path) -> int:
    _, _, size = path.name.partition(":")[0].rpartition(",S=")
    if size.isdecimal():
        return int(size)
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
