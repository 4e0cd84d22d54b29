"""The journal of decisions and events: one SQLite file a role, bounded, never in the way.

Contract
    `record` returns at once; when the writer cannot keep up, the newest rows are dropped and counted.
    A journal that cannot be written is logged once and does not stop the work it describes.
    The oldest rows go when there are more than `max_rows`.
"""

from __future__ import annotations

import heapq
import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

log = logging.getLogger(__name__)

WAITING_ROWS = 10_000
BATCH_ROWS = 500
GATHER_SECONDS = 0.1
"""So long the first row of a batch waits for company: a transaction for each row would cost more than the rows."""
TRIM_EVERY_ROWS = 5_000
FIELD_CHARACTERS = 8_192
"""Of one event, as JSON. What is longer is cut to its words: the journal is no place for content."""

_Row = tuple[float, str, str]
_encode = json.JSONEncoder(default=str).encode


class Journal:
    """`dropped` counts rows that were lost because the writer could not keep up or storage failed."""

    def __init__(self, path: Path, *, max_rows: int) -> None:
        self._path = path
        self._max_rows = max_rows
        self._waiting: queue.SimpleQueue[_Row | None] = queue.SimpleQueue()
        self.dropped = 0
        self._trim_every = min(TRIM_EVERY_ROWS, max_rows // 10 + 1)
        self._since_trim = self._trim_every  # what earlier runs left is trimmed with the first rows
        self._complained = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="journal-writer", daemon=True)
        self._thread.start()

    def record(self, at: float, kind: str, fields: Mapping[str, object]) -> None:
        """Note that `kind` ("flow.blocked", "mail.accepted" ...) happened at `at` (seconds since the epoch)."""
        if self._waiting.qsize() >= WAITING_ROWS:
            self.dropped += 1
        else:
            self._waiting.put((at, kind, _as_json(fields)))

    def close(self) -> None:
        """Write what waits, and end the writer."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        db: sqlite3.Connection | None = None
        ending = False
        while not ending:
            batch, ending = self._next_batch()
            try:
                db = db or _open(self._path)
                self._commit(db, batch)
            except sqlite3.Error as wrong:
                self.dropped += len(batch)
                self._complain(wrong)
                if db is not None:
                    db.close()
                db = None
        if db is not None:
            db.close()

    def _next_batch(self) -> tuple[list[_Row], bool]:
        rows: list[_Row] = []
        row = self._waiting.get()
        self._closing.wait(GATHER_SECONDS)
        while row is not None:
            rows.append(row)
            if len(rows) >= BATCH_ROWS or self._waiting.empty():
                return rows, False
            row = self._waiting.get()
        return rows, True

    def _commit(self, db: sqlite3.Connection, rows: Sequence[_Row]) -> None:
        with db:
            db.executemany("INSERT INTO event (at, kind, fields) VALUES (?, ?, ?)", rows)
            self._since_trim += len(rows)
            if self._since_trim >= self._trim_every:
                self._since_trim = 0
                db.execute("DELETE FROM event WHERE id <= (SELECT MAX(id) FROM event) - ?", (self._max_rows,))
        self._complained = False

    def _complain(self, wrong: Exception) -> None:
        if not self._complained:
            self._complained = True
            fields = {"path": str(self._path), "why": str(wrong)}
            log.error("the journal cannot be written; events are lost", extra={"fields": fields})


def _as_json(fields: Mapping[str, object]) -> str:
    text = _encode(dict(fields))
    return text if len(text) <= FIELD_CHARACTERS else json.dumps({"cut": text[: FIELD_CHARACTERS // 2]})


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(
        "CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, kind TEXT, fields TEXT)"
    )
    db.execute("CREATE INDEX IF NOT EXISTS event_at ON event (at)")
    return db


def read_journal(
    paths: Iterable[Path], *, since: float | None = None, kind: str | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """The newest `limit` events of all files, oldest first. A missing file has none. Raises PermissionError."""
    rows: list[_Row] = []
    for path in paths:
        rows += _read(path, since or 0.0, kind, limit)
    newest = heapq.nlargest(limit, rows, key=lambda row: row[0])
    return [{"at": at, "kind": name, **json.loads(fields)} for at, name, fields in reversed(newest)]


def _read(path: Path, since: float, kind: str | None, limit: int) -> list[_Row]:
    if not path.exists():
        return []
    with path.open("rb"):  # SQLite would say "unable to open"; this says why
        pass
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)
    try:
        return db.execute(
            "SELECT at, kind, fields FROM event WHERE at >= ? AND (? IS NULL OR kind = ?) ORDER BY at DESC LIMIT ?",
            (since, kind, kind, limit),
        ).fetchall()
    except sqlite3.Error as wrong:
        log.warning("a journal cannot be read", extra={"fields": {"path": str(path), "why": str(wrong)}})
        return []
    finally:
        db.close()
