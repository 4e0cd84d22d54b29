"""The spool on PostgreSQL: one queue for several gateways.

Contract
    See store.interface. A commit is as durable as the server makes it (synchronous_commit is on for our sessions).
    A database that is away is SpoolAway: nothing is taken, nothing is tried, and all goes on when it is back.
    Contents over INLINE_OCTETS go through in pieces; a copy stays in the local directory until the message has left,
    and is fetched where it is missing. Nothing in that directory is needed after a restart.
    Whoever is trying holds an advisory lock; what a node that has none was trying is due when its claim said.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from egressguard.store import statements
from egressguard.store.content import PIECE_OCTETS, Content
from egressguard.store.free_space import FreeSpace
from egressguard.store.interface import (
    Claim,
    Depth,
    NewMessage,
    NextAttempt,
    Settlement,
    SpoolBroken,
    SpoolFull,
    Suppressed,
    Suspension,
)
from egressguard.store.postgres.commits import Commits
from egressguard.store.postgres.schema import LOCKS, migrate
from egressguard.store.postgres.session import Session
from egressguard.store.queue_id import is_queue_id
from egressguard.store.reader import Reader
from egressguard.store.selection import Change, Changed, Page, Selection, newest, pick
from egressguard.store.selection import change as change_of
from egressguard.store.spool import INLINE_OCTETS
from egressguard.store.statements import SQLITE, Deleted, Dialect

log = logging.getLogger(__name__)

RELEASE_SECONDS = 10.0
RETRY_ROWS = 10_000

T = TypeVar("T")

_DIALECT = Dialect(
    SQLITE.look_for_due + " FOR UPDATE OF recipient SKIP LOCKED",
    SQLITE.write_claim.replace(" WHERE", ", holder = DEFAULT WHERE"),
)
_RELEASE = """
    WITH gone AS (DELETE FROM node WHERE id <> ?1 AND pg_try_advisory_xact_lock(?2, id) RETURNING id)
    UPDATE recipient SET state = 'queued', holder = NULL WHERE state = 'trying'
        AND (holder IS NULL OR holder IN (SELECT id FROM gone) OR holder NOT IN (SELECT id FROM node))"""


class PostgresSpool:
    """`url` is libpq's. `directory` has what arrives (tmp/) and copies of large contents (body/)."""

    def __init__(self, url: str, directory: Path, *, reserve_octets: int = 0) -> None:
        """The database need not be there yet. Raises OSError."""
        self._bodies = directory / "body"
        self._temporary = directory / "tmp"
        for folder in (self._bodies, self._temporary):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.rglob("*"):
                if leftover.is_file():
                    leftover.unlink(missing_ok=True)
        self._room = FreeSpace(directory, reserve_octets)
        self._names = itertools.count()
        self._node = 0
        self._released_at = 0.0
        self._commits = Commits(Session(url, self._join))
        # Whoever looks may be the first to come.
        self._reader = Reader(Session(url, migrate))
        self._looker = Reader(Session(url, migrate))  # for counting, and for people

    def close(self) -> None:
        """Commit what waits, and leave; what is asked later raises SpoolBroken."""
        self._reader.close()
        self._looker.close()
        self._commits.close(self._leave)

    @property
    def broken(self) -> str | None:
        """A database that is away is not broken."""
        return None

    def _join(self, connection: psycopg.Connection[Any]) -> None:
        """Be a node, for as long as this connection lives."""
        migrate(connection)
        with connection.transaction():
            row = connection.execute("INSERT INTO node DEFAULT VALUES RETURNING id").fetchone()
            assert row is not None
            connection.execute("SELECT pg_advisory_lock(%s, %s)", (LOCKS, row[0]))
        connection.execute("SELECT set_config('egressguard.node', %s, false)", (str(row[0]),))
        self._node, self._released_at = row[0], 0.0

    def _leave(self, db: Session) -> None:
        mine = "UPDATE recipient SET state = 'queued', holder = NULL WHERE state = 'trying' AND holder = ?"
        db.execute(mine, (self._node,))
        db.execute("DELETE FROM node WHERE id = ?", (self._node,))

    def has_room(self, size_octets: int) -> bool:
        """Whether a message of that size would be taken now, as far as this machine's disk goes."""
        return self._room.has(size_octets)

    async def put(self, message: NewMessage) -> str:
        """Store one message; return its queue id (the first one of its source_id).

        Raises SpoolFull, SpoolAway; ValueError when it has no recipient or its queue id is no queue id.
        """
        if not is_queue_id(message.queue_id) or not message.envelope.forward_paths:
            raise ValueError("a message needs a queue id and at least one recipient")
        if not self.has_room(message.content.size_octets):
            raise SpoolFull(f"less than {self._room.reserve_octets} octets would stay free")
        content = message.content
        if content.file is None and content.size_octets <= INLINE_OCTETS:
            body = content.whole()
            return await self._commits.submit(
                lambda db: statements.insert_message(db, message, body), content.size_octets
            )
        return await asyncio.shield(self._put_large(message))

    async def _put_large(self, message: NewMessage) -> str:
        content = message.content
        stored = await self._commits.submit(lambda db: _insert_large(db, message), content.size_octets)
        if stored == message.queue_id and content.file is not None and content.file.parent == self._temporary:
            with contextlib.suppress(OSError):  # it is only a copy: who misses it fetches it
                await asyncio.to_thread(_keep_copy, content.file, self._body_path(stored))
        return stored

    async def claim(
        self,
        now: float,
        limit: int,
        next_attempt: NextAttempt,
        skip: Collection[str] = (),
        limit_each: int = 1000,
    ) -> Sequence[Claim]:
        await self._release_of_the_dead()
        first = await self._reader.ask(_within(lambda db: statements.first_due(db, skip, limit)))
        places = [name for name, due in first if due <= now]
        if not places:
            return []
        return await self._commits.submit(
            lambda db: statements.claim_due(db, now, limit, next_attempt, places, limit_each, _DIALECT)
        )

    async def _release_of_the_dead(self) -> None:
        if time.monotonic() < self._released_at + RELEASE_SECONDS:
            return
        self._released_at = time.monotonic()
        freed = await self._commits.submit(lambda db: db.execute(_RELEASE, (self._node, LOCKS)).rowcount)
        if freed:
            log.warning("attempts of another life or node were cut off", extra={"fields": {"recipients": freed}})

    async def unclaim(self, queue_id: str, forward_paths: Collection[str], now: float, destination: str = "") -> None:
        await self._commits.submit(lambda db: statements.unclaim(db, queue_id, forward_paths, now, destination))

    async def settle(self, settlement: Settlement) -> None:
        if await self._commits.submit(lambda db: statements.settle(db, settlement)):
            await asyncio.to_thread(self._body_path(settlement.queue_id).unlink, missing_ok=True)

    async def content(self, queue_id: str) -> Content:
        """The message's octets. Raises KeyError when it is not there."""
        path = self._body_path(queue_id)
        content = await self._reader.ask(_within(lambda db: self._content(db, queue_id, path)))
        if content is None:
            raise KeyError(queue_id)
        return content

    async def next_due(self, skip: Collection[str] = ()) -> float | None:
        first = await self._reader.ask(_within(lambda db: statements.first_due(db, skip, 1)))
        return first[0][1] if first else None

    async def rows(self, limit: int, queue_id: str | None = None) -> list[dict[str, Any]]:
        if queue_id is not None:
            return await self.rows_of([queue_id])
        return await self._looker.ask(_within(lambda db: statements.list_rows(db, limit)))

    async def retry_now(self, queue_id: str | None, now: float) -> int:
        if queue_id is None:
            while await self._commits.submit(lambda db: statements.make_due(db, now, RETRY_ROWS)):
                pass  # a step at a time: what else is written need not wait for a million rows
        return await self._commits.submit(lambda db: statements.retry_now(db, queue_id, now))

    async def pick(self, selection: Selection, after: int = 0, limit: int = 1000) -> Page:
        return await self._looker.ask(_within(lambda db: pick(db, selection, after, limit)))

    async def newest(self) -> int:
        return await self._looker.ask(_within(newest))

    async def rows_of(self, queue_ids: Sequence[str]) -> list[dict[str, Any]]:
        return await self._looker.ask(_within(lambda db: statements.rows_of(db, queue_ids)))

    async def change(self, selection: Selection, queue_ids: Sequence[str], change: Change) -> Changed:
        changed = await self._commits.submit(lambda db: change_of(db, selection, queue_ids, change))
        for queue_id in changed.files:
            await asyncio.to_thread(self._body_path(queue_id).unlink, missing_ok=True)
        return changed

    async def waiting(self, selection: Selection, queue_ids: Sequence[str]) -> list[Claim]:
        return await self._looker.ask(_within(lambda db: statements.waiting(db, selection, queue_ids)))

    async def give_up(self, settlement: Settlement) -> None:
        if await self._commits.submit(lambda db: statements.give_up(db, settlement)):
            await asyncio.to_thread(self._body_path(settlement.queue_id).unlink, missing_ok=True)

    async def delete(self, queue_id: str) -> bool:
        deleted = await self._commits.submit(lambda db: statements.delete_message(db, queue_id))
        if deleted is Deleted.WITH_FILE:
            await asyncio.to_thread(self._body_path(queue_id).unlink, missing_ok=True)
        return deleted is not Deleted.NOTHING

    async def suspend(self, suspension: Suspension) -> None:
        await self._commits.submit(lambda db: statements.suspend(db, suspension))

    async def resume(self, destination: str) -> bool:
        return await self._commits.submit(lambda db: statements.resume(db, destination))

    async def suspensions(self) -> list[Suspension]:
        return await self._reader.ask(_within(statements.suspensions))

    async def suppress(self, entry: Suppressed) -> None:
        await self._commits.submit(lambda db: statements.suppress(db, entry))

    async def unsuppress(self, address: str) -> bool:
        return await self._commits.submit(lambda db: statements.unsuppress(db, address))

    async def forget_suppressed(self, now: float) -> None:
        await self._commits.submit(lambda db: statements.forget_suppressed(db, now))

    async def suppressed(self, limit: int) -> list[Suppressed]:
        return await self._reader.ask(_within(lambda db: statements.suppressed(db, limit)))

    async def depth(self) -> Depth:
        return await self._looker.ask(_within(statements.depth))

    def _body_path(self, queue_id: str) -> Path:
        if not is_queue_id(queue_id):  # another node's row: it becomes a path here
            raise SpoolBroken(f"the database has {queue_id[:40]!r} for a queue id")
        return self._bodies / queue_id[-2:] / queue_id

    # On the reader's thread.

    def _content(self, db: Session, queue_id: str, path: Path) -> Content | None:
        content = statements.content_of(db, queue_id, path)
        if content is None or content.file is None:
            return content
        if not path.exists() or path.stat().st_size != content.file_octets:
            temporary = self._temporary / f"fetched-{next(self._names)}"
            try:
                _fetch(db, queue_id, temporary)
                _keep_copy(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return content


def _within(question: Callable[[Session], T]) -> Callable[[Session], T]:
    return lambda session: session.transaction(question)


def _insert_large(db: Session, message: NewMessage) -> str:
    content, known = message.content, message.content.front + message.content.rest
    if content.file is None:
        front, content = b"", Content.of(known)
    else:
        front = known
    row = Content(front, b"", Path(message.queue_id), message.content.size_octets - len(front), content.is_ascii)
    stored = statements.insert_message(db, replace(message, content=row), None)
    if stored == message.queue_id:
        (number,) = db.execute("SELECT number FROM message WHERE id = ?", (stored,)).fetchone()
        for part, piece in enumerate(_pieces(content)):
            db.execute("INSERT INTO piece VALUES (?, ?, ?)", (number, part, piece))
    return stored


def _pieces(content: Content) -> Iterator[bytes]:
    """Of the file, or of what lies in memory where there is none."""
    if content.file is not None:
        yield from replace(content, front=b"", rest=b"").pieces()
        return
    for at in range(0, len(content.rest), PIECE_OCTETS):
        yield content.rest[at : at + PIECE_OCTETS]


def _fetch(db: Session, queue_id: str, path: Path) -> None:
    """One piece in memory at a time."""
    with path.open("wb") as file:
        for part in itertools.count():
            row = db.execute(
                "SELECT octets FROM piece JOIN message USING (number) WHERE id = ? AND part = ?", (queue_id, part)
            ).fetchone()
            if row is None:
                return
            file.write(row[0])


def _keep_copy(temporary: Path, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary.replace(path)
