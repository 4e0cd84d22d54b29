"""Connections that are kept for the next message to the same host.

Contract
    Bounded: IDLE_TOTAL connections, each for IDLE_SECONDS without work, TRANSACTIONS messages and LIFE_SECONDS.
    The one used last is taken first: what is not needed grows old and goes.
    A host is told QUIT; nobody waits for its answer but the pool itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable
from dataclasses import dataclass, field

from egressguard.smtp.dial import Host
from egressguard.smtp.host_wire import HostLost

IDLE_SECONDS = 2.0  # as Postfix's smtp_connection_cache_time_limit
IDLE_TOTAL = 100
TRANSACTIONS = 1000
LIFE_SECONDS = 300.0  # as Postfix's smtp_connection_reuse_time_limit
QUIT_SECONDS = 5


@dataclass(slots=True)
class _Idle:
    host: Host
    since: float


@dataclass(slots=True)
class Pool:
    _idle: dict[Hashable, list[_Idle]] = field(default_factory=dict)
    _count: int = 0
    _sweep: asyncio.TimerHandle | None = None
    _goodbyes: set[asyncio.Task[None]] = field(default_factory=set)

    def take(self, key: Hashable) -> Host | None:
        """A connection that looks alive, or None."""
        waiting = self._idle.get(key)
        while waiting:
            host = waiting.pop().host
            self._count -= 1
            if not waiting:
                del self._idle[key]
            if host.wire.is_idle:
                return host
            host.wire.close()
        return None

    def keep(self, key: Hashable, host: Host) -> None:
        loop = asyncio.get_running_loop()
        worn = host.transactions >= TRANSACTIONS or loop.time() - host.greeted_at > LIFE_SECONDS
        if worn or self._count >= IDLE_TOTAL or not host.wire.is_idle:
            self.part(host)
            return
        self._idle.setdefault(key, []).append(_Idle(host, loop.time()))
        self._count += 1
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._part_with_old)

    def part(self, host: Host, *, politely: bool = True) -> None:
        """Close it, with QUIT if the host still listens."""
        if not politely:
            host.wire.close()
            return
        task = asyncio.get_running_loop().create_task(_say_goodbye(host))
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)

    async def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for waiting in self._idle.values():
            for idle in waiting:
                self.part(idle.host)
        self._idle.clear()
        self._count = 0
        if self._goodbyes:
            await asyncio.wait(self._goodbyes)

    def _part_with_old(self) -> None:
        loop = asyncio.get_running_loop()
        limit = loop.time() - IDLE_SECONDS
        for key, waiting in list(self._idle.items()):
            while waiting and waiting[0].since <= limit:
                self.part(waiting.pop(0).host)
                self._count -= 1
            if not waiting:
                del self._idle[key]
        self._sweep = loop.call_later(IDLE_SECONDS / 2, self._part_with_old) if self._idle else None


async def _say_goodbye(host: Host) -> None:
    with contextlib.suppress(HostLost, TimeoutError):
        # The message is safe or it is not by now; a rude answer changes nothing.
        host.wire.write(b"QUIT\r\n")
        await host.wire.reply(QUIT_SECONDS)
    host.wire.close()
