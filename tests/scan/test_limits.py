"""A message has its share of the processor's time, and who reads it finds out wherever it is."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

import pytest

from egressguard.policy.site import Scan, Yara
from egressguard.scan.alone import how_it_died
from egressguard.scan.limits import TOO_COSTLY, Share, TooCostly, share_seconds

MB = 1024 * 1024


def test_a_larger_message_has_more() -> None:
    settings = Scan(timeout_seconds=60)
    shares = [round(share_seconds(settings, size * MB), 1) for size in (0, 4, 8, 10, 50, 100, 400)]
    assert shares == [4, 4, 4, 4.6, 15.9, 30, 30]
    assert [share_seconds(Scan(timeout_seconds=seconds), 0) for seconds in (1, 5, 8, 30)] == [0.5, 2.5, 4, 4]
    assert share_seconds(Scan(timeout_seconds=600), 0) == 40, "a slow machine's administrator gives more"
    assert share_seconds(Scan(yara=Yara(folder="x", timeout_seconds=7)), 0) == pytest.approx(4 + 7)


def take_time(stop: Callable[[], bool] = lambda: False) -> None:
    while not stop():
        pass


def take_time_and_catch() -> None:
    while True:
        with contextlib.suppress(Exception):
            take_time()


def take_time_and_catch_all() -> None:
    for _ in range(3):
        with contextlib.suppress(BaseException):
            take_time()
    take_time()


class Untidy:
    def __del__(self) -> None:
        take_time()


def take_time_in_a_destructor() -> None:
    untidy = Untidy()
    del untidy  # what is raised in there goes nowhere
    take_time()


@pytest.mark.parametrize("does", [take_time, take_time_and_catch, take_time_and_catch_all, take_time_in_a_destructor])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_who_takes_more_is_stopped(does: Callable[[], None]) -> None:
    with pytest.raises(TooCostly), Share(0.1):
        does()


def test_who_waits_or_keeps_to_it_is_not_stopped() -> None:
    began = time.process_time()
    with Share(0.3):
        signal.sigtimedwait((), 0.5)
        take_time(lambda: time.process_time() - began > 0.1)
    take_time(lambda: time.process_time() - began > 0.8)  # nor is who comes behind it


def test_its_timers_end_with_it() -> None:
    with Share(0.5):
        inside = signal.getitimer(signal.ITIMER_PROF)[0], signal.getitimer(signal.ITIMER_VIRTUAL)[0]
    outside = signal.getitimer(signal.ITIMER_PROF)[0], signal.getitimer(signal.ITIMER_VIRTUAL)[0]
    assert 0 < inside[0] <= 0.51 < inside[1] <= 2.01 and outside == (0, 0)


def test_what_does_not_come_back_is_ended_by_the_kernel() -> None:
    """A part written in C that never ends: signals are for Python a note to be read later."""
    child = os.fork()
    if child == 0:
        _never_come_back()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and how_it_died(-os.WTERMSIG(status)) == TOO_COSTLY


def _never_come_back() -> NoReturn:
    with contextlib.suppress(BaseException), Share(0.1):
        sum(range(1 << 62))
    os._exit(0)
