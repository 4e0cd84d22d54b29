"""The log beside the disk: what is synced when, how large it is, and what a failed sync means for all that wait."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.store import wal
from egressguard.store.interface import SpoolBroken
from egressguard.store.schema import open_database
from egressguard.store.wal import Wal
from egressguard.store.writer import BATCH_JOBS, GATHERING_TURNS, LANES, Writer

PATIENCE_SECONDS = 20


@pytest.fixture
def database(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, Path]]:
    path = tmp_path / "spool.sqlite"
    db = open_database(path)
    db.execute("CREATE TABLE word (said TEXT)")
    yield db, path
    db.close()


def _say(db: sqlite3.Connection, word: str = "x" * 10_000) -> None:
    db.execute("INSERT INTO word VALUES (?)", (word,))


def _log_octets(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


def _with_free(octets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def statvfs(_path: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 0, octets // 4096, octets // 4096, 0, 0, 0, 0, 255))

    monkeypatch.setattr(wal.os, "statvfs", statvfs)


@pytest.mark.parametrize(
    ("free_octets", "give_back", "stays"),
    [
        (wal.PLENTY_OCTETS, False, True),
        (wal.PLENTY_OCTETS, True, False),
        (wal.PLENTY_OCTETS - 4096, False, False),
        (0, True, False),
    ],
)
def test_where_there_is_room_the_log_stays_and_is_written_over(
    free_octets: int,
    give_back: bool,
    stays: bool,
    database: tuple[sqlite3.Connection, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    db, path = database
    _with_free(free_octets, monkeypatch)
    log = Wal(db, path, 1)
    try:
        for _ in range(50):
            _say(db)
        size = _log_octets(path)
        log.checkpoint(give_back=give_back)
        assert _log_octets(path) == (size if stays else 0)
        _say(db)
        assert _log_octets(path) <= size
        assert log.due_octets == (wal.LARGE_LOG_OCTETS if free_octets >= wal.PLENTY_OCTETS else wal.SMALL_LOG_OCTETS)
    finally:
        log.close()


class Gated:
    """A Wal whose syncs wait for a word: each is let go, or fails, when the test says so. The disk counts as slow."""

    def __init__(self, writer: Writer) -> None:
        writer._pace.took(PATIENCE_SECONDS, time.monotonic())
        self.began = threading.Semaphore(0)
        self.words: list[OSError | None] = []
        self._said = threading.Semaphore(0)
        self._sync = writer._wal.sync
        writer._wal.sync = self.sync  # type: ignore[method-assign]

    def sync(self) -> None:
        self.began.release()
        assert self._said.acquire(timeout=PATIENCE_SECONDS)
        if (wrong := self.words.pop(0)) is not None:
            raise wrong
        self._sync()

    def say(self, *words: OSError | None) -> None:
        self.words.extend(words)
        for _ in words:
            self._said.release()

    async def until_began(self) -> None:
        assert await asyncio.to_thread(self.began.acquire, timeout=PATIENCE_SECONDS)


def _count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT COUNT(*) FROM word").fetchone()[0])


def test_nothing_is_answered_before_its_sync_and_two_wait_at_a_time(
    database: tuple[sqlite3.Connection, Path],
) -> None:
    db, path = database

    async def main() -> None:
        writer = Writer(db, path)
        gate = Gated(writer)
        asked = []
        for number in range(LANES + 1):
            asked.append(asyncio.create_task(writer.submit(lambda db, n=number: _say(db, str(n)))))
            if number < LANES:
                await gate.until_began()
        late = asyncio.create_task(writer.submit(lambda db: _say(db, "late")))
        await asyncio.sleep(0)
        assert _count(db) == LANES, "the third waits for a free lane"
        assert not any(task.done() for task in asked)
        gate.say(None)
        await gate.until_began()
        assert _count(db) == LANES + 2, "what came meanwhile goes together"
        gate.say(None, None)
        await asyncio.gather(*asked, late)
        writer.close()

    asyncio.run(main())


@pytest.mark.parametrize("fails_first", [True, False])
def test_a_failed_sync_leaves_nobody_acknowledged_behind_it(
    fails_first: bool,
    database: tuple[sqlite3.Connection, Path],
) -> None:
    """Behind a hole in the log nothing would be found again."""
    db, path = database

    async def main() -> None:
        writer = Writer(db, path)
        gate = Gated(writer)
        asked = []
        for _ in range(LANES):
            asked.append(asyncio.create_task(writer.submit(_say)))
            await gate.until_began()
        wrong = OSError(errno.EIO, "Input/output error")
        if fails_first:
            gate.say(wrong)
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            gate.say(None)
        else:
            gate.say(None)
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            gate.say(wrong)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(answer, SpoolBroken) for answer in answers) == (LANES if fails_first else 1)
        with pytest.raises(SpoolBroken):
            await writer.submit(_say)
        writer.close()

    asyncio.run(main())


def test_all_that_wait_hear_of_broken_storage_however_many(database: tuple[sqlite3.Connection, Path]) -> None:
    db, path = database

    async def main() -> None:
        writer = Writer(db, path)
        gate = Gated(writer)
        first = asyncio.create_task(writer.submit(_say))
        await gate.until_began()
        second = asyncio.create_task(writer.submit(_say))
        await gate.until_began()
        late = [asyncio.create_task(writer.submit(_say)) for _ in range(3 * BATCH_JOBS)]
        await asyncio.sleep(0)
        gate.say(*(LANES * [OSError(errno.EIO, "Input/output error")]))
        async with asyncio.timeout(PATIENCE_SECONDS):
            answers = await asyncio.gather(first, second, *late, return_exceptions=True)
        assert all(isinstance(answer, SpoolBroken) for answer in answers)
        writer.close()

    asyncio.run(main())


class Noted:
    """A Wal that tells who waited for it, and fails when it is told to."""

    def __init__(self, writer: Writer) -> None:
        self.waited: list[bool] = []  # on the event loop's thread
        self.wrong: OSError | None = None
        self._sync = writer._wal.sync
        writer._wal.sync = self.sync  # type: ignore[method-assign]

    def sync(self) -> None:
        self.waited.append(threading.current_thread() is threading.main_thread())
        if self.wrong is not None:
            raise self.wrong
        self._sync()


def test_a_quick_disk_is_waited_for_where_the_mail_is_a_slow_one_on_a_thread(
    database: tuple[sqlite3.Connection, Path], tmp_path: Path
) -> None:
    db, path = database
    left = tmp_path / "left"
    left.touch()

    async def main() -> None:
        writer = Writer(db, path)
        noted = Noted(writer)
        await writer.submit(_say)
        await writer.submit(_say, leaves=lambda _: [left])
        assert noted.waited == [True, False], "removing a file may take long"
        assert not left.exists()
        writer._pace.took(PATIENCE_SECONDS, time.monotonic())
        await writer.submit(_say)
        assert noted.waited == [True, False, False]
        writer.close()

    asyncio.run(main())


def test_what_comes_while_mail_is_gathered_goes_along(database: tuple[sqlite3.Connection, Path]) -> None:
    db, path = database

    async def later(writer: Writer, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await writer.submit(_say)

    async def main() -> None:
        writer = Writer(db, path)
        noted = Noted(writer)
        await asyncio.gather(*(later(writer, turns) for turns in range(GATHERING_TURNS + 1)))
        assert len(noted.waited) == 1
        await asyncio.gather(*(writer.submit(_say) for _ in range(BATCH_JOBS + 1)))
        assert len(noted.waited) == 3, "one more than fit into one transaction"
        writer.close()

    asyncio.run(main())


def test_a_failed_wait_for_a_quick_disk_leaves_nobody_acknowledged(database: tuple[sqlite3.Connection, Path]) -> None:
    db, path = database

    async def main() -> None:
        writer = Writer(db, path)
        noted = Noted(writer)
        noted.wrong = OSError(errno.EIO, "Input/output error")
        answers = await asyncio.gather(*(writer.submit(_say) for _ in range(BATCH_JOBS + 1)), return_exceptions=True)
        assert all(isinstance(answer, SpoolBroken) for answer in answers)
        assert noted.waited == [True], "nothing is written behind a hole in the log"
        writer.close()

    asyncio.run(main())
