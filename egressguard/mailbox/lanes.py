"""Work that waits for the disk, many pieces at a time on one thread: a change of threads costs as much as a small one.

Contract
    No artificial delay: what comes in one turn of the event loop, or while all LANES are busy, is done together: FEW,
    more where they are more than the lanes that are free, at most MOST. Each piece has an answer of its own; what
    `work` raises is the answer of all of them.
    A caller that is cancelled stops nothing that was begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

LANES = 8  # a disk does many fsyncs at once
FEW, MOST = 4, 32

Given = TypeVar("Given")
Answer = TypeVar("Answer")


class Lanes(Generic[Given, Answer]):
    """`work` blocks; its answers stand in the order of what it was given. For one event loop at a time."""

    def __init__(self, work: Callable[[Sequence[Given]], Sequence[Answer | Exception]], name: str) -> None:
        self._work = work
        self._threads = ThreadPoolExecutor(LANES, name)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[Given, asyncio.Future[Answer]]] = deque()
        self._busy = 0

    def ask(self, given: Given) -> asyncio.Future[Answer]:
        """The future raises what stood in the place of its answer."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the last one may have ended with something under way
            self._loop, self._busy = loop, 0
            self._waiting.clear()
        if not self._waiting:
            loop.call_soon(self._begin, loop)
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((given, future))
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting and self._busy < LANES and loop is self._loop:
            share = math.ceil(len(self._waiting) / (LANES - self._busy))
            count = min(max(share, FEW), MOST, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            self._busy += 1
            self._threads.submit(self._do, loop, batch)

    def _do(self, loop: asyncio.AbstractEventLoop, batch: list[tuple[Given, asyncio.Future[Answer]]]) -> None:
        """On a thread."""
        answers: Sequence[Answer | Exception]
        try:
            answers = self._work([given for given, _ in batch])
        except Exception as wrong:  # noqa: BLE001 -- handed to whoever asked
            answers = [wrong] * len(batch)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for these answers any more
            loop.call_soon_threadsafe(self._done, loop, batch, answers)

    def _done(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[tuple[Given, asyncio.Future[Answer]]],
        answers: Sequence[Answer | Exception],
    ) -> None:
        if loop is self._loop:
            self._busy -= 1
            self._begin(loop)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():  # whoever asked is gone
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
