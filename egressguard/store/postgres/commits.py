"""Group commit on a thread of its own: all that waits becomes one transaction.

Contract
    As store.writer, for a database whose statements wait for a network: nothing of it runs on the event loop.
    When the transaction fails nobody in it is told that it worked. A job that fails alone harms no other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from egressguard.store.interface import SpoolBroken, SpoolFull
from egressguard.store.postgres.session import OWN_FAULT, Session

BATCH_JOBS = 256
BATCH_OCTETS = 8 * 1024 * 1024

T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    work: Callable[[Session], Any]
    size_octets: int
    future: asyncio.Future[Any]
    answer: Any = None
    wrong: BaseException | None = None

    def reply(self) -> None:
        if self.future.done():  # whoever asked is gone
            return
        if self.wrong is not None:
            self.future.set_exception(self.wrong)
        else:
            self.future.set_result(self.answer)


class Commits:
    """Owns the session from now on, for one event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, "spool-commits")
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, work: Callable[[Session], T], size_octets: int = 0) -> T:
        """Run `work` in the next transaction; return its answer once that is durable.

        Raises SpoolAway, SpoolFull, SpoolBroken (closed), and what is wrong with this job alone."""
        if self._closed:
            raise SpoolBroken("closed")
        loop = asyncio.get_running_loop()
        job = _Job(work, size_octets, loop.create_future())
        self._jobs.append(job)
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        result: T = await job.future
        return result

    def close(self, last: Callable[[Session], None]) -> None:
        """Finish what runs; what waits is committed too, and `last` is done where there is a connection. Blocks."""
        if self._closed:
            return
        self._closed = True
        while self._jobs:
            batch = self._take()
            self._thread.submit(self._commit, batch).result()
        self._thread.submit(self._end, last).result()
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._jobs and not self._closed:
            batch = self._take()
            await loop.run_in_executor(self._thread, self._commit, batch)
            for job in batch:
                job.reply()

    def _take(self) -> list[_Job]:
        batch: list[_Job] = []
        size = 0
        while self._jobs and len(batch) < BATCH_JOBS and size < BATCH_OCTETS:
            job = self._jobs.popleft()
            batch.append(job)
            size += job.size_octets
        return batch

    # On the thread.

    def _end(self, last: Callable[[Session], None]) -> None:
        if self._session.is_open:
            with contextlib.suppress(SpoolFull):  # the others find out
                self._session.transaction(last)
        self._session.close()

    def _commit(self, batch: list[_Job]) -> None:
        try:
            try:
                self._session.transaction(lambda session: self._all(session, batch))
            except Exception:  # noqa: BLE001 -- one of them, or the database: trying them one by one will tell
                self._session.transaction(lambda session: self._one_by_one(session, batch))
        except BaseException as wrong:  # noqa: BLE001 -- handed to whoever asked
            for job in batch:
                job.wrong = job.wrong or wrong

    def _all(self, session: Session, batch: list[_Job]) -> None:
        for job in batch:
            job.wrong = None
            job.answer = job.work(session)

    def _one_by_one(self, session: Session, batch: list[_Job]) -> None:
        for job in batch:
            job.wrong = None
            try:
                job.answer = session.alone(lambda job=job: job.work(session))  # type: ignore[misc]
            except (*OWN_FAULT, OSError, ValueError, LookupError) as wrong:
                job.wrong = wrong
