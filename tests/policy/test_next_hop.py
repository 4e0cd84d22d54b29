"""Next hops in rules: one meaning or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.next_hop import NextHop, canonical, is_next_hop, parse_next_hop


@pytest.mark.parametrize(
    ("text", "expected", "written"),
    [
        ("[mx.Partner.example]", NextHop("smtp", "mx.partner.example", 25), "smtp:[mx.partner.example]:25"),
        ("[mx.partner.example]:2525", NextHop("smtp", "mx.partner.example", 2525), "smtp:[mx.partner.example]:2525"),
        ("smtp:[192.0.2.1]:587", NextHop("smtp", "192.0.2.1", 587), "smtp:[192.0.2.1]:587"),
        ("[2001:DB8::1]", NextHop("smtp", "2001:db8::1", 25), "smtp:[2001:db8::1]:25"),
        ("[IPv6:2001:db8::1]:26", NextHop("smtp", "2001:db8::1", 26), "smtp:[2001:db8::1]:26"),
        ("smtps:[mx.example]", NextHop("smtps", "mx.example", 465), "smtps:[mx.example]:465"),
        ("smtp:partner.example", NextHop("mx", "partner.example"), "smtp:partner.example"),
        ("lmtp:[192.0.2.1]", NextHop("lmtp", "192.0.2.1", 24), "lmtp:[192.0.2.1]:24"),
        ("lmtp:[box.example]:2003", NextHop("lmtp", "box.example", 2003), "lmtp:[box.example]:2003"),
        ("lmtp:unix:/run/dovecot/lmtp", NextHop("lmtp", "", path="/run/dovecot/lmtp"), "lmtp:unix:/run/dovecot/lmtp"),
        ("pipe:uucp", NextHop("pipe", "uucp"), "pipe:uucp"),
        ("pipe:uucp:nodeb", NextHop("pipe", "uucp", argument="nodeb"), "pipe:uucp:nodeb"),
    ],
)
def test_a_next_hop_means_one_thing(text: str, expected: NextHop, written: str) -> None:
    assert is_next_hop(text)
    assert parse_next_hop(text) == expected
    assert canonical(text) == written
    assert parse_next_hop(written) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[mx.example",
        "[mx.example]:",
        "[mx.example]:0",
        "[mx.example]:65536",
        "[mx.example]:25:25",
        "[mx..example]",
        "[-mx.example]",
        "[mx.example]x",
        "[mx example]",
        "[mx.example]\n",
        "[192.0.2.256]",
        "[fe80::1%eth0]",
        "[1.2.3]",
        "mx.example:25",
        "smtp:",
        "smtp:mx.example:25",
        "smtp:a/b",
        "http:[mx.example]",
        "SMTP:[mx.example]",
        "lmtp:box.example",
        "lmtp:unix:run/lmtp",
        "lmtp:unix:/run/l mtp",
        "pipe:",
        "pipe:Uucp",
        "pipe:uucp:-n",
        "pipe:uucp:a:b",
        "pipe:uucp:a b",
        "smtps:partner.example",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not a port"):
        parse_next_hop(text)


@pytest.mark.parametrize("text", ["mx", "provider", "local"])
def test_names_are_no_next_hops(text: str) -> None:
    assert not is_next_hop(text)
    assert canonical(text) == text


PIECES = [
    "smtp:",
    "smtps:",
    "lmtp:",
    "pipe:",
    "unix:",
    "[",
    "]",
    ":",
    ".",
    "-",
    "/",
    "mx",
    "a",
    "25",
    "::1",
    " ",
    "\x00",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=30))
def test_a_text_is_one_next_hop_or_none(text: str) -> None:
    try:
        hop = parse_next_hop(text)
    except ValueError:
        return
    assert parse_next_hop(str(hop)) == hop
    assert str(hop).isascii() and str(hop).isprintable() and " " not in str(hop)
