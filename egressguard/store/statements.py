"""The spool's moves as SQL, each inside a transaction that its caller opened (docs/queue.md has the table)."""

from __future__ import annotations

import sqlite3
from typing import Any

from egressguard.store.interface import Claim, Depth, NewMessage, Settlement

PROMPT_RETRIES_AFTER_CRASH = 3
"""An attempt that a crash cut off is repeated at once, but not for ever: a message may be what crashes us."""


def insert_message(db: sqlite3.Connection, message: NewMessage, body: bytes | None) -> str:
    """Store a message with all its recipients due now; return the queue id of its source_id's first put."""
    if message.source_id is not None:
        row = db.execute("SELECT message_id FROM source WHERE source_id = ?", (message.source_id,)).fetchone()
        if row is not None:
            return str(row[0])
        db.execute("INSERT INTO source VALUES (?, ?)", (message.source_id, message.queue_id))
    envelope = message.envelope
    db.execute(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            message.queue_id,
            envelope.reverse_path,
            envelope.smtputf8,
            envelope.body_8bit,
            len(message.content),
            message.received_at,
            message.client,
            message.listener,
            message.user,
            message.rule,
            message.policy_revision,
            body,
        ),
    )
    db.executemany(
        "INSERT OR IGNORE INTO recipient VALUES (?, ?, 'queued', 0, ?, '', '')",
        [(message.queue_id, path, message.received_at) for path in envelope.forward_paths],
    )
    return message.queue_id


def claim_due(db: sqlite3.Connection, now: float, limit: int, leased_until: float) -> list[Claim]:
    """Take up to `limit` messages that have due recipients: queued -> trying, attempt counted, next try written."""
    ids = db.execute(
        "SELECT message_id, MIN(next_at) AS due FROM recipient WHERE state = 'queued' AND next_at <= ?"
        " GROUP BY message_id ORDER BY due LIMIT ?",
        (now, limit),
    ).fetchall()
    return [_claim_one(db, str(row[0]), now, leased_until) for row in ids]


def _claim_one(db: sqlite3.Connection, queue_id: str, now: float, leased_until: float) -> Claim:
    due = "message_id = ? AND state = 'queued' AND next_at <= ?"
    rows = db.execute(f"SELECT forward_path, attempts FROM recipient WHERE {due}", (queue_id, now)).fetchall()  # noqa: S608
    db.execute(
        f"UPDATE recipient SET state = 'trying', attempts = attempts + 1, next_at = ? WHERE {due}",  # noqa: S608
        (leased_until, queue_id, now),
    )
    reverse_path, received_at, smtputf8, body_8bit = db.execute(
        "SELECT reverse_path, received_at, smtputf8, body_8bit FROM message WHERE id = ?", (queue_id,)
    ).fetchone()
    return Claim(
        queue_id,
        reverse_path,
        tuple(path for path, _ in rows),
        received_at,
        max(attempts for _, attempts in rows) + 1,
        bool(smtputf8),
        bool(body_8bit),
    )


def settle(db: sqlite3.Connection, settlement: Settlement) -> bool:
    """Write what an attempt came to, and its DSN; True when the message has left the queue."""
    for path, outcome in settlement.outcomes.items():
        if path in settlement.finished:
            db.execute("DELETE FROM recipient WHERE message_id = ? AND forward_path = ?", (settlement.queue_id, path))
        else:
            said = f"{outcome.said_by}: {outcome.text}" if outcome.said_by else outcome.text
            db.execute(
                "UPDATE recipient SET state = 'queued', next_at = ?, last_status = ?, last_reply = ?"
                " WHERE message_id = ? AND forward_path = ?",
                (settlement.retry_at, outcome.status, said[:500], settlement.queue_id, path),
            )
    if settlement.notice is not None:
        insert_message(db, settlement.notice, settlement.notice.content)
    left = db.execute("SELECT 1 FROM recipient WHERE message_id = ? LIMIT 1", (settlement.queue_id,)).fetchone()
    if left is None:
        db.execute("DELETE FROM message WHERE id = ?", (settlement.queue_id,))
    return left is None


def release_leases(db: sqlite3.Connection) -> None:
    """At start nobody is trying: attempts that a crash cut off are due at once, unless they were many."""
    db.execute(
        "UPDATE recipient SET state = 'queued', next_at = CASE WHEN attempts <= ? THEN 0 ELSE next_at END"
        " WHERE state = 'trying'",
        (PROMPT_RETRIES_AFTER_CRASH,),
    )


def next_due(db: sqlite3.Connection) -> float | None:
    row = db.execute("SELECT MIN(next_at) FROM recipient WHERE state = 'queued'").fetchone()
    return None if row[0] is None else float(row[0])


def retry_now(db: sqlite3.Connection, queue_id: str | None, now: float) -> int:
    """Make a message's (or all) waiting recipients due; return how many recipients that were."""
    if queue_id is None:
        return db.execute("UPDATE recipient SET next_at = ? WHERE state = 'queued'", (now,)).rowcount
    waiting = "UPDATE recipient SET next_at = ? WHERE state = 'queued' AND message_id = ?"
    return db.execute(waiting, (now, queue_id)).rowcount


def delete_message(db: sqlite3.Connection, queue_id: str) -> bool:
    return db.execute("DELETE FROM message WHERE id = ?", (queue_id,)).rowcount > 0


def set_aside(db: sqlite3.Connection, queue_id: str) -> list[Any]:
    """Take a message without content out of the queue; return all that was known of it."""
    known = db.execute("SELECT * FROM message WHERE id = ?", (queue_id,)).fetchall()
    known += db.execute("SELECT * FROM recipient WHERE message_id = ?", (queue_id,)).fetchall()
    delete_message(db, queue_id)
    return known


def depth(db: sqlite3.Connection) -> Depth:
    messages, size, oldest = db.execute(
        "SELECT COUNT(*), COALESCE(SUM(size_octets), 0), MIN(received_at) FROM message"
    ).fetchone()
    (recipients,) = db.execute("SELECT COUNT(*) FROM recipient").fetchone()
    return Depth(messages, recipients, size, oldest)


def list_rows(db: sqlite3.Connection, limit: int, queue_id: str | None) -> list[dict[str, Any]]:
    """Messages (the oldest first, or the one named) as the queue tools show them."""
    where, values = ("", ()) if queue_id is None else ("WHERE id = ?", (queue_id,))
    columns = "id, received_at, size_octets, reverse_path, client, listener, user, rule"
    found = db.execute(
        f"SELECT {columns} FROM message {where} ORDER BY received_at LIMIT ?",  # noqa: S608
        (*values, limit),
    ).fetchall()
    return [_row(db, row) for row in found]


def _row(db: sqlite3.Connection, row: tuple[Any, ...]) -> dict[str, Any]:
    queue_id, received_at, size_octets, reverse_path, client, listener, user, rule = row
    recipients = db.execute(
        "SELECT forward_path, state, attempts, next_at, last_status, last_reply FROM recipient WHERE message_id = ?",
        (queue_id,),
    ).fetchall()
    keys = ("address", "state", "attempts", "next_at", "last_status", "last_reply")
    return {
        "queue_id": queue_id,
        "arrival_time": received_at,
        "size_octets": size_octets,
        "sender": reverse_path,
        "client": client,
        "listener": listener,
        "user": user,
        "rule": rule,
        "recipients": [dict(zip(keys, values, strict=True)) for values in recipients],
    }
