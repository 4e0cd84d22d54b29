"""Group commit: all that waits becomes one transaction, and one wait for the disk.

Contract
    Everything that waits goes into one transaction (at most BATCH_JOBS jobs or BATCH_OCTETS), and is answered when the
    log with it is on the disk. No artificial delay: batches form by themselves while the disk is busy with LANES of
    them, and in the next few turns of the loop.
    When the transaction fails nobody in it is told that it worked. A job that fails alone harms no other.
    Full storage refuses the batch and ends by itself; any other trouble with storage ends all writing.

A job's statements and their COMMIT run on the event loop: they touch memory and the page cache, and take less time than
a change of threads. The same goes for the wait for a disk that is quick (store.disk_pace); what waits for another runs
on threads, and the loop goes on meanwhile (decision 0050).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from egressguard.store.disk_pace import DiskPace
from egressguard.store.interface import SpoolBroken, SpoolFull
from egressguard.store.wal import LARGE_LOG_OCTETS, Wal

log = logging.getLogger(__name__)

BATCH_JOBS = 256
BATCH_OCTETS = 8 * 1024 * 1024
LANES = 2
"""Batches that wait for the disk at a time: what comes while it is busy with one need not wait until that is done."""
GATHERING_TURNS = 2
"""What comes in so many more turns of the event loop goes along: a transaction costs as much as two messages' rows."""
_JOB_OCTETS = 8 * 1024
"""What a job writes into the WAL beside the body, roughly."""
PATIENCE_SECONDS = 0.02
_OWN_FAULT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)
"""What sqlite3 raises for a statement or its values; the rest of sqlite3.Error is about storage."""

