"""The journal of decisions and events: one SQLite file a role, bounded, never in the way.

Contract
    `record` returns at once; when the writer cannot keep up, the newest rows are dropped and counted.
    A journal that cannot be written is logged once and does not stop the work it describes.
    The oldest rows go when there are more than `max_rows`, when they are older than `keep_seconds`, and when the file
    would be larger than `max_octets`. What was said to other hosts (DIALOGUE) is kept apart, in fewer rows; so is what
    became of flows (FLOW).
    What became of one message is found by an index, however long the journal is.
"""

from __future__ import annotations

import heapq
import json
import logging
import math
import queue
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from egressguard.store import quick_json

log = logging.getLogger(__name__)

WAITING_ROWS = 10_000
BATCH_ROWS = 500
GATHER_SECONDS = 0.1
"""So long the first row of a batch waits for company: a transaction for each row would cost more than the rows."""
TRIM_EVERY_ROWS = 5_000
FIELD_CHARACTERS = 8_192
"""Of one event, as JSON. What is longer is cut to its words: the journal is no place for content."""

DIALOGUE = "delivery.dialogue"
"""An event that is kept in a table of its own: each is larger than a hundred others, and only `trace` looks at it."""
DIALOGUE_ROWS = 100_000
FLOW = "flow.decided"
"""An event that is kept in a table of its own: flows of one class, counted; `backtest` and `suggest` look at it."""
FLOW_ROWS = 1_000_000
_TABLE_OF = {DIALOGUE: "dialogue", FLOW: "flow"}
"""All else stands in "event"."""
_Row = tuple[float, str, str, str | None]
"""(at, kind, fields, the queue id it is about)"""
_TABLES = tuple(
    f"CREATE TABLE IF NOT EXISTS {table}"
    " (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, kind TEXT, fields TEXT, queue_id TEXT)"
    for table in ("event", *_TABLE_OF.values())
)
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS event_at ON event (at)",
    "CREATE INDEX IF NOT EXISTS event_queue_id ON event (queue_id) WHERE queue_id IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS dialogue_queue_id ON dialogue (queue_id)",
    # What people did with the queue: such an event may be about many messages (`queue_ids`).
    "CREATE INDEX IF NOT EXISTS event_order ON event (at) WHERE kind >= 'queue.' AND kind < 'queue/'",
)
ROWS_AT_ONCE = 100
"""In one statement. Each statement gives the interpreter's lock away and has to get it back from who serves mail."""
_LIFE = (
    "SELECT at, kind, fields FROM event WHERE queue_id = ?1 ORDER BY at LIMIT ?2",
    "SELECT at, kind, fields FROM dialogue WHERE queue_id = ?1 ORDER BY at LIMIT ?2",
    "SELECT at, kind, fields FROM event WHERE kind >= 'queue.' AND kind < 'queue/' AND queue_id IS NULL"
    " AND instr(fields, json_quote(?1)) ORDER BY at LIMIT ?2",
)
_HAS = " AND instr(replace(lower(fields), '\": ', '\":'), replace(lower(?), '\": ', '\":'))"
"""Rows of an earlier program have a space there; so may an address in quotes."""
_FIND = (
    "SELECT at, queue_id, '' FROM event WHERE at >= ? AND queue_id IS NOT NULL AND kind >= 'mail.' AND kind < 'mail/'"
    + 3 * _HAS
    + " ORDER BY at DESC LIMIT ?"
)
_TOO_MANY = "DELETE FROM {0} WHERE id <= (SELECT MAX(id) FROM {0}) - ?"
_TOO_OLD = (
    "DELETE FROM {0} WHERE id < COALESCE((SELECT id FROM {0} WHERE +at >= ? ORDER BY id LIMIT 1),"
    " (SELECT MAX(id) + 1 FROM {0}))"  # "+": by id from the oldest on, and no index
)
_TOO_LARGE = "DELETE FROM {0} WHERE id < (SELECT MIN(id) + (MAX(id) - MIN(id) + 1) * ? FROM {0})"
"""With the share that has to go."""


