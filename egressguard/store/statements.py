"""The spool's moves as SQL, each inside a transaction that its caller opened (docs/queue.md has the table).

Contract
    One text for every engine: what SQLite takes and store.postgres.session translates. A Dialect has what differs.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from egressguard.mail.envelope import RecipientOptions
from egressguard.mail.outcome import Outcome
from egressguard.store import selection as selecting
from egressguard.store.content import Content
from egressguard.store.interface import (
    BeingTried,
    Claim,
    Depth,
    Due,
    NewMessage,
    NextAttempt,
    Settlement,
    Suppressed,
    Suspension,
)
from egressguard.store.selection import Selection

REPLY_CHARACTERS = 500

_INSERT_MESSAGE = (
    'INSERT INTO message (id, reverse_path, smtputf8, body_8bit, "binary", requiretls, ret, envid, size_octets,'
    ' received_at, client, listener, "user", rule, policy_revision, tags, is_ascii, front, verdict)'
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) RETURNING number"
)
_INSERT_RECIPIENT = (
    "INSERT INTO recipient (message_id, forward_path, destination, state, attempts, next_at, last_status,"
    " last_reply, via, notify, orcpt) VALUES (?, ?, ?, ?, ?, ?, '', '', ?, ?, ?) ON CONFLICT DO NOTHING"
)


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """A connection inside a transaction; parameters stand in a statement as ? or, where one stands twice, as ?1."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows: ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one engine says in other words than another."""

    look_for_due: str
    write_claim: str


SQLITE = Dialect(
    "SELECT message_id, forward_path, attempts + 1, received_at, via, notify, orcpt FROM recipient"
    " JOIN message ON message.id = message_id"
    " WHERE state = 'queued' AND destination = ? AND next_at <= ? ORDER BY next_at LIMIT ?",
    "UPDATE recipient SET state = 'trying', attempts = ?, next_at = ? WHERE message_id = ? AND forward_path = ?",
)


def insert_message(db: Database, message: NewMessage, body: bytes | None) -> str:
    """Store a message with all its recipients due now; return the queue id of its source_id's first put.

    `body` None: the content lies in its file."""
    if message.source_id is not None:
        new = (message.source_id, message.queue_id)
        if not db.execute("INSERT INTO source VALUES (?, ?) ON CONFLICT DO NOTHING", new).rowcount:
            known = db.execute("SELECT message_id FROM source WHERE source_id = ?", (message.source_id,)).fetchone()
            return str(known[0])
    front = None if body is not None else message.content.front
    (number,) = db.execute(_INSERT_MESSAGE, _values(message, front)).fetchone()
    if body is not None:
        db.execute("INSERT INTO body VALUES (?, ?)", (number, body))
    paths = message.envelope.forward_paths
    if len(paths) == 1:
        db.execute(_INSERT_RECIPIENT, _recipient(message, paths[0]))
    else:
        db.executemany(_INSERT_RECIPIENT, [_recipient(message, path) for path in paths])
    return message.queue_id


def _recipient(message: NewMessage, path: str) -> tuple[Any, ...]:
    leased = message.leased_until is not None
    options = message.envelope.recipients.get(path)
    return (
        message.queue_id,
        path,
        message.destinations.get(path, ""),
        "held" if message.held else "trying" if leased else "queued",
        1 if leased else 0,
        message.leased_until if leased else message.received_at - message.head_start_seconds,
        " ".join(message.via.get(path, ())),
        " ".join(options.notify) if options and options.notify is not None else None,
        options.orcpt if options else None,
    )


def _values(message: NewMessage, front: bytes | None) -> tuple[Any, ...]:
    envelope = message.envelope
    return (
        message.queue_id,
        envelope.reverse_path,
        envelope.smtputf8,
        envelope.body_8bit,
        envelope.binary,
        envelope.requiretls,
        envelope.ret,
        envelope.envid,
        message.content.size_octets,
        message.received_at,
        message.client,
        message.listener,
        message.user,
        message.rule,
        message.policy_revision,
        " ".join(message.tags),
        message.content.is_ascii,
        front,
        message.verdict,
    )


