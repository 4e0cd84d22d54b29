"""The spool's promises, whatever the engine: docs/queue.md, walked on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import psycopg
import pytest

from egressguard.mail.envelope import Envelope
from egressguard.mail.outcome import delivered, permanent, transient
from egressguard.store.content import Content
from egressguard.store.interface import (
    Claim,
    NewMessage,
    Settlement,
    Spool,
    SpoolBroken,
    SpoolFull,
    Suppressed,
    Suspension,
)
from tests.store.conftest import LARGE, Opener, in_an_hour, message


@pytest.mark.parametrize("content", [b"", b"small", LARGE])
def test_what_was_put_is_there_after_a_restart(opener: Opener, content: bytes) -> None:
    async def walk() -> None:
        first = opener()
        queue_id = await first.put(message(content=content))
        first.close()
        second = opener()
        assert (await second.content(queue_id)).whole() == content
        assert [c.queue_id for c in await second.claim(1000.0, 10, in_an_hour)] == [queue_id]
        second.close()

    asyncio.run(walk())


def test_a_source_id_is_stored_once_even_after_the_message_has_left(spool: Spool) -> None:
    async def walk() -> None:
        first = await spool.put(message(1, source_id="quarantine:7"))
        assert await spool.put(message(2, source_id="quarantine:7")) == first
        assert await spool.put(message(3, LARGE, source_id="quarantine:7")) == first
        assert len(await spool.rows(10)) == 1
        await spool.delete(first)
        assert await spool.put(message(4, source_id="quarantine:7")) == first
        assert await spool.rows(10) == []

    asyncio.run(walk())


def test_one_bad_message_in_a_batch_harms_no_other(spool: Spool) -> None:
    async def walk() -> None:
        puts = [spool.put(message(n)) for n in (1, 2, 1, 3)]
        answers = await asyncio.gather(*puts, return_exceptions=True)
        assert [isinstance(a, str) for a in answers] == [True, True, False, True]
        assert isinstance(answers[2], sqlite3.IntegrityError | psycopg.IntegrityError)
        assert len(await spool.rows(10)) == 3

    asyncio.run(walk())


def test_a_claim_counts_the_attempt_and_writes_the_next_time_before_it_returns(opener: Opener) -> None:
    async def walk() -> None:
        first = opener()
        await first.put(message())
        (claim,) = await first.claim(1000.0, 10, in_an_hour)
        assert [(r.forward_path, r.attempts) for r in claim.recipients] == [("b@one.example", 1)]
        assert await first.claim(9e9, 10, in_an_hour) == []  # nobody else gets it
        first.close()  # as a crash: nothing was settled
        second = opener()
        assert await second.claim(1000.0, 10, in_an_hour) == []  # no second dial at once
        assert await second.next_due() == 4600.0
        (again,) = await second.claim(4600.0, 10, in_an_hour)
        assert again.recipients[0].attempts == 2
        second.close()

    asyncio.run(walk())


async def _claimed(spool: Spool, *paths: str, content: bytes = b"x") -> Claim:
    await spool.put(message(forward_paths=paths, content=content))
    (claim,) = await spool.claim(1000.0, 100, in_an_hour)
    return claim


@pytest.mark.parametrize("content", [b"x", LARGE])
def test_a_message_leaves_when_its_last_recipient_is_finished(tmp_path: Path, spool: Spool, content: bytes) -> None:
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


def test_a_notice_is_stored_with_the_settlement_and_only_once(spool: Spool) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        notice = NewMessage("DSN1", Envelope("", ("a@example.org",)), Content.of(b"sorry"), 1001.0, source_id="dsn:1")
        settlement = Settlement(claim.queue_id, {"b@one.example": permanent("5.1.1", "no")}, notices=(notice,))
        await spool.settle(settlement)
        await spool.settle(settlement)
        assert [row["sender"] for row in await spool.rows(10)] == [""]

    asyncio.run(walk())


def test_a_delay_notice_is_stored_while_its_recipient_waits(spool: Spool) -> None:
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
def test_no_notice_about_a_message_that_was_deleted_meanwhile(spool: Spool, wait: dict[str, float]) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        assert await spool.delete(claim.queue_id)
        notice = NewMessage("DSN1", Envelope("", ("a@example.org",)), Content.of(b"sorry"), 1001.0, source_id="dsn:1")
        outcomes = {"b@one.example": permanent("5.1.1", "no")}
        await spool.settle(Settlement(claim.queue_id, outcomes, wait, (notice,)))
        assert await spool.rows(10) == []

    asyncio.run(walk())


def test_what_was_given_back_is_due_and_not_counted(spool: Spool) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        await spool.unclaim(claim.queue_id, ["b@one.example"], 1000.0)
        (again,) = await spool.claim(1000.0, 10, in_an_hour)
        assert again.recipients[0].attempts == 1

    asyncio.run(walk())


def test_a_claim_leaves_out_what_is_not_due_and_domains_that_are_busy(spool: Spool) -> None:
    async def walk() -> None:
        places = {"b@one.example": "mx:one.example", "c@two.example": "mx:two.example"}
        await spool.put(message(forward_paths=tuple(places), destinations=places))
        assert await spool.claim(999.0, 10, in_an_hour) == []
        assert await spool.next_due({"mx:one.example"}) == 1000.0
        assert await spool.next_due({"mx:one.example", "mx:two.example"}) is None
        (claim,) = await spool.claim(1000.0, 10, in_an_hour, skip={"mx:one.example"})
        assert [r.forward_path for r in claim.recipients] == ["c@two.example"]

    asyncio.run(walk())


def test_retry_now_makes_waiting_recipients_due(spool: Spool) -> None:
    async def walk() -> None:
        claim = await _claimed(spool, "b@one.example")
        later = {"b@one.example": transient("4.2.0", "later")}
        await spool.settle(Settlement(claim.queue_id, later, {"b@one.example": 9000.0}))
        assert await spool.retry_now("NOSUCH", 2000.0) == 0
        assert await spool.retry_now(claim.queue_id, 2000.0) == 1
        assert await spool.next_due() == 2000.0

    asyncio.run(walk())


def test_depth_tells_new_waiting_and_tried_apart(spool: Spool) -> None:
    async def walk() -> None:
        await _claimed(spool, "b@one.example", content=b"12345")
        await spool.put(message(2, b"123"))
        depth = await spool.depth()
        assert (depth.incoming, depth.deferred, depth.active, depth.size_octets) == (1, 0, 1, 8)
        assert depth.oldest_received_at == 1000.0

    asyncio.run(walk())


@pytest.mark.parametrize("queue_id", ["../../etc/passwd", "", "a/b", "x" * 33])
def test_only_a_queue_id_becomes_part_of_a_path(spool: Spool, queue_id: str) -> None:
    async def walk() -> None:
        with pytest.raises(ValueError, match="queue id"):
            await spool.put(NewMessage(queue_id, Envelope("a@example.org", ("b@x.example",)), LARGE, 1.0))
        assert not await spool.delete(queue_id)

    asyncio.run(walk())


def test_below_the_reserve_nothing_is_taken_in(opener: Opener) -> None:
    async def walk() -> None:
        spool = opener(reserve_octets=2**60)
        with pytest.raises(SpoolFull):
            await spool.put(message())
        spool.close()

    asyncio.run(walk())


def test_a_closed_spool_says_so(opener: Opener) -> None:
    async def walk() -> None:
        spool = opener()
        spool.close()
        with pytest.raises(SpoolBroken):
            await spool.put(message())

    asyncio.run(walk())


def test_an_order_to_suspend_outlives_a_restart(opener: Opener) -> None:
    async def walk() -> None:
        first = opener()
        await first.suspend(Suspension("mx:one.example", "moving", "anna", 1000.0))
        await first.suspend(Suspension("isp", "", "anna", 999.0))
        await first.suspend(Suspension("mx:one.example", "moving still", "bert", 1001.0))
        first.close()
        second = opener()
        known = [Suspension("isp", "", "anna", 999.0), Suspension("mx:one.example", "moving still", "bert", 1001.0)]
        assert await second.suspensions() == known
        assert [await second.resume("isp"), await second.resume("isp")] == [True, False]
        assert await second.suspensions() == known[1:]
        second.close()

    asyncio.run(walk())


def test_the_suppression_list_outlives_a_restart_and_forgets_what_is_over(opener: Opener) -> None:
    async def walk() -> None:
        first = opener()
        for entry in (Suppressed("b@x", "", 999.0, 0.0), Suppressed("c@x", "gone", 1000.0, 2000.0)):
            await first.suppress(entry)
        await first.suppress(Suppressed("b@x", "gone", 1001.0, 3000.0))
        first.close()
        second = opener()
        known = [Suppressed("b@x", "gone", 1001.0, 3000.0), Suppressed("c@x", "gone", 1000.0, 2000.0)]
        assert (await second.suppressed(10), await second.suppressed(1)) == (known, known[:1])
        await second.suppress(Suppressed("d@x", "", 0.0, 0.0))
        await second.forget_suppressed(2000.0)
        assert [entry.address for entry in await second.suppressed(10)] == ["b@x", "d@x"]
        assert [await second.unsuppress("b@x"), await second.unsuppress("b@x")] == [True, False]
        second.close()

    asyncio.run(walk())


def test_a_head_start_puts_a_message_before_those_that_came_earlier(spool: Spool) -> None:
    async def walk() -> None:
        for number, start in ((1, 0.0), (2, 60.0), (3, 3600.0)):
            await spool.put(message(number, head_start_seconds=start))
        claims = await spool.claim(1000.0, 2, in_an_hour)
        assert [claim.queue_id for claim in claims] == [message(3).queue_id, message(2).queue_id]

    asyncio.run(walk())
