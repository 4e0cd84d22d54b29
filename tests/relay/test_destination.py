from __future__ import annotations

import asyncio

from egressguard.relay.destination import Destinations


def test_waiting_at_a_full_destination_takes_no_place_of_the_whole() -> None:
    async def walk() -> None:
        destinations = Destinations(limit=1, total=2)
        order: list[str] = []

        async def use(key: str, end: asyncio.Event) -> None:
            async with destinations.place(key):
                order.append(key)
                await end.wait()

        end, done = asyncio.Event(), asyncio.Event()
        done.set()
        slow = [asyncio.create_task(use("slow", end)) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.wait_for(use("fast", done), 1)
        assert order == ["slow", "fast"]
        end.set()
        await asyncio.gather(*slow)

    asyncio.run(walk())


def test_what_is_idle_is_forgotten_and_what_rests_is_not() -> None:
    async def walk() -> None:
        destinations = Destinations(limit=1, total=2)
        for key in ("idle", "resting"):
            async with destinations.place(key):
                pass
        destinations.rest("resting", 100.0)
        destinations.forget_idle(50.0)
        assert set(destinations._known) == {"resting"}
        assert destinations.resting_until("resting", 50.0) == 100.0
        assert destinations.resting_until("resting", 100.0) is None
        destinations.wake_all()
        assert destinations.resting_until("resting", 50.0) is None

    asyncio.run(walk())
