"""When a smart host is left alone, and when it is tried again: a circuit breaker. Pure: time is given.

Contract
    `failures` in a row open it, a refused login at once: it is left alone, each time twice as long.
    Then one message tries; meanwhile the others pass on. It is closed by a success, opened again by a failure.
    What was begun before it opened, and fails, makes nothing worse; a success of such closes it.
    A probe that is never heard of again blocks nothing for longer than PROBE_SECONDS.
"""

from __future__ import annotations

from dataclasses import dataclass

from egressguard.policy.scheduling import Breaker
from egressguard.relay.pace import rest_seconds

PROBE_SECONDS = 900.0


@dataclass(slots=True)
class Circuit:
    """`why` and `since` tell of the failure that opened it, "" and 0 while it is closed."""

    settings: Breaker
    rests: int = 0
    until: float = 0.0
    since: float = 0.0
    why: str = ""
    _failures: int = 0
    _probe_ends: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it is left alone, or being probed."""
        return self.rests > 0

    def free_at(self, now: float) -> float:
        """When it may be tried; now, if it may."""
        if not self.is_open:
            return now
        return max(now, self.until, self._probe_ends)

    def begin(self, now: float) -> None:
        """Somebody tries."""
        if self.is_open:
            self._probe_ends = now + PROBE_SECONDS

    def withdraw(self) -> None:
        """Whoever began has not tried after all."""
        self._probe_ends = 0.0

    def succeeded(self) -> bool:
        """True when this closed it."""
        was_open = self.is_open
        self._failures = self.rests = 0
        self.until = self.since = self._probe_ends = 0.0
        self.why = ""
        return was_open

    def failed(self, now: float, why: str, *, for_sure: bool = False) -> bool:
        """True when it is open from now on and was not before, or for another time."""
        if now < self.until:
            return False
        self._failures += 1
        if not (self.is_open or for_sure or self._failures >= self.settings.failures):
            return False
        self.rests += 1
        self._probe_ends = 0.0
        self.since, self.why = self.since or now, why
        settings = self.settings
        self.until = now + rest_seconds(settings.rest_first_seconds, settings.rest_longest_seconds, self.rests)
        return True
