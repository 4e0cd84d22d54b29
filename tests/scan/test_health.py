"""An engine that fails is left alone, longer each time, and tried by one message."""

from __future__ import annotations

from egressguard.scan.health import FIRST_SECONDS, LONGEST_SECONDS, Health


def test_an_engine_that_answers_is_asked() -> None:
    assert Health().may_ask(0.0)


def test_after_a_failure_it_is_left_alone_then_one_message_tries() -> None:
    health = Health()
    health.failed(100.0, "refused")

    assert not health.may_ask(100.0 + FIRST_SECONDS / 2)
    assert health.why == "refused"
    assert health.may_ask(100.0 + FIRST_SECONDS)
    assert not health.may_ask(100.0 + FIRST_SECONDS), "another message tries as well"


def test_each_failure_doubles_the_pause_up_to_the_longest() -> None:
    health, now, pauses = Health(), 0.0, []
    for _ in range(10):
        health.failed(now, "refused")
        pauses.append(health.not_before - now)
        now = health.not_before

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, LONGEST_SECONDS]


def test_an_answer_forgets_all_failures() -> None:
    health = Health()
    for _ in range(5):
        health.failed(0.0, "refused")
    health.answered()

    assert health.may_ask(0.0)
    assert health == Health()
