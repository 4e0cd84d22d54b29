from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.scheduling import Retry
from egressguard.relay.schedule import lease_until, retry_at

RETRY = Retry(first_seconds=300, longest_seconds=3600, give_up_after_seconds=86400)


@pytest.mark.parametrize(("attempts", "wait"), [(1, 300), (2, 600), (3, 1200), (4, 2400), (5, 3600), (99, 3600)])
def test_the_wait_doubles_up_to_the_longest(attempts: int, wait: int) -> None:
    assert retry_at(RETRY, 0.0, 10.0, attempts) == 10.0 + wait


def test_the_last_attempt_is_made_when_the_time_is_up_and_not_before() -> None:
    assert retry_at(RETRY, 0.0, 86000.0, 9) == 86400.0
    assert retry_at(RETRY, 0.0, 86400.0, 9) is None


@given(st.floats(0, 2e9), st.floats(0, 1e6), st.integers(0, 10_000))
def test_a_retry_is_in_the_future_and_bounded(received_at: float, age: float, attempts: int) -> None:
    now = received_at + age
    at = retry_at(RETRY, received_at, now, attempts)
    if at is not None:
        assert now < at <= now + RETRY.longest_seconds
    assert lease_until(RETRY, received_at, now, attempts) > now


def test_defaults_give_up_after_the_days_that_the_rfc_asks_for() -> None:
    assert retry_at(Retry(), 0.0, 4.5 * 86400, 50) is not None
    assert retry_at(Retry(), 0.0, 5 * 86400, 50) is None
