"""The tarpit: a greeting that never ends, for hosts that have no business here; it costs them time and us little.

Contract
    Nothing that a client says is read: its window fills up. It gets one octet every OCTET_SECONDS of a 220 greeting
    whose last line never comes (RFC 5321 s4.2.1), until it leaves or MOST_SECONDS are over.
    At most `most` clients are held; one more is closed at once, which is no way to port 25 either.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge

OCTET_SECONDS = 5.0
MOST_SECONDS = 3600.0
MOST_CLIENTS = 1000
RECEIVE_OCTETS = 2048
GREETING = b"220-please wait\r\n"


class Tarpit:
    def __init__(
        self, registry: CollectorRegistry, *, most: int = MOST_CLIENTS, octet_seconds: float = OCTET_SECONDS
    ) -> None:
        self._most = most
        self._octet_seconds = octet_seconds
        self._held: set[_Held] = set()
        self._servers: list[asyncio.Server] = []
        self._beat: asyncio.Task[None] | None = None
        self._active = Gauge("egressguard_tarpit_active_connections", "Clients held now.", registry=registry)
        self._taken = Counter(
            "egressguard_tarpit_connections_total",
            "Connections to the tarpit, by result (held, refused: too many).",
            ["result"],
            registry=registry,
        )
        self._seconds = Counter(
            "egressguard_tarpit_held_seconds_total", "How long clients were held.", registry=registry
        )
        for result in ("held", "refused"):
            self._taken.labels(result)

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Serve on sockets that are bound already."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_OCTETS)
            self._servers.append(await loop.create_server(lambda: _Held(self), sock=sock))
        if self._servers:
            self._beat = loop.create_task(self._feed())

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for held in list(self._held):
            held.abort()
        if self._beat is not None:
            self._beat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beat

    def enter(self, held: _Held) -> bool:
        """Whether there is room for one more."""
        is_room = len(self._held) < self._most
        self._taken.labels("held" if is_room else "refused").inc()
        if is_room:
            self._held.add(held)
            self._active.set(len(self._held))
        return is_room

    def leave(self, held: _Held, seconds: float) -> None:
        if held in self._held:
            self._held.remove(held)
            self._active.set(len(self._held))
            self._seconds.inc(seconds)

    async def _feed(self) -> None:
        """One task for all: a held client is a socket and a number."""
        while True:
            await asyncio.sleep(self._octet_seconds)
            for held in list(self._held):
                held.feed(MOST_SECONDS)


class _Held(asyncio.Protocol):
    __slots__ = ("_said", "_since", "_tarpit", "_transport")

    def __init__(self, tarpit: Tarpit) -> None:
        self._tarpit = tarpit
        self._said = 0
        self._since = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, made)
        self._since = asyncio.get_running_loop().time()
        if self._tarpit.enter(self):
            # asyncio begins to read after this call: what is paused here would be resumed.
            asyncio.get_running_loop().call_soon(transport.pause_reading)
            self.feed(MOST_SECONDS)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's form
        self._tarpit.leave(self, self._held_seconds())

    def feed(self, most_seconds: float) -> None:
        """The next octet, unless the last was not even taken; an end to it after `most_seconds`."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._held_seconds() > most_seconds:
            self.abort()
        elif not self._transport.get_write_buffer_size():
            self._transport.write(GREETING[self._said % len(GREETING) :][:1])
            self._said += 1

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _held_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._since
