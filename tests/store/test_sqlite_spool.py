"""What only the spool on SQLite promises: one file system, one process, files beside rows."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.store.durable import Disk
from egressguard.store.interface import SpoolBroken, SpoolFull
from egressguard.store.schema import MIGRATIONS, SchemaTooNew, open_database
from egressguard.store.spool import SqliteSpool
from tests.store.conftest import LARGE, in_an_hour, message


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SqliteSpool]:
    opened = SqliteSpool(tmp_path)
    yield opened
    opened.close()


def test_puts_that_wait_together_share_a_transaction(spool: SqliteSpool) -> None:
    commits: list[str] = []

    async def walk() -> None:
        spool._writer._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        await asyncio.gather(*(spool.put(message(n)) for n in range(200)))
        assert len(await spool.rows(1000)) == 200

    asyncio.run(walk())
    assert len(commits) < 50


def test_a_cancelled_put_is_stored_whole_or_not_at_all(spool: SqliteSpool) -> None:
    async def walk() -> None:
        putting = asyncio.create_task(spool.put(message(content=LARGE)))
        await asyncio.sleep(0)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        await asyncio.gather(*spool._puts)
        (row,) = await spool.rows(10)
        assert (await spool.content(row["queue_id"])).whole() == LARGE

    asyncio.run(walk())


def test_files_without_rows_are_swept_and_rows_without_files_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def walk() -> None:
        first = SqliteSpool(tmp_path)
        kept, lost = await first.put(message(1, LARGE)), await first.put(message(2, LARGE))
        first.close()
        (tmp_path / "body" / lost[-2:] / lost).unlink()
        (tmp_path / "body" / "ZZ").mkdir()
        (tmp_path / "body" / "ZZ" / "STRAYZZ").write_bytes(b"no row")
        (tmp_path / "tmp" / "HALF").write_bytes(b"no name yet")
        second = SqliteSpool(tmp_path)
        assert [row["queue_id"] for row in await second.rows(10)] == [kept]
        second.close()
        assert "b@one.example" in (tmp_path / "aside" / f"{lost}.json").read_text()

    asyncio.run(walk())
    assert "has lost its content" in caplog.text
    assert [p.name for p in (tmp_path / "body").glob("*/*")] != ["STRAYZZ"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_second_relay_on_the_same_spool_is_refused(tmp_path: Path) -> None:
    first = SqliteSpool(tmp_path)
    with pytest.raises(BlockingIOError):
        SqliteSpool(tmp_path)
    first.close()


def test_a_newer_schema_is_refused_and_an_older_one_migrated(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    open_database(path).close()
    newer = (*MIGRATIONS, "ALTER TABLE message ADD COLUMN colour TEXT;")
    with_colour = open_database(path, newer)
    assert with_colour.execute("SELECT colour FROM message").fetchall() == []
    with_colour.close()
    with pytest.raises(SchemaTooNew):
        open_database(path)


def failing(call: str, number: int, once: list[int]) -> type[Disk]:
    """A Disk whose `call` fails with errno `number` as long as `once` counts down to it."""

    def fail(*arguments: object) -> object:
        once[0] -= 1
        if once[0] == 0:
            raise OSError(number, os.strerror(number))
        return getattr(os, call)(*arguments)

    return type("FailingDisk", (Disk,), {call: staticmethod(fail)})


@pytest.mark.parametrize("call", ["open", "write", "fsync", "close", "rename"])
def test_no_room_at_any_step_refuses_the_message_and_leaves_nothing(tmp_path: Path, call: str) -> None:
    """Every k-th use of each call fails once; afterwards the spool works on."""

    async def walk(step: int) -> bool:
        left = [0]
        spool = SqliteSpool(tmp_path / str(step), disk=failing(call, errno.ENOSPC, left))
        left[0] = step
        try:
            await spool.put(message(1, LARGE))
            return False
        except SpoolFull:
            assert await spool.rows(10) == []
            assert list((tmp_path / str(step) / "body").glob("*/*")) == []
            queue_id = await spool.put(message(2, LARGE))
            assert (await spool.content(queue_id)).whole() == LARGE
            return True
        finally:
            spool.close()

    failures = 0
    while asyncio.run(walk(failures + 1)):
        failures += 1
    assert failures >= 1


def test_a_failed_fsync_ends_all_writing_but_not_reading(tmp_path: Path) -> None:
    async def walk() -> None:
        left = [0]
        spool = SqliteSpool(tmp_path, disk=failing("fsync", errno.EIO, left))
        queue_id = await spool.put(message(1))
        left[0] = 1
        with pytest.raises(SpoolBroken):
            await spool.put(message(2, LARGE))
        with pytest.raises(SpoolBroken):
            await spool.put(message(3))
        with pytest.raises(SpoolBroken):
            await spool.claim(1000.0, 10, in_an_hour)
        assert (await spool.content(queue_id)).whole() == b"Subject: x\r\n\r\nhello\r\n"
        assert len(await spool.rows(10)) == 1
        spool.close()
        again = SqliteSpool(tmp_path)
        assert [row["queue_id"] for row in await again.rows(10)] == [queue_id]
        again.close()

    asyncio.run(walk())


def test_a_queue_that_has_emptied_gives_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.store.wal.SPARE_PAGES", 100)

    async def walk() -> None:
        spool = SqliteSpool(tmp_path)
        ids = await asyncio.gather(*(spool.put(message(n, b"x" * 50_000)) for n in range(200)))
        await asyncio.gather(*(spool.delete(queue_id) for queue_id in ids))
        await spool._writer.tidy()
        spool.close()

    asyncio.run(walk())
    assert (tmp_path / "spool.sqlite").stat().st_size < 1_000_000
