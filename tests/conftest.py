"""Options that all rooms' tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine is while others work on it is no promise of ours: no test fails by the clock.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files with what is rendered now")
