"""Who may try now: places for attempts, at each destination and in all.

Contract
    One slow destination holds up nobody else. Whoever waits for a place at a destination takes none of the whole.
    The scarcer places are, the fewer one destination may have: one, or an eighth as many as are free. Of one that
    has not answered yet it is a fiftieth, and none of the last quarter: that is for those that answer.
    Of what waits for a destination the most urgent goes first, then what came first.
    A destination that rests turns away what waits for it: it goes back to the spool, uncounted.
    Bounded: FORGET_SECONDS after its last attempt and rest a destination is forgotten, the oldest first beyond
    KNOWN_DESTINATIONS.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from egressguard.policy.scheduling import Concurrency
from egressguard.relay.pace import Heard, Pace

KNOWN_DESTINATIONS = 10_000
FORGET_SECONDS = 60.0
SHARE, SHARE_OF_UNKNOWN = 8, 50
"""What one destination has is at most this part of what is free."""
RESERVE = 4
"""This part of all places is for destinations that answer."""

Waiting = tuple[int, int, asyncio.Future[bool]]


@dataclass(slots=True, eq=False)
class _Destination:
    pace: Pace
    held: int = 0
    waiting: list[Waiting] = field(default_factory=list)  # a heap
    used_at: float = 0.0
    waits_until: float = 0.0  # for a reason of ours
    answers: bool = False

    def resting_until(self) -> float:
        return max(self.pace.resting_until, self.waits_until)


class _Place:
    """One attempt's place: `async with` says whether there is one; False: the destination rests."""

    __slots__ = ("_destination", "_destinations", "_urgency")

    def __init__(self, destinations: Destinations, destination: _Destination, urgency: int) -> None:
        self._destinations = destinations
        self._destination: _Destination | None = destination
        self._urgency = urgency

    async def __aenter__(self) -> bool:
        assert self._destination is not None
        if not await self._destinations._take(self._destination, self._urgency):
            self._destination = None
        return self._destination is not None

    async def __aexit__(self, *_: object) -> None:
        if self._destination is not None:
            self._destinations._give_back(self._destination)


