"""The SMTP server: listeners, the sessions they have, and their orderly end.

Contract
    Sockets come bound; nothing here needs a privilege.
    `drain` refuses what is new, lets messages that are arriving arrive until its time is up, and returns only
    when no commit is half done: a 250 that was earned is stored, whether or not the client heard it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from egressguard.mail.reply import Reply
from egressguard.net.flow import IPAddress
from egressguard.policy.relaying import Listener
from egressguard.smtp import replies
from egressguard.smtp.admission import Budget, Connections
from egressguard.smtp.auth import Authenticator
from egressguard.smtp.engine import Engine
from egressguard.smtp.hooks import SessionHooks
from egressguard.smtp.house import Entrance, Session
from egressguard.smtp.metrics import SmtpMetrics
from egressguard.smtp.settings import SmtpSettings
from egressguard.smtp.tls import server_context
from egressguard.smtp.waiting import Ticker
from egressguard.store.draft import Draft

log = logging.getLogger(__name__)

BACKLOG = 1024


class SmtpServer:
    """`settings` may be replaced as a whole at any time: sessions read it when they begin."""

    def __init__(
        self,
        hooks: SessionHooks,
        settings: SmtpSettings,
        tls_context: ssl.SSLContext | None,
        authenticator: Authenticator | None,
        registry: CollectorRegistry,
        new_draft: Callable[[], Draft],
    ) -> None:
        self.hooks = hooks
        self.new_draft = new_draft
        self.tls_context = tls_context
        self.authenticator = authenticator
        self.metrics = SmtpMetrics(registry)
        self.settings = settings
        self.buffered = Budget()
        self.ticker = Ticker()
        self.stopping = False
        self._connections = Connections()
        self._servers: list[asyncio.Server] = []
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self._commits: set[asyncio.Task[Reply]] = set()
        logging.getLogger("mail.log").setLevel(logging.WARNING)  # aiosmtpd's: a line a connection, addresses and all

    @property
    def settings(self) -> SmtpSettings:
        return self._settings

    @settings.setter
    def settings(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self.metrics.limits(settings.limits)

    async def start(self, listener_name: str, listener: Listener, sockets: Iterable[socket.socket]) -> None:
        """Serve on sockets that are bound already. A submission listener needs a TLS context."""
        if listener.kind != "smtp" and self.tls_context is None:
            raise ValueError(f"listener {listener_name}: {listener.kind} needs TLS")
        entrance = Entrance(listener_name, listener.kind, listener.greeting_pause_seconds)
        self.metrics.listening(listener_name)
        loop = asyncio.get_running_loop()
        engine = Engine(self, entrance)
        for sock in sockets:
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # connections inherit it; a group of replies would take 40 ms each
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._servers.append(await loop.create_server(engine.copied, sock=sock, backlog=BACKLOG))

    def reload_certificate(self, certificate: Path, private_key: Path) -> None:
        """New handshakes use the new pair. Raises OSError (ssl.SSLError among them): then the old one stays."""
        server_context(certificate, private_key)  # a pair that does not fit must not half replace one that does
        if self.tls_context is not None:
            self.tls_context.load_cert_chain(certificate, private_key)

    async def drain(self, timeout_seconds: float) -> None:
        """Stop listening, end idle sessions now and the others within the time; then wait for begun commits."""
        self.stopping = True
        for server in self._servers:
            server.close()
        for session in self._sessions:
            session.stop_soon()
        if self._sessions:
            _, late = await asyncio.wait(self._sessions.values(), timeout=timeout_seconds)
            for task in late:
                task.cancel()
            if late:
                log.warning("sessions were cut at stop", extra={"fields": {"sessions": len(late)}})
                await asyncio.wait(late)
        if self._commits:
            await asyncio.wait(self._commits)

    # What the sessions share (house.House).

    def admit(self, client: IPAddress) -> bool:
        if self.stopping:
            return False
        limits = self.settings
        each = limits.max_connections if limits.hears_proxy(client) else limits.max_connections_per_client
        exceeded = self._connections.exceeded(client, limit=limits.max_connections, limit_per_client=each)
        if exceeded is not None:
            self.metrics.limited(exceeded)
            return False
        self._connections.enter(client)
        return True

    def readmit(self, before: IPAddress, client: IPAddress) -> bool:
        self._connections.leave(before)
        if self.admit(client):
            return True
        self._connections.enter(before)  # until it has left
        return False

    def joined(self, session: Session, task: asyncio.Task[None]) -> None:
        self._sessions[session] = task
        self.metrics.active.inc()

    def left(self, session: Session, client: IPAddress) -> None:
        self._connections.leave(client)
        self._sessions.pop(session, None)
        self.metrics.active.dec()

    def own(self, commit: Coroutine[Any, Any, Reply]) -> asyncio.Task[Reply]:
        task = asyncio.get_running_loop().create_task(_answered(commit))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        return task


async def _answered(commit: Coroutine[Any, Any, Reply]) -> Reply:
    try:
        return await commit
    except Exception:
        log.exception("a message was not taken")
        return replies.TROUBLE
