from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.envelope import RecipientOptions
from egressguard.mail.outcome import delivered, permanent, transient
from egressguard.policy.scheduling import Retry
from egressguard.relay.notify import (
    DELAY_SECONDS,
    RETURNED_OCTETS,
    News,
    delay_notice,
    failure_notice,
    is_first_delay,
    is_wanted,
    notices_of,
    success_notice,
)
from egressguard.relay.schedule import retry_at
from egressguard.store.interface import Claim, Due, NewMessage
from tests.relay.setting import claim_of

NO = permanent("5.1.1", "no such user", "mx")
CONTENT = b"Subject: x\r\n\r\nhello\r\n"


def notice(*failed: str, reverse_path: str = "a@example.org", notice_id: str = "0DSN") -> NewMessage | None:
    claim = claim_of("b@example.net", "c@example.net", reverse_path=reverse_path)
    outcomes = dict.fromkeys(failed, NO)
    return failure_notice(claim, outcomes, CONTENT, hostname="gw", now=2000.0, notice_id=notice_id)


def test_a_notice_goes_to_the_sender_with_the_null_reverse_path() -> None:
    made = notice("b@example.net")
    assert made is not None
    assert (made.envelope.reverse_path, made.envelope.forward_paths) == ("", ("a@example.org",))
    assert (made.queue_id, made.received_at, made.envelope.smtputf8) == ("0DSN", 2000.0, False)


def test_never_a_notice_about_a_notice() -> None:
    about = claim("b@example.net", reverse_path="", notify=("SUCCESS", "FAILURE", "DELAY"))
    assert failed(about) is succeeded(about) is delayed(about) is None
    assert not is_wanted(about, News({"b@example.net": NO}, frozenset(), {"b@example.net": YES}))


def test_nothing_failed_nothing_to_tell() -> None:
    assert notice() is None


def test_the_same_failure_has_the_same_source_id_and_another_has_another() -> None:
    one, again = notice("b@example.net", notice_id="0ONE"), notice("b@example.net", notice_id="0TWO")
    other, both = notice("c@example.net"), notice("b@example.net", "c@example.net")
    assert one and again and other and both
    assert one.source_id == again.source_id
    assert len({one.source_id, other.source_id, both.source_id}) == 3


def test_each_kind_of_notice_has_its_own_source_id() -> None:
    about = claim("b@example.net", notify=("SUCCESS", "FAILURE", "DELAY"))
    made = [failed(about), succeeded(about), succeeded(about, local=True), delayed(about)]
    assert len({each.source_id for each in made if each is not None}) == 4


def test_a_sender_that_is_not_ascii_needs_smtputf8() -> None:
    made = notice("b@example.net", reverse_path="grå@example.org")
    assert made is not None
    assert (made.envelope.smtputf8, made.envelope.body_8bit) == (True, True)


YES, LATER = delivered("stored"), transient("4.4.1", "refused")


def claim(
    *paths: str, notify: tuple[str, ...] | None = None, reverse_path: str = "a@example.org", **more: Any
) -> Claim:
    options = RecipientOptions(notify)
    made = claim_of(reverse_path=reverse_path)
    return replace(made, recipients=tuple(Due(path, 1, (), options) for path in paths), **more)


FACTS: dict[str, Any] = {"hostname": "gw", "now": 2000.0, "notice_id": "0DSN"}


def failed(about: Claim, content: bytes = CONTENT) -> NewMessage | None:
    return failure_notice(about, {due.forward_path: NO for due in about.recipients}, content, **FACTS)


def succeeded(about: Claim, *, local: bool = False) -> NewMessage | None:
    outcomes = {due.forward_path: YES for due in about.recipients}
    return success_notice(about, outcomes, CONTENT, local=local, **FACTS)


def delayed(about: Claim) -> NewMessage | None:
    outcomes = {due.forward_path: LATER for due in about.recipients}
    return delay_notice(about, outcomes, CONTENT, retry_until=9000.0, **FACTS)


@pytest.mark.parametrize(
    ("notify", "told_of"),
    [
        (None, "failure"),
        (("NEVER",), ""),
        (("SUCCESS",), "success"),
        (("FAILURE",), "failure"),
        (("DELAY",), "delay"),
        (("SUCCESS", "FAILURE", "DELAY"), "failure success delay"),
    ],
)
def test_a_recipient_is_told_of_as_was_asked(notify: tuple[str, ...] | None, told_of: str) -> None:
    about = claim("b@example.net", notify=notify)
    made = {"failure": failed(about), "success": succeeded(about), "delay": delayed(about)}
    assert [event for event, notice in made.items() if notice is not None] == told_of.split()
    assert is_wanted(about, News(failed={"b@example.net": NO})) == ("failure" in told_of)
    assert is_wanted(about, News(succeeded={"b@example.net": YES})) == ("success" in told_of)
    assert is_wanted(about, News(delayed={"b@example.net": LATER})) == ("delay" in told_of)


def test_a_notice_names_only_those_who_want_it() -> None:
    never = Due("never@example.net", 1, (), RecipientOptions(("NEVER",)))
    success = Due("success@example.net", 1, (), RecipientOptions(("SUCCESS",)))
    about = replace(claim_of("b@example.net"), recipients=(Due("b@example.net", 1), never, success))
    made = failed(about)
    assert made is not None
    text = made.content.whole()
    assert b"b@example.net" in text
    assert b"never@" not in text
    assert b"success@" not in text


