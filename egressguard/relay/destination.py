"""Destinations: how many attempts at once, and which ones rest after nobody answered there.

Contract
    At most `limit` attempts at one destination and `total` at all run at once; the wait for a place at a slow
    destination holds no place of the whole.
    A destination where no host could be talked to rests: what waits for it goes back unharmed instead of dialling
    the same silence again and again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(slots=True)
class _Destination:
    places: asyncio.Semaphore
    users: int = 0
    resting_until: float = 0.0


class _Place:
    """One attempt's place, at its destination and among all."""

    __slots__ = ("_all", "_destination")

    def __init__(self, destination: _Destination, every: asyncio.Semaphore) -> None:
        self._destination = destination
        self._all = every

    async def __aenter__(self) -> None:
        destination = self._destination
        destination.users += 1
        try:
            await destination.places.acquire()
            try:
                await self._all.acquire()
            except BaseException:
                destination.places.release()
                raise
        except BaseException:
            destination.users -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._all.release()
        self._destination.places.release()
        self._destination.users -= 1


class Destinations:
    """Keys are relay.attempt.Way.key. Times are the caller's clock, in seconds."""

    def __init__(self, *, limit: int, total: int) -> None:
        self._limit = limit
        self._places = asyncio.Semaphore(total)
        self._known: dict[str, _Destination] = {}

    def place(self, key: str) -> _Place:
        """Wait for a place at the destination, then for one of all: `async with`."""
        destination = self._known.get(key)
        if destination is None:
            destination = self._known[key] = _Destination(asyncio.Semaphore(self._limit))
        return _Place(destination, self._places)

    def rest(self, key: str, until: float) -> None:
        if (destination := self._known.get(key)) is not None:
            destination.resting_until = until

    def resting_until(self, key: str, now: float) -> float | None:
        destination = self._known.get(key)
        return None if destination is None or destination.resting_until <= now else destination.resting_until

    def resting(self, now: float) -> set[str]:
        return {key for key, destination in self._known.items() if destination.resting_until > now}

    def wake_all(self) -> None:
        """Somebody wants another try at once."""
        for destination in self._known.values():
            destination.resting_until = 0.0

    def forget_idle(self, now: float) -> None:
        """Keep only those that are in use or rest: memory stays bounded by what is being tried."""
        self._known = {
            key: destination
            for key, destination in self._known.items()
            if destination.users or destination.resting_until > now
        }
