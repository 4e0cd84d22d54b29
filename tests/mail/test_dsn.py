from __future__ import annotations

import base64
import email
import email.policy
import re
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.dsn import RETURNED_OCTETS, render_report
from egressguard.mail.outcome import Outcome, Result, delivered, permanent, transient
from egressguard.mail.reply import Reply
from egressguard.mail.report import Action, Report
from egressguard.mail.xtext import encode_utf8_xtext, encode_xtext

ORIGINAL = b"Subject: lunch\r\nTo: b@example.net\r\n\r\nsecret body\r\n"
REFUSED = Outcome.of_reply(Reply(550, "5.1.1", "no such user"), "mx.example.net")


def report(**more: Any) -> Report:
    facts: dict[str, Any] = {
        "action": Action.FAILED,
        "reporting_mta": "gw.example.org",
        "queue_id": "0ABC",
        "reverse_path": "a@example.org",
        "outcomes": {"b@example.net": REFUSED},
        "original": ORIGINAL,
        "arrived_at": 0.0,
        "at": 60.0,
        "boundary": "=_boundary",
    }
    return Report(**(facts | more))


def parsed(**more: Any) -> EmailMessage:
    message = email.message_from_bytes(render_report(report(**more)), policy=email.policy.default)
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
        "Final-Log-ID": "0ABC",
    }
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_content().splitlines() == ["Subject: lunch", "To: b@example.net"]


def test_the_body_of_the_original_does_not_come_back() -> None:
    assert b"secret body" not in render_report(report())


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
    assert "To: <grå@example.org>\r\n".encode() in render_report(report(reverse_path="grå@example.org"))


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
        "Final-Log-ID",
    }
    assert render_report(report(outcomes={"b@example.net": outcome})).isascii()


@given(st.binary(max_size=400).filter(lambda b: b"=_boundary" not in b))
def test_any_header_section_comes_back_whole_in_lines_of_legal_length(value: bytes) -> None:
    original = b"X: " + value.replace(b"\n", b"") + b"\r\n\r\n"
    octets = render_report(report(original=original))
    assert octets.isascii()
    assert all(len(line) <= 998 for line in octets.split(b"\r\n"))
    returned = list(email.message_from_bytes(octets).walk())[-1]
    payload = returned.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.rstrip(b"\r\n") == original.rstrip(b"\r\n")


def test_an_endless_header_section_is_cut_off() -> None:
    octets = render_report(report(original=b"X: " + b"y" * 10 * RETURNED_OCTETS + b"\r\n\r\n"))
    assert len(octets) < 2 * RETURNED_OCTETS


def test_a_boundary_that_occurs_in_the_message_is_refused() -> None:
    with pytest.raises(ValueError, match="boundary"):
        render_report(report(original=b"X: =_boundary\r\n\r\n"))


def recipient_fields(**more: Any) -> dict[str, str]:
    fields = list(parsed(**more).iter_parts())[1].get_payload()[1]
    return {str(name): str(value) for name, value in fields.items()}


@pytest.mark.parametrize(
    ("action", "outcome", "status"),
    [
        (Action.FAILED, permanent("5.1.1", "no"), "5.1.1"),
        (Action.FAILED, transient("4.4.1", "no"), "4.4.1"),
        (Action.FAILED, permanent("rubbish", "no"), "5.0.0"),
        (Action.DELAYED, transient("4.4.1", "later"), "4.4.1"),
        (Action.DELAYED, permanent("5.4.1", "later"), "4.0.0"),
        (Action.DELIVERED, delivered("stored"), "2.0.0"),
        (Action.RELAYED, Outcome(Result.DELIVERED, "2.6.0", "ok"), "2.6.0"),
        (Action.RELAYED, Outcome(Result.DELIVERED, "4.0.0", "ok"), "2.0.0"),
    ],
)
def test_an_action_has_its_own_class_of_status(action: Action, outcome: Outcome, status: str) -> None:
    fields = recipient_fields(action=action, outcomes={"b@example.net": outcome}, retry_until=3600.0)
    assert (fields["Action"], fields["Status"]) == (action.value, status)
    assert ("Will-Retry-Until" in fields) == (action is Action.DELAYED)


