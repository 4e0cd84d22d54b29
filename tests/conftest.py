"""Options that all rooms' tests share, and the order in which processes take files: those that last first."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine is while others work on it is no promise of ours: no test fails by the clock.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

HERE = Path(__file__).parent
# `scripts/test` shares files out in this order (--no-loadscope-reorder): with a long one at the end, the other
# processes would wait for the one that has it. Longest first, as measured; the rest follow as they are collected.
LONG_FILES = (HERE / "long_files.txt").read_text().split()
PLACES = {HERE / name: place for place, name in enumerate(LONG_FILES)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files with what is rendered now")


def pytest_configure() -> None:
    """Programs started by a test die of Ctrl-C and of a terminal that goes away, also where this run does not."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))
