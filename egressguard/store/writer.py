"""Group commit: the one thread that writes the spool's database.

Contract
    Everything that waits goes into one transaction (at most BATCH_MESSAGES jobs or BATCH_OCTETS), then all are
    answered. No artificial delay: batches form by themselves while the disk is busy.
    When the transaction fails nobody in it is told that it worked. A job that fails alone harms no other.
    Full storage refuses the batch and ends by itself; any other trouble with storage ends all writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from egressguard.store.interface import SpoolBroken, SpoolFull
from egressguard.store.schema import give_back_free_pages

log = logging.getLogger(__name__)

BATCH_MESSAGES = 256
BATCH_OCTETS = 8 * 1024 * 1024
CHECKPOINT_OCTETS = 1024 * 1024
"""While the WAL is moved its contents exist twice: on a small flash disk that has to stay little."""
_JOB_OCTETS = 8 * 1024
"""What a job writes into the WAL beside the body, roughly."""
SPARE_PAGES = 2000
"""Free pages the file may keep; more are given back to the file system, which others fill too."""
_OWN_FAULT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)
"""What sqlite3 raises for a statement or its values; the rest of sqlite3.Error is about storage."""

Work = Callable[[sqlite3.Connection], Any]
T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    """`future` lives on `loop`; the writer's thread answers through it."""

    work: Work
    writes: bool
    size_octets: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    answer: Any = None
    wrong: BaseException | None = None

    def reply(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for this answer any more
            self.loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if self.future.done():
            return
        if self.wrong is not None:
            self.future.set_exception(self.wrong)
        else:
            self.future.set_result(self.answer)


class Writer:
    """Owns the connection from now on. `broken` says why nothing is written any more."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._since_checkpoint_octets = 0
        self.broken: str | None = None
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[sqlite3.Connection], T], size_octets: int = 0, *, writes: bool = True) -> T:
        """Run `work` in the next transaction; return its answer once that is on the disk."""
        if self._closed:
            raise SpoolBroken("closed")
        if writes:
            self.refuse_if_broken()
        loop = asyncio.get_running_loop()
        job = _Job(work, writes, size_octets, loop, loop.create_future())
        self._jobs.put(job)
        result: T = await job.future
        return result

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()

    def refuse_if_broken(self) -> None:
        if self.broken is not None:
            raise SpoolBroken(self.broken)

    def give_up(self, wrong: BaseException) -> SpoolBroken:
        """Storage cannot be trusted: write nothing more. May be called from any thread."""
        if self.broken is None:
            self.broken = f"{type(wrong).__name__}: {wrong}"
            log.critical(
                "storage failed: the spool is read-only until the relay starts anew",
                extra={"fields": {"why": self.broken}},
            )
        return SpoolBroken(self.broken)

    async def tidy(self) -> None:
        """Give space back to the file system, as far as that goes; soon, not yet when this returns."""
        await self.submit(lambda _db: None, CHECKPOINT_OCTETS)

    # The writer's thread.

    def _run(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._next_batch()
            self._do(batch)
            for job in batch:
                job.reply()
            self._checkpoint_if_due()
        self._db.close()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        batch: list[_Job] = []
        size = 0
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            size += job.size_octets
            if len(batch) >= BATCH_MESSAGES or size >= BATCH_OCTETS:
                return batch, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _do(self, batch: list[_Job]) -> None:
        """One transaction for the whole batch."""
        if self.broken is not None:
            for job in batch:
                if job.writes:
                    job.wrong = SpoolBroken(self.broken)
            batch = [job for job in batch if not job.writes]
        wrong = self._transact(batch)
        if isinstance(wrong, SpoolFull):  # the WAL itself may be what fills the disk
            self._checkpoint_now()
            wrong = self._transact(batch)
        if wrong is not None:
            for job in batch:
                job.wrong = job.wrong or wrong
        self._since_checkpoint_octets += sum(job.size_octets + _JOB_OCTETS for job in batch if job.writes)

    def _transact(self, batch: list[_Job]) -> Exception | None:
        """Everything or nothing; return why it was nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE" if any(job.writes for job in batch) else "BEGIN")
            for job in batch:
                self._do_one(job)
            self._db.execute("COMMIT")
        except sqlite3.Error as wrong:
            self._roll_back()
            return self._explain(wrong)
        return None

    def _do_one(self, job: _Job) -> None:
        """A job that breaks a constraint, or is wrong, is undone alone; trouble with storage goes up."""
        job.wrong = None
        self._db.execute("SAVEPOINT job")
        try:
            job.answer = job.work(self._db)
        except sqlite3.Error as wrong:
            if not isinstance(wrong, _OWN_FAULT):
                raise
            self._undo(job, wrong)
        except Exception as wrong:  # noqa: BLE001 -- handed to whoever asked for the job
            self._undo(job, wrong)
        self._db.execute("RELEASE job")

    def _undo(self, job: _Job, wrong: Exception) -> None:
        job.wrong = wrong
        self._db.execute("ROLLBACK TO job")

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # there may be no transaction left to undo
            self._db.execute("ROLLBACK")

    def _explain(self, wrong: sqlite3.Error) -> Exception:
        code = getattr(wrong, "sqlite_errorcode", 0) or 0
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return SpoolFull(str(wrong))
        return self.give_up(wrong)

    def _checkpoint_if_due(self) -> None:
        if self._since_checkpoint_octets >= CHECKPOINT_OCTETS and self.broken is None:
            self._checkpoint_now()

    def _checkpoint_now(self) -> None:
        """Move the WAL into the database, and see its errors (SQLite's own checkpoints hide them)."""
        try:
            self._checkpoint()
            self._since_checkpoint_octets = 0
            if self._db.execute("PRAGMA freelist_count").fetchone()[0] > SPARE_PAGES:
                give_back_free_pages(self._db)
                self._checkpoint()
        except sqlite3.Error as wrong:
            self._explain(wrong)

    def _checkpoint(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
