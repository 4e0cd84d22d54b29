"""The spool on SQLite: small bodies in rows, large ones in files, all writing on one thread.

Contract
    See store.interface. A commit is on the disk when it returns (WAL; see store.wal).
    The row is the truth: a body file without a row is swept at start, a row without its file is set aside, loudly.
    A failed fsync is never tried again: nothing is written any more until the process starts anew; reading goes on.
    A caller that is cancelled does not stop a put midway: it is stored whole or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from egressguard.store import durable, statements
from egressguard.store.content import Content
from egressguard.store.draft import Draft
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
from egressguard.store.queue_id import is_queue_id, new_queue_id, random_queue_id
from egressguard.store.reader import Reader
from egressguard.store.schema import give_back_free_pages, open_database, open_for_reading
from egressguard.store.selection import Change, Changed, Page, Selection, newest, pick
from egressguard.store.selection import change as change_of
from egressguard.store.statements import Deleted
from egressguard.store.writer import Writer

__all__ = ["INLINE_OCTETS", "SqliteSpool", "new_queue_id", "random_queue_id"]

log = logging.getLogger(__name__)

INLINE_OCTETS = 64 * 1024
"""Larger bodies are files: measured, SQLite BLOBs win below and files above."""
RETRY_ROWS = 10_000

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class SqliteSpool:
    """`directory` holds all of it; below `reserve_octets` of free space nothing is taken in."""

    def __init__(self, directory: Path, *, reserve_octets: int = 0, disk: type[durable.Disk] = durable.Disk) -> None:
        """Open or make the spool and clean up after a crash. Raises OSError, sqlite3.Error, SchemaTooNew."""
        self._directory = directory
        self._disk = disk
        self._bodies = directory / "body"
        self._temporary = directory / "tmp"
        self._aside = directory / "aside"
        for folder in (self._bodies, self._temporary, self._aside):
            folder.mkdir(parents=True, exist_ok=True)
        self._room = FreeSpace(directory, reserve_octets)
        self._puts: set[asyncio.Task[str]] = set()
        self._lock = _lock(directory)
        try:
            for leftover in self._temporary.iterdir():  # before anything that needs room: it may be what fills the disk
                leftover.unlink(missing_ok=True)
            db = open_database(directory / "spool.sqlite")
            try:
                durable.sync_directory(directory, disk)
                self._sweep(db)
                self._reader = Reader(open_for_reading(directory / "spool.sqlite"))
                self._looker = Reader(open_for_reading(directory / "spool.sqlite"))  # for counting, and for people
            except BaseException:
                db.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise
        self._writer = Writer(db, directory / "spool.sqlite")

    def close(self) -> None:
        """Commit what waits and end the writer; what is asked later raises SpoolBroken."""
        self._writer.close()
        self._looker.close()
        self._reader.close()  # last, and it cannot write: broken storage is left as it is
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def broken(self) -> str | None:
        """Why nothing is written any more, or None."""
        return self._writer.broken

    def new_draft(self) -> Draft:
        """For a message that arrives: what becomes a file lies where `put` can take it over."""
        return Draft(self._temporary)

    def has_room(self, size_octets: int) -> bool:
        """Whether a message of that size would be taken now."""
        return self._room.has(size_octets)

    async def put(self, message: NewMessage) -> str:
        """Store one message; return its queue id (the first one of its source_id).

        Raises SpoolFull, SpoolBroken; ValueError when it has no recipient or its queue id is no queue id.
        """
        if not is_queue_id(message.queue_id) or not message.envelope.forward_paths:
            raise ValueError("a message needs a queue id and at least one recipient")
        self._writer.refuse_if_broken()
        if not self.has_room(message.content.size_octets):
            await self._writer.tidy()
            raise SpoolFull(f"less than {self._room.reserve_octets} octets would stay free")
        if message.content.file is None and message.content.size_octets <= INLINE_OCTETS:
            return await self._insert(message, message.content.whole())
        putting = asyncio.create_task(self._put_file(message))
        self._puts.add(putting)
        putting.add_done_callback(self._put_ended)
        return await asyncio.shield(putting)

    def _put_ended(self, putting: asyncio.Task[str]) -> None:
        self._puts.discard(putting)
        if not putting.cancelled():
            putting.exception()  # whoever asked may be gone; nobody else wants to know

    async def _put_file(self, message: NewMessage) -> str:
        path = self._body_path(message.queue_id)
        content = await asyncio.to_thread(self._write_body, path, message)
        try:
            stored = await self._insert(replace(message, content=content), None)
        except SpoolBroken:
            raise  # whether the row reached the disk is unknown: the sweep at the next start decides
        except BaseException:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise
        if stored != message.queue_id:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        return stored

    async def _insert(self, message: NewMessage, body: bytes | None) -> str:
        size = len(body or b"")
        return await self._writer.submit(lambda db: statements.insert_message(db, message, body), size)

    async def claim(
        self,
        now: float,
        limit: int,
        next_attempt: NextAttempt,
        skip: Collection[str] = (),
        limit_each: int = 1000,
    ) -> Sequence[Claim]:
        self._writer.refuse_if_broken()
        first = await self._reader.ask(lambda db: statements.first_due(db, skip, limit))
        places = [name for name, due in first if due <= now]
        if not places:
            return []
        return await self._writer.submit(
            lambda db: statements.claim_due(db, now, limit, next_attempt, places, limit_each)
        )

    async def unclaim(self, queue_id: str, forward_paths: Collection[str], now: float, destination: str = "") -> None:
        await self._writer.submit(lambda db: statements.unclaim(db, queue_id, forward_paths, now, destination))

    async def settle(self, settlement: Settlement) -> None:
        leaves = self._file_of(settlement.queue_id)
        await self._writer.submit(lambda db: statements.settle(db, settlement), hurry=False, leaves=leaves)

    async def content(self, queue_id: str) -> Content:
        """The message's octets. Raises KeyError when it is not there."""
        path = self._body_path(queue_id)
        content = await self._reader.ask(lambda db: statements.content_of(db, queue_id, path))
        if content is None:
            raise KeyError(queue_id)
        return content

    async def next_due(self, skip: Collection[str] = ()) -> float | None:
        first = await self._reader.ask(lambda db: statements.first_due(db, skip, 1))
        return first[0][1] if first else None

    async def rows(self, limit: int, queue_id: str | None = None) -> list[dict[str, Any]]:
        if queue_id is not None:
            return await self.rows_of([queue_id])
        return await self._looker.ask(lambda db: statements.list_rows(db, limit))

    async def retry_now(self, queue_id: str | None, now: float) -> int:
        if queue_id is None:
            while await self._writer.submit(lambda db: statements.make_due(db, now, RETRY_ROWS)):
                pass  # a step at a time: what else is written need not wait for a million rows
        return await self._writer.submit(lambda db: statements.retry_now(db, queue_id, now))

    async def pick(self, selection: Selection, after: int = 0, limit: int = 1000) -> Page:
        return await self._looker.ask(lambda db: pick(db, selection, after, limit))

    async def newest(self) -> int:
        return await self._looker.ask(newest)

    async def rows_of(self, queue_ids: Sequence[str]) -> list[dict[str, Any]]:
        return await self._looker.ask(lambda db: statements.rows_of(db, queue_ids))

    async def change(self, selection: Selection, queue_ids: Sequence[str], change: Change) -> Changed:
        def leaves(changed: Changed) -> list[Path]:
            return [self._body_path(queue_id) for queue_id in changed.files]

        return await self._writer.submit(lambda db: change_of(db, selection, queue_ids, change), leaves=leaves)

    async def waiting(self, selection: Selection, queue_ids: Sequence[str]) -> list[Claim]:
        return await self._looker.ask(lambda db: statements.waiting(db, selection, queue_ids))

    async def give_up(self, settlement: Settlement) -> None:
        leaves = self._file_of(settlement.queue_id)
        await self._writer.submit(lambda db: statements.give_up(db, settlement), leaves=leaves)

    async def delete(self, queue_id: str) -> bool:
        def leaves(deleted: Deleted) -> list[Path]:
            return [self._body_path(queue_id)] if deleted is Deleted.WITH_FILE else []

        deleted = await self._writer.submit(lambda db: statements.delete_message(db, queue_id), leaves=leaves)
        return deleted is not Deleted.NOTHING

    async def suspend(self, suspension: Suspension) -> None:
        await self._writer.submit(lambda db: statements.suspend(db, suspension))

    async def resume(self, destination: str) -> bool:
        return await self._writer.submit(lambda db: statements.resume(db, destination))

    async def suspensions(self) -> list[Suspension]:
        return await self._reader.ask(statements.suspensions)

    async def suppress(self, entry: Suppressed) -> None:
        await self._writer.submit(lambda db: statements.suppress(db, entry))

    async def unsuppress(self, address: str) -> bool:
        return await self._writer.submit(lambda db: statements.unsuppress(db, address))

    async def forget_suppressed(self, now: float) -> None:
        await self._writer.submit(lambda db: statements.forget_suppressed(db, now))

    async def suppressed(self, limit: int) -> list[Suppressed]:
        return await self._reader.ask(lambda db: statements.suppressed(db, limit))

    async def depth(self) -> Depth:
        return await self._looker.ask(statements.depth)

    def _file_of(self, queue_id: str) -> Callable[[bool], list[Path]]:
        """What is left behind where a message has gone and had a file."""
        return lambda left_file: [self._body_path(queue_id)] if left_file else []

    def _body_path(self, queue_id: str) -> Path:
        return self._bodies / queue_id[-2:] / queue_id

    def _write_body(self, path: Path, message: NewMessage) -> Content:
        """The file whole, durable and under its name, before any row speaks of it; return what the row will say."""
        try:
            if not path.parent.exists():
                path.parent.mkdir(exist_ok=True)
                durable.sync_directory(self._bodies, self._disk)
            return self._take_over(path, message)
        except OSError as wrong:
            with contextlib.suppress(OSError):  # the sweep at the next start gets what this does not
                path.unlink(missing_ok=True)
            if wrong.errno in _NO_ROOM:
                raise SpoolFull(str(wrong)) from wrong
            raise self._writer.give_up(wrong) from wrong

    def _take_over(self, path: Path, message: NewMessage) -> Content:
        content = message.content
        if content.file is not None and content.file.parent == self._temporary:
            durable.keep(content.file, path, disk=self._disk)
            return replace(content, front=content.front + content.rest, rest=b"", file=path)
        durable.put(path, content.pieces(), temporary=self._temporary / message.queue_id, disk=self._disk)
        return Content(file=path, file_octets=content.size_octets, is_ascii=content.is_ascii)

    # At start, before anybody else can ask.

    def _sweep(self, db: sqlite3.Connection) -> None:
        """After a crash: nobody holds a claim, unfinished files go, rows that lost their file are set aside."""
        if interrupted := statements.release_leases(db):
            log.warning("attempts were cut off", extra={"fields": {"recipients": interrupted}})
        expected = {str(row[0]) for row in db.execute("SELECT id FROM message WHERE front IS NOT NULL")}
        found = {path.name for path in self._bodies.glob("*/*") if self._is_body(path, expected)}
        for lost in sorted(expected - found):
            self._set_aside(db, lost)
        give_back_free_pages(db)

    def _is_body(self, path: Path, expected: Collection[str]) -> bool:
        if path.name in expected:
            return True
        with contextlib.suppress(IsADirectoryError):
            path.unlink(missing_ok=True)
        return False

    def _set_aside(self, db: sqlite3.Connection, queue_id: str) -> None:
        log.critical("a queued message has lost its content and is set aside", extra={"fields": {"queue_id": queue_id}})
        known = json.dumps(statements.rows_of(db, [queue_id]), indent=1)
        durable.put(self._aside / f"{queue_id}.json", known.encode(), disk=self._disk)
        statements.delete_message(db, queue_id)


def _lock(directory: Path) -> int:
    """A second relay on the same spool would deliver everything twice. Raises BlockingIOError (an OSError)."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