def test_a_delay_says_until_when_it_is_tried() -> None:
    later = {"b@example.net": Outcome.of_reply(Reply(451, "4.7.1", "greylisted"), "mx.example.net")}
    message = parsed(action=Action.DELAYED, outcomes=later, retry_until=3600.0)
    people, machines, _ = message.iter_parts()
    assert message["Subject"] == "Your message is delayed"
    assert "Thu, 01 Jan 1970 01:00:00 +0000" in people.get_content()
    fields = machines.get_payload()[1]
    assert fields["Will-Retry-Until"] == "Thu, 01 Jan 1970 01:00:00 +0000"
    assert fields["Diagnostic-Code"] == "smtp; 451 4.7.1 greylisted"


def test_what_was_asked_for_comes_back_as_it_was_meant() -> None:
    message = parsed(envid="QQ+2B314+3D159", orcpts={"b@example.net": "rfc822;Bob+2Bx@Example.NET", "c@x": "rfc822;y"})
    whole, recipient = list(message.iter_parts())[1].get_payload()
    assert whole["Original-Envelope-Id"] == "QQ+314=159"
    assert next(iter(recipient.items())) == ("Original-Recipient", "rfc822; Bob+x@Example.NET")


def test_nothing_asked_for_nothing_said() -> None:
    text = render_report(report())
    assert b"Original-Envelope-Id" not in text
    assert b"Original-Recipient" not in text


@pytest.mark.parametrize(
    "orcpt", ["", "rfc822", "rfc822;", ";b@example.net", "rfc822;a b", "rfc822;+0", r"utf-8;\x{D800}"]
)
def test_an_original_recipient_that_is_none_is_left_out(orcpt: str) -> None:
    assert "Original-Recipient" not in recipient_fields(orcpts={"b@example.net": orcpt})


def test_an_original_recipient_in_unicode_is_told_in_seven_bits_and_to_those_who_can_as_it_is() -> None:
    asked = {"orcpts": {"b@example.net": "utf-8;" + encode_utf8_xtext("grå+x@example.net")}}
    assert recipient_fields(**asked)["Original-Recipient"] == r"utf-8; gr\x{E5}\x{2B}x@example.net"
    text = render_report(report(reverse_path="ä@example.org", **asked))
    assert "Original-Recipient: utf-8; grå".encode() in text


def test_fields_are_utf8_for_a_sender_that_reads_it() -> None:
    text = render_report(report(reverse_path="ä@example.org", outcomes={"grå@example.net": REFUSED}))
    header, _, body = text.partition(b"\r\n\r\n")
    assert b"Content-Transfer-Encoding: 8bit" in header
    assert b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n" in body
    assert "Final-Recipient: utf-8; grå@example.net\r\n".encode() in body


HOSTILE_XTEXT = HOSTILE | HOSTILE.map(lambda text: encode_xtext(text.encode("utf-8", "replace")))


@given(HOSTILE_XTEXT, HOSTILE_XTEXT, HOSTILE_XTEXT)
def test_no_envelope_id_and_no_original_recipient_breaks_out(envid: str, kind: str, address: str) -> None:
    orcpts = {"b@example.net": f"{kind};{address}"}
    octets = render_report(report(envid=envid, orcpts=orcpts))
    assert octets.isascii()
    assert all(len(line) <= 998 for line in octets.split(b"\r\n"))
    whole, recipient = list(parsed(envid=envid, orcpts=orcpts).iter_parts())[1].get_payload()
    own = {"Reporting-MTA", "Arrival-Date"}
    assert own <= set(whole.keys()) <= own | {"Original-Envelope-Id"}
    own = {"Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date", "Final-Log-ID"}
    assert own <= set(recipient.keys()) <= own | {"Original-Recipient"}


def returned(**more: Any) -> bytes:
    """The last part with its header."""
    return render_report(report(**more)).split(b"--=_boundary")[3].removeprefix(b"\r\n").removesuffix(b"\r\n")


@pytest.mark.parametrize(
    ("original", "encoding"),
    [
        (ORIGINAL, b"7bit"),
        (ORIGINAL.replace(b"secret", "geheim süß".encode()), b"8bit"),
        (ORIGINAL + b"no line end", b"7bit"),
        (b"Subject: x\r\n\r\n" + b"y" * 998 + b"\r\n", b"7bit"),
    ],
)
def test_the_whole_message_comes_back_octet_for_octet(original: bytes, encoding: bytes) -> None:
    head, _, text = returned(original=original, returns_whole=True).partition(b"\r\n\r\n")
    assert head == b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: " + encoding
    assert text == original
    top = render_report(report(original=original, returns_whole=True)).partition(b"\r\n\r\n")[0]
    assert (b"Content-Transfer-Encoding: 8bit" in top) == (encoding == b"8bit")


