from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.outcome import Outcome, delivered, permanent, transient
from egressguard.mail.reply import Reply
from egressguard.policy.scheduling import Concurrency
from egressguard.relay.pace import Heard, Pace, heard, rest_seconds

REFUSED = Outcome.of_reply(Reply(450, "4.2.1", "later"), "mx.test")
CLOSING = Outcome.of_reply(Reply(421, "4.3.2", "closing"), "mx.test")


@pytest.mark.parametrize(
    ("settings", "heard_in_turn", "window"),
    [
        ({}, "", 5),
        ({"limit": 3}, "", 3),
        ({}, "++++", 5),  # a fifth of a place each
        ({}, "+++++", 6),
        ({}, "+++++++++++", 7),
        ({}, "+" * 1000, 20),
        ({"limit": 6}, "+" * 1000, 6),
        ({"initial": 1}, "+", 2),
        ({}, "-", 4),  # the first failure costs a whole place
        ({"failed_cohorts": 3}, "-" + "---", 4),
        ({"failed_cohorts": 3}, "-" + "----", 3),
        ({"failed_cohorts": 9, "initial": 2}, "-" * 9, 1),  # never less than one
        ({}, "-+-+-+-+" * 20, 5),  # as many of each: it stays about where it is
        ({}, "+++++-", 5),
    ],
)
def test_the_window_follows_what_was_heard(settings: dict[str, int], heard_in_turn: str, window: int) -> None:
    pace = Pace(Concurrency(**settings))
    for sign in heard_in_turn:
        pace.succeeded(pace.window) if sign == "+" else pace.failed(0.0)
    assert (pace.window, pace.rests) == (window, 0)


def test_a_window_that_nobody_fills_does_not_grow() -> None:
    pace = Pace(Concurrency(initial=5, limit=100))
    for _ in range(1000):
        pace.succeeded(busy=3)
    assert pace.window == 8


@pytest.mark.parametrize(
    ("settings", "failures", "dead"),
    [({}, 4, False), ({}, 5, True), ({"initial": 1}, 1, True), ({"failed_cohorts": 2}, 7, False)],
)
def test_a_cohort_of_failures_is_the_end(settings: dict[str, int], failures: int, dead: bool) -> None:
    pace = Pace(Concurrency(**settings))
    told = [pace.failed(100.0) for _ in range(failures)]
    assert told == [False] * (failures - 1) + [dead]
    assert pace.resting_until == (130.0 if dead else 0.0)


def test_a_success_between_begins_the_cohort_anew() -> None:
    pace = Pace(Concurrency(limit=5))
    for _ in range(4):
        pace.failed(0.0)
    pace.succeeded(1)
    assert [pace.failed(0.0) for _ in range(2)] == [False, False]


def test_rests_grow_while_the_probe_fails_and_one_success_ends_them() -> None:
    pace = Pace(Concurrency(initial=1, rest_first_seconds=30, rest_longest_seconds=100))
    now, rests = 0.0, []
    for _ in range(4):
        assert pace.failed(now)
        rests.append(pace.resting_until - now)
        assert pace.window == 1
        now = pace.resting_until
    assert rests == [30, 60, 100, 100]
    pace.succeeded(1)
    assert (pace.window, pace.rests, pace.resting_until) == (1, 0, 0.0)


def test_what_was_begun_before_the_rest_makes_nothing_worse() -> None:
    pace = Pace(Concurrency(initial=2))
    assert [pace.failed(0.0) for _ in range(4)] == [False, True, False, False]
    assert (pace.rests, pace.resting_until) == (1, 30.0)


def test_new_rules_count_at_once() -> None:
    pace = Pace(Concurrency())
    pace.take_settings(Concurrency(limit=2))
    assert pace.window == 2


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_the_window_stays_between_one_and_its_limit(signs: list[bool], initial: int, limit: int, cohorts: int) -> None:
    pace, now = Pace(Concurrency(initial=initial, limit=limit, failed_cohorts=cohorts)), 0.0
    for good in signs:
        now += 7
        pace.succeeded(pace.window) if good else pace.failed(now)
        assert 1 <= pace.window <= limit
        assert pace.resting_until <= now + 900


@pytest.mark.parametrize(("times", "seconds"), [(1, 30), (2, 60), (3, 120), (6, 900), (10**6, 900)])
def test_a_rest_doubles_up_to_the_longest(times: int, seconds: int) -> None:
    assert rest_seconds(30, 900, times) == seconds


@pytest.mark.parametrize(
    ("outcomes", "begun", "expected"),
    [
        ([delivered("ok", "mx.test")], True, Heard.ANSWER),
        ([delivered("stored")], True, Heard.ANSWER),
        ([permanent("5.1.1", "no", "mx.test")], True, Heard.ANSWER),
        ([REFUSED], True, Heard.ANSWER),
        ([transient("4.4.1", "refused", "mx.test")], False, Heard.SILENCE),
        ([transient("4.4.2", "lost", "mx.test")], True, Heard.SILENCE),
        ([CLOSING], True, Heard.SILENCE),
        ([delivered("ok", "mx.test"), CLOSING], True, Heard.SILENCE),
        ([transient("4.4.3", "DNS does not answer")], True, Heard.NOTHING),
        ([permanent("5.6.0", "a bare CR")], True, Heard.NOTHING),
    ],
)
def test_what_an_attempt_says_of_the_destination(outcomes: list[Outcome], begun: bool, expected: Heard) -> None:
    assert heard(outcomes, begun=begun) is expected


@pytest.mark.parametrize(("requiretls", "expected"), [(True, Heard.ANSWER), (False, Heard.SILENCE)])
def test_a_host_without_tls_is_not_silent_to_mail_that_requires_it(requiretls: bool, expected: Heard) -> None:
    outcome = transient("4.7.4", "the host does not offer STARTTLS", "mx.test")
    assert heard([outcome], begun=False, requiretls=requiretls) is expected
