from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.limits import WINDOWS
from egressguard.policy.scheduling import Rate
from egressguard.relay.rates import Quotas, Rates, quotas_of


def filled(rate: Quotas, *sent: tuple[float, int]) -> Rates:
    """`sent` are (when, recipients)."""
    rates = Rates()
    for at, recipients in sent:
        assert rates.free_at("isp", rate, recipients, at) == at
        rates.charge("isp", rate, recipients, at)
    return rates


@pytest.mark.parametrize(
    ("rate", "sent", "recipients", "now", "free_at"),
    [
        ({}, [(0.0, 1)] * 1000, 1000, 0.0, 0.0),
        ({"messages_per_minute": 2}, [(0.0, 1)], 1, 1.0, 1.0),
        ({"messages_per_minute": 2}, [(0.0, 1), (1.0, 1)], 1, 1.0, 65.0),  # the slot 0..5 is out of it at 65
        ({"messages_per_minute": 2}, [(0.0, 1), (12.0, 1)], 1, 13.0, 65.0),
        ({"messages_per_minute": 2}, [(0.0, 1), (12.0, 1)], 1, 65.0, 65.0),
        ({"messages_per_hour": 1}, [(0.0, 9)], 1, 1.0, 3900.0),
        ({"messages_per_day": 1}, [(0.0, 9)], 1, 1.0, 93600.0),
        ({"recipients_per_minute": 10}, [(0.0, 9)], 1, 1.0, 1.0),
        ({"recipients_per_minute": 10}, [(0.0, 9)], 2, 1.0, 65.0),
        ({"recipients_per_minute": 10}, [(0.0, 4), (20.0, 4)], 3, 21.0, 65.0),
        ({"recipients_per_minute": 10}, [(0.0, 4), (20.0, 4)], 7, 21.0, 85.0),
        ({"recipients_per_minute": 10}, [], 50, 0.0, 0.0),  # more than a span may hold goes alone
        ({"recipients_per_minute": 10}, [(0.0, 1), (20.0, 1)], 50, 21.0, 85.0),
        ({"messages_per_minute": 5, "recipients_per_hour": 2}, [(0.0, 2)], 1, 1.0, 3900.0),  # all must have room
    ],
)
def test_what_is_over_waits_until_there_is_room(
    rate: dict[str, int], sent: list[tuple[float, int]], recipients: int, now: float, free_at: float
) -> None:
    rules = quotas_of(Rate(**rate))
    rates = filled(rules, *sent)
    assert rates.free_at("isp", rules, recipients, now) == free_at
    assert rates.free_at("other", rules, recipients, now) == now


def test_what_did_not_go_is_taken_back() -> None:
    rate = quotas_of(Rate(messages_per_minute=1, recipients_per_minute=5))
    rates = filled(rate, (0.0, 3))
    assert rates.used("isp", rate, 1.0) == {"messages_per_minute": (1, 1), "recipients_per_minute": (3, 5)}
    rates.charge("isp", rate, 3, 1.0, times=-1)
    assert rates.free_at("isp", rate, 3, 1.0) == 1.0


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 4)), max_size=60), st.integers(1, 6))
def test_no_span_ever_holds_more_than_the_rules_say(steps: list[tuple[float, int]], most: int) -> None:
    rate, rates, now = quotas_of(Rate(recipients_per_minute=most)), Rates(), 1e9
    sent: list[tuple[float, int]] = []
    for wait, recipients in steps:
        now = rates.free_at("isp", rate, recipients, now + wait)
        rates.charge("isp", rate, recipients, now)
        sent.append((now, recipients))
        within = [count for at, count in sent if at > now - WINDOWS["minute"]]
        assert sum(within) <= most or len(within) == 1


def test_what_was_counted_outlives_a_restart() -> None:
    rate = quotas_of(Rate(messages_per_hour=2))
    before = filled(rate, (10.0, 1), (20.0, 1))
    after = Rates.restored(json.loads(json.dumps(before.state())))
    assert after.free_at("isp", rate, 1, 30.0) == before.free_at("isp", rate, 1, 30.0) == 3900.0


@pytest.mark.parametrize(
    "state", [None, [], 3, {"isp": 3}, {"isp": {"u": [1]}}, {"isp": {"u": {"x": 1, "2": "3", "4": True}}}]
)
def test_a_state_that_is_not_understood_counts_nothing(state: Any) -> None:
    assert Rates.restored(state).state() == {}


def test_memory_holds_only_what_counts() -> None:
    rate, rates = quotas_of(Rate(messages_per_minute=10**6)), Rates()
    for second in range(0, 36000, 7):
        rates.charge("isp", rate, 1, float(second))
    assert len(rates.state()["isp"]["messages_per_minute"]) <= 13


def test_whoever_left_the_rules_is_forgotten() -> None:
    rate = quotas_of(Rate(messages_per_hour=1))
    rates = filled(rate, (0.0, 1))
    rates.keep(["other"])
    assert rates.state() == {} and rates.free_at("isp", rate, 1, 1.0) == 1.0
