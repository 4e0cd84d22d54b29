"""The spool on SQLite: one writer thread, group commit, small bodies in rows, large ones in files.

Contract
    See store.interface. WAL with synchronous=FULL: a commit is on the disk when it returns.
    The row is the truth: a body file without a row is swept at start, a row without its file is set aside, loudly.
    A failed fsync is never tried again: the spool goes read-only until the process starts anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from egressguard.store import durable
from egressguard.store.interface import Claim, Depth, NewMessage, Settlement, SpoolBroken, SpoolFull
from egressguard.store.statements import (
    claim_due,
    delete_message,
    depth,
    insert_message,
    list_rows,
    next_due,
    release_leases,
    retry_now,
    set_aside,
    settle,
)
from egressguard.store.schema import open_database

log = logging.getLogger(__name__)

INLINE_OCTETS = 64 * 1024
"""Larger bodies are files: measured, SQLite BLOBs win below and files above."""
BATCH_MESSAGES = 256
BATCH_OCTETS = 8 * 1024 * 1024
_FULL = frozenset({sqlite3.SQLITE_FULL})
_ROOM_ERRNOS = frozenset({28, 122})  # ENOSPC, EDQUOT

T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    """Work for the writer thread inside the next transaction; `future` lives on `loop`."""

    work: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    size_octets: int = 0

    def resolve(self, value: Any) -> None:
        self._later(lambda: self.future.set_result(value))

    def reject(self, wrong: BaseException) -> None:
        self._later(lambda: self.future.set_exception(wrong))

    def _later(self, finish: Callable[[], None]) -> None:
        def run() -> None:
            if not self.future.done():
                finish()

        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits for this answer any more
            self.loop.call_soon_threadsafe(run)


class SqliteSpool:
    """Open with `SqliteSpool(directory, reserve_octets=...)`; `close()` commits what waits and ends the thread."""

    def __init__(self, directory: Path, *, reserve_octets: int = 0, disk: type[durable.Disk] = durable.Disk) -> None:
        self._directory = directory
        self._reserve_octets = reserve_octets
        self._disk = disk
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._broken: str | None = None
        for name in ("body", "tmp", "aside"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        opened: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, args=(opened,), name="spool-writer", daemon=True)
        self._thread.start()
        if (wrong := opened.get()) is not None:
            raise wrong

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    async def put(self, message: NewMessage) -> str:
        """Store one message; return its queue id (of the first put of its source_id). Raises SpoolFull, SpoolBroken."""
        self._refuse_when_broken()
        self._refuse_when_full(len(message.content))
        if len(message.content) <= INLINE_OCTETS:
            return await self._submit(lambda db: insert_message(db, message, message.content), len(message.content))
        path = self._body_path(message.queue_id)
        await asyncio.to_thread(self._write_body, path, message)
        try:
            stored = await self._submit(lambda db: insert_message(db, message, None))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if stored != message.queue_id:
            path.unlink(missing_ok=True)
        return stored

    async def claim(self, now: float, limit: int, lease_seconds: float) -> Sequence[Claim]:
        return await self._submit(lambda db: claim_due(db, now, limit, now + lease_seconds))

    async def settle(self, settlement: Settlement) -> None:
        gone = await self._submit(lambda db: settle(db, settlement))
        if gone:
            self._body_path(settlement.queue_id).unlink(missing_ok=True)

    async def content(self, queue_id: str) -> bytes:
        """The message's octets. Raises KeyError when it is not there."""
        body = await self._submit(
            lambda db: db.execute("SELECT body FROM message WHERE id = ?", (queue_id,)).fetchone()
        )
        if body is None:
            raise KeyError(queue_id)
        if body[0] is not None:
            return bytes(body[0])
        return await asyncio.to_thread(self._body_path(queue_id).read_bytes)

    async def next_due(self) -> float | None:
        return await self._submit(next_due)

    async def rows(self, limit: int, queue_id: str | None = None) -> list[dict[str, Any]]:
        return await self._submit(lambda db: list_rows(db, limit, queue_id))

    async def retry_now(self, queue_id: str | None, now: float) -> int:
        return await self._submit(lambda db: retry_now(db, queue_id, now))

    async def delete(self, queue_id: str) -> bool:
        deleted = await self._submit(lambda db: delete_message(db, queue_id))
        self._body_path(queue_id).unlink(missing_ok=True)
        return deleted

    async def depth(self) -> Depth:
        return await self._submit(depth)

    def _body_path(self, queue_id: str) -> Path:
        return self._directory / "body" / queue_id[-2:] / queue_id

    def _write_body(self, path: Path, message: NewMessage) -> None:
        try:
            if not path.parent.exists():
                path.parent.mkdir(exist_ok=True)
                durable.sync_directory(path.parent.parent, self._disk)
            temporary = self._directory / "tmp" / message.queue_id
            durable.put(path, message.content, temporary=temporary, disk=self._disk)
        except OSError as wrong:
            raise self._explain(wrong) from wrong

    def _refuse_when_broken(self) -> None:
        if self._broken is not None:
            raise SpoolBroken(self._broken)

    def _refuse_when_full(self, size_octets: int) -> None:
        if shutil.disk_usage(self._directory).free < self._reserve_octets + size_octets:
            raise SpoolFull(f"less than {self._reserve_octets} octets would stay free")

    async def _submit(self, work: Callable[[sqlite3.Connection], T], size_octets: int = 0) -> T:
        self._refuse_when_broken()
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future(), size_octets)
        self._jobs.put(job)
        result: T = await job.future
        return result

    def _explain(self, wrong: Exception) -> Exception:
        """Full is for a while; anything else that storage says ends writing until a restart."""
        code = getattr(wrong, "sqlite_errorcode", None)
        if code in _FULL or (isinstance(wrong, OSError) and wrong.errno in _ROOM_ERRNOS):
            return SpoolFull(str(wrong))
        if isinstance(wrong, OSError | sqlite3.OperationalError | sqlite3.DatabaseError):
            self._broken = f"{type(wrong).__name__}: {wrong}"
            log.critical("the spool is read-only until the relay starts anew", extra={"fields": {"why": str(wrong)}})
            return SpoolBroken(self._broken)
        return wrong

    # The writer thread.

    def _write(self, opened: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            db = open_database(self._directory / "spool.sqlite")
            self._sweep(db)
        except Exception as wrong:  # told to the opener, whose error it is
            opened.put(wrong)
            return
        opened.put(None)
        while (batch := self._next_batch()) is not None:
            if batch:
                self._commit(db, batch)
        db.close()

    def _next_batch(self) -> list[_Job] | None:
        """Everything that waits, up to the batch's bounds; [] to go on, None to end."""
        job = self._jobs.get()
        if job is None:
            return None
        batch, size = [job], job.size_octets
        while len(batch) < BATCH_MESSAGES and size < BATCH_OCTETS:
            try:
                more = self._jobs.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._jobs.put(None)
                break
            batch.append(more)
            size += more.size_octets
        return batch

    def _commit(self, db: sqlite3.Connection, batch: list[_Job]) -> None:
        """One transaction for the whole batch; when it fails, nobody in it is told that it worked."""
        answers: list[Any] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            for job in batch:
                answers.append(self._run(db, job))
            db.execute("COMMIT")
        except (sqlite3.Error, OSError) as wrong:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            explained = self._explain(wrong)
            for job in batch:
                job.reject(explained)
            return
        for job, answer in zip(batch, answers, strict=True):
            if isinstance(answer, _Refused):
                job.reject(answer.why)
            else:
                job.resolve(answer)

    def _run(self, db: sqlite3.Connection, job: _Job) -> Any:
        """One job inside the transaction; a row that breaks a constraint concerns its own job only."""
        try:
            return job.work(db)
        except (sqlite3.IntegrityError, KeyError, ValueError) as wrong:
            return _Refused(wrong)

    def _sweep(self, db: sqlite3.Connection) -> None:
        """After a crash: nobody holds a lease, unfinished files go, rows that lost their file are set aside."""
        release_leases(db)
        for leftover in (self._directory / "tmp").iterdir():
            leftover.unlink(missing_ok=True)
        in_files = {row[0] for row in db.execute("SELECT id FROM message WHERE body IS NULL")}
        found = set()
        for folder in (self._directory / "body").iterdir():
            for path in folder.iterdir():
                if path.name in in_files:
                    found.add(path.name)
                else:
                    path.unlink(missing_ok=True)
        for lost in in_files - found:
            log.critical("a queued message has lost its content and is set aside", extra={"fields": {"queue_id": lost}})
            (self._directory / "aside" / f"{lost}.txt").write_text(repr(set_aside(db, lost)))


@dataclass(frozen=True, slots=True)
class _Refused:
    why: Exception


def new_queue_id(now: float, chance: int) -> str:
    """A short id, sortable by time and unique over restarts: milliseconds and 32 random bits, in base 36."""
    return _base36(int(now * 1000)).rjust(9, "0") + _base36(chance & 0xFFFFFFFF).rjust(7, "0")


def random_queue_id(now: float) -> str:
    return new_queue_id(now, int.from_bytes(os.urandom(4), "big"))


def _base36(number: int) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    text = ""
    while True:
        number, rest = divmod(number, 36)
        text = digits[rest] + text
        if not number:
            return text
