"""Behind a load balancer: the client that it names is the one that counts, and nobody else may name one."""

from __future__ import annotations

import asyncio
import ipaddress
import struct

import pytest

from tests.smtp.conftest import Client, Running, Stand

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.2 40000 25\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x21, 36)
V2 += (
    ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::1").packed + struct.pack("!HH", 1, 25)
)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x20, 0, 0)


async def greeted(client: Client, header: bytes, *more: bytes) -> str:
    await client.send(header + b"".join(more))
    return await client.reply()


async def client_of_one_message(client: Client, running: Running) -> str:
    for line in ("EHLO client.example.net", "MAIL FROM:<a@b.example>", "RCPT TO:<anna@example.org>", "DATA"):
        await client.say(line)
    assert (await client.say("Subject: x\r\n\r\nhello\r\n.")).startswith("250")
    return str(running.hooks.messages[-1][0].client)


@pytest.mark.parametrize(
    ("header", "client"), [(V1, "192.0.2.7"), (V2, "2001:db8::7"), (LOCAL, "127.0.0.1")], ids=["v1", "v2", "local"]
)
def test_the_client_that_the_load_balancer_names_is_the_one_that_counts(
    header: bytes, client: str, stand: Stand
) -> None:
    async def dialog() -> None:
        async with stand.serve(proxy_from=LOOPBACK) as running, stand.client(running, greeted=False) as wire:
            assert (await greeted(wire, header)).startswith("220 ")
            assert await client_of_one_message(wire, running) == client

    asyncio.run(dialog())


def test_a_header_and_the_first_words_of_tls_may_come_together(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(proxy_from=LOOPBACK) as running:
            reader, writer = await asyncio.open_connection(*running.places["submissions"])
            writer.write(V1)
            await writer.start_tls(running.client_context, server_hostname="gateway.example.org")
            wire = Client(reader, writer)
            assert (await wire.reply()).startswith("220 ")
            await wire.close()

    asyncio.run(dialog())


@pytest.mark.parametrize("octets", [b"EHLO a.example\r\n", b"PROXY TCP4 999 1 1 1\r\n", b"\r\n\r\n\0\r\nQUIT\r", b""])
def test_without_a_header_nobody_is_served(octets: bytes, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(proxy_from=LOOPBACK) as running, stand.client(running, greeted=False) as wire:
            await wire.send(octets)
            wire.writer.write_eof()
            assert await wire.rest() == ""

    asyncio.run(dialog())


def test_who_is_no_load_balancer_of_ours_names_nobody(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as wire:
            assert (await wire.say(V1.decode().rstrip())).startswith("500 ")

    asyncio.run(dialog())


def test_the_cap_for_one_client_is_the_named_clients(stand: Stand) -> None:
    async def dialog() -> None:
        async with (
            stand.serve(proxy_from=LOOPBACK, max_connections_per_client=1) as running,
            stand.client(running, greeted=False) as one,
            stand.client(running, greeted=False) as two,
            stand.client(running, greeted=False) as other,
        ):
            assert (await greeted(one, V1)).startswith("220 ")
            assert (await greeted(two, V1)).startswith("421 ")
            assert (await greeted(other, V2)).startswith("220 ")

    asyncio.run(dialog())
