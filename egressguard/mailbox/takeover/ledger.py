"""What was taken over of one account, so that a run that was killed goes on, and none takes a message twice.

Contract
    A row says "staged" only when the message's octets are on stable storage. SQLite, one file an account; raises
    sqlite3.Error. Losing it loses the memory of what was taken, no mail.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from egressguard.mailbox.takeover.source import Name

STAGED, MOVING, TAKEN = 0, 1, 2
"""A message's states: in the staging tree; being moved into the mailbox, or moved already; in the mailbox."""
_TABLES = (
    "CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS folder (name TEXT PRIMARY KEY, uid_validity INTEGER, guid TEXT)",
    "CREATE TABLE IF NOT EXISTS message (folder TEXT, key TEXT, base TEXT, size INTEGER, state INTEGER,"
    " PRIMARY KEY (folder, key)) WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True)
class Row:
    """`base`: its file's name without flags, here."""

    base: str
    size: int
    state: int


class Ledger:
    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        for statement in _TABLES:
            self._db.execute(statement)

    def close(self) -> None:
        self._db.close()

    def note(self, name: str) -> str:
        """ "" where nothing is noted."""
        row = self._db.execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def write_note(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, value))

    def folder(self, name: Name, uid_validity: int, guid: str) -> tuple[int, str]:
        """(UIDVALIDITY, GUID) that the folder has here; those given, the first time."""
        key = _key(name)
        self._db.execute("INSERT OR IGNORE INTO folder VALUES (?, ?, ?)", (key, uid_validity, guid))
        row = self._db.execute("SELECT uid_validity, guid FROM folder WHERE name = ?", (key,)).fetchone()
        return int(row[0]), str(row[1])

    def change_validity(self, name: Name, uid_validity: int) -> None:
        self._db.execute("UPDATE folder SET uid_validity = ? WHERE name = ?", (uid_validity, _key(name)))

    def rows(self, name: Name) -> dict[str, Row]:
        """Of a folder, by the messages' keys."""
        query = "SELECT key, base, size, state FROM message WHERE folder = ?"
        return {
            _raw(key): Row(_raw(base), size, state) for key, base, size, state in self._db.execute(query, (_key(name),))
        }

    def staged(self, name: Name, rows: Iterable[tuple[str, str, int]]) -> None:
        """(key, base, size) of messages that are on stable storage now."""
        folder = _key(name)
        values = [(folder, _octets(key), _octets(base), size, STAGED) for key, base, size in rows]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?)", values)

    def forget(self, name: Name, keys: Iterable[str]) -> None:
        """Messages that went from the source before they were taken."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM message WHERE folder = ? AND key = ?", [(_key(name), _octets(key)) for key in keys]
            )

    def advance(self, old: int, new: int) -> None:
        """All messages of one state into another, in one step."""
        self._db.execute("UPDATE message SET state = ? WHERE state = ?", (new, old))

    def count(self, state: int) -> int:
        row = self._db.execute("SELECT COUNT(*) FROM message WHERE state = ?", (state,)).fetchone()
        return int(row[0])

    def publish(self, note: str) -> None:
        """All that is staged is taken, and that is noted: in one step."""
        with self._transaction():
            self._db.execute("UPDATE message SET state = ?", (TAKEN,))
            self._db.execute("INSERT OR REPLACE INTO note VALUES ('published', ?)", (note,))

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, wrong: type[BaseException] | None, *_others: object) -> None:
        self._db.execute("ROLLBACK" if wrong else "COMMIT")


def _key(name: Name) -> str:
    return json.dumps(name)


def _octets(text: str) -> bytes:
    """A file's name may be any octets."""
    return text.encode("utf-8", "surrogateescape")


def _raw(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
