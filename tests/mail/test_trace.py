from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.header import fields, find_fields, header_section
from egressguard.mail.trace import HOP_LIMIT, count_hops, protocol_keyword, received_field


def received(**more: object) -> bytes:
    facts: dict[str, object] = {
        "helo": "pc.lan",
        "client": "192.0.2.7",
        "host": "gw.example.org",
        "queue_id": "0ABC",
        "at": 0.0,
    }
    return received_field(**(facts | more))  # type: ignore[arg-type]


def test_a_received_field_says_who_where_how_and_when() -> None:
    assert received(tls=True, authenticated=True, forward_path="b@example.org") == (
        b"Received: from pc.lan ([192.0.2.7])\r\n\tby gw.example.org with ESMTPSA id 0ABC\r\n"
        b"\tfor <b@example.org>;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n"
    )


def test_an_ipv6_client_is_written_as_a_literal() -> None:
    assert b"([IPv6:2001:db8::7])" in received(client="2001:db8::7")


@pytest.mark.parametrize(
    ("esmtp", "tls", "authenticated", "smtputf8", "keyword"),
    [
        (False, False, False, False, "SMTP"),
        (True, False, False, False, "ESMTP"),
        (True, True, False, False, "ESMTPS"),
        (True, False, True, False, "ESMTPA"),
        (True, True, True, False, "ESMTPSA"),
        (True, True, False, True, "UTF8SMTPS"),
    ],
)
def test_the_keyword_is_the_registered_one(
    esmtp: bool, tls: bool, authenticated: bool, smtputf8: bool, keyword: str
) -> None:
    assert protocol_keyword(esmtp=esmtp, tls=tls, authenticated=authenticated, smtputf8=smtputf8) == keyword


@given(st.text(), st.text(), st.text())
def test_no_client_forges_a_field(helo: str, client: str, path: str) -> None:
    field = received(helo=helo, client=client, forward_path=path)
    (only,) = fields(field)
    assert only.name == b"Received"
    assert b";" not in field.split(b"\tfor <")[0].rsplit(b";", 1)[0]
    assert all(len(line) <= 998 for line in field.splitlines())
    assert field.endswith(b"\r\n") and field.count(b"\n") == field.count(b"\r\n")


def test_hops_are_counted_in_the_header_section_only() -> None:
    content = received() + b"rEceived : from x\r\n\tfolded\r\nSubject: Received: y\r\n\r\nReceived: no\r\n"
    assert count_hops(header_section(content)) == 2
    assert count_hops(header_section(b"\r\nReceived: no\r\n")) == 0


def test_counting_is_bounded() -> None:
    content = b"Received: x\r\n" * (HOP_LIMIT * 3) + b"\r\n"
    assert count_hops(content) == HOP_LIMIT
    assert len(find_fields(content, "Received", limit=5)) == 5
