"""When a disk counts as quick, and how often a slow one is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.store.disk_pace import QUICK_SECONDS, DiskPace

SECONDS = st.floats(0, 100)


def test_a_disk_that_is_quick_stays_so_whatever_cuts_into_a_wait_now_and_then() -> None:
    pace = DiskPace()
    for number in range(1000):
        pace.took(0.008 if number % 100 == 99 else 0.0002, float(number))
        assert pace.is_quick(float(number))


@pytest.mark.parametrize(("seconds", "waits"), [(0.003, 10), (0.01, 2), (1.0, 1)])
def test_a_slow_disk_is_found_out_after_a_few_waits(seconds: float, waits: int) -> None:
    pace, tried = DiskPace(), 0
    while pace.is_quick(0.0) and tried < 100:
        pace.took(seconds, 0.0)
        tried += 1
    assert tried <= waits


@given(st.floats(2 * QUICK_SECONDS, 10))
def test_trying_a_slow_disk_takes_little_of_the_time(seconds: float) -> None:
    pace, now, waited = DiskPace(), 0.0, 0.0
    while now < 10_000 * seconds:
        if pace.is_quick(now):
            now += seconds
            waited += seconds
            pace.took(seconds, now)
        else:
            now += seconds
    assert waited <= now / 50


@given(st.lists(SECONDS, max_size=50))
def test_a_disk_that_has_become_quick_is_used_again(waits: list[float]) -> None:
    pace = DiskPace()
    for seconds in waits:
        pace.took(seconds, 0.0)
    now = 1000 * max([*waits, 0.0])
    assert pace.is_quick(now)
    for _ in range(100):
        pace.took(0.0, now)
    assert pace.is_quick(now)
