"""Waiting with a deadline, as cheap as a session needs it: a connection waits four times for each message.

Contract
    One wait at a time for each Waiting. A deadline is kept to TICK_SECONDS: one clock looks at all that wait, and
    nobody sets a timer for himself.
"""

from __future__ import annotations

import asyncio
import math

TICK_SECONDS = 0.1


class Ticker:
    """Ends the waits that are over, of all connections of one event loop."""

    def __init__(self) -> None:
        self._known: set[Waiting] = set()
        self._next: asyncio.TimerHandle | None = None

    def add(self, waiting: Waiting) -> None:
        self._known.add(waiting)
        if self._next is None:
            self._set()

    def remove(self, waiting: Waiting) -> None:
        self._known.discard(waiting)
        if not self._known and self._next is not None:
            self._next.cancel()
            self._next = None

    def _set(self) -> None:
        self._next = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for waiting in [waiting for waiting in self._known if waiting.deadline <= now]:
            waiting.fail(TimeoutError())
        self._set()


class Waiting:
    """Known to `ticker` from its making to `close`."""

    __slots__ = ("_loop", "_ticker", "_waiter", "deadline")

    def __init__(self, ticker: Ticker) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticker = ticker
        self._waiter: asyncio.Future[None] | None = None
        self.deadline = math.inf
        ticker.add(self)

    async def until(self, deadline: float) -> None:
        """Wait for `wake`. Raises TimeoutError after `deadline` (the loop's clock), or what `fail` was given."""
        waiter = self._waiter = self._loop.create_future()
        self.deadline = deadline
        try:
            await waiter
        finally:
            self._waiter = None
            self.deadline = math.inf

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, why: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(why)

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._ticker.remove(self)
