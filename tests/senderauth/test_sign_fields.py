"""Our signatures, as dkimpy and our own verifier read them: what holds, what breaks them, what is not signed at all."""

from __future__ import annotations

import time
from functools import cache

import dkim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mail.header import split_header_section
from egressguard.policy.signing import ABSENT_FIELDS, SIGNED_FIELDS
from egressguard.senderauth.message import HEADER_FIELDS, HEADER_OCTETS
from egressguard.senderauth.sign_fields import dkim_signature, names_to_sign, relaxed, signable
from egressguard.senderauth.sign_keys import SigningKey, make_key
from egressguard.senderauth.verdict import Refused
from tests.senderauth.signing import MESSAGE

KINDS = ("rsa", "ed25519")
FRONT = b"Received: from a ([192.0.2.1])\r\n\tby b with ESMTP id x;\r\n\tMon, 23 Nov 2026 12:00:00 +0000\r\n"
FROM = b"From: a@sender.example\r\n"


@cache
def key_of(kind: str) -> SigningKey:
    return make_key("rsa") if kind == "rsa" else make_key("ed25519")


def signature(content: bytes, kind: str = "ed25519", front: bytes = b"") -> bytes:
    message = signable(front, split_header_section(content)[0], content)
    names = names_to_sign(message.fields, SIGNED_FIELDS, ABSENT_FIELDS)
    return dkim_signature(key_of(kind), "sender.example", "s1", message, names, time.time())


def holds(content: bytes, kind: str = "ed25519") -> bool:
    asked: list[bytes] = []

    def record(name: bytes, timeout: int = 5) -> bytes:
        asked.append(name)
        return key_of(kind).record.encode()

    valid = bool(dkim.verify(content, dnsfunc=record))
    assert set(asked) <= {b"s1._domainkey.sender.example."}
    return valid


BODIES = [
    b"", b"\r\n", b"\r\n\r\n\r\n", b"x", b"x\r\n", b"x\r\n\r\n\r\n", b" \t\r\n", b" x \t y\t\r\n  \r\nz  \r\n \r\n",
    b".\r\n..\r\n", b"\xff\xfe \x80\r\n", b"a" * 5000 + b" \r\n", b"\r\n" * 100_000, (b"a  b\r\n" * 40_000) + b"\r\n",
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("kind", KINDS)
def test_what_we_sign_holds(kind: str, body: bytes) -> None:
    content = FROM + b"Subject: =?utf-8?q?x?=\r\n  folded \t\r\n\t x\r\nTO:b@c.example\r\n\r\n" + body
    assert holds(signature(content, kind, FRONT) + FRONT + content, kind)


@settings(max_examples=60, deadline=None)
@given(
    body=st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"a", b"\xe4", b".", b"=20", b"  \r\n"]), max_size=40),
    values=st.lists(st.text(" \tab;:=\u00e4", max_size=12), max_size=6),
)
def test_whatever_the_octets_are(body: list[bytes], values: list[str]) -> None:
    fields = b"".join(b"Subject: x" + value.encode() + b"\r\n" for value in values)
    content = FROM + fields + b"\r\n" + b"".join(body)
    assert holds(signature(content) + content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"is all.", b"is not all."),
        (b"Hello  there", b"Hello where"),
        (b"To: bert", b"To: eve"),
        (b"Anna <anna@", b"Eve <anna@"),
        (b"Hello Bert,\r\n\r\n", b"Hello Bert,\r\n"),
        (b"Subject:", b"From: eve@evil.example\r\nSubject:"),
        (b"Subject:", b"Subject: another\r\nSubject:"),
        (b"Subject:", b"Reply-To: eve@evil.example\r\nSubject:"),
        (b"Subject:", b"Cc: eve@evil.example\r\nSubject:"),
        (b"Date:", b"Date: Tue, 24 Nov 2026 12:00:00 +0000\r\nDate:"),
        (b"t=", b"t=1"),
        (b"c=relaxed/relaxed", b"c=relaxed/simple"),
    ],
)
@pytest.mark.parametrize("where", ["above", "in place"])
def test_a_change_breaks_it(old: bytes, new: bytes, where: str) -> None:
    whole = signature(MESSAGE) + MESSAGE
    assert holds(whole) and old in whole
    on_top = where == "above" and new.endswith(old)
    assert not holds(new[: -len(old)] + whole if on_top else whole.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Subject: Hello  there", b"subject:   Hello\r\n\tthere  "),
        (b"this  is all. \r\n", b"this\tis all.\r\n"),
        (b"Anna\r\n", b"Anna\r\n\r\n\r\n"),
        (b"From:", b"X-New: field\r\nFrom:"),
        (b"From:", b"Received: from z by y; Mon, 23 Nov 2026 12:00:00 +0000\r\nFrom:"),
    ],
)
def test_what_relays_do_on_the_way_does_not(old: bytes, new: bytes) -> None:
    whole = signature(MESSAGE) + MESSAGE
    assert holds(whole.replace(old, new, 1))


def test_what_is_missing_may_be_added_where_other_relays_do_so() -> None:
    content = FROM + b"\r\nbody\r\n"
    whole = signature(content) + content
    added = b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@x.example>\r\nMIME-Version: 1.0\r\n"
    assert holds(added + whole)
    assert not holds(b"Subject: win\r\n" + whole)


def test_two_keys_sign_side_by_side() -> None:
    whole = signature(MESSAGE, "ed25519") + signature(MESSAGE, "rsa") + MESSAGE
    verdicts = []
    for number, kind in enumerate(KINDS[::-1]):
        verifier = dkim.DKIM(whole)
        verdicts.append(verifier.verify(number, lambda name, timeout=5, kind=kind: key_of(kind).record.encode()))
    assert verdicts == [True, True]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"From: a@b.example\r\nno field\r\n\r\nx\r\n", "malformed"),
        (b"From: a@b.example\r\n folded\nbare\r\n\r\nx\r\n", "CRLF"),
        (b"From: a@b.example\r\rX: y\r\n\r\nx\r\n", "CRLF"),
        (b"From: a@b.example\r\n \r\n folded\r\n\r\nx\r\n", "malformed"),
        (b"X: y\r\n" * (HEADER_FIELDS + 1) + b"\r\n", "header fields"),
        (b"X: " + b"y" * HEADER_OCTETS + b"\r\n\r\n", "too large"),
        (b"To: a@b.example\r\n" * 200 + b"\r\n", "header fields to sign"),
        (FROM + b"\r\n" + b"x" * (2 * 1024 * 1024), "a line is over"),
    ],
    ids=range(8),
)
def test_what_others_may_read_otherwise_is_not_signed(content: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        signature(content)


def test_lines_are_short_and_names_are_in_order() -> None:
    content = b"".join(name.encode() + b": x\r\n" for name in SIGNED_FIELDS) + b"\r\n"
    for kind in KINDS:
        field = signature(content, kind)
        assert max(map(len, field.split(b"\r\n"))) <= 78 and field.endswith(b"\r\n")
        assert field.isascii() and b"\n " not in field.replace(b"\r\n\t", b"")
    names = names_to_sign([(b"FROM", b""), (b"Date", b""), (b"X", b"")], ("Date", "From", "To"), ("From", "Cc"))
    assert names == (b"date", b"date", b"from", b"from", b"cc")


def test_relaxed_is_that_of_rfc_6376() -> None:
    assert relaxed(b"A", b" X\r\n") == b"a:X\r\n"  # the RFC's own example, s3.4.5
    assert relaxed(b"B", b" Y\t\r\n\tZ  \r\n") == b"b:Y Z\r\n"