class Journal:
    """`dropped` counts rows that were lost because the writer could not keep up or storage failed.

    `keep_seconds` and `max_octets` may change at any time."""

    def __init__(
        self,
        path: Path,
        *,
        max_rows: int,
        max_dialogues: int = DIALOGUE_ROWS,
        max_flows: int = FLOW_ROWS,
        keep_seconds: float = math.inf,
        max_octets: float = math.inf,
    ) -> None:
        self._path = path
        self._most = {"event": max_rows, "dialogue": max_dialogues, "flow": max_flows}
        self.keep_seconds = keep_seconds
        self.max_octets = max_octets
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
            queue_id = fields.get("queue_id")
            self._waiting.put((at, kind, _as_json(fields), queue_id if isinstance(queue_id, str) else None))

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
            for table in ("event", *_TABLE_OF.values()):
                _insert(db, table, [row for row in rows if _TABLE_OF.get(row[1], "event") == table])
            self._since_trim += len(rows)
            if rows and self._since_trim >= self._trim_every:
                self._since_trim = 0
                self._trim(db, rows[-1][0])
        self._complained = False

    def _trim(self, db: sqlite3.Connection, now: float) -> None:
        """The statements look at the oldest rows only, however many there are."""
        share = 1 - self.max_octets / max(_octets_used(db), 1)
        for table, most in self._most.items():
            db.execute(_TOO_MANY.format(table), (most,))
            if self.keep_seconds < math.inf:
                db.execute(_TOO_OLD.format(table), (now - self.keep_seconds,))
            if share > 0:
                db.execute(_TOO_LARGE.format(table), (share,))

    def _complain(self, wrong: Exception) -> None:
        if not self._complained:
            self._complained = True
            fields = {"path": str(self._path), "why": str(wrong)}
            log.error("the journal cannot be written; events are lost", extra={"fields": fields})


def _octets_used(db: sqlite3.Connection) -> int:
    """Of the file, less the pages that are free: they are written again before it grows."""
    count, free, size = (db.execute(f"PRAGMA {word}").fetchone()[0] for word in _PAGES)
    return int((count - free) * size)


_PAGES = ("page_count", "freelist_count", "page_size")


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[_Row]) -> None:
    for first in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[first : first + ROWS_AT_ONCE]
        places = ", ".join(["(?, ?, ?, ?)"] * len(some))
        values = list(chain.from_iterable(some))
        db.execute(f"INSERT INTO {table} (at, kind, fields, queue_id) VALUES {places}", values)  # noqa: S608


def _as_json(fields: Mapping[str, object]) -> str:
    text = quick_json.encode(dict(fields)).decode()
    return text if len(text) <= FIELD_CHARACTERS else json.dumps({"cut": text[: FIELD_CHARACTERS // 2]})


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    for statement in _TABLES:
        db.execute(statement)
    if "queue_id" not in {row[1] for row in db.execute("PRAGMA table_info(event)")}:
        db.execute("ALTER TABLE event ADD COLUMN queue_id TEXT")  # a file of an earlier program
    for statement in _INDEXES:
        db.execute(statement)
    return db


def read_journal(
    paths: Iterable[Path], *, since: float | None = None, kind: str | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """The newest `limit` events of all files, oldest first. A missing file has none. Raises PermissionError."""
    query = "SELECT at, kind, fields FROM event WHERE at >= ? AND (? IS NULL OR kind = ?) ORDER BY at DESC LIMIT ?"
    rows = [row for path in paths for row in _read(path, query, (since or 0.0, kind, kind, limit))]
    newest = heapq.nlargest(limit, rows, key=lambda row: row[0])
    return [_event(row) for row in reversed(newest)]


def read_life(paths: Iterable[Path], queue_id: str, *, limit: int = 10_000) -> list[dict[str, Any]]:
    """All that is known of one message, oldest first: events, what people did with it, dialogues.

    Raises PermissionError."""
    rows = [row for path in paths for query in _LIFE for row in _read(path, query, (queue_id, limit))]
    return [_event(row) for row in sorted(rows, key=lambda row: row[0])]


def find_messages(
    paths: Iterable[Path], *, sender: str = "", recipient: str = "", message_id: str = "", since: float, limit: int
) -> list[str]:
    """Queue ids of messages that we took (or not), the newest first, by what their acceptance says; "" = anything.

    Of many recipients only the first ones stand there. Raises PermissionError."""
    needles = (
        f'"sender":{_quoted(sender)}' if sender else "",
        _quoted(recipient) if recipient else "",
        f'"message_id":{_quoted(message_id)}' if message_id else "",
    )
    rows = [row for path in paths for row in _read(path, _FIND, (since, *needles, limit))]
    return [queue_id for _, queue_id, _ in sorted(rows, reverse=True)][:limit]


def _quoted(text: str) -> str:
    return quick_json.encode(text).decode()


_Found = tuple[float, str, str]


def _event(row: _Found) -> dict[str, Any]:
    at, kind, fields = row
    return {"at": at, "kind": kind, **json.loads(fields)}


def _read(path: Path, query: str, parameters: Sequence[object]) -> list[_Found]:
    if not path.exists():
        return []
    with path.open("rb"):  # SQLite would say "unable to open"; this says why
        pass
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)
    try:
        return db.execute(query, parameters).fetchall()
    except sqlite3.Error as wrong:
        log.warning("a journal cannot be read", extra={"fields": {"path": str(path), "why": str(wrong)}})
        return []
    finally:
        db.close()
