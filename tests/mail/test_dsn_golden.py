"""tests/golden/dsn: NAME.eml is the DSN, NAME.json what Python's email package reads in it (--update-golden)."""

from __future__ import annotations

import email
import email.policy
import json
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from egressguard.mail.dsn import render_report
from egressguard.mail.outcome import Outcome, Result, delivered, permanent, transient
from egressguard.mail.reply import Reply
from egressguard.mail.report import Action, Report

GOLDEN = Path(__file__).parent.parent / "golden" / "dsn"
SECTION = b"Message-ID: <1@example.org>\r\nSubject: lunch\r\nFrom: <a@example.org>\r\nTo: <b@example.net>\r\n"
UTF8_SECTION = "Message-ID: <1@example.org>\r\nSubject: grüße\r\nFrom: <grün@example.org>\r\n".encode()
BODY = b"\r\nAt noon?\r\n"
B, C = "b@example.net", "c@example.com"
REFUSED = Outcome.of_reply(Reply(550, "5.1.1", "no such user"), "mx.example.net")
GREYLISTED = Outcome.of_reply(Reply(451, "4.7.1", "come back later"), "mx.example.net")
TAKEN = Outcome.of_reply(Reply(250, "2.0.0", "queued as 1"), "mx.example.net")
UTF8_REFUSED = Outcome.of_reply(Reply(550, "5.1.1", "kein Postfach für grün"), "mx.grün.example")

CASES: dict[str, dict[str, Any]] = {
    "failed": {"outcomes": {B: REFUSED}},
    "failed-by-ourselves": {"outcomes": {B: permanent("5.1.2", "the domain example.net does not exist")}},
    "failed-for-two": {"outcomes": {B: REFUSED, C: Outcome.of_reply(Reply(554, "5.7.1", "spam"), "mx.example.com")}},
    "given-up": {
        "outcomes": {B: transient("4.4.1", "192.0.2.9 port 25: does not answer", "mx.example.net")},
        "given_up": frozenset({B}),
    },
    "status-that-is-none": {"outcomes": {B: Outcome(Result.PERMANENT, "550", "no")}},
    "delayed": {"action": Action.DELAYED, "outcomes": {B: GREYLISTED}, "retry_until": 432000.0},
    "delivered": {"action": Action.DELIVERED, "outcomes": {B: delivered("into the mailbox")}},
    "relayed": {"action": Action.RELAYED, "outcomes": {B: TAKEN}},
    "expanded": {"action": Action.EXPANDED, "outcomes": {B: delivered("to three others")}},
    "all-that-was-asked": {
        "outcomes": {B: REFUSED},
        "envid": "QQ+2B314",
        "orcpts": {B: "rfc822;Bob+2Bx@example.NET"},
        "client": "192.0.2.7",
    },
    "original-recipient-of-another-kind": {"outcomes": {B: REFUSED}, "orcpts": {B: "x400;/S=Bob/C=US"}},
    "original-recipient-in-octets": {"outcomes": {B: REFUSED}, "orcpts": {B: "rfc822;gr+C3+BCn@example.net"}},
    "original-recipient-in-latin-1": {"outcomes": {B: REFUSED}, "orcpts": {B: "rfc822;gr+FCn@example.net"}},
    "client-of-ipv6": {"outcomes": {B: REFUSED}, "client": "2001:db8::7"},
    "client-of-our-own": {"outcomes": {B: REFUSED}, "client": "127.0.0.1"},
    "whole": {"outcomes": {B: REFUSED}, "returns_whole": True},
    "whole-8bit": {"outcomes": {B: REFUSED}, "returns_whole": True, "original": SECTION + "\r\ngrün\r\n".encode()},
    "whole-but-unfit": {"outcomes": {B: REFUSED}, "returns_whole": True, "original": SECTION + b"\r\na\0b\r\n"},
    "header-in-latin-1": {"outcomes": {B: REFUSED}, "original": b"Subject: gr\xfcn\r\n" + BODY},
    "header-in-utf8": {"outcomes": {B: REFUSED}, "original": UTF8_SECTION + BODY, "smtputf8": True},
    "nothing-of-the-original": {"outcomes": {B: REFUSED}, "original": b""},
    "recipient-in-utf8": {
        "outcomes": {"grün@grün.example": UTF8_REFUSED},
        "orcpts": {"grün@grün.example": r"utf-8;gr\x{FC}n@example.net"},
        "original": UTF8_SECTION + BODY,
        "smtputf8": True,
    },
    "sender-in-utf8": {
        "reverse_path": "grün@example.org",
        "outcomes": {"grün@grün.example": UTF8_REFUSED, B: REFUSED},
        "orcpts": {"grün@grün.example": "utf-8;größe@example.net"},
        "original": UTF8_SECTION + BODY,
        "smtputf8": True,
        "envid": "QQ314",
    },
    "whole-in-utf8": {
        "reverse_path": "grün@example.org",
        "outcomes": {B: REFUSED},
        "original": UTF8_SECTION + BODY,
        "smtputf8": True,
        "returns_whole": True,
    },
}
FACTS: dict[str, Any] = {
    "action": Action.FAILED,
    "reporting_mta": "gw.example.org",
    "queue_id": "1A2B3C4D5E6F",
    "reverse_path": "a@example.org",
    "original": SECTION + BODY,
    "arrived_at": 0.0,
    "at": 3600.0,
    "boundary": "=_1A2B3C4D5E70_golden",
}


def read(octets: bytes) -> dict[str, Any]:
    """What Python's email package finds: the fields on top, those of the machines' part by group, the parts' types."""
    policy = email.policy.SMTPUTF8
    message = email.message_from_bytes(octets, policy=policy)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    parts = list(message.iter_parts())
    status = octets.split(b"--" + FACTS["boundary"].encode())[2].removeprefix(b"\r\n").partition(b"\r\n\r\n")[2]
    groups = [
        email.message_from_bytes(group, policy=policy) for group in status.removesuffix(b"\r\n\r\n").split(b"\r\n\r\n")
    ]
    assert not any(group.defects for group in groups)
    if parts[1].get_content_type() == "message/delivery-status":  # the only kind that Python takes apart itself
        assert [list(group.items()) for group in parts[1].get_payload()] == [list(group.items()) for group in groups]
    return {
        "header": {name: str(value) for name, value in message.items()},
        "fields": [{name: str(value) for name, value in group.items()} for group in groups],
        "parts": [[part["Content-Type"], part.get("Content-Transfer-Encoding", "")] for part in parts],
    }


@pytest.mark.parametrize("name", CASES)
def test_a_dsn_reads_as_it_should(name: str, request: pytest.FixtureRequest) -> None:
    octets = render_report(Report(**(FACTS | CASES[name])))
    found = json.dumps(read(octets), indent=2, ensure_ascii=False) + "\n"
    if request.config.getoption("--update-golden"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / f"{name}.eml").write_bytes(octets)
        (GOLDEN / f"{name}.json").write_text(found)
    assert octets == (GOLDEN / f"{name}.eml").read_bytes()
    assert found == (GOLDEN / f"{name}.json").read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)
