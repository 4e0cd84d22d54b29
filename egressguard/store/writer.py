"""Group commit: all that waits becomes one transaction, and one wait for the disk.

Contract
    Everything that waits goes into one transaction (at most BATCH_JOBS jobs or BATCH_OCTETS), then all are
    answered. No artificial delay: batches form by themselves while the disk is busy.
    When the transaction fails nobody in it is told that it worked. A job that fails alone harms no other.
    Full storage refuses the batch and ends by itself; any other trouble with storage ends all writing.

A job's statements run on the event loop: they touch memory, and take less time than a change of threads. What waits
for the disk (COMMIT, checkpoints) runs on a thread, and the loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from egressguard.store.interface import SpoolBroken, SpoolFull
from egressguard.store.schema import give_back_free_pages

log = logging.getLogger(__name__)

BATCH_JOBS = 256
BATCH_OCTETS = 8 * 1024 * 1024
CHECKPOINT_OCTETS = 4 * 1024 * 1024
"""While the WAL is moved its contents exist twice: on a small flash disk that has to stay little."""
_JOB_OCTETS = 8 * 1024
"""What a job writes into the WAL beside the body, roughly."""
PATIENCE_SECONDS = 0.02
SPARE_PAGES = 2000
"""Free pages the file may keep; more are given back to the file system, which others fill too."""
_OWN_FAULT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)
"""What sqlite3 raises for a statement or its values; the rest of sqlite3.Error is about storage."""

T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    size_octets: int
    future: asyncio.Future[Any]
    then: Callable[[Any], None] | None = None
    answer: Any = None
    wrong: BaseException | None = None

    def reply(self) -> None:
        if self.future.done():  # whoever asked is gone
            return
        with contextlib.suppress(RuntimeError):  # so is their event loop
            if self.wrong is not None:
                self.future.set_exception(self.wrong)
            else:
                self.future.set_result(self.answer)


class Writer:
    """Owns the connection from now on, for one event loop at a time. `broken` says why nothing is written any more."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._jobs: deque[_Job] = deque()
        self._batch: list[_Job] = []
        self._disk = ThreadPoolExecutor(1, "spool-writer")
        self._committing: Future[Exception | None] | None = None
        self._pumping = False
        self._hurried = False
        self._later: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._since_checkpoint_octets = 0
        self.broken: str | None = None

    async def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        size_octets: int = 0,
        *,
        hurry: bool = True,
        then: Callable[[T], None] | None = None,
    ) -> T:
        """Run `work` in the next transaction; return its answer once that is on the disk.

        What is in no hurry waits for the next that is, PATIENCE_SECONDS at most. `then` gets the answer on the
        writer's thread, after the commit; what it raises (OSError) is logged only."""
        if self._closed:
            raise SpoolBroken("closed")
        self.refuse_if_broken()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._serve(loop)
        job = _Job(work, size_octets, loop.create_future(), then)
        self._jobs.append(job)
        if hurry:
            self._hurry(loop)
        elif self._later is None:
            self._later = loop.call_later(PATIENCE_SECONDS, self._hurry, loop)
        result: T = await job.future
        return result

    def close(self) -> None:
        """Commit what waits. Blocks; to be called where the event loop runs, or when it has ended."""
        if self._closed:
            return
        self._closed = True
        self._disk.shutdown()
        self._committed()
        while self._jobs:
            self._take_batch()
            self._finish(self._run() or self._to_disk())
        if self.broken is None:
            self._checkpoint_now()
        self._db.close()

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

    # On the event loop.

    def _hurry(self, loop: asyncio.AbstractEventLoop) -> None:
        self._hurried = True
        if not self._pumping and self._committing is None:
            self._pumping = True
            loop.call_soon(self._pump, loop)  # what else this turn of the loop brings comes along

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        """One transaction for all that waits, up to the COMMIT."""
        self._pumping = False
        if self._committing is not None or not self._jobs or self._closed or not self._hurried:
            return
        self._take_batch()
        if not self._jobs:
            self._hurried = False
            if self._later is not None:
                self._later.cancel()
                self._later = None
        wrong = self._run()
        if wrong is not None and not isinstance(wrong, SpoolFull):
            self._finish(wrong)
            return
        self._committing = self._disk.submit(self._to_disk, wrong)
        self._committing.add_done_callback(lambda _: self._call_back(loop))

    def _call_back(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for these answers any more
            loop.call_soon_threadsafe(self._committed_on, loop)

    def _committed_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._committed()
        self._pump(loop)

    def _committed(self) -> None:
        if self._committing is not None:
            wrong = self._committing.result()
            self._committing = None
            self._finish(wrong)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Another loop than before: the last one may have ended with a commit under way."""
        self._committed()
        self._pumping = self._hurried = False
        self._later = None
        self._loop = loop

    def _take_batch(self) -> None:
        size = 0
        while self._jobs and len(self._batch) < BATCH_JOBS and size < BATCH_OCTETS:
            job = self._jobs.popleft()
            self._batch.append(job)
            size += job.size_octets

    def _run(self) -> Exception | None:
        """Every job's statements; the transaction stays open. Return why there is none."""
        if self.broken is not None:
            return SpoolBroken(self.broken)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if not self._run_all():
                self._roll_back()
                self._db.execute("BEGIN IMMEDIATE")
                for job in self._batch:
                    self._run_one(job)
        except sqlite3.Error as wrong:
            self._roll_back()
            return self._explain(wrong)
        return None

    def _run_all(self) -> bool:
        """All jobs, as if none could fail; False when one did (or storage: trying them one by one will tell)."""
        try:
            for job in self._batch:
                job.wrong = None
                job.answer = job.work(self._db)
        except Exception:  # noqa: BLE001 -- it comes again, and is handed to whoever asked for the job
            return False
        return True

    def _run_one(self, job: _Job) -> None:
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

    def _finish(self, wrong: Exception | None) -> None:
        batch, self._batch = self._batch, []
        for job in batch:
            job.wrong = job.wrong or wrong
            job.reply()

    # On the writer's thread; the loop keeps its hands off the connection meanwhile.

    def _to_disk(self, refused: Exception | None = None) -> Exception | None:
        """Commit and see to the WAL; return what went wrong with the batch. `refused`: it had no room as it stood."""
        wrong = refused or self._commit()
        if isinstance(wrong, SpoolFull):  # the WAL itself may be what fills the disk
            self._checkpoint_now()
            wrong = self._run() or self._commit()
        if wrong is None:
            self._afterwards()
        self._since_checkpoint_octets += sum(job.size_octets + _JOB_OCTETS for job in self._batch)
        if self._since_checkpoint_octets >= CHECKPOINT_OCTETS and self.broken is None:
            self._checkpoint_now()
        return wrong

    def _afterwards(self) -> None:
        for job in self._batch:
            if job.then is not None and job.wrong is None:
                try:
                    job.then(job.answer)
                except OSError as wrong:  # a file that nobody needs stays: the next start sweeps it
                    log.warning("a file could not be removed", extra={"fields": {"why": str(wrong)}})

    def _commit(self) -> Exception | None:
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as wrong:
            self._roll_back()
            return self._explain(wrong)
        return None

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # there may be no transaction left to undo
            self._db.execute("ROLLBACK")

    def _explain(self, wrong: sqlite3.Error) -> Exception:
        code = getattr(wrong, "sqlite_errorcode", 0) or 0
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return SpoolFull(str(wrong))
        return self.give_up(wrong)

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
