from __future__ import annotations

from egressguard.mail.outcome import permanent
from egressguard.relay.notify import failure_notice
from egressguard.store.interface import NewMessage
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
    assert notice("b@example.net", reverse_path="") is None


def test_nothing_failed_nothing_to_tell() -> None:
    assert notice() is None


def test_the_same_failure_has_the_same_source_id_and_another_has_another() -> None:
    one, again = notice("b@example.net", notice_id="0ONE"), notice("b@example.net", notice_id="0TWO")
    other, both = notice("c@example.net"), notice("b@example.net", "c@example.net")
    assert one and again and other and both
    assert one.source_id == again.source_id
    assert len({one.source_id, other.source_id, both.source_id}) == 3


def test_a_sender_that_is_not_ascii_needs_smtputf8() -> None:
    made = notice("b@example.net", reverse_path="grå@example.org")
    assert made is not None
    assert (made.envelope.smtputf8, made.envelope.body_8bit) == (True, True)
