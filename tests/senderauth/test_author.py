"""The author's domain: what is one author, and what programs would show as different ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mail.address import AddressError, parse_domain
from egressguard.senderauth.author import author_of


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        (b"anna@sender.example", "sender.example"),
        (b"<anna@SENDER.example>", "sender.example"),
        (b"Anna B. <anna@sender.example>", "sender.example"),
        (b'"Anna, B." <anna@sender.example>', "sender.example"),
        (b'"bank@bank.example" <anna@sender.example>', "sender.example"),
        (b'Anna (a comment, (nested) <x@y.example> \\) "still) <anna@sender.example> (end)', "sender.example"),
        (b"=?utf-8?q?Anna=2C_bank=40bank.example?= <anna@sender.example>", "sender.example"),
        (b"Anna\r\n\t<anna@sender.example>", "sender.example"),
        (b'"a@b"@sender.example', "sender.example"),
        (b'<"a b"@sender.example>', "sender.example"),
        (b"anna@sender.example, Bert <bert@Sender.Example>", "sender.example"),
        (b"anna@sender.example <anna@sender.example>", "sender.example"),
        ("Änne <änne@bücher.example>".encode(), "xn--bcher-kva.example"),
    ],
)
def test_one_author(value: bytes, domain: str) -> None:
    author = author_of(b"To: x@y.example\r\nFrom: " + value + b"\r\n")
    assert (author.domain, author.fault) == (domain, "")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Anna",
        b"<>",
        b"anna@",
        b"@sender.example",
        b"anna@sender.example.",
        b"anna@[192.0.2.1]",
        b"anna @ sender.example",
        b"anna@sender.example other",
        b"<anna@sender.example> other",
        b"<anna@sender.example",
        b"<anna@sender.example>>",
        b"<<anna@sender.example>>",
        b"<anna@sender.example><bert@other.example>",
        b"bank@bank.example <anna@sender.example>",
        b"anna@sender.example, ",
        b"Anna, B. <anna@sender.example>",
        b"friends: anna@sender.example;",
        b"<@relay.example:anna@sender.example>",
        b'"Anna <anna@sender.example>',
        b"Anna (comment <anna@sender.example>",
        b"anna@sender.example\0@other.example",
        b"anna@sen\xff.example",
        b"a@b.example, " * 200 + b"a@b.example",
        b"x" * 20_000 + b" <anna@sender.example>",
        b"(" * 15_000,
    ],
)
def test_what_is_no_author(value: bytes) -> None:
    author = author_of(b"From: " + value + b"\r\n")
    assert (author.domain, author.fault) == ("", "malformed From field")


@pytest.mark.parametrize(
    ("section", "rest", "fault"),
    [
        (b"To: x@y.example\r\n", b"\r\nbody", "no From field"),
        (b"From: a@b.example\r\nfrom : a@b.example\r\n", b"\r\nbody", "more than one From field"),
        (b"From: a@b.example, c@d.example\r\n", b"\r\nbody", "a From field of several domains"),
        # Where the section ended at a line that is no field, a mail program may find another author below.
        (b"From: a@b.example\r\n", b"rubbish\r\nFROM: c@d.example\r\n\r\nbody", "more than one From field"),
        (b"From: a@b.example\r\n", b" \r\nFrom: c@d.example\r\n\r\nbody", "more than one From field"),
        (b"From: a@b.example\r\n", b"rubbish\r\n\r\nFrom: c@d.example\r\n", ""),
        (b"From: a@b.example\r\n", b"\r\nFrom: c@d.example\r\n", ""),
    ],
)
def test_there_is_one_from_field(section: bytes, rest: bytes, fault: str) -> None:
    assert author_of(section, rest).fault == fault


_PIECES = st.sampled_from(
    [b"anna@sender.example", b"<", b">", b",", b":", b";", b'"', b"\\", b"(", b")", b"@", b" ", b"\r\n\t", b"Anna",
     b".", b"\0", b"\xc3\xa4", b"\xff", b"=?utf-8?q?x?="]
)  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.lists(_PIECES, max_size=30).map(b"".join), st.binary(max_size=80)))
def test_any_from_field_has_a_domain_or_a_fault(value: bytes) -> None:
    author = author_of(b"From: " + value + b"\r\n")
    assert bool(author.domain) != bool(author.fault)
    if author.domain:
        try:
            assert parse_domain(author.domain) == author.domain
        except AddressError:  # a domain that DNS cannot be asked about
            pytest.fail(author.domain)
        assert author.domain.isascii()
