from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.dsn import RETURNED_OCTETS, Failure, render_failure
from egressguard.mail.outcome import Outcome, Result, permanent, transient
from egressguard.mail.reply import Reply

ORIGINAL = b"Subject: lunch\r\nTo: b@example.net\r\n\r\nsecret body\r\n"
REFUSED = Outcome.of_reply(Reply(550, "5.1.1", "no such user"), "mx.example.net")


def failure(**more: Any) -> Failure:
    facts: dict[str, Any] = {
        "reporting_mta": "gw.example.org",
        "queue_id": "0ABC",
        "reverse_path": "a@example.org",
        "outcomes": {"b@example.net": REFUSED},
        "original": ORIGINAL,
        "arrived_at": 0.0,
        "at": 60.0,
        "boundary": "=_boundary",
    }
    return Failure(**(facts | more))


def parsed(**more: Any) -> EmailMessage:
    message = email.message_from_bytes(render_failure(failure(**more)), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def test_it_is_a_report_that_programs_understand() -> None:
    message = parsed()
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["To"] == "a@example.org"
    assert message["Auto-Submitted"] == "auto-replied"
    people, machines, returned = message.iter_parts()
    assert "no such user" in people.get_content()
    whole, recipient = machines.get_payload()
    assert whole["Reporting-MTA"] == "dns; gw.example.org"
    assert whole["Arrival-Date"] == "Thu, 01 Jan 1970 00:00:00 +0000"
    assert dict(recipient.items()) == {
        "Final-Recipient": "rfc822; b@example.net",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.net",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Thu, 01 Jan 1970 00:01:00 +0000",
    }
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_content().splitlines() == ["Subject: lunch", "To: b@example.net"]


def test_the_body_of_the_original_does_not_come_back() -> None:
    assert b"secret body" not in render_failure(failure())


def test_giving_up_is_said_in_words_and_keeps_its_status() -> None:
    late = {"b@example.net": transient("4.4.1", "connection refused")}
    message = parsed(outcomes=late, given_up=frozenset(late))
    people, machines, _ = message.iter_parts()
    assert "given up" in people.get_content()
    assert machines.get_payload()[1]["Status"] == "4.4.1"


def test_every_failed_recipient_is_named() -> None:
    outcomes = {f"b{n}@example.net": permanent("5.1.1", "no") for n in range(50)}
    machines = list(parsed(outcomes=outcomes).iter_parts())[1]
    named = [part["Final-Recipient"] for part in machines.get_payload()[1:]]
    assert named == [f"rfc822; {path}" for path in outcomes]


def test_an_address_that_is_not_ascii_is_told_in_seven_bits() -> None:
    machines = list(parsed(outcomes={"grå@example.net": REFUSED}).iter_parts())[1]
    assert machines.get_payload()[1]["Final-Recipient"] == r"utf-8; gr\x{E5}@example.net"


def test_a_sender_that_is_not_ascii_is_addressed_as_it_is() -> None:
    assert "To: <grå@example.org>\r\n".encode() in render_failure(failure(reverse_path="grå@example.org"))


HOSTILE = st.text() | st.sampled_from(
    ["x\r\nBcc: all@example.org", "\r\n\r\n--=_boundary--\r\n", "--=_boundary", "\x00"]
)


@given(HOSTILE, HOSTILE)
def test_no_reply_and_no_host_name_breaks_out(text: str, said_by: str) -> None:
    outcome = Outcome(Result.PERMANENT, "5.0.0", text, said_by, Reply(550, "5.0.0", text))
    message = parsed(outcomes={"b@example.net": outcome})
    machines = list(message.iter_parts())[1]
    assert message["Bcc"] is None
    assert len(machines.get_payload()) == 2
    assert set(machines.get_payload()[1].keys()) <= {
        "Final-Recipient",
        "Action",
        "Status",
        "Remote-MTA",
        "Diagnostic-Code",
        "Last-Attempt-Date",
    }
    assert render_failure(failure(outcomes={"b@example.net": outcome})).isascii()


@given(st.binary(max_size=400).filter(lambda b: b"=_boundary" not in b))
def test_any_header_section_comes_back_whole_in_lines_of_legal_length(value: bytes) -> None:
    original = b"X: " + value.replace(b"\n", b"") + b"\r\n\r\n"
    octets = render_failure(failure(original=original))
    assert octets.isascii()
    assert all(len(line) <= 998 for line in octets.split(b"\r\n"))
    returned = list(email.message_from_bytes(octets).walk())[-1]
    payload = returned.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.rstrip(b"\r\n") == original.rstrip(b"\r\n")


def test_an_endless_header_section_is_cut_off() -> None:
    octets = render_failure(failure(original=b"X: " + b"y" * 10 * RETURNED_OCTETS + b"\r\n\r\n"))
    assert len(octets) < 2 * RETURNED_OCTETS


def test_a_boundary_that_occurs_in_the_message_is_refused() -> None:
    with pytest.raises(ValueError, match="boundary"):
        render_failure(failure(original=b"X: =_boundary\r\n\r\n"))
