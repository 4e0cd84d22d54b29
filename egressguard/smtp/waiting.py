"""Waiting with a deadline, as cheap as a session needs it: a connection waits four times for each message.

Contract
    One wait at a time. One timer serves all waits of a connection: it is moved only when it fires too early, so
    that a wait which ends in time costs no timer at all.
"""

from __future__ import annotations

import asyncio


class Waiting:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def until(self, deadline: float) -> None:
        """Wait for `wake`. Raises TimeoutError at `deadline` (the loop's clock), or what `fail` was given."""
        waiter = self._waiter = self._loop.create_future()
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            self._set_timer()
        try:
            await waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, why: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(why)

    def close(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self.fail(TimeoutError())