class Destinations:
    """Keys are relay.attempt.Way.key. `settings` says how much a destination may bear. Times are the caller's clock."""

    def __init__(self, settings: Callable[[str], Concurrency], *, total: int) -> None:
        self._settings = settings
        self._total = self._free = total
        self._known: dict[str, _Destination] = {}
        self._short: dict[_Destination, None] = {}  # those that wait for a place of the whole, in turn
        self._may_rest: set[str] = set()  # those that rest are among these
        self._numbers = itertools.count()
        self._forget_at = 0.0

    def place(self, key: str, now: float, urgency: int = 0) -> _Place:
        """The lower `urgency` is, the sooner."""
        destination = self._known.get(key)
        if destination is None:
            destination = self._known[key] = _Destination(Pace(self._settings(key)))
        destination.used_at = now
        return _Place(self, destination, urgency)

    def window(self, key: str) -> int | None:
        """How many attempts at once it is given now; None: nothing is known of it."""
        destination = self._known.get(key)
        return None if destination is None else destination.pace.window

    def learn(self, key: str, heard: Heard, now: float) -> float | None:
        """What an attempt showed, while it has its place. Returns until when the destination rests, if it began to."""
        destination = self._known[key]
        pace = destination.pace
        if heard is Heard.ANSWER:
            destination.answers = True
            pace.succeeded(destination.held)
        elif heard is Heard.SILENCE and pace.failed(now):
            destination.answers = False
            self._may_rest.add(key)
            self._turn_away(destination)
            return pace.resting_until
        return None

    def rest(self, key: str, until: float) -> None:
        """Nothing goes there until then, for a reason of ours."""
        if (destination := self._known.get(key)) is not None:
            destination.waits_until = until
            self._may_rest.add(key)
            self._turn_away(destination)

    def turn_away(self, key: str) -> None:
        """Give back what waits for a place there."""
        if (destination := self._known.get(key)) is not None:
            self._turn_away(destination)

    def resting_until(self, key: str, now: float) -> float | None:
        destination = self._known.get(key)
        if destination is None or (until := destination.resting_until()) <= now:
            return None
        return until

    def silent_until(self, key: str, now: float) -> float:
        """Until when it rests because it was silent; now, if it does not."""
        return max(self._known[key].pace.resting_until, now) if key in self._known else now

    def resting(self, now: float) -> dict[str, float]:
        """Who rests, and until when."""
        found = {key: until for key in self._may_rest if (until := self.resting_until(key, now)) is not None}
        for key in self._may_rest - found.keys():
            if (known := self._known.get(key)) is not None:  # over, also for a clock that goes back
                known.pace.resting_until = known.waits_until = 0.0
        self._may_rest = set(found)
        return found

    def wake_all(self) -> None:
        """Somebody wants another try at once."""
        for destination in self._known.values():
            destination.pace.resting_until = destination.waits_until = 0.0

    def end_waits(self) -> None:
        """What kept some from being tried, for a reason of ours, may be over."""
        for destination in self._known.values():
            destination.waits_until = 0.0

    def take_settings(self) -> None:
        """The rules have changed."""
        for key, destination in self._known.items():
            destination.pace.take_settings(self._settings(key))

    def forget_idle(self, now: float) -> None:
        """Memory stays bounded by what was tried lately. Looks only now and then: it looks at all of them."""
        crowded = len(self._known) > KNOWN_DESTINATIONS
        if now < self._forget_at <= now + FORGET_SECONDS and not crowded:
            return
        self._forget_at = now + FORGET_SECONDS / 4
        idle = [key for key, known in self._known.items() if not known.held and not known.waiting]
        for key in idle:
            pace = self._known[key].pace
            # A rest that is over is remembered for as long again: the next one has to be longer.
            lasts = FORGET_SECONDS + (pace.settings.rest_longest_seconds if pace.rests else 0)
            if max(self._known[key].used_at, self._known[key].resting_until()) + lasts <= now:
                del self._known[key]
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        surplus = len(self._known) - KNOWN_DESTINATIONS
        if surplus > 0:
            idle = [key for key, known in self._known.items() if not known.held and not known.waiting]
            for key in sorted(idle, key=lambda key: self._known[key].used_at)[:surplus]:
                del self._known[key]

    # Places.

    async def _take(self, destination: _Destination, urgency: int) -> bool:
        if not destination.waiting and self._may_have(destination):
            destination.held += 1
            self._free -= 1
            return True
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heappush(destination.waiting, (urgency, next(self._numbers), place))
        if destination.held < destination.pace.window:
            self._short[destination] = None
        try:
            return await place
        except asyncio.CancelledError:
            if not place.cancelled() and place.result():  # it was given at the last moment
                self._give_back(destination)
            else:
                destination.waiting = [one for one in destination.waiting if one[2] is not place]
                heapify(destination.waiting)
            raise

    def _may_have(self, destination: _Destination) -> bool:
        held, free, share = destination.held, self._free, SHARE
        if not destination.answers:
            free, share = free - self._total // RESERVE, SHARE_OF_UNKNOWN
        if held >= destination.pace.window or free <= 0:
            return False
        return held == 0 or held < free // share

    def _give_back(self, destination: _Destination) -> None:
        destination.held -= 1
        self._free += 1
        if self._short:
            self._serve_short()
        if destination.waiting:
            self._serve(destination)

    def _serve_short(self) -> None:
        """Those that only miss a place of the whole, each one at a time."""
        for destination in list(self._short):
            if self._free <= 0:
                return
            del self._short[destination]
            self._serve(destination, most=1)

    def _serve(self, destination: _Destination, most: int | None = None) -> None:
        given = 0
        while destination.waiting and self._may_have(destination) and given != most:
            _, _, place = heappop(destination.waiting)
            if not place.done():
                destination.held += 1
                self._free -= 1
                given += 1
                place.set_result(True)
        if destination.waiting and destination.held < destination.pace.window:
            self._short[destination] = None

    def _turn_away(self, destination: _Destination) -> None:
        waiting, destination.waiting = destination.waiting, []
        self._short.pop(destination, None)
        for _, _, place in waiting:
            if not place.done():
                place.set_result(False)
