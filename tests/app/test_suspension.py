"""The commands that suspend destinations, against a queue that runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from egressguard.app.control import CommandError
from egressguard.app.roles.relay_commands import suspension_commands
from egressguard.relay.attempt import Means
from egressguard.relay.metrics import RelayMetrics
from egressguard.relay.queue import Queue
from egressguard.store.spool import SqliteSpool
from tests.relay.setting import Table, policy_of

ISP = {"isp": {"host": "192.0.2.1", "tls": "none"}}


@contextlib.asynccontextmanager
async def queue(directory: Path) -> AsyncIterator[Queue]:
    spool = SqliteSpool(directory)
    means = Means(Table(), "gw.example.org", directory)
    made = Queue(spool, policy_of(smart_hosts=ISP), means, lambda *_: None, RelayMetrics(CollectorRegistry()))
    try:
        yield made
    finally:
        spool.close()


@pytest.mark.parametrize(
    ("words", "destination"),
    [
        ("Example.ORG", "mx:example.org"),
        ("mx:example.org", "mx:example.org"),
        ("isp", "isp"),
        ("isp,backup", "isp,backup"),
        ("local", "local"),
        ("other", "mx:other"),
    ],
)
def test_a_destination_is_named_as_the_queue_or_as_people_do(tmp_path: Path, words: str, destination: str) -> None:
    async def walk() -> None:
        async with queue(tmp_path) as here:
            commands = suspension_commands(here)
            assert await commands.changes["queue.suspend"](words, "a" * 1000, "anna") == {"suspended": destination}
            (row,) = await commands.reads["queue.suspended"]()
            assert (row["destination"], row["why"], row["ordered_by"]) == (destination, "a" * 400, "anna")
            assert await commands.changes["queue.resume"](words, "bert") == {"resumed": destination}
            assert await commands.reads["queue.suspended"]() == []
            with pytest.raises(CommandError, match="not suspended") as told:
                await commands.changes["queue.resume"](words, "bert")
            assert told.value.kind == "not-found"

    asyncio.run(walk())


@pytest.mark.parametrize("words", ["", "two words", "example..org", "a" * 300])
def test_what_can_be_no_destination_is_refused(tmp_path: Path, words: str) -> None:
    async def walk() -> None:
        async with queue(tmp_path) as here:
            with pytest.raises(CommandError, match="neither a domain nor a smart host"):
                await suspension_commands(here).changes["queue.suspend"](words, "", "anna")

    asyncio.run(walk())