T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    size_octets: int
    future: asyncio.Future[Any]
    leaves: Callable[[Any], Iterable[Path]] | None = None
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

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        """`path` is the database's. Raises OSError, sqlite3.Error."""
        self._db = db
        self._wal = Wal(db, path, LANES)
        self._jobs: deque[_Job] = deque()
        self._disk = ThreadPoolExecutor(LANES + 1, "spool-writer")
        self._pace = DiskPace()
        self._under_way: dict[Future[Exception | None], list[_Job]] = {}
        self._alone: Future[Exception | None] | None = None  # has the connection for itself
        self._pumping = False
        self._hurried = False
        self._later: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._since_checkpoint_octets = 0
        self._wants_room = False
        self.broken: str | None = None

    async def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        size_octets: int = 0,
        *,
        hurry: bool = True,
        leaves: Callable[[T], Iterable[Path]] | None = None,
    ) -> T:
        """Run `work` in the next transaction; return its answer once that is on the disk.

        What is in no hurry waits for the next that is, PATIENCE_SECONDS at most. `leaves` says which files nobody
        needs any more after that answer: they are removed behind the commit; one that cannot be is logged only."""
        if self._closed:
            raise SpoolBroken("closed")
        self.refuse_if_broken()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._serve(loop)
        job = _Job(work, size_octets, loop.create_future(), leaves)
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
        self._land()
        while self._jobs:
            batch = self._take_batch()
            self._finish(batch, self._transact(batch) or self._sync(_leftovers(batch)))
        if self.broken is None:
            self._checkpoint(give_back=True)
        self._wal.close()
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
        self._wants_room = True
        await self.submit(lambda _db: None, LARGE_LOG_OCTETS)

    # On the event loop.

    def _hurry(self, loop: asyncio.AbstractEventLoop) -> None:
        self._hurried = True
        if not self._pumping and self._has_lane():
            self._pumping = True
            loop.call_soon(self._gather, loop, GATHERING_TURNS)

    def _has_lane(self) -> bool:
        return self._alone is None and len(self._under_way) < LANES

    def _gather(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns:
            loop.call_soon(self._gather, loop, turns - 1)
        else:
            self._pump(loop)

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        """One transaction for all that waits, and off to the disk with it."""
        self._pumping = False
        if not self._jobs or self._closed or not self._hurried or not self._has_lane():
            return
        batch = self._take_batch()
        if not self._jobs:
            self._hurried = False
            if self._later is not None:
                self._later.cancel()
                self._later = None
        wrong = self._transact(batch)
        if isinstance(wrong, SpoolFull):
            self._alone = self._start(loop, batch, self._make_room_for, batch)
        elif wrong is not None:
            self._finish(batch, wrong)
            if self._jobs:
                self._hurry(loop)  # nothing comes back from the disk that would go on with them
        else:
            self._to_disk(loop, batch)
            self._checkpoint_when_due(loop, batch)

    def _to_disk(self, loop: asyncio.AbstractEventLoop, batch: list[_Job]) -> None:
        """Wait here where the disk is quick, else on a thread: there, too, where files are to be removed."""
        began, leftovers = time.monotonic(), _leftovers(batch)
        if leftovers or not self._pace.is_quick(began):
            self._start(loop, batch, self._sync, leftovers)
            return
        wrong = self._sync(())
        ended = time.monotonic()
        self._pace.took(ended - began, ended)
        self._finish(batch, wrong)
        if self._jobs:
            self._hurry(loop)

    def _checkpoint_when_due(self, loop: asyncio.AbstractEventLoop, batch: list[_Job]) -> None:
        self._since_checkpoint_octets += sum(job.size_octets + _JOB_OCTETS for job in batch)
        if self._since_checkpoint_octets >= self._wal.due_octets:
            give_back, self._wants_room = self._wants_room, False
            self._alone = self._start(loop, [], self._checkpoint, give_back)

    def _start(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Job], work: Callable[..., Exception | None], *given: object
    ) -> Future[Exception | None]:
        """Something that waits for the disk, on a thread; `batch` is answered behind it."""
        future = self._disk.submit(work, *given)
        self._under_way[future] = batch
        future.add_done_callback(lambda _: self._call_back(loop))
        return future

    def _call_back(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for these answers any more
            loop.call_soon_threadsafe(self._landed_on, loop)

    def _landed_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._land(only_done=True)
        if self._jobs and self._hurried:
            self._hurry(loop)

    def _land(self, *, only_done: bool = False) -> None:
        """Answer what has come back from the disk; wait for the rest of it, unless `only_done`."""
        for future in [future for future in self._under_way if future.done() or not only_done]:
            wrong = future.result()
            if future is self._alone:
                self._alone = None
            self._finish(self._under_way.pop(future), wrong)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Another loop than before: the last one may have ended with something under way."""
        self._land()
        self._pumping = self._hurried = False
        self._later = None
        self._loop = loop

    def _take_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        size = 0
        while self._jobs and len(batch) < BATCH_JOBS and size < BATCH_OCTETS:
            job = self._jobs.popleft()
            batch.append(job)
            size += job.size_octets
        return batch

    def _finish(self, batch: list[_Job], wrong: Exception | None) -> None:
        for job in batch:
            job.wrong = job.wrong or wrong
            job.reply()

    # Wherever the connection is: on the event loop, but for `_make_room_for`.

    def _transact(self, batch: list[_Job]) -> Exception | None:
        """Every job's statements, in one transaction that is not on the disk yet; return why there is none."""
        if self.broken is not None:
            return SpoolBroken(self.broken)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if not self._run_all(batch):
                self._roll_back()
                self._db.execute("BEGIN IMMEDIATE")
                for job in batch:
                    self._run_one(job)
            self._db.execute("COMMIT")
        except sqlite3.Error as wrong:
            self._roll_back()
            return self._explain(wrong)
        return None

    def _run_all(self, batch: list[_Job]) -> bool:
        """All jobs, as if none could fail; False when one did (or storage: trying them one by one will tell)."""
        try:
            for job in batch:
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

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # there may be no transaction left to undo
            self._db.execute("ROLLBACK")

    def _explain(self, wrong: sqlite3.Error) -> Exception:
        code = getattr(wrong, "sqlite_errorcode", 0) or 0
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return SpoolFull(str(wrong))
        return self.give_up(wrong)

    # On a thread; `_sync` on the event loop, too.

    def _sync(self, leftovers: Sequence[Path]) -> Exception | None:
        """The transaction that was committed last, and all before it, to the disk; then these files go."""
        try:
            self._wal.sync()
        except OSError as wrong:
            return self.give_up(wrong)
        if self.broken is not None:  # what came before this may be a hole in the log
            return SpoolBroken(self.broken)
        for path in leftovers:
            try:
                path.unlink(missing_ok=True)
            except OSError as wrong:  # a file that nobody needs stays: the next start sweeps it
                log.warning("a file could not be removed", extra={"fields": {"why": str(wrong)}})
        return None

    def _make_room_for(self, batch: list[_Job]) -> Exception | None:
        """What had no room once more: the log itself may be what fills the disk."""
        self._checkpoint(give_back=True)
        return self._transact(batch) or self._sync(_leftovers(batch))

    def _checkpoint(self, give_back: bool) -> None:
        try:
            self._wal.checkpoint(give_back=give_back)
            self._since_checkpoint_octets = 0
        except sqlite3.Error as wrong:
            self._explain(wrong)
        except OSError as wrong:
            self.give_up(wrong)


def _leftovers(batch: Sequence[_Job]) -> list[Path]:
    return [path for job in batch if job.leaves is not None and job.wrong is None for path in job.leaves(job.answer)]
