"""How many attempts a destination is given at once, learned from what became of the last ones. Pure: time is given.

Contract
    The window begins at `initial`. Each success is worth 1/window of a place more, up to `limit`; each failure the same
    of a place less, the first one a whole place. There is always one.
    Growth needs use: a window that is not filled says nothing about a wider one.
    `failed_cohorts` windows' worth of failures with no success between: the destination is dead. It rests, each time
    twice as long, and then bears one attempt: its success brings back `initial`, its failure the next rest.
    What ends while it rests, and fails, was begun before and makes nothing worse; a success ends the rest.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from egressguard.mail.outcome import Outcome, Result
from egressguard.policy.scheduling import Concurrency

_ROUNDING = 1e-9
_DOUBLINGS = 30


def rest_seconds(first: int, longest: int, times: int) -> int:
    """How long the `times`-th rest in a row is."""
    return min(first << min(max(times - 1, 0), _DOUBLINGS), longest)


@dataclass(slots=True)
class Pace:
    """`rests` counts those in a row; it is no more than a probe while there is any."""

    settings: Concurrency
    window: int = 0
    rests: int = 0
    resting_until: float = 0.0
    _good: float = 0.0
    _bad: float = 0.0
    _failed_cohorts: float = 0.0

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.window = min(self.settings.initial, self.settings.limit)
        self.rests = 0
        self.resting_until = self._good = self._bad = self._failed_cohorts = 0.0

    def take_settings(self, settings: Concurrency) -> None:
        """The rules have changed."""
        self.settings = settings
        self.window = min(self.window, settings.limit)

    def succeeded(self, busy: int) -> None:
        """An attempt was answered; `busy` are under way, with this one."""
        if self.rests:
            return self._begin()
        self._failed_cohorts = 0.0
        if self.window >= self.settings.limit or self.window >= busy + self.settings.initial:
            return None
        self._good += 1 / self.window
        if self._good + _ROUNDING >= 1:
            self.window, self._good, self._bad = self.window + 1, 0.0, 0.0
        return None

    def failed(self, now: float) -> bool:
        """An attempt found nobody to talk to. True when it is dead from now on."""
        if self.resting_until > now:
            return False
        self._failed_cohorts += 1 / self.window
        if self.rests or self._failed_cohorts + _ROUNDING >= self.settings.failed_cohorts:
            self._rest(now)
            return True
        share = 1 / self.window
        self._bad -= share
        if self._bad + _ROUNDING < 0:
            self.window, self._good, self._bad = max(self.window - 1, 1), 0.0, self._bad + 1
        return False

    def _rest(self, now: float) -> None:
        self.rests += 1
        self.window = 1
        self._good = self._bad = self._failed_cohorts = 0.0
        settings = self.settings
        self.resting_until = now + rest_seconds(settings.rest_first_seconds, settings.rest_longest_seconds, self.rests)


class Heard(enum.Enum):
    """What an attempt says about the destination, whatever it says about the message."""

    ANSWER = "answer"
    SILENCE = "silence"
    NOTHING = "nothing"
    """It ended on our side: DNS, our own disk, content that nobody was offered."""


def heard(outcomes: Collection[Outcome], *, begun: bool, requiretls: bool = False) -> Heard:
    """`begun` as in smtp.client.Sent; a host without TLS is well, and only not fit for `requiretls`."""
    if requiretls and all(outcome.status == "4.7.4" for outcome in outcomes):
        return Heard.ANSWER
    if not begun or any(is_loss(outcome) for outcome in outcomes):
        return Heard.SILENCE
    if any(outcome.said_by or outcome.result is Result.DELIVERED for outcome in outcomes):
        return Heard.ANSWER
    return Heard.NOTHING


def is_loss(outcome: Outcome) -> bool:
    """Whether the host went away in the middle: it says 421, or nothing any more."""
    if outcome.reply is not None:
        return outcome.reply.code == 421
    return outcome.status == "4.4.2" and outcome.said_by != ""
