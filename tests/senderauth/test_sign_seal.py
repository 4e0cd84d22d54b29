"""ARC sets of ours, as our verifier of chains and dkimpy's read them."""

from __future__ import annotations

import asyncio
import time

import dkim
import pytest

from egressguard.mail.header import split_header_section
from egressguard.policy.signing import SIGNED_FIELDS
from egressguard.senderauth.chain import MOST_SETS, check_arc
from egressguard.senderauth.message import Message
from egressguard.senderauth.resolver import Questions
from egressguard.senderauth.sign_fields import signable
from egressguard.senderauth.sign_keys import SigningKey, make_key
from egressguard.senderauth.sign_seal import arc_set
from egressguard.senderauth.verdict import Refused, Verdict
from egressguard.senderauth.workers import Workers
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import MESSAGE, rsa_key, signed, txt
from tests.senderauth.signing import arc_set as others_set

KEY = make_key("rsa")
FRONT = b"Received: from a ([192.0.2.1]) by b; Mon, 23 Nov 2026 12:00:00 +0000\r\n"
RESULTS = b" gateway.example; spf=pass smtp.mailfrom=a@sender.example;\r\n\tdkim=pass header.d=sender.example\r\n"


def sealed(content: bytes, chain_result: str, key: SigningKey = KEY) -> bytes:
    message = signable(FRONT, split_header_section(content)[0], content)
    ours = arc_set(
        key, "ours.example", "s1", message, SIGNED_FIELDS, results=RESULTS, chain_result=chain_result, now=time.time()
    )
    return ours + FRONT + content


def verdict(content: bytes) -> Verdict:
    zone = txt("s1._domainkey.ours.example", KEY.record)
    zone += "".join(txt(f"arc._domainkey.hop{number}.example", rsa_key()[1]) for number in range(1, 4))

    async def story() -> Verdict:
        workers = Workers(1)
        try:
            async with running(NameServer(zone)) as resolver:
                message = Message(split_header_section(content)[0], content)
                return await check_arc(message, Questions(resolver, 60), workers, time.time())
        finally:
            workers.close()

    return asyncio.run(story())


def test_the_first_set_holds_and_tells_what_we_found() -> None:
    whole = sealed(MESSAGE, "none")
    assert verdict(whole).result == "pass"
    assert whole.startswith(b"ARC-Seal: i=1; cv=none; a=rsa-sha256;") and whole.endswith(FRONT + MESSAGE)
    assert b"ARC-Authentication-Results: i=1; gateway.example; spf=pass" in whole
    result, _, reason = dkim.arc_verify(whole, dnsfunc=lambda name, timeout=5: KEY.record.encode())
    assert result == b"pass", reason


@pytest.mark.parametrize("hops", [1, 3])
def test_a_set_goes_on_top_of_a_whole_chain(hops: int) -> None:
    content = signed()
    for number in range(1, hops + 1):
        content = others_set(content, number, domain=f"hop{number}.example")
    whole = sealed(content, "pass")
    found = verdict(whole)
    assert (found.result, found.reason) == ("pass", f"{hops + 1} sets, the newest of ours.example")
    assert b"dkim-signature" in split_header_section(whole)[0].partition(b"bh=")[2].partition(b"b=")[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"this  is all", b"this is not all"),
        (b"Subject: Hello", b"Subject: Goodbye"),
        (b"spf=pass", b"spf=fail"),
        (b"cv=none", b"cv=pass"),
        (b"From: Anna", b"From: Eve"),
    ],
)
def test_a_change_breaks_it(old: bytes, new: bytes) -> None:
    whole = sealed(MESSAGE, "none")
    assert old in whole and verdict(whole.replace(old, new, 1)).result == "fail"


def _sets(number: int) -> bytes:
    one = b"ARC-Seal: i=%d; x=1\r\nARC-Message-Signature: i=%d; x=1\r\nARC-Authentication-Results: i=%d; x\r\n"
    return b"".join(one % (at, at, at) for at in range(number, 0, -1)) + MESSAGE


@pytest.mark.parametrize(
    ("content", "chain_result", "why"),
    [
        (_sets(1), "fail", "is fail"),
        (_sets(1), "temperror", "is temperror"),
        (_sets(1), "none", "is none"),
        (MESSAGE, "pass", "is pass"),
        (b"ARC-Seal: i=1; x=1\r\n" + MESSAGE, "fail", "not complete"),
        (_sets(MOST_SETS), "pass", f"{MOST_SETS} sets"),
    ],
    ids=range(6),
)
def test_nothing_is_said_of_a_chain_that_was_not_found_whole(content: bytes, chain_result: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        sealed(content, chain_result)


def test_a_seal_needs_rsa() -> None:
    with pytest.raises(Refused, match="RSA"):
        sealed(MESSAGE, "none", make_key("ed25519"))
