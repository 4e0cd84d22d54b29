"""The whole relay on PostgreSQL: mail goes through it, two of them share one queue, and it may go away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.store.postgres_server import Server
from tests.system.relay_alone import RelayAlone
from tests.system.remembering_sink import Sink
from tests.system.test_relay_faults import DRAFT, FILE, SMALL, Sender


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def test_mail_goes_through_a_database_that_dies_and_comes_back(server: Server, tmp_path: Path) -> None:
    url = server.new_database()

    def story(relay: RelayAlone, sender: Sender) -> None:
        assert [sender.send(size) for size in (SMALL, FILE, DRAFT)] == [250, 250, 250]
        server.kill()
        assert sender.send(SMALL) == 451
        assert sender.send(DRAFT) == 451
        assert not relay.has_ended
        server.start()
        while sender.send(SMALL) != 250:
            pass
        assert [sender.send(size) for size in (FILE, DRAFT)] == [250, 250]
        relay.kill()
        relay.start()
        assert sender.send(SMALL) == 250
        relay.drain()
        assert relay.stop() == 0

    async def whole() -> None:
        sink = Sink()
        relay = RelayAlone(tmp_path, await sink.start(), url=url)
        sender = Sender(relay, sink)
        try:
            await asyncio.to_thread(relay.start)
            await asyncio.to_thread(story, relay, sender)
        finally:
            relay.close()
        await sink.stop()
        assert sender.acknowledged <= sink.arrivals.keys()
        assert not sink.damaged
        assert relay.leftovers() == []

    asyncio.run(whole())
    with psycopg.connect(url) as admin:
        counted = admin.execute("SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM recipient)").fetchone()
    assert counted == (0, 0)


def test_what_one_gateway_took_another_delivers(server: Server, tmp_path: Path) -> None:
    url = server.new_database()

    async def whole() -> None:
        sink = Sink()
        port = await sink.start()
        nowhere = RelayAlone(tmp_path / "one", 9, url=url)  # port 9 on loopback: nobody listens
        other = RelayAlone(tmp_path / "two", port, url=url)
        sender = Sender(nowhere, sink)
        try:
            await asyncio.to_thread(nowhere.start)
            for size in (SMALL, FILE, DRAFT):
                assert await asyncio.to_thread(sender.send, size) == 250
            await asyncio.to_thread(nowhere.kill)
            await asyncio.to_thread(other.start)
            await asyncio.to_thread(other.drain)
            assert await asyncio.to_thread(other.stop) == 0
        finally:
            nowhere.close()
            other.close()
        await sink.stop()
        assert sender.acknowledged == sink.arrivals.keys()
        assert not sink.damaged

    asyncio.run(whole())
