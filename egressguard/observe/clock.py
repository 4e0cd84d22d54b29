"""The local clock as rules know it. `now` is seconds since 1970; the machine's time zone is asked, nothing else."""

from __future__ import annotations

import time
from functools import lru_cache

from egressguard.policy.facts import Moment


def local_moment(now: float) -> Moment:
    return _local_moment(int(now))


@lru_cache(4)
def _local_moment(now: int) -> Moment:
    local = time.localtime(now)
    return Moment(local.tm_wday, local.tm_hour * 60 + local.tm_min)


def utc_offset_minutes(now: float) -> int:
    """The local time less UTC; it changes with daylight saving time."""
    return time.localtime(now).tm_gmtoff // 60
