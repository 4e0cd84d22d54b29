"""Authentication-Results: golden fields, values that want to be fields, and the forged ones of others."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mail.header import find_fields, split_header_section
from egressguard.senderauth.results_field import NAME, authentication_results, authserv_id, forged_results
from egressguard.senderauth.verdict import DomainPolicy, SenderAuthentication, Verdict

HOST = "mx.site.example"

GOOD = SenderAuthentication(
    spf=Verdict("spf", "pass", "matched ip4:192.0.2.0/24", (("smtp.mailfrom", "anna@sender.example"),)),
    helo=Verdict("spf", "none", "", (("smtp.helo", "mail.sender.example"),)),
    dkim=(
        Verdict("dkim", "pass", "", (("header.d", "sender.example"), ("header.s", "s1"), ("header.b", "aB3/x+9="))),
        Verdict("dkim", "permerror", 'no "key" record', (("header.d", "list.example"), ("header.s", "x_y"))),
    ),
    dmarc=Verdict("dmarc", "pass", "", (("header.from", "sender.example"),)),
    arc=Verdict("arc", "none"),
    policy=DomainPolicy("sender.example", "reject"),
    aligned=("spf", "dkim"),
)


def test_golden() -> None:
    assert authentication_results(HOST, GOOD).decode().split("\r\n") == [
        "Authentication-Results: mx.site.example;",
        "\tspf=pass",
        "\t smtp.mailfrom=anna@sender.example;",
        "\tspf=none",
        "\t smtp.helo=mail.sender.example;",
        "\tdkim=pass",
        "\t header.d=sender.example",
        "\t header.s=s1",
        '\t header.b="aB3/x+9=";',
        "\tdkim=permerror",
        '\t reason="no \\"key\\" record"',
        "\t header.d=list.example",
        "\t header.s=x_y;",
        "\tdmarc=pass",
        "\t header.from=sender.example;",
        "\tarc=none",
        "",
    ]


def test_the_null_reverse_path_is_told_once() -> None:
    helo = Verdict("spf", "pass", "", (("smtp.helo", "mail.sender.example"),))
    none = (Verdict("dkim", "none"),)
    text = authentication_results(
        HOST, SenderAuthentication(helo, helo, none, Verdict("dmarc", "none"), Verdict("arc", "none"))
    )
    assert text.count(b"spf=") == 1


_TEXTS = st.one_of(
    st.text(max_size=400),
    st.sampled_from(
        ["a@b\r\nBcc: x@y.example", "\r\n\r\nbody", '";\\', "a; dkim=pass", "(", "x" * 5000, "", "ä@b.example"]
    ),
)

_TOKEN = r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\\r\n]|\\[ -~])*"'
_VALUE = rf"(?:{_QUOTED}|(?:{_TOKEN})?@[A-Za-z0-9.-]+|{_TOKEN})"
_FWS = r"(?:\r\n)?[ \t]+"
_RESINFO = rf";{_FWS}[a-z]+=[a-z]+(?:{_FWS}reason={_QUOTED})?(?:{_FWS}[a-z]+\.[a-z]+={_VALUE})*"
_FIELD = re.compile(rf"Authentication-Results: {_VALUE}(?:{_RESINFO})+\r\n")
"""RFC 8601 s2.2, as much of it as we write."""


@settings(max_examples=500, deadline=None)
@given(st.lists(_TEXTS, min_size=8, max_size=8))
def test_whatever_the_values_are_it_is_one_field_of_the_grammar(texts: list[str]) -> None:
    mail_from, helo, domain, selector, author, *reasons = texts
    result = SenderAuthentication(
        Verdict("spf", "fail", reasons[0], (("smtp.mailfrom", mail_from),)),
        Verdict("spf", "fail", reasons[1], (("smtp.helo", helo),)),
        (Verdict("dkim", "fail", reasons[2], (("header.d", domain), ("header.s", selector))),),
        Verdict("dmarc", "fail", "", (("header.from", author),)),
        Verdict("arc", "fail", reasons[0]),
    )
    written = authentication_results(HOST, result).decode("ascii")
    assert _FIELD.fullmatch(written), written
    assert len(find_fields(written.encode(), "Authentication-Results")) == 1
    assert all(len(line) < 998 for line in written.split("\r\n"))
    assert split_header_section(written.encode() + b"\r\nbody")[0] == written.encode()


OURS = [
    b"Authentication-Results: mx.site.example; dkim=pass\r\n",
    b"AUTHENTICATION-RESULTS : MX.Site.Example; spf=pass\r\n",
    b"Authentication-Results:\r\n\tmx.site.example\r\n\t1; none\r\n",
    b'Authentication-Results: "mx.site.example"; none\r\n',
    b'Authentication-Results: "mx.site\\.example"; none\r\n',
    b"Authentication-Results: (a (nested \\) one)) mx.site.example; none\r\n",
    b"Authentication-Results: mx.site.example. ; none\r\n",
    b"Authentication-Results: mx.site.example(x); none\r\n",
    b"Authentication-Results: (never closed; none\r\n",
    b"Authentication-Results: ; none\r\n",
    b"Authentication-Results:\r\n",
    b"Authentication-Results: (" + b"x" * 5000 + b") other.example; none\r\n",
]
THEIRS = [
    b"Authentication-Results: other.example; dkim=pass\r\n",
    b"Authentication-Results: mx.site.example.evil.example; dkim=pass\r\n",
    b"Authentication-Results: site.example; dkim=pass (mx.site.example)\r\n",
    b"X-Authentication-Results: mx.site.example; dkim=pass\r\n",
    b"ARC-Authentication-Results: i=1; mx.site.example; dkim=pass\r\n",
    b"Subject: x\r\n Authentication-Results: mx.site.example; none\r\n",
]


BEFORE, AFTER = b"From: a@b.example\r\n", b"To: c@d.example\r\n"


@pytest.mark.parametrize("field", OURS)
def test_who_claims_to_be_us_is_found(field: bytes) -> None:
    (place,) = forged_results(BEFORE + field + AFTER, HOST)
    assert place == len(BEFORE)
    assert (BEFORE + field)[place : place + len(NAME)].decode().lower() == NAME.lower()


@pytest.mark.parametrize("field", THEIRS)
def test_what_others_say_is_not(field: bytes) -> None:
    assert forged_results(BEFORE + field + AFTER, HOST) == ()


def test_what_we_write_we_would_know_as_ours() -> None:
    assert forged_results(authentication_results(HOST, GOOD), HOST) == (0,)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(OURS + THEIRS), st.binary(max_size=30).map(lambda b: b"X:" + b + b"\r\n"))))
def test_every_one_of_them_and_nothing_else(fields: list[bytes]) -> None:
    section = b"".join(fields)
    places = forged_results(section, HOST)
    assert len(places) >= sum(field in OURS for field in fields)
    renamed = bytearray(section)
    for place in places:
        assert section[place : place + len(NAME)].decode().lower() == NAME.lower()
        renamed[place : place + len(NAME)] = b"x" * len(NAME)
    assert forged_results(bytes(renamed), HOST) == ()


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text(alphabet='()"\\; .a\r\n\t', max_size=40)))
def test_any_value_has_an_authserv_id_or_none(value: str) -> None:
    claimed = authserv_id(value)
    assert claimed is None or isinstance(claimed, str)
