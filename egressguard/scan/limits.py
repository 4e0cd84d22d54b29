"""What the kernel holds a process to that reads messages of strangers, and what it gives each message of the processor.

Contract
    `Share` raises TooCostly in who takes more, in Python code wherever it is. What does not come back to Python by
    then is ended by the kernel (SIGVTALRM) when it has taken twice as much and a second.
"""

from __future__ import annotations

import os
import resource
import signal
from types import FrameType, TracebackType

from egressguard.policy.site import Scan

MEMORY_OCTETS = 2 * 1024**3
LEAST_SHARE, MOST_SHARE = 1 / 15, 0.5
LEAST_SECONDS = 4.0
SMALL_OCTETS, LARGE_OCTETS = 8 * 1024 * 1024, 100 * 1024 * 1024
"""Of a message's time so much may be the processor's: the least up to the one size, but LEAST_SECONDS if that is not
more than the most, which is from the other size on. A letter takes a thousandth of it (docs/decisions/0052)."""
TOO_COSTLY = "its reader took too much of the processor's time"
_AGAIN_SECONDS = 0.2


class TooCostly(BaseException):
    """This message had its share of the processor's time. No Exception: readers that others wrote catch those."""


def share_seconds(settings: Scan, octets: int) -> float:
    """Of the processor's time, for a message of that size. YARA rules, which work in this process, have theirs besides:
    that they are slow is no fact about the message."""
    most = settings.timeout_seconds * MOST_SHARE
    least = min(max(settings.timeout_seconds * LEAST_SHARE, LEAST_SECONDS), most)
    growth = min(max(octets - SMALL_OCTETS, 0) / (LARGE_OCTETS - SMALL_OCTETS), 1)
    for_yara = settings.yara.timeout_seconds if settings.yara else 0
    return least + (most - least) * growth + for_yara


class Share:
    """What stands inside has `seconds` of the processor's time, its children's not counted. Raises TooCostly, again and
    again: what once was raised while something was tidied up is lost. For the main thread, one at a time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_open = False

    def __enter__(self) -> None:
        self._is_open = True
        signal.signal(signal.SIGPROF, self._over)
        # Not RLIMIT_CPU, which is reckoned from the start: by ticks, and no clock that can be read tells how many.
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * self._seconds + 1)
        signal.setitimer(signal.ITIMER_PROF, self._seconds, _AGAIN_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _over(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_open:
            raise TooCostly


def keep_to_limits() -> None:
    """Of signals, memory and files: what every process has that reads messages."""
    for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's Ctrl-C is the parent's
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_OCTETS, MEMORY_OCTETS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
