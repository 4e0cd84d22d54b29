"""Digests of bodies: the same as dkimpy's canonicalisation of the whole, in pieces, in linear time."""

from __future__ import annotations

import hashlib
import os

import dkim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.senderauth import message
from egressguard.senderauth.message import Message, body_digest
from egressguard.senderauth.verdict import Refused

_BODIES = st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"a", b"b  c", b"\r\n\r\n", b"."]), max_size=60).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(_BODIES, st.booleans(), st.one_of(st.none(), st.integers(0, 80)), st.integers(1, 40))
def test_digests_are_dkimpys(body: bytes, relaxed: bool, limit: int | None, piece: int) -> None:
    body += b"\r\n" if body and not body.endswith(b"\r\n") else b""
    policy = dkim.RelaxedCanonicalization if relaxed else dkim.CanonicalizationPolicy.from_c_value(b"simple")
    whole = policy.canonicalize_body(body)
    before = message.PIECE_OCTETS
    message.PIECE_OCTETS = piece
    try:
        digest, octets = body_digest(b"head" + body, 4, relaxed=relaxed, limit=limit)
    finally:
        message.PIECE_OCTETS = before
    assert octets == len(whole)
    assert digest == hashlib.sha256(whole if limit is None else whole[:limit]).digest()


@pytest.mark.parametrize("relaxed", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b"\r\n" * 500_000,
        b" " * 1_000_000 + b"x\r\n",
        (b" " * 999 + b"x") * 1000 + b"\r\n",
        (b"\t" * 70_000 + b"\r\n") * 20,
        os.urandom(1_000_000).replace(b"\r", b"").replace(b"\n", b""),
    ],
    ids=["line ends", "one blank line", "runs of blanks", "trailing tabs", "noise"],
)
def test_bodies_made_to_take_time_do_not(body: bytes, relaxed: bool) -> None:
    assert len(body_digest(body, 0, relaxed=relaxed)[0]) == 32


def test_a_relaxed_line_without_end_is_refused() -> None:
    with pytest.raises(Refused, match="a line is over"):
        body_digest(b"x" * 2_000_000, 0, relaxed=True)
    assert body_digest(b"x" * 2_000_000, 0, relaxed=False)[1] == 2_000_002


@pytest.mark.parametrize(
    ("header_section", "content", "result"),
    [
        (b"A: b\r\n" * 1001, b"\r\nx\r\n", "policy"),
        (b"A: b\r\n" + b" c\r\n" * 5001, b"\r\nx\r\n", "policy"),
        (b"A: " + b"b" * 300_000 + b"\r\n", b"\r\nx\r\n", "policy"),
        (b"A: b\r\n", b"no field\r\n\r\nx\r\n", "permerror"),
        (b"A : b\r\n", b"\r\nx\r\n", "permerror"),
        (b" b\r\n", b"\r\nx\r\n", "permerror"),
    ],
)
def test_header_sections_that_are_not_looked_at(header_section: bytes, content: bytes, result: str) -> None:
    with pytest.raises(Refused) as refused:
        Message(header_section, header_section + content).fields()
    assert refused.value.result == result


def test_without_its_content_a_message_has_fields_and_no_digest() -> None:
    large = Message(b"A: b\r\n", None)
    assert large.fields() == [(b"A", b" b\r\n")]
    with pytest.raises(Refused, match="too large"):
        large.digest(relaxed=True, limit=None)
