"""A queue of a hundred thousand messages (EGRESSGUARD_QUEUED: of so many): tools work in bounded time and memory, and
what comes meanwhile is delivered as ever."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path

from egressguard.mail.envelope import Envelope
from egressguard.relay.orders import Order, Orders
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage
from egressguard.store.queue_id import new_queue_id
from egressguard.store.selection import Selection
from egressguard.store.spool import SqliteSpool
from tests.relay.test_queue import House, Sender, house

QUEUED = int(os.environ.get("EGRESSGUARD_QUEUED", "100000"))
SENDERS = 10
LATER = 9e9
SECONDS_EACH_100_000 = 20
GROWTH_OCTETS = 48 * 1024 * 1024
PATIENCE_SECONDS = 1.0
"""For one message that comes meanwhile: a step of an order takes milliseconds, a loaded machine some more."""


def fill(directory: Path) -> None:
    """Messages of ten senders that wait for another try, as `put` and `settle` would leave them."""
    SqliteSpool(directory).close()
    db = sqlite3.connect(directory / "spool.sqlite")
    ids = [new_queue_id(1000.0, number) for number in range(QUEUED)]
    db.executemany(
        "INSERT INTO message VALUES (?, ?, ?, 0, 0, 0, 0, NULL, NULL, 1000, 1000.0, '192.0.2.1', 'lan', NULL, 'r', '',"
        " '', 1, NULL, '')",
        ((number, queue_id, f"s{number % SENDERS}@x.example") for number, queue_id in enumerate(ids, 1)),
    )
    db.executemany("INSERT INTO body VALUES (?, ?)", ((number, b"x" * 1000) for number in range(1, QUEUED + 1)))
    db.executemany(
        "INSERT INTO recipient VALUES (?, 'b@one.example', 'mx:one.example', 'queued', 3, ?, '4.2.0', 'later', '',"
        " NULL, NULL)",
        ((queue_id, LATER) for queue_id in ids),
    )
    db.commit()
    db.close()


def resident_octets() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def deliveries(here: House, sender: Sender, waits: list[float], ended: asyncio.Event) -> None:
    """Mail that comes while the tools are at work: how long each message takes to its host."""
    number = 0
    while not ended.is_set():
        number += 1
        envelope = Envelope("a@x.example", ("c@two.example",))
        began, before = time.monotonic(), len(sender.sent)
        await here.queue.put(NewMessage(new_queue_id(2000.0, number), envelope, Content.of(b"x"), 1000.0))
        await here.until(lambda before=before: len(sender.sent) > before)  # type: ignore[misc]
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0.01)


async def all_of(orders: Orders, verb: str, selection: Selection) -> int:
    messages, after = 0, 0
    until = await orders.newest()
    while after is not None:
        tally = await orders.carry_out(Order(verb, "anna", "a flood"), selection, after, until)
        messages, after = messages + tally.messages, tally.after  # type: ignore[assignment]
    return messages


async def listed(orders: Orders, selection: Selection) -> int:
    messages, after = 0, 0
    while after is not None:
        page = await orders.rows(selection, after, 500)
        messages, after = messages + len(page["rows"]), page["after"]
    return messages


def test_tools_on_a_long_queue_are_bounded_and_deliveries_go_on(tmp_path: Path) -> None:
    fill(tmp_path)
    one = Selection(sender="s3@x.example")
    took: dict[str, float] = {}

    async def walk() -> None:
        sender, waits, ended = Sender(), list[float](), asyncio.Event()
        async with house(tmp_path, send=sender) as here:
            orders = Orders(here.spool, here.queue, lambda *_: None, clock=lambda: here.now)
            coming = asyncio.create_task(deliveries(here, sender, waits, ended))
            before = resident_octets()
            for name, work, expected in (
                ("hold", all_of(orders, "hold", one), QUEUED // SENDERS),
                ("list held", listed(orders, Selection(state="held")), QUEUED // SENDERS),
                (
                    "release",
                    all_of(orders, "release", Selection(sender="s3@x.example", state="held")),
                    QUEUED // SENDERS,
                ),
                ("list all", listed(orders, Selection(received_before=1000.0, state="deferred")), None),
            ):
                began = time.monotonic()
                found = await work
                took[name] = time.monotonic() - began
                assert expected in {None, found}, name
            grown = resident_octets() - before
            ended.set()
            await coming
        print(f"{QUEUED} queued, seconds: {took}")
        print(f"{len(waits)} delivered meanwhile, the slowest in {max(waits):.3f} s; memory grew by {grown} octets")
        assert grown < GROWTH_OCTETS * (1 + QUEUED / 1_000_000)
        assert len(waits) > 20
        assert max(waits) < PATIENCE_SECONDS * (1 + QUEUED / 1_000_000)

    asyncio.run(walk())
    assert sum(took.values()) < SECONDS_EACH_100_000 * max(1, QUEUED / 100_000)
