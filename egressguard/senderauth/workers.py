"""A few threads for what takes the processor: evaluating, canonicalising, verifying.

Contract
    Work given here never waits for anything but the processor; what is bounded in octets is bounded in time.
    At most `threads` pieces run at once; the others wait in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4


class Workers:
    def __init__(self, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="senderauth")

    async def run(self, work: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> T:
        """Run `work` in a thread. Cancelled while it waits for its turn, it never runs."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*arguments, **named))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
