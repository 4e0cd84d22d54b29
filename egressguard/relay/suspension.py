"""Destinations that somebody suspended: the orders that the spool keeps, looked up without asking it.

Contract
    An order outlives a restart. Nothing is claimed before the orders are known.
    Where several gateways share a spool, the orders of the others are known within LOOK_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

from egressguard.store.interface import Spool, Suspension

LOOK_SECONDS = 10.0


class Suspensions(Collection[str]):
    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._known: dict[str, Suspension] = {}
        self._look_at = 0.0
        self.are_known = False
        self._one = asyncio.Lock()  # a look that began before a change would undo it here

    def __contains__(self, destination: object) -> bool:
        return destination in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def orders(self) -> list[Suspension]:
        return list(self._known.values())

    async def load(self, at: float) -> None:
        """`at` is monotonic. Raises SpoolFull, SpoolBroken."""
        async with self._one:
            self._known = {order.destination: order for order in await self._spool.suspensions()}
        self._look_at, self.are_known = at + LOOK_SECONDS, True

    async def load_again(self, at: float) -> None:
        """If it is time to."""
        if at >= self._look_at:
            await self.load(at)

    async def add(self, destination: str, why: str, by: str, now: float) -> None:
        order = Suspension(destination, why, by, now)
        async with self._one:
            await self._spool.suspend(order)
            self._known[destination] = order

    async def remove(self, destination: str) -> bool:
        async with self._one:
            resumed = await self._spool.resume(destination)
            self._known.pop(destination, None)
        return resumed