_FIRST_DUE = """
    WITH RECURSIVE place (name) AS (
        SELECT MIN(destination) FROM recipient WHERE state = 'queued'
        UNION ALL
        SELECT (SELECT MIN(destination) FROM recipient WHERE state = 'queued' AND destination > name) FROM place
        WHERE name IS NOT NULL)
    SELECT name, (SELECT MIN(next_at) FROM recipient WHERE state = 'queued' AND destination = name) AS first FROM place
    WHERE name IS NOT NULL AND name NOT IN (SELECT value FROM json_each(?)) ORDER BY first LIMIT ?"""


def first_due(db: Database, skip: Collection[str], limit: int) -> list[tuple[str, float]]:
    """(destination, when the first that waits for it is due), the longest due first, but those in `skip`.

    One step of the index for each destination, however many messages wait."""
    return list(db.execute(_FIRST_DUE, (json.dumps(list(skip)), limit)))


def claim_due(
    db: Database,
    now: float,
    limit: int,
    next_attempt: NextAttempt,
    places: Sequence[str],
    limit_each: int,
    dialect: Dialect = SQLITE,
) -> list[Claim]:
    """queued -> trying for at most `limit` recipients that are due at `places`: attempt counted, next try written."""
    rows: list[tuple[Any, ...]] = []
    for place in places:
        if len(rows) >= limit:
            break
        most = min(limit - len(rows), limit_each)
        rows += db.execute(dialect.look_for_due, (place, now, most)).fetchall()
    db.executemany(
        dialect.write_claim,
        [(attempts, next_attempt(at, attempts), queue_id, path) for queue_id, path, attempts, at, *_ in rows],
    )
    return _claims(db, [(queue_id, path, attempts, *rest) for queue_id, path, attempts, _, *rest in rows])


def waiting(db: Database, selection: Selection, queue_ids: Sequence[str]) -> list[Claim]:
    """What of these messages is selected and waits, as a claim would give it; nothing is changed."""
    return _claims(db, selecting.waiting(db, selection, queue_ids))


def _claims(db: Database, rows: Iterable[tuple[Any, ...]]) -> list[Claim]:
    by_message: dict[str, list[Due]] = {}
    for queue_id, path, attempts, via, notify, orcpt in rows:
        options = RecipientOptions(None if notify is None else tuple(notify.split()), orcpt)
        by_message.setdefault(queue_id, []).append(Due(path, attempts, tuple(via.split()), options))
    return [_claim(db, queue_id, due) for queue_id, due in by_message.items()]


def _claim(db: Database, queue_id: str, due: list[Due]) -> Claim:
    row = db.execute(
        'SELECT reverse_path, received_at, size_octets, smtputf8, body_8bit, tags, ret, envid, requiretls, "binary",'
        ' client, listener, "user", verdict'
        " FROM message WHERE id = ?",
        (queue_id,),
    ).fetchone()
    reverse_path, received_at, size_octets, smtputf8, body_8bit, tags, ret, envid, requiretls, binary, *origin = row
    client, listener, user, verdict = origin
    return Claim(
        queue_id,
        reverse_path,
        received_at,
        size_octets,
        bool(smtputf8),
        bool(body_8bit),
        tuple(due),
        tuple(tags.split()),
        ret,
        envid,
        bool(requiretls),
        bool(binary),
        client,
        listener,
        user,
        verdict,
    )


def content_of(db: Database, queue_id: str, file: Path) -> Content | None:
    """The message's octets, `file` being the place where they lie if they do not lie here."""
    row = db.execute(
        "SELECT octets, front, size_octets, is_ascii FROM message LEFT JOIN body USING (number) WHERE id = ?",
        (queue_id,),
    ).fetchone()
    if row is None:
        return None
    octets, front, size_octets, is_ascii = row
    if front is None:
        return Content.of(bytes(octets))
    return Content(bytes(front), b"", file, size_octets - len(front), bool(is_ascii))


def unclaim(db: Database, queue_id: str, forward_paths: Collection[str], now: float, destination: str) -> None:
    """trying -> queued for what was never tried: the attempt does not count."""
    db.executemany(
        "UPDATE recipient SET state = 'queued', attempts = attempts - 1, next_at = ?, destination = ?"
        " WHERE message_id = ? AND forward_path = ? AND state = 'trying'",
        [(now, destination, queue_id, path) for path in forward_paths],
    )


