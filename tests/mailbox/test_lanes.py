"""What comes together is done together, each with its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from egressguard.mailbox.lanes import FEW, LANES, MOST, Lanes


class Work:
    """Doubles numbers; odd ones fail. It waits for `go`, and tells how much it was given at a time."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, given: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(given))
        self.go.wait(30)
        return [OSError(number) if number % 2 else 2 * number for number in given]


def test_what_comes_in_one_turn_is_one_batch_and_each_has_its_answer() -> None:
    work = Work()
    lanes: Lanes[int, int] = Lanes(work, "test")

    async def ask() -> list[int | BaseException]:
        return await asyncio.gather(*map(lanes.ask, range(FEW)), return_exceptions=True)

    answers = asyncio.run(ask())
    assert work.batches == [[0, 1, 2, 3]]
    assert answers[::2] == [0, 4]
    assert [str(wrong) for wrong in answers[1::2]] == ["1", "3"]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (FEW + 1, [FEW, 1]),
        (FEW * LANES, [FEW] * LANES),
        (3 * FEW * LANES, [3 * FEW] * LANES),
        (2 * MOST * LANES, [MOST] * 2 * LANES),
    ],
)
def test_what_is_much_goes_to_all_lanes_and_a_batch_is_bounded(count: int, sizes: list[int]) -> None:
    work = Work()
    lanes: Lanes[int, int] = Lanes(work, "test")

    async def ask() -> list[int]:
        return await asyncio.gather(*(lanes.ask(2 * number) for number in range(count)))

    assert asyncio.run(ask()) == [4 * number for number in range(count)]
    assert sorted(map(len, work.batches), reverse=True) == sizes


def test_while_all_lanes_are_busy_what_comes_gathers() -> None:
    work = Work()
    work.go.clear()
    lanes: Lanes[int, int] = Lanes(work, "test")

    async def ask() -> None:
        waiting = []
        for number in range(LANES + 3):
            waiting.append(lanes.ask(2 * number))
            await asyncio.sleep(0)  # a turn each
            await asyncio.sleep(0)
        work.go.set()
        await asyncio.gather(*waiting)

    asyncio.run(ask())
    assert len(work.batches) == LANES + 1
    assert work.batches[-1] == [2 * number for number in range(LANES, LANES + 3)]


def test_a_fault_of_ours_is_heard_by_all_and_the_next_are_served() -> None:
    faults = [ValueError("ours")]

    def work(given: Sequence[int]) -> list[int | Exception]:
        if faults:
            raise faults.pop()
        return list(given)

    lanes: Lanes[int, int] = Lanes(work, "test")

    async def ask() -> list[int | BaseException]:
        first = await asyncio.gather(lanes.ask(1), lanes.ask(2), return_exceptions=True)
        return [*first, await lanes.ask(3)]

    one, two, three = asyncio.run(ask())
    assert isinstance(one, ValueError)
    assert one is two
    assert three == 3


def test_who_is_gone_harms_nobody_and_a_loop_that_ended_neither() -> None:
    work = Work()
    work.go.clear()
    lanes: Lanes[int, int] = Lanes(work, "test")

    async def leave() -> int:
        gone, stays = lanes.ask(2), lanes.ask(4)
        await asyncio.sleep(0)
        gone.cancel()
        work.go.set()
        return await stays

    async def leave_all() -> None:
        lanes.ask(6)
        await asyncio.sleep(0)

    async def ask() -> int:
        return await asyncio.wait_for(lanes.ask(8), 30)

    assert asyncio.run(leave()) == 8
    for _ in range(2 * LANES):
        asyncio.run(leave_all())
    assert asyncio.run(ask()) == 16


@pytest.mark.parametrize("count", [1, 7])
def test_nothing_waits_for_more_to_come(count: int) -> None:
    lanes: Lanes[int, int] = Lanes(Work(), "test")

    async def ask() -> list[int]:
        return await asyncio.wait_for(asyncio.gather(*(lanes.ask(0) for _ in range(count))), 30)

    assert asyncio.run(ask()) == [0] * count
