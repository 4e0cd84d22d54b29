"""The tarpit: a greeting that goes on and never ends, nothing read, bounded in clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from egressguard.smtp.tarpit import GREETING, Tarpit


@contextlib.asynccontextmanager
async def tarpit(registry: CollectorRegistry, most: int = 10) -> AsyncIterator[int]:
    sock = socket.create_server(("127.0.0.1", 0))
    pit = Tarpit(registry, most=most, octet_seconds=0.001)
    await pit.start([sock])
    try:
        yield sock.getsockname()[1]
    finally:
        await pit.stop()


def test_the_greeting_goes_on_and_never_ends() -> None:
    async def run() -> bytes:
        async with tarpit(CollectorRegistry()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            said = await reader.readexactly(3 * len(GREETING))
            writer.close()
            return said

    said = asyncio.run(run())
    assert said == GREETING * 3
    assert all(line.startswith(b"220-") for line in said.splitlines())


def test_what_a_client_says_is_not_taken() -> None:
    async def run() -> None:
        async with tarpit(CollectorRegistry()) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.transport.set_write_buffer_limits(high=0)  # type: ignore[attr-defined]
            writer.write(b"EHLO bot\r\n" * 1_000_000)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.2)
            writer.transport.abort()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_one_more_than_fits_is_closed_and_the_others_stay() -> None:
    registry = CollectorRegistry()

    async def run() -> None:
        async with tarpit(registry, most=2) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for reader, _ in held:
                await reader.readexactly(1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            for reader, other in held:
                assert await reader.readexactly(1)
                other.close()
            assert registry.get_sample_value("egressguard_tarpit_active_connections") == 2

    asyncio.run(run())
    for result, count in (("held", 2), ("refused", 1)):
        assert registry.get_sample_value("egressguard_tarpit_connections_total", {"result": result}) == count
