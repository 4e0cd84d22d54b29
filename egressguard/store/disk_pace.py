"""Whether the disk is so quick that waiting for it costs less than handing the wait to a thread.

Contract
    Learned from the waits themselves, as they come: a disk that turns slow holds the waiter up for a few of them, and
    is tried again only after so long that all trials together take some hundredth of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

QUICK_SECONDS = 0.001
"""A thread costs some 0.1 ms, and what else the waiter has to do waits."""
_SHARE = 1 / 16
"""What the newest wait counts in the mean: one that was cut into by other programs is none of the disk's."""
_REST = 1000
"""A slow disk is left alone for so many times what it took last."""


@dataclass(slots=True)
class DiskPace:
    """Times are the caller's clock, in seconds. Nobody knows a disk at first: it counts as quick."""

    _mean: float = 0.0
    _slow_until: float = 0.0

    def is_quick(self, now: float) -> bool:
        return now >= self._slow_until

    def took(self, seconds: float, now: float) -> None:
        self._mean += (seconds - self._mean) * _SHARE
        if self._mean > QUICK_SECONDS:
            self._slow_until = now + _REST * seconds
            self._mean = 0.0
