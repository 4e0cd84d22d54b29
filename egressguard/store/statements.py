"""The spool's moves as SQL, each inside a transaction that its caller opened (docs/queue.md has the table)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

from egressguard.mail.address import domain_of
from egressguard.mail.outcome import Outcome
from egressguard.store.interface import Claim, Depth, Due, NewMessage, NextAttempt, Settlement

REPLY_CHARACTERS = 500

_MESSAGE_COLUMNS = (
    "id, reverse_path, smtputf8, body_8bit, size_octets, received_at, client, listener, user, rule,"
    " policy_revision, body, tags"
)


def insert_message(db: sqlite3.Connection, message: NewMessage, body: bytes | None) -> str:
    """Store a message with all its recipients due now; return the queue id of its source_id's first put."""
    if message.source_id is not None:
        row = db.execute("SELECT message_id FROM source WHERE source_id = ?", (message.source_id,)).fetchone()
        if row is not None:
            return str(row[0])
        db.execute("INSERT INTO source VALUES (?, ?)", (message.source_id, message.queue_id))
    db.execute(f"INSERT INTO message ({_MESSAGE_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", _values(message, body))  # noqa: S608
    db.executemany(
        "INSERT OR IGNORE INTO recipient VALUES (?, ?, ?, ?, 0, ?, '', '', ?)",
        [_recipient(message, path) for path in message.envelope.forward_paths],
    )
    return message.queue_id


def _recipient(message: NewMessage, path: str) -> tuple[Any, ...]:
    state = "held" if message.held else "queued"
    return message.queue_id, path, domain_of(path), state, message.received_at, " ".join(message.via.get(path, ()))


def _values(message: NewMessage, body: bytes | None) -> tuple[Any, ...]:
    return (
        message.queue_id,
        message.envelope.reverse_path,
        message.envelope.smtputf8,
        message.envelope.body_8bit,
        len(message.content),
        message.received_at,
        message.client,
        message.listener,
        message.user,
        message.rule,
        message.policy_revision,
        body,
        " ".join(message.tags),
    )


def claim_due(
    db: sqlite3.Connection, now: float, limit: int, next_attempt: NextAttempt, skip_domains: Collection[str]
) -> list[Claim]:
    """queued -> trying for at most `limit` due recipients: attempt counted, next try written."""
    rows = db.execute(
        "SELECT message_id, forward_path, attempts + 1, received_at, via FROM recipient"
        " JOIN message ON message.id = message_id"
        " WHERE state = 'queued' AND next_at <= ? AND domain NOT IN (SELECT value FROM json_each(?))"
        " ORDER BY next_at, message_id LIMIT ?",
        (now, json.dumps(list(skip_domains)), limit),
    ).fetchall()
    db.executemany(
        "UPDATE recipient SET state = 'trying', attempts = ?, next_at = ? WHERE message_id = ? AND forward_path = ?",
        [(attempts, next_attempt(at, attempts), queue_id, path) for queue_id, path, attempts, at, _ in rows],
    )
    by_message: dict[str, list[Due]] = {}
    for queue_id, path, attempts, _, via in rows:
        by_message.setdefault(queue_id, []).append(Due(path, attempts, tuple(via.split())))
    return [_claim(db, queue_id, due) for queue_id, due in by_message.items()]


def _claim(db: sqlite3.Connection, queue_id: str, due: list[Due]) -> Claim:
    reverse_path, received_at, size_octets, smtputf8, body_8bit, tags = db.execute(
        "SELECT reverse_path, received_at, size_octets, smtputf8, body_8bit, tags FROM message WHERE id = ?",
        (queue_id,),
    ).fetchone()
    flags = bool(smtputf8), bool(body_8bit)
    return Claim(queue_id, reverse_path, received_at, size_octets, *flags, tuple(due), tuple(tags.split()))


def unclaim(db: sqlite3.Connection, queue_id: str, forward_paths: Collection[str], now: float) -> None:
    """trying -> queued for what was never tried: the attempt does not count."""
    db.executemany(
        "UPDATE recipient SET state = 'queued', attempts = attempts - 1, next_at = ?"
        " WHERE message_id = ? AND forward_path = ? AND state = 'trying'",
        [(now, queue_id, path) for path in forward_paths],
    )


def settle(db: sqlite3.Connection, settlement: Settlement) -> bool:
    """Write what an attempt came to, and its DSN; True when the message has left the queue."""
    finished = 0
    for path, outcome in settlement.outcomes.items():
        key = (settlement.queue_id, path)
        if path in settlement.retry_at:
            db.execute(
                "UPDATE recipient SET state = 'queued', next_at = ?, last_status = ?, last_reply = ?"
                " WHERE message_id = ? AND forward_path = ?",
                (settlement.retry_at[path], outcome.status, _said(outcome), *key),
            )
        else:
            finished += db.execute("DELETE FROM recipient WHERE message_id = ? AND forward_path = ?", key).rowcount
    if settlement.notice is not None and finished:
        insert_message(db, settlement.notice, settlement.notice.content)
    return _delete_if_done(db, settlement.queue_id)


