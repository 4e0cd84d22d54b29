"""The spool's tables, and the steps that bring an older file up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE message (
        id TEXT PRIMARY KEY,
        reverse_path TEXT NOT NULL,
        smtputf8 INTEGER NOT NULL,
        body_8bit INTEGER NOT NULL,
        size_octets INTEGER NOT NULL,
        received_at REAL NOT NULL,
        client TEXT NOT NULL,
        listener TEXT NOT NULL,
        user TEXT,
        rule TEXT NOT NULL,
        policy_revision TEXT NOT NULL,
        body BLOB  -- NULL: the file body/<last two of id>/<id>
    ) WITHOUT ROWID;
    CREATE TABLE recipient (
        message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
        forward_path TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'trying')),
        attempts INTEGER NOT NULL,
        next_at REAL NOT NULL,
        last_status TEXT NOT NULL,
        last_reply TEXT NOT NULL,
        PRIMARY KEY (message_id, forward_path)
    ) WITHOUT ROWID;
    CREATE INDEX recipient_due ON recipient (state, next_at);
    -- Kept after the message has left: what was put once is never put again.
    CREATE TABLE source (
        source_id TEXT PRIMARY KEY,
        message_id TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
)
"""Step N brings version N to N + 1. A step that was released is never changed; add another."""


class SchemaTooNew(Exception):
    """The file was written by a newer EgressGuard; nothing was changed."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open (or make) the spool's file, durable at every commit, and migrate it. Raises SchemaTooNew, sqlite3.Error."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA wal_autocheckpoint = 1000")
    _migrate(db, path)
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SchemaTooNew(f"{path} has schema {version}, this program knows {len(MIGRATIONS)}: use the newer one")
    for number in range(version, len(MIGRATIONS)):
        db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
