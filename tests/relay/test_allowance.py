from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.bounces import Dsn
from egressguard.relay import allowance as module
from egressguard.relay.allowance import HOUR_SECONDS, Allowance

RULE = Dsn(per_address=2, per_client=3, in_all=5)


@pytest.mark.parametrize(
    ("taken", "answer"),
    [
        ([], None),
        ([("a@x", "one")], None),
        ([("a@x", "one"), ("A@X", "two")], "per_address"),
        ([("a@x", "one"), ("b@x", "one"), ("c@x", "one")], "per_client"),
        ([("b@x", "two"), ("c@x", "two"), ("d@x", "two"), ("e@x", "four"), ("f@x", "five")], "in_all"),
    ],
)
def test_what_is_over_says_which_key_is_in_the_way(taken: list[tuple[str, str]], answer: str | None) -> None:
    allowance = Allowance()
    for address, client in taken:
        assert allowance.take(RULE, address, client, 1000.0) is None
    assert allowance.take(RULE, "a@x", "one", 1000.0) == answer


def test_what_is_refused_takes_nothing() -> None:
    allowance = Allowance()
    for _ in range(10):
        allowance.take(RULE, "a@x", "one", 1000.0)
    assert allowance.take(RULE, "b@x", "one", 1000.0) is None


def test_it_comes_back_with_time_and_not_with_a_clock_that_goes_back() -> None:
    allowance = Allowance()
    assert [allowance.take(RULE, "a@x", "one", 1000.0) for _ in range(3)] == [None, None, "per_address"]
    assert allowance.take(RULE, "a@x", "one", 0.0) == "per_address"
    assert allowance.take(RULE, "a@x", "one", 1000.0 + HOUR_SECONDS / 2) is None
    assert allowance.take(RULE, "a@x", "one", 1000.0 + HOUR_SECONDS / 2) == "per_address"


def test_zero_is_none() -> None:
    assert Allowance().take(Dsn(in_all=0), "a@x", "one", 0.0) == "in_all"


@given(st.lists(st.tuples(st.floats(0, 600), st.sampled_from("abc"), st.sampled_from("xyz")), max_size=200))
def test_no_hour_has_more_than_twice_what_is_allowed(asked: list[tuple[float, str, str]]) -> None:
    allowance, now = Allowance(), 0.0
    told: list[tuple[float, str, str]] = []
    for wait, address, client in asked:
        now += wait
        told += [(now, address, client)] if allowance.take(RULE, address, client, now) is None else []
    for start, address, client in told:
        hour = [each for each in told if start <= each[0] < start + HOUR_SECONDS]
        assert len(hour) <= 2 * RULE.in_all
        assert len([each for each in hour if each[1] == address]) <= 2 * RULE.per_address
        assert len([each for each in hour if each[2] == client]) <= 2 * RULE.per_client


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUCKETS", 10)
    allowance = Allowance()
    for number in range(100):
        allowance.take(Dsn(in_all=1000), f"{number}@x", str(number), 0.0)
    assert len(allowance) == 10
    assert allowance.take(Dsn(in_all=100), "a@x", "one", 0.0) == "in_all"
