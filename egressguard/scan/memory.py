"""What earlier scans found, so that only what is out of date is looked at again. SQLite, one file.

Contract
    A message is known by device, inode and where it starts in its file. What is known holds while size, mtime and
    ctime stay: a program can set a file's mtime back, but not its ctime. Where only the times differ (a mail program
    set a flag), the digest of the content decides.
    A file that changed shortly before it was scanned may change again within one tick of the clock: its ctime is not
    trusted, and the digest decides the next time.
    What could not be looked at is not remembered. Losing the file costs a scan, never a finding.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from egressguard.scan.sources import Status

MAX_ROWS = 5_000_000
"""About a gigabyte; then those go that were scanned longest ago."""
DIGEST_OCTETS = 16
_TICK_NS = 1_000_000_000
_AT_ONCE = 500
_OTHERS_BETWEEN = 100
_KEPT_SETTINGS = 10
_TABLES = (
    "CREATE TABLE IF NOT EXISTS edition (number INTEGER PRIMARY KEY, words TEXT UNIQUE)",
    "CREATE TABLE IF NOT EXISTS message (key BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,"
    " digest BLOB, edition INTEGER, scanned_at REAL, verdict TEXT, findings TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS run (subject TEXT PRIMARY KEY, started_at REAL)",
    "CREATE TABLE IF NOT EXISTS settings (digest TEXT PRIMARY KEY, words TEXT)",
)
_REMEMBER = "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_RECALL = "SELECT size, mtime_ns, ctime_ns, digest, edition, scanned_at, verdict, findings, key FROM message WHERE key "
_BETWEEN = _RECALL + "BETWEEN ? AND ? LIMIT ?"
_KEY = struct.Struct(">QQQ")
_NO_WORDS: tuple[tuple[str, ...]] = ((),)


class Known(NamedTuple):
    """What is remembered of one message. `edition` numbers the programs, signatures and settings that judged it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    digest: bytes
    edition: int
    scanned_at: float
    verdict: str
    findings: tuple[str, ...]

    def is_of(self, status: Status, size: int) -> bool:
        """Whether the file was certainly not touched since."""
        return self.ctime_ns == status.ctime_ns and self.mtime_ns == status.mtime_ns and self.size == size


def key_of(status: Status, start: int = 0) -> bytes:
    return _KEY.pack(status.device, status.inode, start)


def known(  # the words of the table, in one place
    status: Status, size: int, digest: bytes, edition: int, now: float, verdict: str, findings: Sequence[str]
) -> Known:
    """What to remember of a message that was read at `now`, its file's status taken before."""
    is_settled = status.ctime_ns < int(now * 1e9) - _TICK_NS
    ctime_ns = status.ctime_ns if is_settled else 0
    return Known(size, status.mtime_ns, ctime_ns, digest, edition, now, verdict, tuple(findings))


class Memory:
    """Raises sqlite3.Error, and OSError when the directory cannot be made."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=30)
        path.chmod(0o600)  # who writes here decides what is not looked at
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._db:
            for statement in _TABLES:
                self._db.execute(statement)

    def close(self) -> None:
        self._db.close()

    def edition(self, words: str) -> int:
        """The number of this edition; the same words have the same number for ever."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO edition (words) VALUES (?)", (words,))
        number: int = self._db.execute("SELECT number FROM edition WHERE words = ?", (words,)).fetchone()[0]
        return number

    def editions(self) -> dict[int, str]:
        """The words of each."""
        return dict(self._db.execute("SELECT number, words FROM edition").fetchall())

    def recall_settings(self, digest: str) -> str:
        """What the rules of this digest say of scanning; "" = not known."""
        found = self._db.execute("SELECT words FROM settings WHERE digest = ?", (digest,)).fetchone()
        return str(found[0]) if found else ""

    def remember_settings(self, digest: str, words: str) -> None:
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (digest, words))
            newest = "SELECT rowid FROM settings ORDER BY rowid DESC LIMIT ?"
            self._db.execute(f"DELETE FROM settings WHERE rowid NOT IN ({newest})", (_KEPT_SETTINGS,))  # noqa: S608

    def recall(self, keys: Sequence[bytes]) -> dict[bytes, Known]:
        """What is known of those messages, and perhaps of others."""
        found: dict[bytes, Known] = {}
        for first in range(0, len(keys), _AT_ONCE):
            for row in self._rows(keys[first : first + _AT_ONCE]):
                findings = row[7]
                words = _NO_WORDS if findings == "[]" else (tuple(json.loads(findings)),)
                found[row[8]] = Known._make(row[:7] + words)
        return found

    def _rows(self, keys: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """Of those, and perhaps of others. Files that were made together have inodes side by side: to read all from the
        first to the last takes a third of the time that looking up each does, where hardly any others lie between."""
        most = len(keys) + _OTHERS_BETWEEN
        rows = self._db.execute(_BETWEEN, (min(keys), max(keys), most)).fetchall()
        if len(rows) < most:
            return rows
        return self._db.execute(f"{_RECALL} IN ({','.join('?' * len(keys))})", keys).fetchall()

    def remember(self, rows: Iterable[tuple[bytes, Known]]) -> None:
        with self._db:
            self._db.executemany(_REMEMBER, [_row(key, kept) for key, kept in rows])

    def begin(self, subject: str, now: float) -> float:
        """When the run about `subject` began: an earlier one that was interrupted goes on."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO run (subject, started_at) VALUES (?, ?)", (subject, now))
        at: float = self._db.execute("SELECT started_at FROM run WHERE subject = ?", (subject,)).fetchone()[0]
        return at

    def finish(self, subject: str, max_rows: int = MAX_ROWS) -> None:
        """That run is whole. Also forget what is too much."""
        with self._db:
            self._db.execute("DELETE FROM run WHERE subject = ?", (subject,))
            surplus = self._db.execute("SELECT COUNT(*) FROM message").fetchone()[0] - max_rows
            if surplus > 0:
                oldest = "SELECT key FROM message ORDER BY scanned_at LIMIT ?"
                self._db.execute(f"DELETE FROM message WHERE key IN ({oldest})", (surplus,))  # noqa: S608


def _row(key: bytes, kept: Known) -> tuple[object, ...]:
    findings = json.dumps(kept.findings)
    stored = (kept.size, kept.mtime_ns, kept.ctime_ns, kept.digest, kept.edition, kept.scanned_at, kept.verdict)
    return (key, *stored, findings)
