"""Orders of people, carried out while the queue delivers."""

from __future__ import annotations

import asyncio
import contextlib
import email
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from egressguard.mail.outcome import transient
from egressguard.relay.orders import STEP_MESSAGES, Order, Orders
from egressguard.store.selection import Selection
from tests.relay.setting import message_to, policy_of
from tests.relay.test_queue import B, House, Sender, house

C = "c@two.example"


@contextlib.asynccontextmanager
async def at_work(directory: Path, **means: Any) -> AsyncIterator[tuple[House, Orders]]:
    """A queue whose mail for one.example hangs in an attempt, and whose mail for two.example is put off."""
    sender = Sender({"mx.two.example": transient("4.2.0", "later", "mx.two.example")}, slow=["mx.one.example"])
    policy = policy_of(smart_hosts={"backup": {"host": "192.0.2.1", "tls": "none"}})
    async with house(directory, policy, send=sender, **means) as here:
        try:
            yield here, Orders(here.spool, here.queue, here.queue._record, clock=lambda: here.now)
        finally:
            sender.gate.set()


def told(here: House, kind: str) -> list[Mapping[str, object]]:
    return [fields for name, fields in here.events if name == kind]


async def put_off(here: House, *paths: str, **more: Any) -> str:
    """Until what can be tried was tried."""
    before = len(here.events)
    queue_id = await here.put(*paths, **more)
    await here.until(lambda: len(here.events) > before)
    return queue_id


def test_what_waits_is_given_up_with_a_notice_and_what_is_being_tried_is_skipped(tmp_path: Path) -> None:
    async def walk() -> None:
        async with at_work(tmp_path) as (here, orders):
            queue_id = await put_off(here, B, C)
            tally = await orders.carry_out(
                Order("bounce", "anna", "wrong\r\naddress"), Selection(queue_ids=(queue_id,))
            )
            assert (tally.messages, tally.recipients, tally.skipped, tally.notices) == (1, 1, 1, 1)
            assert set(await here.waiting()) >= {B} and C not in await here.waiting()
            (given_up,) = told(here, "delivery.permanent")
            assert (given_up["recipient"], given_up["status"], given_up["transport"]) == (C, "5.7.1", "order")
            (ordered,) = told(here, "queue.bounce")
            assert (ordered["queue_id"], ordered["by"], ordered["recipients"]) == (queue_id, "anna", 1)
            notice = email.message_from_bytes((await here.spool.content(str(given_up["dsn"]))).whole())
            assert notice["To"] and "given up by the administrator of this gateway: wrong address" in notice.as_string()
            assert here.metric("bounces_total", kind="refused") == 1

    asyncio.run(walk())


def test_nobody_hears_of_a_notice_that_is_given_up(tmp_path: Path) -> None:
    async def walk() -> None:
        async with at_work(tmp_path) as (here, orders):
            await put_off(here, C, reverse_path="")
            tally = await orders.carry_out(Order("bounce", "anna"), Selection())
            assert (tally.messages, tally.notices) == (1, 0)
            assert await here.spool.rows(10) == []

    asyncio.run(walk())


@pytest.mark.parametrize("verb", ["hold", "reroute", "bounce"])
def test_what_is_being_tried_is_left_alone(tmp_path: Path, verb: str) -> None:
    async def walk() -> None:
        async with at_work(tmp_path) as (here, orders):
            await here.put(B)
            await here.until(lambda: here.queue._in_hand == 1)
            tally = await orders.carry_out(Order(verb, "anna", via=("backup",)), Selection())
            assert (tally.messages, tally.recipients, tally.skipped) == (0, 0, 1)
            assert told(here, f"queue.{verb}") == []
            (row,) = (await orders.rows(Selection(), 0, 10))["rows"]
            assert (row["queue_name"], row["recipients"][0]["via"]) == ("active", "")

    asyncio.run(walk())


def test_what_is_deleted_while_it_is_tried_is_said_and_does_not_come_back(tmp_path: Path) -> None:
    async def walk() -> None:
        async with at_work(tmp_path) as (here, orders):
            await here.put(B)
            await here.until(lambda: here.queue._in_hand == 1)
            tally = await orders.carry_out(Order("delete", "anna"), Selection(recipient=B))
            assert (tally.messages, tally.recipients, tally.being_tried) == (1, 1, 1)
        assert told(here, "queue.delete")[0]["being_tried"] == 1

    asyncio.run(walk())


def test_what_is_held_is_not_tried_and_what_is_released_or_rerouted_is(tmp_path: Path) -> None:
    async def walk() -> None:
        async with at_work(tmp_path) as (here, orders):
            queue_id = await put_off(here, C)
            selection = Selection(sender="*@example.org")
            assert (await orders.carry_out(Order("hold", "anna", "why"), selection)).recipients == 1
            assert (await orders.carry_out(Order("retry", "anna"), selection)).skipped == 1
            (row,) = (await orders.rows(selection, 0, 10))["rows"]
            assert row["queue_name"] == "held"
            assert (await orders.carry_out(Order("reroute", "anna", via=("backup",)), selection)).recipients == 1
            before = len(told(here, "delivery.transient"))
            assert (await orders.carry_out(Order("release", "bert"), selection)).recipients == 1
            await here.until(lambda: len(told(here, "delivery.delivered")) > 0)
            assert told(here, "delivery.delivered")[0]["transport"] == "backup"
            assert len(told(here, "delivery.transient")) == before
            kinds = [(kind, f["by"]) for kind, f in here.events if kind.startswith("queue.")]
            assert kinds == [("queue.hold", "anna"), ("queue.reroute", "anna"), ("queue.release", "bert")]
            assert told(here, "queue.hold")[0] == {
                "queue_id": queue_id,
                "by": "anna",
                "why": "why",
                "recipients": 1,
                "selected": {"sender": "*@example.org"},
            }

    asyncio.run(walk())


def test_what_comes_after_the_order_is_not_meant(tmp_path: Path) -> None:
    async def walk() -> None:
        async with at_work(tmp_path) as (here, orders):
            await put_off(here, C)
            until = await orders.newest()
            later = await put_off(here, C, number=2)
            tally = await orders.carry_out(Order("hold", "anna"), Selection(), 0, until)
            assert (tally.messages, tally.after) == (1, None)
            (row,) = (await orders.rows(Selection(state="deferred"), 0, 10))["rows"]
            assert row["queue_id"] == later

    asyncio.run(walk())


def test_a_long_selection_goes_in_steps_each_of_them_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egressguard.relay.orders.STEP_SECONDS", 0.0)
    count = STEP_MESSAGES + 5

    async def walk() -> None:
        async with at_work(tmp_path) as (here, orders):
            await here.queue.stop(0)
            for number in range(count):
                await here.spool.put(message_to(C, number=number))
            first = await orders.carry_out(Order("hold", "anna"), Selection())
            assert first.messages == STEP_MESSAGES and first.after is not None
            second = await orders.carry_out(Order("hold", "anna"), Selection(), first.after)
            assert (second.messages, second.after) == (5, None)
            ids = [queue_id for fields in told(here, "queue.hold") for queue_id in fields["queue_ids"]]  # type: ignore[attr-defined]
            assert len(set(ids)) == count
            counts = await orders.count(Selection(state="held"), 0)
            assert (counts["messages"], counts["recipients"], counts["after"]) == (count, count, None)

    asyncio.run(walk())
