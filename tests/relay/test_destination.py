from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from egressguard.policy.scheduling import Concurrency
from egressguard.relay import destination as room
from egressguard.relay.destination import Destinations
from egressguard.relay.pace import Heard


class Users:
    """Who has a place, who was turned away, in order."""

    def __init__(self, destinations: Destinations) -> None:
        self.destinations = destinations
        self.have: list[str] = []
        self.turned_away: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, key: str = "", urgency: int = 0) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._use(name, key or name.rstrip("0123456789"), urgency))
        await settle()

    async def _use(self, name: str, key: str, urgency: int) -> None:
        async with self.destinations.place(key, 0.0, urgency) as has_place:
            if not has_place:
                self.turned_away.append(name)
                return
            self.have.append(name)
            await self._ends[name].wait()
            self.have.remove(name)

    async def go(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await settle()

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def walk(
    story: Callable[[Users], Awaitable[None]], *, limit: int = 5, total: int = 400, initial: int | None = None
) -> Destinations:
    settings = Concurrency(initial=initial or limit, limit=limit)
    destinations = Destinations(lambda _key: settings, total=total)

    async def told() -> None:
        users = Users(destinations)
        try:
            await story(users)
        finally:
            await users.end()

    asyncio.run(told())
    assert destinations._free == total
    assert not any(known.held or known.waiting for known in destinations._known.values())
    return destinations


def test_a_destination_has_its_window_and_the_others_wait_in_order() -> None:
    async def story(users: Users) -> None:
        for number in range(5):
            await users.come(f"a{number}")
        assert users.have == ["a0", "a1"]
        await users.go("a1")
        assert users.have == ["a0", "a2"]

    walk(story, limit=2)


def test_the_most_urgent_goes_first_then_what_came_first() -> None:
    async def story(users: Users) -> None:
        for name, urgency in (("a0", 1), ("a1", 2), ("a2", 1), ("a3", 0), ("a4", 1)):
            await users.come(name, urgency=urgency)
        order = []
        for _ in range(5):
            order += users.have
            await users.go(*users.have)
        assert order == ["a0", "a3", "a2", "a4", "a1"]

    walk(story, limit=1)


def test_whoever_waits_at_a_full_destination_takes_no_place_of_the_whole() -> None:
    async def story(users: Users) -> None:
        for number in range(30):
            await users.come(f"slow{number}")
        await users.come("fast")
        assert users.have == ["slow0", "fast"]

    walk(story, limit=1, total=2)


def test_hundreds_that_hang_leave_places_for_one_that_answers() -> None:
    async def story(users: Users) -> None:
        await users.come("live")
        users.destinations.learn("live", Heard.ANSWER, 0.0)
        await users.go("live")
        for host in range(500):
            for number in range(3):
                await users.come(f"hanging{host}-{number}", key=f"hanging{host}")
        assert len(users.have) == 300
        for number in range(20):
            await users.come(f"live{number}")
        assert len(users.have) == 300 + 11  # an eighth of what is free
        await users.go("live0", "live1")
        assert len(users.have) == 300 + 11

    walk(story, limit=20)


def test_a_hundred_that_hang_leave_places_for_one_that_nobody_knows() -> None:
    async def story(users: Users) -> None:
        for host in range(100):
            for number in range(5):
                await users.come(f"hanging{host}-{number}", key=f"hanging{host}")
        assert len(users.have) < 300
        await users.come("live")
        assert "live" in users.have

    walk(story, limit=20, initial=5)


def test_the_scarcer_places_are_the_fewer_has_one_destination() -> None:
    async def story(users: Users) -> None:
        for key in "ab":
            await users.come(key)
            users.destinations.learn(key, Heard.ANSWER, 0.0)
            await users.go(key)
        for number in range(40):
            await users.come(f"a{number}")
        first = len(users.have)
        for number in range(40):
            await users.come(f"b{number}")
        assert (first, len(users.have) - first) == (8, 7)
        await users.go(*[name for name in users.have if name.startswith("a")])
        assert len([name for name in users.have if name.startswith("b")]) <= 8

    walk(story, limit=40, total=72)


def test_the_last_quarter_is_for_those_that_answer() -> None:
    async def story(users: Users) -> None:
        await users.come("good")
        users.destinations.learn("good", Heard.ANSWER, 0.0)
        for number in range(6):
            await users.come(f"x{number}", key=f"x{number}")
        assert "x5" not in users.have
        await users.go("good")
        assert "x5" in users.have
        await users.come("good2")
        assert "good2" in users.have
        users.destinations.learn("good", Heard.SILENCE, 0.0)
        await users.come("good3")
        assert "good3" not in users.have
        await users.go("x0", "x1")
        assert "good3" not in users.have  # its window is one now
        await users.go("good2")
        assert "good3" in users.have

    walk(story, limit=1, total=8)


def test_silence_turns_away_what_waits_and_a_success_brings_the_window_back() -> None:
    async def story(users: Users) -> None:
        for number in range(5):
            await users.come(f"a{number}")
        assert users.destinations.learn("a", Heard.SILENCE, 10.0) is None
        assert users.destinations.learn("a", Heard.SILENCE, 10.0) == 40.0
        await settle()
        assert users.turned_away == ["a2", "a3", "a4"]
        assert users.destinations.resting(10.0) == {"a": 40.0}
        assert users.destinations.resting_until("a", 40.0) is None
        await users.go("a0", "a1")
        await users.come("a5")
        await users.come("a6")
        assert users.have == ["a5"]  # one looks
        users.destinations.learn("a", Heard.ANSWER, 41.0)
        await users.go("a5")
        await users.come("a7")
        assert users.have == ["a6", "a7"]

    walk(story, limit=2)


def test_a_rest_for_a_reason_of_ours_is_no_silence() -> None:
    async def story(users: Users) -> None:
        await users.come("a0")
        await users.come("a1")
        await users.come("a2")
        users.destinations.rest("a", 100.0)
        await settle()
        assert users.turned_away == ["a2"]
        assert users.destinations.resting_until("a", 99.0) == 100.0
        await users.go("a0", "a1")
        await users.come("a3")
        await users.come("a4")
        assert users.have == ["a3", "a4"]
        users.destinations.wake_all()
        assert users.destinations.resting(50.0) == {}

    walk(story, limit=2)


def test_whoever_leaves_before_his_turn_keeps_no_place() -> None:
    async def story(users: Users) -> None:
        for number in range(3):
            await users.come(f"a{number}")
        users.tasks["a1"].cancel()
        await settle()
        await users.go("a0")
        assert users.have == ["a2"]
        await users.come("a3")
        users.tasks["a3"].cancel()
        await users.go("a2")  # its place is given to a3 in the moment that it leaves
        await users.come("a4")
        assert users.have == ["a4"]

    walk(story, limit=1)


def test_what_is_idle_is_forgotten_and_what_rests_or_rested_is_not() -> None:
    async def story(users: Users) -> None:
        for key in ("idle", "silent", "ours"):
            await users.come(key)
            await users.go(key)
        users.destinations.learn("silent", Heard.SILENCE, 0.0)
        users.destinations.rest("ours", 100.0)

    destinations = walk(story, limit=1)
    destinations.forget_idle(59.0)
    assert set(destinations._known) == {"idle", "silent", "ours"}
    destinations.forget_idle(80.0)
    assert set(destinations._known) == {"silent", "ours"}
    destinations.forget_idle(161.0)
    assert set(destinations._known) == {"silent"}  # its next rest has to be longer
    destinations.forget_idle(30.0 + 900 + 60)
    assert set(destinations._known) == set()


def test_memory_is_bounded_by_the_number_of_destinations() -> None:
    async def story(users: Users) -> None:
        for number in range(room.KNOWN_DESTINATIONS + 50):
            async with users.destinations.place(f"k{number}", float(number) / 1000):
                pass
        users.destinations.forget_idle(11.0)

    destinations = walk(story)
    assert len(destinations._known) == room.KNOWN_DESTINATIONS
    assert "k0" not in destinations._known and f"k{room.KNOWN_DESTINATIONS}" in destinations._known


def test_new_rules_count_for_those_that_are_known() -> None:
    settings = {"now": Concurrency(limit=9, initial=9)}
    destinations = Destinations(lambda _key: settings["now"], total=400)
    destinations.place("a", 0.0)
    assert (destinations.window("a"), destinations.window("b")) == (9, None)
    settings["now"] = Concurrency(limit=2)
    destinations.take_settings()
    assert destinations.window("a") == 2
