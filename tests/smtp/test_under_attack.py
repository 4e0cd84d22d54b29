"""Slow, endless and leaving clients: each ends, is bounded, and harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

from tests.smtp.conftest import Client, Running, Stand
from tests.smtp.wire_peer import RECIPIENT, a_stranger_is_served, active, codes_to_the_end, pour, taken, to_354, until

MEGABYTE = 1_000_000
TCP_ESTABLISHED = 1  # linux/tcp_states.h


def tcp_state(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


# Slow ones.


@pytest.mark.parametrize(
    ("changes", "to_data", "drop"),
    [
        ({"command_seconds": 0.3}, False, b"N"),
        ({"data_seconds": 0.3}, True, b"x"),
        ({"data_seconds": 0.3}, True, b"x\r\n"),
    ],
    ids=["a command", "a line of data", "lines of data"],
)
def test_what_only_drips_has_an_end(changes: dict[str, float], to_data: bool, drop: bytes, stand: Stand) -> None:
    """Each octet comes long before the time for one is up: it is the whole that has a limit."""

    async def drip(client: Client) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                client.writer.write(drop)
                await client.writer.drain()
                await asyncio.sleep(0.005)

    async def dialog() -> None:
        async with stand.serve(**changes) as running, stand.client(running) as client:
            if to_data:
                await to_354(client)
            dripping = asyncio.create_task(drip(client))
            try:
                assert (await client.reply())[:9] == "421 4.4.2"
                await until(lambda: active(running) == 0)
            finally:
                dripping.cancel()
            await asyncio.wait([dripping])
            assert taken(running) == []

    asyncio.run(dialog())


def test_an_honest_client_on_a_slow_line_is_served(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            for line in ("HELO slow.example", "MAIL FROM:<a@slow.example>", f"RCPT TO:<{RECIPIENT}>", "DATA"):
                await client.send(line.encode() + b"\r\n", 1)
                assert (await client.reply())[0] in "23"
            await client.send(b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n", 1)
            assert await codes_to_the_end(client) == ["250", "221"]
            assert [message.content for message in taken(running)] == [b"Subject: x\r\n\r\n.\r\n"]

    asyncio.run(dialog())


NO_END = 10**9
DEAF = {"command_seconds": 0.5, "max_idle_commands": NO_END}


def deaf_socket() -> socket.socket:
    """Of a client that takes next to nothing of what it is sent."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    return sock


async def ask_without_reading(sock: socket.socket, running: Running) -> int:
    """Ask for long answers until the server ends the session; how many octets of questions left."""
    loop, questions, sent = asyncio.get_running_loop(), b"EHLO a\r\n" * 1000, 0

    async def ask() -> None:
        nonlocal sent
        while True:
            await loop.sock_sendall(sock, questions)
            sent += len(questions)

    await loop.sock_connect(sock, running.places["smtp"])
    asking = asyncio.create_task(ask())
    try:
        await until(lambda: sent and not active(running))
    finally:
        asking.cancel()
        await asyncio.wait([asking])
    return sent


def test_a_client_that_never_reads_its_replies_is_not_read_for_ever(stand: Stand) -> None:
    """It asks and asks: the server takes no more questions than it has room for answers, and ends it."""

    async def dialog() -> None:
        async with stand.serve(**DEAF) as running:
            with contextlib.closing(deaf_socket()) as sock:
                assert await ask_without_reading(sock, running) < 50 * MEGABYTE
                await until(lambda: active(running) == 0)
                await a_stranger_is_served(stand, running)

    asyncio.run(dialog())


def test_a_client_that_never_reads_its_replies_holds_no_connection_behind_the_count(stand: Stand) -> None:
    """Who is no longer counted is gone: else the caps on connections do not hold."""

    async def dialog() -> None:
        async with stand.serve(**DEAF) as running:
            with contextlib.closing(deaf_socket()) as sock:
                await ask_without_reading(sock, running)
                await until(lambda: active(running) == 0)
                for _ in range(100):  # what is closed without ceremony is closed in this loop's next rounds
                    await asyncio.sleep(0)
                assert tcp_state(sock) != TCP_ESTABLISHED

    asyncio.run(dialog())


