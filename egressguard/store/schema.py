"""The spool's tables, and the steps that bring an older file up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

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
    );
    CREATE INDEX message_received ON message (received_at);
    CREATE TABLE recipient (
        message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
        forward_path TEXT NOT NULL,
        domain TEXT NOT NULL,
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
    """
    ALTER TABLE message ADD COLUMN tags TEXT NOT NULL DEFAULT '';
    CREATE TABLE recipient_with_via (
        message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
        forward_path TEXT NOT NULL,
        domain TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'trying', 'held')),
        attempts INTEGER NOT NULL,
        next_at REAL NOT NULL,
        last_status TEXT NOT NULL,
        last_reply TEXT NOT NULL,
        via TEXT NOT NULL,  -- names of smart hosts or mx, '' = by the routes
        PRIMARY KEY (message_id, forward_path)
    ) WITHOUT ROWID;
    INSERT INTO recipient_with_via
        SELECT message_id, forward_path, domain, state, attempts, next_at, last_status, last_reply, '' FROM recipient;
    DROP TABLE recipient;
    ALTER TABLE recipient_with_via RENAME TO recipient;
    CREATE INDEX recipient_due ON recipient (state, next_at);
    """,
    """
    -- Bodies apart: what asks about messages need not wade through their octets.
    CREATE TABLE message_with_number (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        reverse_path TEXT NOT NULL,
        smtputf8 INTEGER NOT NULL,
        body_8bit INTEGER NOT NULL,
        binary INTEGER NOT NULL,
        requiretls INTEGER NOT NULL,
        ret TEXT,  -- RFC 3461: FULL, HDRS or nothing said
        envid TEXT,  -- RFC 3461: xtext as it came
        size_octets INTEGER NOT NULL,
        received_at REAL NOT NULL,
        client TEXT NOT NULL,
        listener TEXT NOT NULL,
        user TEXT,
        rule TEXT NOT NULL,
        policy_revision TEXT NOT NULL,
        tags TEXT NOT NULL,
        is_ascii INTEGER NOT NULL,
        front BLOB  -- what stands before the file body/<last two of id>/<id>; NULL: the octets are in body
    );
    INSERT INTO message_with_number
        SELECT rowid, id, reverse_path, smtputf8, body_8bit, 0, 0, NULL, NULL, size_octets, received_at, client,
            listener, user, rule, policy_revision, tags, 0, CASE WHEN body IS NULL THEN x'' END FROM message;
    CREATE TABLE body (
        number INTEGER PRIMARY KEY,  -- the message's
        octets BLOB NOT NULL
    );
    INSERT INTO body SELECT rowid, body FROM message WHERE body IS NOT NULL;
    CREATE TABLE recipient_with_options (
        message_id TEXT NOT NULL REFERENCES message_with_number (id) ON DELETE CASCADE,
        forward_path TEXT NOT NULL,
        destination TEXT NOT NULL,  -- where it was to go when it was last looked at (relay.attempt.Way.key)
        state TEXT NOT NULL CHECK (state IN ('queued', 'trying', 'held')),
        attempts INTEGER NOT NULL,
        next_at REAL NOT NULL,
        last_status TEXT NOT NULL,
        last_reply TEXT NOT NULL,
        via TEXT NOT NULL,  -- names of smart hosts or mx, '' = by the routes
        notify TEXT,  -- RFC 3461: words, NULL = nothing said
        orcpt TEXT,  -- RFC 3461: addr-type;xtext
        PRIMARY KEY (message_id, forward_path)
    ) WITHOUT ROWID;
    INSERT INTO recipient_with_options
        SELECT message_id, forward_path, 'mx:' || domain, state, attempts, next_at, last_status, last_reply, via,
            NULL, NULL FROM recipient;
    DROP TABLE recipient;
    DROP TABLE message;
    ALTER TABLE message_with_number RENAME TO message;
    ALTER TABLE recipient_with_options RENAME TO recipient;
    CREATE INDEX message_received ON message (received_at);
    CREATE INDEX message_in_file ON message (id) WHERE front IS NOT NULL;
    -- From one destination to the next, however much waits for each.
    CREATE INDEX recipient_due ON recipient (state, destination, next_at);
    """,
    """
    ALTER TABLE message ADD COLUMN verdict TEXT NOT NULL DEFAULT '';  -- what the scan found, '' = not known
    -- Orders of people that outlive a restart.
    CREATE TABLE suspended (
        destination TEXT PRIMARY KEY,  -- relay.attempt.Way.key
        why TEXT NOT NULL,
        ordered_by TEXT NOT NULL,
        since REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE suppressed (
        address TEXT PRIMARY KEY,  -- a forward-path in lower case
        why TEXT NOT NULL,
        since REAL NOT NULL,
        until REAL NOT NULL  -- 0 = for good
    ) WITHOUT ROWID;
    """,
)
"""Step N brings version N to N + 1. A step that was released is never changed; add another."""


class SchemaTooNew(Exception):
    """The file was written by a newer EgressGuard; nothing was changed."""


def open_database(path: Path, migrations: Sequence[str] = MIGRATIONS) -> sqlite3.Connection:
    """Open (or make) the spool's file, durable at every commit, and migrate it. Raises SchemaTooNew, sqlite3.Error.

    Whoever opens it holds the spool's lock. Checkpoints are the caller's: the automatic ones swallow errors of fsync.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        _begin_log_anew(db)
        db.execute("PRAGMA foreign_keys = OFF")  # a migration that drops a table must not empty those that refer to it
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("PRAGMA secure_delete = OFF")  # Debian's default writes every deleted body once more
        migrate(db, path, migrations)
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA busy_timeout = 0")  # a reader must not hold up a checkpoint: there will be another
    except BaseException:
        db.close()
        raise
    return db


def _begin_log_anew(db: sqlite3.Connection) -> None:
    """What an earlier process left in the WAL goes into the database, and is synced there, before anything is added.

    After a failed fsync the kernel may show pages of the WAL that never reached the disk: behind such a hole nothing
    would be found again. A full disk may keep it for later."""
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as wrong:
        if wrong.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A second connection: looking at a long queue keeps nobody from writing.

    The last connection that closes moves the WAL and syncs it; one that is read-only cannot, and leaves it as it is."""
    address = f"file:{quote(str(path))}?mode=ro"
    db = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=2)
    db.execute("PRAGMA user_version").fetchone()  # from now on it is there, also for SQLite
    return db


def give_back_free_pages(db: sqlite3.Connection) -> None:
    """Make the file smaller by what is free in it. (`execute` would take one page's step and stop.)"""
    db.executescript("PRAGMA incremental_vacuum;")


def migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Bring an open file up to date. Raises SchemaTooNew, sqlite3.Error."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise SchemaTooNew(f"{path} has schema {version}, this program knows {len(migrations)}: use the newer one")
    for number in range(version, len(migrations)):
        db.executescript(f"BEGIN IMMEDIATE; {migrations[number]} PRAGMA user_version = {number + 1}; COMMIT;")
