"""The stranger's end of the wire: what the attacking tests know of our server and client, and all they know of them.

Contract
    The server's constructor and hooks are tests/smtp/conftest.py's, the client's are `hand_over`'s: an interface that
    changes is changed here and there, and in no attacking test.
    Everything is said in octets and read as reply lines; nothing looks into a session.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from egressguard.mail.outcome import Outcome
from egressguard.smtp.client import Patience, Peer, Transaction, send
from egressguard.store.content import Content
from tests.smtp.conftest import PATIENCE_SECONDS, Client, Running, Stand

WHOLE = 1 << 30
"""`chunk_octets` of Client.send: all in one write."""
SENDER, RECIPIENT = "outer@sender.example", "anna@example.org"
_PATIENCE = Patience(connect_seconds=5, command_seconds=10, data_seconds=10, whole_seconds=30)


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that the server handed to its hooks: what it said 250 for is stored."""

    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes


def taken(running: Running) -> list[Taken]:
    return [Taken(e.reverse_path, e.forward_paths, bytes(content)) for _, e, content in running.hooks.messages]


def active(running: Running) -> float:
    """Sessions that the server counts as open."""
    return running.counted("active_connections")


async def until(true: Callable[[], object]) -> None:
    """Wait for something that the server does by itself; fails after PATIENCE_SECONDS."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():
            await asyncio.sleep(0.005)


async def to_354(client: Client, recipient: str = RECIPIENT) -> None:
    """A greeted client's way to where the content begins."""
    for line in ("EHLO client.example.net", f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{recipient}>"):
        assert (await client.say(line))[:3] == "250"
    assert (await client.say("DATA"))[:3] == "354"


async def codes_to_the_end(client: Client) -> list[str]:
    """The codes of all replies from here until the server closes (a multi-line reply counts once)."""
    return [line[:3] for line in (await client.rest()).splitlines() if line[3:4] != "-"]


async def extensions(client: Client) -> set[str]:
    """What EHLO offers, by its keywords."""
    return {line[4:].split()[0] for line in (await client.say("EHLO client.example.net")).splitlines()[1:]}


async def a_stranger_is_served(stand: Stand, running: Running) -> None:
    """Somebody else's message goes through, now."""
    before = len(taken(running))
    async with stand.client(running) as other:
        await to_354(other)
        assert (await other.say("Subject: x\r\n\r\nhello\r\n."))[:3] == "250"
    assert len(taken(running)) == before + 1


async def pour(client: Client, octets: bytes, limit_octets: int) -> int:
    """Send `octets` again and again until the server ends the connection; how many left, at most `limit_octets`."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < limit_octets and not client.writer.transport.is_closing():
            client.writer.write(octets)
            await client.writer.drain()
            await asyncio.sleep(0)
            sent += len(octets)
    return sent


async def hand_over(content: bytes, port: int) -> Outcome:
    """Our client hands `content` to a host on loopback; what becomes of its one recipient."""
    path = "bob@receiver.example"
    peer = Peer("mx.receiver.example", ("127.0.0.1",), port, tls="none")
    sent = await send(Transaction(SENDER, (path,), Content.of(content)), peer, "gateway.example.org", _PATIENCE)
    return sent.outcomes[path]