# Long ones.


@pytest.mark.parametrize("octets", [512, 2047, 2048, 2049, 12_288, 12_289, 70_000, MEGABYTE])
@pytest.mark.parametrize("verb", ["NOOP", "MAIL FROM:<", "AUTH PLAIN", "X"])
def test_a_long_command_line_is_answered_once(verb: str, octets: int, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.send(verb.encode() + b" " + b"x" * (octets - len(verb) - 3) + b"\r\n" + b"NOOP\r\n")
            client.writer.write_eof()
            first, *after = await codes_to_the_end(client)
            assert first[0] == ("2" if verb == "NOOP" and octets <= 2048 + len("\r\n") else "5")
            assert after in ([], ["250"])  # the line ended there, or the session did
            await until(lambda: active(running) == 0)

    asyncio.run(dialog())


def test_a_line_without_an_end_is_cut(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(command_seconds=0.5) as running, stand.client(running) as client:
            pouring = asyncio.create_task(pour(client, b"x" * 65536, NO_END * MEGABYTE))
            last = (await client.rest()).splitlines()[-1]
            assert last[:3] in {"421", "500"}
            await pouring
            await until(lambda: active(running) == 0)

    asyncio.run(dialog())


@pytest.mark.timeout(20)
def test_a_line_without_an_end_is_cut_by_its_length(stand: Stand) -> None:
    """Five minutes of octets that mean nothing cost the gateway a core; a few lines' worth say all there is to say."""

    async def dialog() -> None:
        async with stand.serve(command_seconds=3600) as running, stand.client(running) as client:
            reply = asyncio.create_task(client.reply())
            await pour(client, b"x" * 65536, 64 * MEGABYTE)
            try:
                assert reply.done()
            finally:
                reply.cancel()

    asyncio.run(dialog())


@pytest.mark.parametrize(
    "octets", [b"x" * 65536, b"x\r\n" * 20_000, b"\r\n" * 30_000, b".x\r\n" * 16_000, b"\n" * 65536]
)
def test_a_message_without_an_end_is_cut(octets: bytes, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await to_354(client)
            pouring = asyncio.create_task(pour(client, octets, NO_END * MEGABYTE))
            assert (await client.reply())[0] == "5"
            await pouring
            await until(lambda: active(running) == 0)
            assert taken(running) == []
            await a_stranger_is_served(stand, running)

    asyncio.run(dialog())


# Leaving.

DIALOGUE = ("EHLO client.example.net", "MAIL FROM:<a@sender.example>", "RCPT TO:<anna@example.org>", "DATA", "x\r\n.")
AFTER = range(len(DIALOGUE) + 1)


@pytest.mark.parametrize("steps", AFTER)
def test_a_half_close_at_any_point_ends_the_session(steps: int, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            for line in DIALOGUE[:steps]:
                assert (await client.say(line))[0] in "23"
            client.writer.write_eof()
            assert await client.rest() == ""
            await until(lambda: active(running) == 0)
            assert len(taken(running)) == (steps == len(DIALOGUE))

    asyncio.run(dialog())


@pytest.mark.parametrize("steps", AFTER)
@pytest.mark.parametrize("half", [b"", b"HA", b"RSET\r", b"Subject: x\r\n\r\nhalf a li"], ids=repr)
def test_a_reset_at_any_point_ends_the_session(steps: int, half: bytes, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running:
            async with stand.client(running) as client:
                for line in DIALOGUE[:steps]:
                    assert (await client.say(line))[0] in "23"
                await client.send(half)
                sock = client.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.writer.transport.abort()
            await until(lambda: active(running) == 0)
            assert len(taken(running)) == (steps == len(DIALOGUE))
            await a_stranger_is_served(stand, running)

    asyncio.run(dialog())


def test_who_comes_and_goes_at_once_leaves_nothing_behind(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running:
            for number in range(500):
                sock = socket.create_connection(running.places["smtp"])
                if number % 2:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await a_stranger_is_served(stand, running)
            await until(lambda: active(running) == 0)

    asyncio.run(dialog())