def test_a_success_is_delivered_here_and_relayed_elsewhere() -> None:
    about = claim("b@example.net", notify=("SUCCESS",))
    here, there = succeeded(about, local=True), succeeded(about)
    assert here is not None
    assert there is not None
    assert b"Action: delivered\r\nStatus: 2.0.0\r\n" in here.content.whole()
    assert b"Action: relayed\r\nStatus: 2.0.0\r\n" in there.content.whole()


def test_what_the_client_named_itself_comes_back() -> None:
    options = RecipientOptions(None, "rfc822;B+2Bc@example.net")
    about = replace(claim_of(), recipients=(Due("b@example.net", 1, (), options),), envid="QQ314")
    made = failed(about)
    assert made is not None
    assert b"Original-Envelope-Id: QQ314\r\n" in made.content.whole()
    assert b"Original-Recipient: rfc822; B+c@example.net\r\n" in made.content.whole()


LETTER = b"Subject: x\r\n\r\nsecret\r\n"
EIGHT_BIT = "Subject: x\r\n\r\nsecret süß\r\n".encode()


@pytest.mark.parametrize(
    ("letter", "more", "whole"),
    [
        (LETTER, {"ret": "FULL"}, True),
        (LETTER, {}, False),
        (LETTER, {"ret": "HDRS"}, False),
        (LETTER, {"ret": "FULL", "requiretls": True}, False),
        (LETTER, {"ret": "FULL", "binary": True}, False),
        (LETTER, {"ret": "FULL", "size_octets": len(LETTER) + 1}, False),
        (LETTER + b"y" * RETURNED_OCTETS, {"ret": "FULL"}, False),
        (EIGHT_BIT, {"ret": "FULL"}, False),
        (EIGHT_BIT, {"ret": "FULL", "body_8bit": True}, True),
    ],
)
def test_a_failure_brings_the_message_back_where_that_was_asked_and_can_be(
    letter: bytes, more: dict[str, Any], whole: bool
) -> None:
    about = claim("b@example.net", **({"size_octets": len(letter)} | more))
    made = failed(about, letter)
    assert made is not None
    assert (b"secret" in made.content.whole()) == whole
    assert made.envelope.body_8bit == (not made.content.is_ascii)
    assert made.envelope.requiretls == about.requiretls


def test_good_news_never_brings_the_message_back() -> None:
    about = claim("b@example.net", notify=("SUCCESS", "DELAY"), ret="FULL", size_octets=len(CONTENT))
    for made in (succeeded(about), delayed(about)):
        assert made is not None
        assert b"hello" not in made.content.whole()


def test_every_notice_of_an_attempt_stands_under_its_recipients() -> None:
    all_of_it = RecipientOptions(("SUCCESS", "FAILURE", "DELAY"))
    dues = tuple(Due(f"{name}@example.net", 1, (), all_of_it) for name in ("no", "yes", "later"))
    about = replace(claim_of(), recipients=(*dues, Due("mute@example.net", 1, (), RecipientOptions(("NEVER",)))))
    news = News(
        failed={"no@example.net": NO, "mute@example.net": NO},
        succeeded={"yes@example.net": YES},
        delayed={"later@example.net": LATER},
    )
    ids = iter(["0ONE", "0TWO", "0THREE"])
    told = notices_of(about, news, CONTENT, hostname="gw", now=2000.0, new_id=lambda: next(ids))
    assert {path: notice.queue_id for path, notice in told.items()} == {
        "no@example.net": "0ONE",
        "yes@example.net": "0TWO",
        "later@example.net": "0THREE",
    }


def attempts_of(retry: Retry, late: list[float]) -> list[tuple[int, float]]:
    """(number, time) of a message's attempts, each so many seconds later than it was due."""
    made: list[tuple[int, float]] = []
    at: float | None = 1000.0
    for number, seconds in enumerate(late, start=1):
        if at is None:
            break
        at += seconds
        made.append((number, at))
        at = retry_at(retry, 1000.0, at, number)
    return made


LATE = st.lists(st.just(0.0) | st.floats(0, 20_000), min_size=1, max_size=60)
RETRY = st.builds(
    Retry,
    first_seconds=st.integers(1, 3600),
    longest_seconds=st.integers(60, 20_000),
    give_up_after_seconds=st.integers(DELAY_SECONDS + 60, 10 * DELAY_SECONDS),
)


@given(RETRY, LATE)
def test_the_first_attempt_after_the_delay_is_always_told_of(retry: Retry, late: list[float]) -> None:
    made = attempts_of(retry, late)
    told = [number for number, at in made if is_first_delay(retry, 1000.0, at, number)]
    after = [number for number, at in made if at >= 1000.0 + DELAY_SECONDS]
    assert told[:1] == after[:1]


@given(RETRY)
def test_attempts_that_come_when_they_are_due_tell_of_the_delay_once(retry: Retry) -> None:
    made = attempts_of(retry, [0.0] * 200)
    told = [number for number, at in made if is_first_delay(retry, 1000.0, at, number)]
    assert len(told) == any(at >= 1000.0 + DELAY_SECONDS for _, at in made)
