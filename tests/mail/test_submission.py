"""What sendmail's callers hand over: line ends, the lone dot, recipients from the header, Bcc gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.address import AddressError
from egressguard.mail.submission import (
    all_qualified,
    qualified,
    recipients_of,
    up_to_dot,
    with_crlf,
    with_from,
    without_bcc,
)

HIDDEN = b"Bcc: c@x.example,\r\n\td@x.example\r\n"
LETTER = b"To: A <a@x.example>,\r\n b@x.example\r\n" + HIDDEN + b"Subject: hi\r\n\r\nBcc: not this\r\n"


@given(st.text(alphabet="ab\r\n.", max_size=30).map(str.encode))
def test_every_line_ends_with_crlf(text: bytes) -> None:
    made = with_crlf(text)
    assert made.count(b"\r") == made.count(b"\n") == made.count(b"\r\n")
    assert with_crlf(made) == made and (not text or made.endswith(b"\r\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a\n.\nb\n", b"a\n"),
        (b"a\r\n.\r\nb\r\n", b"a\n"),
        (b".\nb\n", b"\n"),
        (b"a\n..\n.b\n", b"a\n..\n.b\n"),
        (b"a\n.", b"a\n."),
        (b"", b""),
    ],
)
def test_a_lone_dot_ends_it(text: bytes, expected: bytes) -> None:
    assert up_to_dot(text) == expected


def test_recipients_of_the_header_and_no_bcc_left() -> None:
    assert recipients_of(LETTER) == ["a@x.example", "b@x.example", "c@x.example", "d@x.example"]
    assert without_bcc(LETTER) == b"To: A <a@x.example>,\r\n b@x.example\r\nSubject: hi\r\n\r\nBcc: not this\r\n"


def test_a_from_is_added_where_there_is_none() -> None:
    assert with_from(b"Subject: x\r\n\r\ny\r\n", "a@b.example", "A B") == (
        b"From: A B <a@b.example>\r\nSubject: x\r\n\r\ny\r\n"
    )
    assert with_from(b"from: me\r\n\r\n", "a@b.example", "") == b"from: me\r\n\r\n"
    assert with_from(b"only a body\r\n", "a@b.example", "") == b"From: a@b.example\r\n\r\nonly a body\r\n"


def test_bare_names_are_of_this_host_and_nonsense_is_named() -> None:
    assert qualified("root", "gw.example") == "root@gw.example" and qualified("", "gw.example") == ""
    assert all_qualified(["root", "root@gw.example", "ä@x.example"], "gw.example") == ("root@gw.example", "ä@x.example")
    with pytest.raises(AddressError, match="'a b@x'"):
        all_qualified(["a b@x"], "gw.example")


@given(st.binary(max_size=120))
def test_no_octets_make_anything_raise(text: bytes) -> None:
    content = with_crlf(up_to_dot(text))
    recipients_of(content)
    assert with_from(without_bcc(content), "a@b.example", "x")
