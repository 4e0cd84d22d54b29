"""ARC: chains of one to fifty sets, whole and broken, against a real name server and beside dkimpy's own verifier."""

from __future__ import annotations

import asyncio
import re
import time

import dkim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mail.header import split_header_section
from egressguard.senderauth.chain import MOST_SETS, check_arc
from egressguard.senderauth.message import Message
from egressguard.senderauth.resolver import Questions
from egressguard.senderauth.verdict import Verdict
from egressguard.senderauth.workers import Workers
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import MESSAGE, arc_set, rsa_key, txt

HOPS = ("one.example", "two.example", "three.example")


def chain(length: int, content: bytes = MESSAGE) -> bytes:
    for instance in range(1, length + 1):
        content = arc_set(content, instance, domain=HOPS[instance % 3])
    return content


async def _check(content: bytes, whole: bool) -> Verdict:
    zone = "".join(txt(f"arc._domainkey.{hop}", rsa_key()[1]) for hop in HOPS)
    server = NameServer(zone, failing=["_domainkey.broken.example"])
    workers = Workers(1)
    try:
        async with running(server, lifetime_seconds=1.0) as resolver:
            message = Message(split_header_section(content)[0], content if whole else None)
            return await check_arc(message, Questions(resolver, MOST_SETS + 1), workers, time.time())
    finally:
        workers.close()


def check(content: bytes, *, whole: bool = True) -> Verdict:
    return asyncio.run(_check(content, whole))


def dkimpys(content: bytes) -> str:
    """What dkimpy alone says of the chain."""
    record = rsa_key()[1].encode()
    verdict, _, _ = dkim.arc_verify(content, dnsfunc=lambda name, timeout: record if name.startswith(b"arc.") else None)
    return verdict.decode()


def test_no_chain_is_none() -> None:
    assert check(MESSAGE).result == "none"


@pytest.mark.parametrize("length", [1, 2, 3, 12])
def test_a_whole_chain_passes(length: int) -> None:
    content = chain(length)
    verdict = check(content)
    assert (verdict.result, dkimpys(content)) == ("pass", "pass"), verdict
    assert verdict.reason == f"{length} sets, the newest of {HOPS[length % 3]}"


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"this  is all", b"this  is not all"),
        (b"Subject: Hello", b"Subject: Goodbye"),
        (b"spf=pass", b"spf=fail"),
        (b"cv=none", b"cv=pass"),
        (b"i=1;", b"i=2;"),
        (b"d=two.example", b"d=three.example; x-was=two"),
    ],
)
def test_an_altered_chain_fails(length: int, before: bytes, after: bytes) -> None:
    content = chain(length)
    assert before in content
    altered = content.replace(before, after)
    assert (check(altered).result, dkimpys(altered)) == ("fail", "fail")


@pytest.mark.parametrize("name", [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"])
def test_a_set_without_one_of_its_fields_is_no_set(name: bytes) -> None:
    content = re.sub(name + rb":(?:[^\r]|\r\n[ \t])*\r\n", b"", chain(2), count=1)
    assert check(content).result == "fail"


def test_a_field_twice_is_no_set() -> None:
    content = chain(1)
    seal = content[: content.index(b"ARC-Message-Signature")]
    assert check(seal + content).result == "fail"


def test_a_gap_breaks_the_chain() -> None:
    assert check(arc_set(chain(1), 3, domain=HOPS[0])).result == "fail"


def test_a_chain_that_says_it_failed_has_failed() -> None:
    assert check(arc_set(chain(1), 2, domain=HOPS[0], cv="fail")).reason == "seal 2 says cv=fail"


def test_old_signatures_need_not_verify_any_more() -> None:
    """A list changes the subject and seals what it made of the message: that is what ARC is for."""
    changed = chain(1).replace(b"Subject: Hello", b"Subject: [list] Hello")
    assert check(changed).result == "fail"
    assert check(arc_set(changed, 2, domain=HOPS[2])).result == "pass"


def test_where_the_fields_stand_does_not_matter() -> None:
    fields = dkim.rfc822_parse(chain(2))[0]
    section = b"".join(name + b":" + value for name, value in reversed(fields))
    assert check(section + MESSAGE[MESSAGE.index(b"\r\n\r\n") + 2 :]).result == "pass"


def test_a_blank_before_i_is_not_asked_for() -> None:
    content = chain(1).replace(b"ARC-Message-Signature: i=1;", b"ARC-Message-Signature:i=1;")
    assert check(content).result == "pass"  # canonicalised away, and dkimpy's own verifier trips over it


def test_no_key_no_pass() -> None:
    assert check(arc_set(MESSAGE, 1, domain="nowhere.example")).result == "fail"
    assert check(arc_set(MESSAGE, 1, domain="broken.example")).result == "temperror"


def test_more_sets_than_fifty_are_not_looked_at() -> None:
    fields = b"".join(
        b"ARC-Seal: i=%d; cv=pass\r\nARC-Message-Signature: i=%d\r\nARC-Authentication-Results: i=%d; x\r\n" % (i, i, i)
        for i in range(MOST_SETS + 1, 0, -1)
    )
    assert check(fields + MESSAGE).reason == f"an instance is not between 1 and {MOST_SETS}"


def test_a_message_too_large_to_be_held_is_not_verified() -> None:
    assert check(chain(1), whole=False).result == "policy"


_NAMES = st.sampled_from([b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"])
_TAGS = st.sampled_from([b"i=1", b"i=2", b"cv=none", b"cv=pass", b"a=rsa-sha256", b"d=one.example", b"s=arc", b"b=AAAA",
                         b"bh=AAAA", b"h=from", b"i=99999", b"i=x", b"", b"=", b"\xff"])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_NAMES, st.lists(_TAGS, max_size=9)), min_size=1, max_size=7))
def test_no_chain_breaks_the_check(fields: list[tuple[bytes, list[bytes]]]) -> None:
    section = b"".join(name + b": " + b"; ".join(tags) + b"\r\n" for name, tags in fields)
    assert check(section + MESSAGE).result == "fail"
