"""The spool's promises, on a real disk."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.mail.envelope import Envelope
from egressguard.mail.outcome import delivered, permanent, transient
from egressguard.store.content import Content
from egressguard.store.durable import Disk
from egressguard.store.interface import Claim, NewMessage, Settlement, SpoolBroken, SpoolFull
from egressguard.store.schema import MIGRATIONS, SchemaTooNew, open_database
from egressguard.store.spool import INLINE_OCTETS, SqliteSpool, new_queue_id

LARGE = b"x" * (INLINE_OCTETS + 1)


def message(number: int = 1, content: bytes = b"Subject: x\r\n\r\nhello\r\n", **more: object) -> NewMessage:
    paths = more.pop("forward_paths", ("b@one.example",))
    envelope = Envelope("a@example.org", paths)  # type: ignore[arg-type]
    return NewMessage(new_queue_id(1000.0, number), envelope, Content.of(content), 1000.0, **more)  # type: ignore[arg-type]


def in_an_hour(received_at: float, attempts: int) -> float:
    return received_at + 3600 * attempts


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SqliteSpool]:
    opened = SqliteSpool(tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize("content", [b"", b"small", LARGE])
def test_what_was_put_is_there_after_a_restart(tmp_path: Path, content: bytes) -> None:
    async def walk() -> None:
        first = SqliteSpool(tmp_path)
        queue_id = await first.put(message(content=content))
        first.close()
        second = SqliteSpool(tmp_path)
        assert (await second.content(queue_id)).whole() == content
        assert [c.queue_id for c in await second.claim(1000.0, 10, in_an_hour)] == [queue_id]
        second.close()

    asyncio.run(walk())


def test_a_source_id_is_stored_once_even_after_the_message_has_left(spool: SqliteSpool) -> None:
    async def walk() -> None:
        first = await spool.put(message(1, source_id="quarantine:7"))
        assert await spool.put(message(2, source_id="quarantine:7")) == first
        assert await spool.put(message(3, LARGE, source_id="quarantine:7")) == first
        assert len(await spool.rows(10)) == 1
        await spool.delete(first)
        assert await spool.put(message(4, source_id="quarantine:7")) == first
        assert await spool.rows(10) == []

    asyncio.run(walk())


def test_puts_that_wait_together_share_a_transaction(spool: SqliteSpool) -> None:
    commits: list[str] = []

    async def walk() -> None:
        spool._writer._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        await asyncio.gather(*(spool.put(message(n)) for n in range(200)))
        assert len(await spool.rows(1000)) == 200

    asyncio.run(walk())
    assert len(commits) < 50


def test_one_bad_message_in_a_batch_harms_no_other(spool: SqliteSpool) -> None:
    async def walk() -> None:
        puts = [spool.put(message(n)) for n in (1, 2, 1, 3)]
        answers = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(a) for a in answers] == [str, str, sqlite3.IntegrityError, str]
        assert len(await spool.rows(10)) == 3

    asyncio.run(walk())


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


# The walk through docs/queue.md.


def test_a_claim_counts_the_attempt_and_writes_the_next_time_before_it_returns(tmp_path: Path) -> None:
    async def walk() -> None:
        first = SqliteSpool(tmp_path)
        await first.put(message())
        (claim,) = await first.claim(1000.0, 10, in_an_hour)
        assert [(r.forward_path, r.attempts) for r in claim.recipients] == [("b@one.example", 1)]
        assert await first.claim(9e9, 10, in_an_hour) == []  # nobody else gets it
        first.close()  # as a crash: nothing was settled
        second = SqliteSpool(tmp_path)
        assert await second.claim(1000.0, 10, in_an_hour) == []  # no second dial at once
        assert await second.next_due() == 4600.0
        (again,) = await second.claim(4600.0, 10, in_an_hour)
        assert again.recipients[0].attempts == 2
        second.close()

    asyncio.run(walk())


async def _claimed(spool: SqliteSpool, *paths: str, content: bytes = b"x") -> Claim:
    await spool.put(message(forward_paths=paths, content=content))
    (claim,) = await spool.claim(1000.0, 100, in_an_hour)
    return claim


@pytest.mark.parametrize("content", [b"x", LARGE])
def test_a_message_leaves_when_its_last_recipient_is_finished(
    tmp_path: Path, spool: SqliteSpool, content: bytes
) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example", "c@two.example", content=content)
        wait = {"c@two.example": 1300.0}
        outcomes = {"b@one.example": delivered("ok"), "c@two.example": transient("4.2.0", "later", "mx.two.example")}
        await spool.settle(Settlement(claim.queue_id, outcomes, wait))
        (row,) = await spool.rows(10)
        (left,) = row["recipients"]
        assert (left["address"], left["state"], left["attempts"], left["next_at"]) == (
            "c@two.example",
            "queued",
            1,
            1300.0,
        )
        assert left["last_reply"] == "mx.two.example: later"
        await spool.claim(1300.0, 10, in_an_hour)
        await spool.settle(Settlement(claim.queue_id, {"c@two.example": delivered("ok")}))
        assert await spool.rows(10) == []
        with pytest.raises(KeyError):
            (await spool.content(claim.queue_id)).whole()

    asyncio.run(walk())
    assert list((tmp_path / "body").glob("*/*")) == []


def test_a_notice_is_stored_with_the_settlement_and_only_once(spool: SqliteSpool) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        notice = NewMessage("DSN1", Envelope("", ("a@example.org",)), Content.of(b"sorry"), 1001.0, source_id="dsn:1")
        settlement = Settlement(claim.queue_id, {"b@one.example": permanent("5.1.1", "no")}, notices=(notice,))
        await spool.settle(settlement)
        await spool.settle(settlement)
        assert [row["sender"] for row in await spool.rows(10)] == [""]

    asyncio.run(walk())


def test_a_delay_notice_is_stored_while_its_recipient_waits(spool: SqliteSpool) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        one, two = (
            NewMessage(f"DSN{n}", Envelope("", ("a@example.org",)), Content.of(b"later"), 1001.0, source_id=f"dsn:{n}")
            for n in (1, 2)
        )
        outcomes, wait = {"b@one.example": transient("4.2.0", "later")}, {"b@one.example": 1300.0}
        await spool.settle(Settlement(claim.queue_id, outcomes, wait, (one, two)))
        await spool.settle(Settlement(claim.queue_id, outcomes, wait, (one,)))
        assert sorted(row["queue_id"] for row in await spool.rows(10)) == sorted([claim.queue_id, "DSN1", "DSN2"])

    asyncio.run(walk())


@pytest.mark.parametrize("wait", [{}, {"b@one.example": 1300.0}])
def test_no_notice_about_a_message_that_was_deleted_meanwhile(spool: SqliteSpool, wait: dict[str, float]) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        assert await spool.delete(claim.queue_id)
        notice = NewMessage("DSN1", Envelope("", ("a@example.org",)), Content.of(b"sorry"), 1001.0, source_id="dsn:1")
        outcomes = {"b@one.example": permanent("5.1.1", "no")}
        await spool.settle(Settlement(claim.queue_id, outcomes, wait, (notice,)))
        assert await spool.rows(10) == []

    asyncio.run(walk())


def test_what_was_given_back_is_due_and_not_counted(spool: SqliteSpool) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        await spool.unclaim(claim.queue_id, ["b@one.example"], 1000.0)
        (again,) = await spool.claim(1000.0, 10, in_an_hour)
        assert again.recipients[0].attempts == 1

    asyncio.run(walk())


def test_a_claim_leaves_out_what_is_not_due_and_domains_that_are_busy(spool: SqliteSpool) -> None:
    async def walk() -> None:
        places = {"b@one.example": "mx:one.example", "c@two.example": "mx:two.example"}
        await spool.put(message(forward_paths=tuple(places), destinations=places))
        assert await spool.claim(999.0, 10, in_an_hour) == []
        assert await spool.next_due({"mx:one.example"}) == 1000.0
        assert await spool.next_due({"mx:one.example", "mx:two.example"}) is None
        (claim,) = await spool.claim(1000.0, 10, in_an_hour, skip={"mx:one.example"})
        assert [r.forward_path for r in claim.recipients] == ["c@two.example"]

    asyncio.run(walk())


def test_retry_now_makes_waiting_recipients_due(spool: SqliteSpool) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        later = {"b@one.example": transient("4.2.0", "later")}
        await spool.settle(Settlement(claim.queue_id, later, {"b@one.example": 9000.0}))
        assert await spool.retry_now("NOSUCH", 2000.0) == 0
        assert await spool.retry_now(claim.queue_id, 2000.0) == 1
        assert await spool.next_due() == 2000.0

    asyncio.run(walk())


def test_depth_tells_new_waiting_and_tried_apart(spool: SqliteSpool) -> None:
    async def walk() -> None:
        await _claimed(spool, "b@one.example", content=b"12345")
        await spool.put(message(2, b"123"))
        depth = await spool.depth()
        assert (depth.incoming, depth.deferred, depth.active, depth.size_octets) == (1, 0, 1, 8)
        assert depth.oldest_received_at == 1000.0

    asyncio.run(walk())


@pytest.mark.parametrize("queue_id", ["../../etc/passwd", "", "a/b", "x" * 33])
def test_only_a_queue_id_becomes_part_of_a_path(spool: SqliteSpool, queue_id: str) -> None:
    async def walk() -> None:
        with pytest.raises(ValueError, match="queue id"):
            await spool.put(NewMessage(queue_id, Envelope("a@example.org", ("b@x.example",)), LARGE, 1.0))
        assert not await spool.delete(queue_id)

    asyncio.run(walk())


# What a crash left behind.


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


# Storage that fails.


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


def test_below_the_reserve_nothing_is_taken_in(tmp_path: Path) -> None:
    async def walk() -> None:
        spool = SqliteSpool(tmp_path, reserve_octets=2**60)
        with pytest.raises(SpoolFull):
            await spool.put(message())
        spool.close()

    asyncio.run(walk())


def test_a_queue_that_has_emptied_gives_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.store.writer.SPARE_PAGES", 100)

    async def walk() -> None:
        spool = SqliteSpool(tmp_path)
        ids = await asyncio.gather(*(spool.put(message(n, b"x" * 50_000)) for n in range(200)))
        await asyncio.gather(*(spool.delete(queue_id) for queue_id in ids))
        await spool._writer.tidy()
        spool.close()

    asyncio.run(walk())
    assert (tmp_path / "spool.sqlite").stat().st_size < 1_000_000


def test_a_closed_spool_says_so(tmp_path: Path) -> None:
    async def walk() -> None:
        spool = SqliteSpool(tmp_path)
        spool.close()
        with pytest.raises(SpoolBroken):
            await spool.put(message())

    asyncio.run(walk())
