from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.scheduling import Breaker
from egressguard.relay.breaker import PROBE_SECONDS, Circuit


def circuit(**settings: int) -> Circuit:
    return Circuit(Breaker(**settings))


@pytest.mark.parametrize(
    ("settings", "heard", "is_open"),
    [
        ({}, "", False),
        ({}, "--", False),
        ({}, "---", True),
        ({}, "--+--", False),
        ({"failures": 1}, "-", True),
        ({}, "!", True),  # a refused login
        ({}, "---+", False),
    ],
)
def test_failures_in_a_row_open_it(settings: dict[str, int], heard: str, is_open: bool) -> None:
    found = circuit(**settings)
    for sign in heard:
        found.succeeded() if sign == "+" else found.failed(100.0, "why", for_sure=sign == "!")
    assert found.is_open == is_open
    assert (found.why, found.since) == (("why", 100.0) if is_open else ("", 0.0))
    assert found.free_at(101.0) == (130.0 if is_open else 101.0)


def test_it_says_when_it_opens_and_when_it_closes() -> None:
    found = circuit()
    assert [found.failed(0.0, "x") for _ in range(5)] == [False, False, True, False, False]
    assert [found.succeeded(), found.succeeded()] == [True, False]


def test_one_tries_when_the_rest_is_over_and_the_others_pass_on() -> None:
    found = circuit(failures=1)
    found.failed(1000.0, "x")
    assert found.free_at(1029.0) == 1030.0
    assert found.free_at(1030.0) == 1030.0
    found.begin(1030.0)
    assert found.free_at(1031.0) == 1030.0 + PROBE_SECONDS
    assert found.failed(1035.0, "still")
    assert (found.until, found.since, found.why) == (1095.0, 1000.0, "still")
    found.begin(1095.0)
    found.withdraw()
    assert found.free_at(1096.0) == 1096.0
    assert found.succeeded()
    assert found.free_at(1096.0) == 1096.0
    assert [found.failed(1097.0, "x"), found.until] == [True, 1127.0]  # it begins with the shortest again


def test_rests_double_up_to_the_longest() -> None:
    found, now, rests = circuit(failures=1, rest_first_seconds=30, rest_longest_seconds=100), 0.0, []
    for _ in range(4):
        found.failed(now, "x")
        rests.append(found.until - now)
        now = found.until
    assert rests == [30, 60, 100, 100]


@given(st.lists(st.tuples(st.sampled_from("+-!b"), st.floats(0, 1000)), max_size=100))
def test_it_is_always_tried_again(steps: list[tuple[str, float]]) -> None:
    found, now = circuit(), 0.0
    for step, seconds in steps:
        now += seconds
        if step == "b":
            found.begin(now)
        else:
            found.succeeded() if step == "+" else found.failed(now, "x", for_sure=step == "!")
        assert now <= found.free_at(now) <= now + max(PROBE_SECONDS, 600)