def _said(outcome: Outcome) -> str:
    text = f"{outcome.said_by}: {outcome.text}" if outcome.said_by else outcome.text
    return text[:REPLY_CHARACTERS]


def _delete_if_done(db: sqlite3.Connection, queue_id: str) -> bool:
    if db.execute("SELECT 1 FROM recipient WHERE message_id = ? LIMIT 1", (queue_id,)).fetchone():
        return False
    return delete_message(db, queue_id)


def release_leases(db: sqlite3.Connection) -> int:
    """At start nobody is trying: trying -> queued, due when the claim said. Return how many there were."""
    return db.execute("UPDATE recipient SET state = 'queued' WHERE state = 'trying'").rowcount


def next_due(db: sqlite3.Connection) -> float | None:
    row = db.execute("SELECT MIN(next_at) FROM recipient WHERE state = 'queued'").fetchone()
    return None if row[0] is None else float(row[0])


def retry_now(db: sqlite3.Connection, queue_id: str | None, now: float) -> int:
    """Waiting recipients become due; return how many recipients there are, waiting or being tried."""
    db.execute(
        "UPDATE recipient SET next_at = ?1 WHERE state = 'queued' AND (?2 IS NULL OR message_id = ?2)",
        (now, queue_id),
    )
    query = "SELECT COUNT(*) FROM recipient WHERE ?1 IS NULL OR message_id = ?1"
    return int(db.execute(query, (queue_id,)).fetchone()[0])


def hold(db: sqlite3.Connection, queue_id: str) -> int:
    """queued -> held; what is being tried now is not touched."""
    query = "UPDATE recipient SET state = 'held' WHERE message_id = ? AND state = 'queued'"
    return db.execute(query, (queue_id,)).rowcount


def release(db: sqlite3.Connection, queue_id: str, now: float) -> int:
    """held -> queued, due now."""
    query = "UPDATE recipient SET state = 'queued', next_at = ? WHERE message_id = ? AND state = 'held'"
    return db.execute(query, (now, queue_id)).rowcount


def delete_message(db: sqlite3.Connection, queue_id: str) -> bool:
    return db.execute("DELETE FROM message WHERE id = ?", (queue_id,)).rowcount > 0


def depth(db: sqlite3.Connection) -> Depth:
    size, oldest = db.execute("SELECT COALESCE(SUM(size_octets), 0), MIN(received_at) FROM message").fetchone()
    incoming, deferred, active, held = db.execute(
        "SELECT COUNT(DISTINCT CASE WHEN state = 'queued' AND attempts = 0 THEN message_id END),"
        " COUNT(DISTINCT CASE WHEN state = 'queued' AND attempts > 0 THEN message_id END),"
        " COUNT(DISTINCT CASE WHEN state = 'trying' THEN message_id END),"
        " COUNT(DISTINCT CASE WHEN state = 'held' THEN message_id END) FROM recipient"
    ).fetchone()
    return Depth(incoming, deferred, active, size, oldest, held)


_ROW_KEYS = (
    "queue_id",
    "arrival_time",
    "size_octets",
    "sender",
    "client",
    "listener",
    "user",
    "rule",
    "policy_revision",
    "tags",
)
_RECIPIENT_KEYS = ("address", "state", "attempts", "next_at", "last_status", "last_reply", "via")


def list_rows(db: sqlite3.Connection, limit: int, queue_id: str | None) -> list[dict[str, Any]]:
    """Messages (the oldest first, or the one named) as the queue tools show them."""
    messages = db.execute(
        "SELECT id, received_at, size_octets, reverse_path, client, listener, user, rule, policy_revision, tags"
        " FROM message WHERE ?1 IS NULL OR id = ?1 ORDER BY received_at, id LIMIT ?2",
        (queue_id, limit),
    ).fetchall()
    recipients = _recipients(db, [row[0] for row in messages])
    return [dict(zip(_ROW_KEYS, row, strict=True)) | {"recipients": recipients.get(row[0], [])} for row in messages]


def _recipients(db: sqlite3.Connection, queue_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    rows = db.execute(
        "SELECT message_id, forward_path, state, attempts, next_at, last_status, last_reply, via FROM recipient"
        " WHERE message_id IN (SELECT value FROM json_each(?)) ORDER BY message_id, forward_path",
        (json.dumps(queue_ids),),
    )
    return {
        queue_id: [dict(zip(_RECIPIENT_KEYS, row[1:], strict=True)) for row in group]
        for queue_id, group in groupby(rows, key=lambda row: str(row[0]))
    }
