"""A queue of a hundred thousand messages (EGRESSGUARD_QUEUED: of so many): tools work in small steps and in bounded
memory, and what comes meanwhile is delivered between them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egressguard.mail.envelope import Envelope
from egressguard.relay.orders import STEP_MESSAGES, Order, Orders
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage
from egressguard.store.queue_id import new_queue_id
from egressguard.store.selection import Selection
from egressguard.store.spool import SqliteSpool
from tests.relay.test_queue import House, Sender, house

QUEUED = int(os.environ.get("EGRESSGUARD_QUEUED", "100000"))
SENDERS = 10
LATER = 9e9
GROWTH_OCTETS = 48 * 1024 * 1024
PATIENCE_STEPS = 40
"""So many of their steps may pass while one message comes and is delivered, which takes some turns of the loop."""


@dataclass
class Steps:
    """How often the tools asked a spool for what comes next: each time is one transaction at most."""

    made: int = 0

    def count(self, spool: SqliteSpool) -> None:
        pick = spool.pick

        async def counted(*arguments: Any) -> Any:
            self.made += 1
            return await pick(*arguments)

        spool.pick = counted  # type: ignore[method-assign]


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


async def deliveries(here: House, sender: Sender, steps: Steps, waits: list[int], ended: asyncio.Event) -> None:
    """Mail that comes while the tools are at work: how many of their steps each message waits."""
    number = 0
    while not ended.is_set():
        number += 1
        envelope = Envelope("a@x.example", ("c@two.example",))
        began, before = steps.made, len(sender.sent)
        await here.queue.put(NewMessage(new_queue_id(2000.0, number), envelope, Content.of(b"x"), 1000.0))
        await here.until(lambda before=before: len(sender.sent) > before)  # type: ignore[misc]
        waits.append(steps.made - began)
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
    steps, made = Steps(), dict[str, int]()

    async def walk() -> None:
        sender, waits, ended = Sender(), list[int](), asyncio.Event()
        async with house(tmp_path, send=sender) as here:
            orders = Orders(here.spool, here.queue, lambda *_: None, clock=lambda: here.now)
            steps.count(here.spool)
            coming = asyncio.create_task(deliveries(here, sender, steps, waits, ended))
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
                began = steps.made
                found = await work
                made[name] = steps.made - began
                assert expected in {None, found}, name
            grown = resident_octets() - before
            ended.set()
            await coming
        print(f"{QUEUED} queued, steps: {made}")
        print(f"{len(waits)} delivered meanwhile, the slowest after {max(waits)} steps; memory grew by {grown} octets")
        assert grown < GROWTH_OCTETS * (1 + QUEUED / 1_000_000)
        assert len(waits) > 20
        assert max(waits) <= PATIENCE_STEPS

    asyncio.run(walk())
    assert made["hold"] >= QUEUED // SENDERS // STEP_MESSAGES
