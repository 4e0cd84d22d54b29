"""DKIM against a real name server: what passes, what was altered, and what dkimpy alone would have let pass."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mail.header import split_header_section
from egressguard.senderauth.message import Message
from egressguard.senderauth.resolver import Questions
from egressguard.senderauth.signatures import MOST_SIGNATURES, check_dkim
from egressguard.senderauth.verdict import Verdict, overall
from egressguard.senderauth.workers import Workers
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import MESSAGE, ed25519_key, retagged, rsa_key, signed, txt


def _key(selector: str, record: str) -> str:
    return txt(f"{selector}._domainkey.sender.example", record)


def zone() -> str:
    good = rsa_key()[1]
    return (
        _key("s1", good)
        + _key("ed", ed25519_key()[1])
        + _key("short", rsa_key(768)[1])
        + _key("revoked", "v=DKIM1; k=rsa; p=")
        + _key("testing", good + "; t=y")
        + _key("strict", good + "; t=s")
        + _key("tlsrpt", good + "; s=tlsrpt")
        + _key("services", good + "; s=other:email")
        + _key("sha1", good + "; h=sha1")
        + _key("sha256", good + "; h=sha1 : sha256")
        + _key("version", good.replace("DKIM1", "DKIM2"))
        + _key("rubbish", "v=DKIM1; k=rsa; p=AAAA")
        + _key("text", "no key at all")
        + _key("huge", "v=DKIM1; k=rsa; p=" + base64.b64encode(b"\x30" * 4_000).decode())
        + _key("two", good) + 'two._domainkey.sender.example. 300 TXT "v=spf1 -all"\n'
    )  # fmt: skip


async def _check(content: bytes, now: float | None, whole: bool) -> tuple[Verdict, ...]:
    server = NameServer(zone(), failing=["broken._domainkey.sender.example"], silent=["mute._domainkey.sender.example"])
    workers = Workers(2)
    header_section = split_header_section(content)[0]
    try:
        async with running(server, lifetime_seconds=1.0) as resolver:
            message = Message(header_section, content if whole else None)
            questions = Questions(resolver, MOST_SIGNATURES)
            return await check_dkim(message, questions, workers, time.time() if now is None else now)
    finally:
        workers.close()


def check(content: bytes, *, now: float | None = None, whole: bool = True) -> tuple[Verdict, ...]:
    return asyncio.run(_check(content, now, whole))


def one(content: bytes, **options: float) -> tuple[str, str]:
    (verdict,) = check(content, **options)  # type: ignore[arg-type]
    return verdict.result, verdict.reason


def test_unsigned_is_none() -> None:
    assert one(MESSAGE) == ("none", "not signed")


@pytest.mark.parametrize("canonical", ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"])
@pytest.mark.parametrize(("algorithm", "selector"), [("rsa-sha256", "s1"), ("ed25519-sha256", "ed")])
def test_what_was_signed_passes(canonical: str, algorithm: str, selector: str) -> None:
    (verdict,) = check(signed(canonical=canonical, algorithm=algorithm, selector=selector))
    assert verdict.result == "pass", verdict
    assert dict(verdict.properties).items() >= {"header.d": "sender.example", "header.s": selector}.items()
    assert verdict.value("header.a") == algorithm
    assert len(verdict.value("header.b")) == 8


@pytest.mark.parametrize("algorithm", ["rsa-sha256", "ed25519-sha256"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"this  is all", b"this  is not all"),
        (b"Subject: Hello", b"Subject: Goodbye"),
        (b"From: Anna", b"From: Mallory"),
        (b"From: Anna", b"From: mallory@evil.example\r\nFrom: Anna"),
    ],
)
def test_what_was_altered_fails(algorithm: str, before: bytes, after: bytes) -> None:
    content = signed(algorithm=algorithm, selector="ed" if algorithm.startswith("ed") else "s1")
    assert before in content
    assert one(content.replace(before, after))[0] == "fail"


def test_relaxed_forgives_what_relays_do() -> None:
    content = (
        signed().replace(b"Subject: Hello  there", b"SUBJECT:   Hello\r\n\t there ").replace(b"is all. ", b"is  all.")
    )
    assert one(content) == ("pass", "")


@pytest.mark.parametrize(
    ("selector", "result", "reason"),
    [
        ("missing", "permerror", "no key record"),
        ("text", "permerror", "no key record"),
        ("revoked", "permerror", "the key is revoked"),
        ("rubbish", "permerror", "the key cannot be read"),
        ("huge", "permerror", "no key record"),
        ("version", "permerror", "the key record is of an unknown version"),
        ("sha1", "permerror", "the key is not for sha256"),
        ("tlsrpt", "permerror", "the key is not for mail"),
        ("ed", "permerror", "the key is for another algorithm"),
        ("broken", "temperror", "DNS gave no answer for the key"),
        ("mute", "temperror", "DNS gave no answer for the key"),
        ("services", "pass", ""),
        ("sha256", "pass", ""),
        ("two", "pass", ""),
        ("strict", "pass", ""),
        ("testing", "pass", "the domain is testing"),
    ],
)
def test_keys(selector: str, result: str, reason: str) -> None:
    assert one(signed(selector=selector)) == (result, reason)


def test_a_domain_that_is_testing_does_not_fail() -> None:
    assert one(signed(selector="testing") + b"x\r\n")[0] == "neutral"


def test_short_rsa_keys_are_not_accepted() -> None:
    assert one(signed(selector="short", pem=rsa_key(768)[0])) == ("policy", "an RSA key of 768 bits")


def test_sha1_is_not_accepted() -> None:
    assert one(signed(algorithm="rsa-sha1")) == ("policy", "rsa-sha1 is not accepted")


def test_a_key_for_d_itself_does_not_serve_what_is_below() -> None:
    assert one(signed(selector="strict", identity=b"@list.sender.example"))[0] == "permerror"
    assert one(signed(selector="s1", identity=b"@list.sender.example"))[0] == "pass"


def test_a_signature_expires() -> None:
    made = int(time.time())
    content = retagged(MESSAGE, t=str(made), x=str(made + 3600))
    assert one(content, now=made + 60)[0] == "pass"
    assert one(content, now=made + 3 * 3600) == ("fail", "the signature has expired")


@pytest.mark.parametrize(
    ("tags", "result"),
    [
        ({}, "pass"),
        ({"h": "to:subject"}, "permerror"),  # From is not signed
        ({"h": "from:" + ":".join(f"x{i}" for i in range(250))}, "policy"),
        ({"v": "2"}, "permerror"),
        ({"d": ""}, "permerror"),
        ({"d": "sender..example"}, "permerror"),
        ({"s": "a b"}, "permerror"),
        ({"i": "sender.example"}, "permerror"),
        ({"i": "@other.example"}, "permerror"),
        ({"x": "9" * 5000}, "fail"),
        ({"t": "9" * 12}, "permerror"),
        ({"l": "x"}, "permerror"),
        ({"l": "999999"}, "fail"),
        ({"q": "http"}, "permerror"),
        ({"c": "nowhere/else"}, "permerror"),
        ({"bh": "????"}, "permerror"),
        ({"z": "a" * 9000}, "policy"),
    ],
)
def test_what_a_signer_may_not_say(tags: dict[str, str], result: str) -> None:
    assert one(retagged(MESSAGE, **tags))[0] == result


def test_the_whole_body_may_be_counted_and_not_a_part_of_it() -> None:
    content = signed(length=True)
    assert one(content) == ("pass", "l= covers the whole body")
    result, reason = one(content + b"And buy this!\r\n")
    assert (result, reason[:9]) == ("policy", "l= leaves")


def test_each_signature_has_its_verdict_and_one_pass_is_enough() -> None:
    content = signed(signed(selector="missing"), algorithm="ed25519-sha256", selector="ed")
    verdicts = check(content)
    assert [verdict.result for verdict in verdicts] == ["pass", "permerror"]
    assert overall(verdicts).result == "pass"


def test_only_so_many_signatures_are_looked_at() -> None:
    content = signed()
    for _ in range(MOST_SIGNATURES):
        content = b"DKIM-Signature: v=1; a=rsa-sha256\r\n" + content
    verdicts = check(content)
    assert len(verdicts) == MOST_SIGNATURES
    assert {verdict.result for verdict in verdicts} == {"permerror"}


def test_a_message_too_large_to_be_held_has_no_pass_and_no_fail() -> None:
    (verdict,) = check(signed(), whole=False)
    assert (verdict.result, verdict.value("header.d")) == ("policy", "sender.example")


@pytest.mark.parametrize(
    "value",
    [
        b"v=1; b" + b" " * 100_000 + b"\r\n",
        b"v=1; b=" + b"\t\r\n\t" * 2000 + b"!\r\n",
        b"v=1; a=rsa-sha256; d=sender.example; s=s1; h=from; bh=AAAA; b=" + b"A" * 8000 + b"\r\n",
        b";" * 8000 + b"\r\n",
        b"v=1; v=1\r\n",
        b"\xff\xfe\r\n",
    ],
    ids=["blanks", "folds", "long b=", "empty tags", "twice", "octets"],
)
def test_fields_made_to_take_time_are_refused(value: bytes) -> None:
    (verdict,) = check(b"DKIM-Signature: " + value + MESSAGE)
    assert verdict.result in {"policy", "permerror"}


# RFC 8463 appendix A.2 and A.3: keys and a message signed by somebody else's program.
_RFC_8463 = b"""DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
""".replace(b"\n", b"\r\n")
_RFC_8463_KEYS = txt(
    "brisbane._domainkey.football.example.com",
    "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
) + txt(
    "test._domainkey.football.example.com",
    "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/"
    "J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT"
    "+l/K4w3QIDAQAB",
)


@pytest.mark.parametrize(("change", "result"), [((b"", b""), "pass"), ((b"hungry", b"thirsty"), "fail")])
def test_the_message_of_rfc_8463(change: tuple[bytes, bytes], result: str) -> None:
    async def verify() -> list[str]:
        workers = Workers(1)
        content = _RFC_8463.replace(*change) if change[0] else _RFC_8463
        async with running(NameServer(_RFC_8463_KEYS)) as resolver:
            message = Message(split_header_section(content)[0], content)
            verdicts = await check_dkim(message, Questions(resolver, 2), workers, time.time())
        workers.close()
        return [verdict.result for verdict in verdicts]

    assert asyncio.run(verify()) == [result, result]


_TAG = st.tuples(
    st.sampled_from(["v", "a", "b", "bh", "c", "d", "h", "i", "l", "q", "s", "t", "x", "z", ""]),
    st.one_of(
        st.text(max_size=12), st.sampled_from(["1", "rsa-sha256", "from", "relaxed", "sender.example", "s1", "AAAA"])
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_TAG, max_size=12), st.binary(max_size=40))
def test_no_signature_breaks_the_check(tags: list[tuple[str, str]], noise: bytes) -> None:
    value = ";".join(f"{name}={text}" for name, text in tags).encode() + noise
    value = value.replace(b"\r", b"").replace(b"\n", b"")
    assert overall(check(b"DKIM-Signature: " + value + b"\r\n" + MESSAGE)).result not in {"pass", "temperror"}
