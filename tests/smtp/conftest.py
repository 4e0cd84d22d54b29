"""A real server on loopback, hooks that remember, a client that speaks octets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvloop
from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.policy.relaying import Listener
from egressguard.smtp.auth import Authenticator
from egressguard.smtp.hooks import Kind, SessionFacts, Stage
from egressguard.smtp.server import SmtpServer
from egressguard.smtp.settings import SmtpSettings
from egressguard.smtp.tls import ensure_certificate, server_context
from egressguard.store.content import Content
from egressguard.store.draft import Draft
from egressguard.store.passwd import PasswdEntry, PasswdFile, hash_password, render_passwd_line

PATIENCE_SECONDS = 20
PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)
SETTINGS = SmtpSettings(
    hostname="gateway.example.org",
    max_message_octets=100_000,
    auth_failure_delay_seconds=0,
    max_connections_per_client=1000,
)


@dataclass
class Remembering:
    """Takes everything but "unknown@...", "goaway@...", "broken@..."; what is in `put_off` is put off once."""

    messages: list[tuple[SessionFacts, Envelope, bytes]] = field(default_factory=list)
    recipients: list[tuple[str, str, int | None]] = field(default_factory=list)
    refused: list[tuple[Stage, Reply, str]] = field(default_factory=list)
    before_message: Callable[[], Awaitable[None]] | None = None
    message_reply: Reply = Reply(250, "2.0.0", "Taken")
    no_room_for_octets: int = -1
    put_off: set[str] = field(default_factory=set)

    async def on_recipient(
        self, session: SessionFacts, reverse_path: str, forward_path: str, size_octets: int | None
    ) -> Reply:
        self.recipients.append((reverse_path, forward_path, size_octets))
        if forward_path in self.put_off:
            self.put_off.discard(forward_path)
            return Reply(451, "4.7.1", "Later")
        if forward_path.startswith("unknown"):
            return Reply(550, "5.1.1", "No such mailbox here")
        if forward_path.startswith("goaway"):
            return Reply(421, "4.7.0", "Go away")
        if forward_path.startswith("broken"):
            raise RuntimeError("/secret/path is broken")
        return Reply(250, "2.1.5", "OK")

    def has_room(self, size_octets: int) -> bool:
        return size_octets != self.no_room_for_octets

    async def on_message(self, session: SessionFacts, envelope: Envelope, content: Content) -> Reply:
        if self.before_message is not None:
            await self.before_message()
        self.messages.append((session, envelope, content.whole()))
        return self.message_reply

    def on_refused(self, session: SessionFacts, stage: Stage, reply: Reply, about: str) -> None:
        self.refused.append((stage, reply, about))


@dataclass
class Running:
    """`places` are (host, port) by kind of listener; each listener is named after its kind."""

    server: SmtpServer
    hooks: Remembering
    registry: CollectorRegistry
    places: dict[Kind, tuple[str, int]]
    client_context: ssl.SSLContext

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"egressguard_smtpd_{name}", labels) or 0.0


class Client:
    """Octets out, reply lines in. Everything has a time limit."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, octets: bytes, chunk_octets: int = 1 << 30) -> None:
        with contextlib.suppress(ConnectionError):  # the server may have heard enough
            for start in range(0, len(octets), chunk_octets):
                self.writer.write(octets[start : start + chunk_octets])
                await self.writer.drain()
                await asyncio.sleep(0)  # lets the server, in this same loop, read what is there

    async def line(self) -> str:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self.reader.readline()).decode("ascii").removesuffix("\r\n")

    async def reply(self) -> str:
        """A whole reply, its lines joined by line feeds; "" when the server has closed."""
        lines = [await self.line()]
        while lines[-1][3:4] == "-":
            lines.append(await self.line())
        return "\n".join(lines)

    async def say(self, text: str) -> str:
        await self.send(text.encode() + b"\r\n")
        return await self.reply()

    async def rest(self) -> str:
        """Everything until the server closes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with contextlib.suppress(ConnectionError):
                return (await self.reader.read()).decode("ascii")
            return ""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        assert (await self.say("STARTTLS")).startswith("220 2.0.0 ")
        await self.writer.start_tls(context, server_hostname="gateway.example.org")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


@dataclass
class Stand:
    """Makes servers and clients; what it made is gone at the end."""

    directory: Path
    accounts: PasswdFile

    @contextlib.asynccontextmanager
    async def serve(self, settings: SmtpSettings = SETTINGS, **changes: object) -> AsyncIterator[Running]:
        certificate, key = ensure_certificate(self.directory / "tls", settings.hostname, datetime.now(UTC))
        hooks, registry = Remembering(), CollectorRegistry()
        settings = replace(settings, **changes)  # type: ignore[arg-type]
        drafts = self.directory / "drafts"
        drafts.mkdir(exist_ok=True)
        server = SmtpServer(
            hooks,
            settings,
            server_context(certificate, key),
            Authenticator(self.accounts),
            registry,
            lambda: Draft(drafts),
        )
        places: dict[Kind, tuple[str, int]] = {}
        kinds: tuple[Kind, ...] = ("smtp", "submission", "submissions")
        for kind in kinds:
            sock = socket.create_server(("127.0.0.1", 0))
            places[kind] = sock.getsockname()[:2]
            await server.start(kind, Listener(kind=kind, port=0), [sock])
        context = ssl.create_default_context(cafile=str(certificate))
        try:
            yield Running(server, hooks, registry, places, context)
        finally:
            await server.drain(0)

    @contextlib.asynccontextmanager
    async def client(self, running: Running, kind: Kind = "smtp", *, greeted: bool = True) -> AsyncIterator[Client]:
        tls = running.client_context if kind == "submissions" else None
        name = "gateway.example.org" if tls else None
        client = Client(*await asyncio.open_connection(*running.places[kind], ssl=tls, server_hostname=name))
        try:
            if greeted:
                assert await client.reply() == "220 gateway.example.org ESMTP"
            yield client
        finally:
            await client.close()


@pytest.fixture(autouse=True)
def the_loop_of_the_gateway() -> Iterator[None]:
    """uvloop, as the roles have it: it reads earlier, writes later and refuses more than asyncio's own."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    yield
    asyncio.set_event_loop_policy(before)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    path = tmp_path / "passwd"
    path.write_text(render_passwd_line(PasswdEntry("anna", HASH)))
    return Stand(tmp_path, PasswdFile(path))