def settle(db: Database, settlement: Settlement) -> bool:
    """Write what an attempt came to, and its DSNs; True when the message has left the queue and a file behind."""
    waiting = finished = 0
    for path, outcome in settlement.outcomes.items():
        key = (settlement.queue_id, path)
        if path in settlement.retry_at:
            waiting += db.execute(
                "UPDATE recipient SET state = 'queued', next_at = ?, destination = ?, last_status = ?, last_reply = ?"
                " WHERE message_id = ? AND forward_path = ?",
                (settlement.retry_at[path], settlement.destination, outcome.status, _said(outcome), *key),
            ).rowcount
        else:
            finished += db.execute("DELETE FROM recipient WHERE message_id = ? AND forward_path = ?", key).rowcount
    for notice in settlement.notices if waiting + finished else ():
        insert_message(db, notice, notice.content.whole())
    return finished > 0 and _delete_if_done(db, settlement.queue_id)


def give_up(db: Database, settlement: Settlement) -> bool:
    """`settle` for recipients that wait: all of them are finished, or none. Raises BeingTried."""
    paths = list(settlement.outcomes)
    waiting = (
        "UPDATE recipient SET state = 'trying' WHERE message_id = ? AND state <> 'trying'"
        " AND forward_path IN (SELECT value FROM json_each(?))"
    )
    if db.execute(waiting, (settlement.queue_id, json.dumps(paths))).rowcount != len(paths):
        raise BeingTried(settlement.queue_id)
    return settle(db, settlement)


def _said(outcome: Outcome) -> str:
    text = f"{outcome.said_by}: {outcome.text}" if outcome.said_by else outcome.text
    return text[:REPLY_CHARACTERS]


def _delete_if_done(db: Database, queue_id: str) -> bool:
    query = (
        "DELETE FROM message WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM recipient WHERE message_id = ?1)"
        " RETURNING number, front IS NOT NULL"
    )
    return _deleted(db, db.execute(query, (queue_id,)).fetchone()) is Deleted.WITH_FILE


def release_leases(db: Database) -> int:
    """At start nobody is trying: trying -> queued, due when the claim said. Return how many there were."""
    return db.execute("UPDATE recipient SET state = 'queued' WHERE state = 'trying'").rowcount


def make_due(db: Database, now: float, limit: int) -> int:
    """Some of all that waits for later becomes due; return how many."""
    query = (
        "UPDATE recipient SET next_at = ?1 WHERE (message_id, forward_path) IN"
        " (SELECT message_id, forward_path FROM recipient WHERE state = 'queued' AND next_at > ?1 LIMIT ?2)"
    )
    return db.execute(query, (now, limit)).rowcount


def retry_now(db: Database, queue_id: str | None, now: float) -> int:
    """Waiting recipients become due; return how many recipients there are, waiting or being tried."""
    db.execute(
        "UPDATE recipient SET next_at = ?1 WHERE state = 'queued' AND (CAST(?2 AS TEXT) IS NULL OR message_id = ?2)",
        (now, queue_id),
    )
    query = "SELECT COUNT(*) FROM recipient WHERE CAST(?1 AS TEXT) IS NULL OR message_id = ?1"
    return int(db.execute(query, (queue_id,)).fetchone()[0])


class Deleted(enum.Enum):
    NOTHING = 0
    MESSAGE = 1
    WITH_FILE = 2
    """Its content lies in a file that has to go now."""


def delete_message(db: Database, queue_id: str) -> Deleted:
    query = "DELETE FROM message WHERE id = ? RETURNING number, front IS NOT NULL"
    return _deleted(db, db.execute(query, (queue_id,)).fetchone())


def _deleted(db: Database, row: tuple[int, bool] | None) -> Deleted:
    if row is None:
        return Deleted.NOTHING
    number, in_file = row
    if in_file:
        return Deleted.WITH_FILE
    db.execute("DELETE FROM body WHERE number = ?", (number,))
    return Deleted.MESSAGE