@pytest.mark.parametrize("rest", [b"a\0b", b"a\nb", b"a\rb", b"\r", b"y" * 999])
def test_a_message_that_cannot_stand_in_a_part_comes_back_as_its_header_section(rest: bytes) -> None:
    part = returned(original=ORIGINAL + rest, returns_whole=True)
    assert part.startswith(b"Content-Type: text/rfc822-headers")
    assert b"secret" not in part


def test_a_message_in_utf8_comes_back_under_its_own_type_and_in_seven_bits() -> None:
    original = "Subject: grüße\r\n\r\nschön\r\n".encode()
    head, _, text = returned(original=original, returns_whole=True, smtputf8=True).partition(b"\r\n\r\n")
    assert head == b"Content-Type: message/global\r\nContent-Transfer-Encoding: base64"
    assert base64.b64decode(text) == original
    part = returned(original=original, smtputf8=True)
    assert part.startswith(b"Content-Type: message/global-headers\r\nContent-Transfer-Encoding: quoted-printable")
    assert returned(original=b"Subject: \xff\r\n\r\n", smtputf8=True).startswith(b"Content-Type: text/rfc822-headers")


PATHS = HOSTILE | st.sampled_from(
    ["a@example.org", "grün@example.org", "ü" * 32 + "@" + ".".join(["ü" * 40] * 5) + ".example"]
)


@given(PATHS, PATHS, HOSTILE, HOSTILE, st.sampled_from(Action), st.binary(max_size=200), st.booleans(), st.booleans())
def test_whatever_it_tells_of_it_has_three_parts_and_the_fields_of_its_own(
    sender: str, path: str, words: str, mta: str, action: Action, original: bytes, smtputf8: bool, whole: bool
) -> None:
    outcome = Outcome(Result.PERMANENT, words, words, mta, None)
    facts = {
        "reverse_path": sender,
        "outcomes": {path: outcome},
        "action": action,
        "reporting_mta": mta,
        "client": words,
    }
    more = {"original": original, "smtputf8": smtputf8, "returns_whole": whole, "orcpts": {path: f"utf-8;{words}"}}
    if b"=_boundary" in original:
        return
    octets = render_report(report(**facts, **more))
    assert octets.count(b"\r\n--=_boundary\r\n") == 3
    assert octets.count(b"\r\n--=_boundary") == 4
    assert octets.endswith(b"\r\n--=_boundary--\r\n")
    assert not re.search(rb"\0|\r(?!\n)|(?<!\r)\n|[^\r\n]{999}", octets)
    top, status = octets.partition(b"\r\n\r\n")[0], octets.split(b"\r\n--=_boundary")[2].split(b"\r\n\r\n")
    assert set(email.message_from_bytes(top)) <= TOP
    assert len(status) == 3  # its header, the message's fields, the recipient's
    assert set(email.message_from_bytes(status[1])) <= {"Reporting-MTA", "Received-From-MTA", "Arrival-Date"}
    assert {"Final-Recipient", "Action", "Status"} <= set(email.message_from_bytes(status[2])) <= OF_RECIPIENT


TOP = {
    *("From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "MIME-Version"),
    *("Content-Type", "Content-Transfer-Encoding"),
}
OF_RECIPIENT = {
    *("Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Final-Log-ID"),
    *("Last-Attempt-Date", "Will-Retry-Until"),
}


@pytest.mark.parametrize(
    ("message_id", "answers"),
    [
        (b"Message-ID: <1@x>\r\n", True),
        (b"Message-ID:\r\n <1@x>\r\n", True),
        (b"Message-ID: <1@x> <2@x>\r\n", False),
        (b"Message-ID: <1@x>\r\nMessage-ID: <2@x>\r\n", False),
        (b"Message-ID: <\xff@x>\r\n", False),
        (b"Message-ID: 1\r\n", False),
        (b"Message-ID: <" + b"x" * 300 + b">\r\n", False),
        (b"", False),
    ],
)
def test_it_answers_the_message_that_it_is_about(message_id: bytes, answers: bool) -> None:
    message = parsed(original=message_id + ORIGINAL)
    assert (message["In-Reply-To"], message["References"]) == (("<1@x>",) * 2 if answers else (None, None))