def suspend(db: Database, suspension: Suspension) -> None:
    db.execute("DELETE FROM suspended WHERE destination = ?", (suspension.destination,))
    order = (suspension.destination, suspension.why, suspension.ordered_by, suspension.since)
    db.execute("INSERT INTO suspended (destination, why, ordered_by, since) VALUES (?, ?, ?, ?)", order)


def resume(db: Database, destination: str) -> bool:
    return db.execute("DELETE FROM suspended WHERE destination = ?", (destination,)).rowcount > 0


def suspensions(db: Database) -> list[Suspension]:
    query = "SELECT destination, why, ordered_by, since FROM suspended ORDER BY since, destination"
    return [Suspension(*row) for row in db.execute(query)]


def suppress(db: Database, entry: Suppressed) -> None:
    db.execute("DELETE FROM suppressed WHERE address = ?", (entry.address,))
    row = (entry.address, entry.why, entry.since, entry.until)
    db.execute("INSERT INTO suppressed (address, why, since, until) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row)


def unsuppress(db: Database, address: str) -> bool:
    return db.execute("DELETE FROM suppressed WHERE address = ?", (address,)).rowcount > 0


def forget_suppressed(db: Database, now: float) -> None:
    db.execute("DELETE FROM suppressed WHERE until > 0 AND until <= ?", (now,))


def suppressed(db: Database, limit: int) -> list[Suppressed]:
    query = "SELECT address, why, since, until FROM suppressed ORDER BY since DESC, address LIMIT ?"
    return [Suppressed(*row) for row in db.execute(query, (limit,))]


def depth(db: Database) -> Depth:
    size, oldest = db.execute("SELECT COALESCE(SUM(size_octets), 0), MIN(received_at) FROM message").fetchone()
    incoming, deferred, active, held = db.execute(
        "SELECT COALESCE(SUM(incoming), 0), COALESCE(SUM(deferred), 0), COALESCE(SUM(active), 0),"
        " COALESCE(SUM(held), 0) FROM (SELECT"
        " MAX(CASE WHEN state = 'queued' AND attempts = 0 THEN 1 ELSE 0 END) AS incoming,"
        " MAX(CASE WHEN state = 'queued' AND attempts > 0 THEN 1 ELSE 0 END) AS deferred,"
        " MAX(CASE WHEN state = 'trying' THEN 1 ELSE 0 END) AS active,"
        " MAX(CASE WHEN state = 'held' THEN 1 ELSE 0 END) AS held FROM recipient GROUP BY message_id) AS messages"
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
_RECIPIENT_KEYS = ("address", "state", "attempts", "next_at", "last_status", "last_reply", "via", "destination")


_MESSAGE_COLUMNS = 'id, received_at, size_octets, reverse_path, client, listener, "user", rule, policy_revision, tags'
_LIST = f"SELECT {_MESSAGE_COLUMNS} FROM message ORDER BY received_at, id LIMIT ?"  # noqa: S608 -- our own words
_LIST_NAMED = (
    f"SELECT {_MESSAGE_COLUMNS} FROM message"  # noqa: S608 -- our own words
    " WHERE id IN (SELECT value FROM json_each(?)) ORDER BY number"
)


def list_rows(db: Database, limit: int) -> list[dict[str, Any]]:
    """Messages, the oldest first, as the queue tools show them."""
    return _rows(db, db.execute(_LIST, (limit,)).fetchall())


def rows_of(db: Database, queue_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Those named that are there, in the order in which they came."""
    return _rows(db, db.execute(_LIST_NAMED, (json.dumps(queue_ids),)).fetchall())


def _rows(db: Database, messages: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    recipients = _recipients(db, [row[0] for row in messages])
    return [dict(zip(_ROW_KEYS, row, strict=True)) | {"recipients": recipients.get(row[0], [])} for row in messages]


def _recipients(db: Database, queue_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    rows = db.execute(
        "SELECT message_id, forward_path, state, attempts, next_at, last_status, last_reply, via,"
        " destination FROM recipient WHERE message_id IN (SELECT value FROM json_each(?))"
        " ORDER BY message_id, forward_path",
        (json.dumps(queue_ids),),
    )
    return {
        queue_id: [dict(zip(_RECIPIENT_KEYS, row[1:], strict=True)) for row in group]
        for queue_id, group in groupby(rows, key=lambda row: str(row[0]))
    }
