"""DMARC: discovery against a real name server, records as domains write them, and the judgement as a table."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.senderauth.author import Author
from egressguard.senderauth.author_policy import MOST_QUESTIONS, Published, find_policy, judge, read_policy
from egressguard.senderauth.domains import aligned, ascii_domain, organizational_domain
from egressguard.senderauth.resolver import Questions
from egressguard.senderauth.verdict import DomainPolicy, Verdict
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import txt

ZONE = (
    txt("_dmarc.strict.example", "v=DMARC1; p=reject; adkim=s; aspf=s; pct=50")
    + txt("_dmarc.relaxed.example", "v=DMARC1; p=quarantine; sp=reject")
    + txt("_dmarc.own.relaxed.example", "v=DMARC1; p=none")
    + txt("_dmarc.shop.co.uk", "v=DMARC1;p=reject")
    + txt("_dmarc.co.uk", "v=DMARC1;p=none")
    + txt("_dmarc.noise.example", "v=spf1 -all") + '_dmarc.noise.example. 300 TXT "v=DMARC1; p=reject"\n'
    + txt("_dmarc.twice.example", "v=DMARC1; p=none") + '_dmarc.twice.example. 300 TXT "v=DMARC1; p=reject"\n'
    + txt("_dmarc.broken-record.example", "v=DMARC1; p=whatever")
    + txt("_dmarc.reports.example", "v=DMARC1; p=whatever; rua=mailto:x@reports.example")
    + txt("_dmarc.else.example", "v=DMARC12; p=reject")
)  # fmt: skip


def find(domain: str) -> tuple[Published, int]:
    async def ask() -> tuple[Published, int]:
        server = NameServer(ZONE, failing=["_dmarc.failing.example"])
        async with running(server, lifetime_seconds=1.0) as resolver:
            published = await find_policy(Author(domain), Questions(resolver, MOST_QUESTIONS))
        return published, sum(server.asked.values())

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("author", "policy"),
    [
        ("strict.example", DomainPolicy("strict.example", "reject", 50, strict_dkim=True, strict_spf=True)),
        ("relaxed.example", DomainPolicy("relaxed.example", "quarantine")),
        ("a.b.relaxed.example", DomainPolicy("relaxed.example", "reject")),
        ("own.relaxed.example", DomainPolicy("own.relaxed.example", "none")),
        ("mail.shop.co.uk", DomainPolicy("shop.co.uk", "reject")),
        ("noise.example", DomainPolicy("noise.example", "reject")),
        ("reports.example", DomainPolicy("reports.example", "none")),
    ],
)
def test_policies_are_found(author: str, policy: DomainPolicy) -> None:
    published, questions = find(author)
    assert published.policy == policy
    assert questions <= MOST_QUESTIONS


@pytest.mark.parametrize(
    ("author", "result"),
    [
        ("nowhere.example", "none"),
        ("another.co.uk", "none"),  # a public suffix says nothing of those below it
        ("twice.example", "none"),
        ("else.example", "none"),
        ("broken-record.example", "permerror"),
        ("failing.example", "temperror"),
    ],
)
def test_without_a_policy(author: str, result: str) -> None:
    published, _ = find(author)
    assert (published.policy, published.without.result) == (None, result)


def test_no_author_no_questions() -> None:
    async def ask() -> Published:
        server = NameServer(ZONE)
        async with running(server) as resolver:
            published = await find_policy(Author("", "no From field"), Questions(resolver, MOST_QUESTIONS))
        assert not server.asked
        return published

    without = asyncio.run(ask()).without
    assert (without.result, without.reason) == ("permerror", "no From field")


@pytest.mark.parametrize(
    ("record", "disposition", "percent"),
    [
        (b"v=DMARC1; p=reject", "reject", 100),
        (b"v=DMARC1;p=REJECT;", "reject", 100),
        (b"v=DMARC1 ; p = quarantine ; pct = 20", "quarantine", 20),
        (b"v=DMARC1; p=reject; pct=many; unknown=1; ;; = ; rf=?", "reject", 100),
        (b"v=DMARC1; p=reject; pct=5000", "reject", 100),
        (b"v=DMARC1; p=reject; adkim=x", "reject", 100),
        (b"v=DMARC1; p=reject; pct=" + b"9" * 4000, "reject", 100),
        (b"v=DMARC1; rua=mailto:a@b.example", "none", 100),
        (b"v=DMARC1; p=reject; sp=x; rua=mailto:a@b.example", "none", 100),
    ],
)
def test_records_are_read_as_far_as_they_can_be(record: bytes, disposition: str, percent: int) -> None:
    policy = read_policy(record, "sender.example", of_subdomain=False)
    assert policy is not None
    assert (policy.disposition, policy.percent) == (disposition, percent)


@pytest.mark.parametrize(
    "record",
    [b"", b"v=DMARC1", b"v=DMARC1; rua=x", b"p=reject; v=DMARC1", b"v=DMARC1; p=reject; sp=x", b"v=DMARC1; " * 900],
)
def test_records_that_say_nothing(record: bytes) -> None:
    assert read_policy(record, "sender.example", of_subdomain=False) is None


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(st.binary(max_size=60), st.text(alphabet="v=DMARC1;psrejctnoualimd :/x9", max_size=60).map(str.encode))
)
def test_no_record_breaks_the_reading(noise: bytes) -> None:
    policy = read_policy(b"v=DMARC1; p=reject;" + noise, "sender.example", of_subdomain=True)
    assert policy is None or (policy.disposition in {"none", "quarantine", "reject"} and 0 <= policy.percent <= 100)


def spf(result: str, domain: str) -> Verdict:
    return Verdict("spf", result, "", (("smtp.mailfrom", f"x@{domain}"),))  # type: ignore[arg-type]


def dkim(result: str, domain: str) -> Verdict:
    return Verdict("dkim", result, "", (("header.d", domain),) if domain else ())  # type: ignore[arg-type]


OWN, BELOW, OTHER = "sender.example", "mail.sender.example", "other.example"


@pytest.mark.parametrize(
    ("spf", "signature", "strict", "whole", "result", "speak"),
    [
        (spf("pass", OWN), dkim("none", ""), False, True, "pass", ("spf",)),
        (spf("fail", OWN), dkim("pass", OWN), False, True, "pass", ("dkim",)),
        (spf("pass", OWN), dkim("pass", OWN), False, True, "pass", ("spf", "dkim")),
        (spf("pass", BELOW), dkim("none", ""), False, True, "pass", ("spf",)),
        (spf("pass", BELOW), dkim("none", ""), True, True, "fail", ()),
        (spf("fail", OWN), dkim("pass", BELOW), False, True, "pass", ("dkim",)),
        (spf("fail", OWN), dkim("pass", BELOW), True, True, "fail", ()),
        (spf("pass", OTHER), dkim("pass", OTHER), False, True, "fail", ()),
        (spf("pass", "example"), dkim("pass", "example"), False, True, "fail", ()),  # a public suffix
        (spf("softfail", OWN), dkim("fail", OWN), False, True, "fail", ()),
        (spf("temperror", OWN), dkim("fail", OWN), False, True, "temperror", ()),
        (spf("temperror", OTHER), dkim("fail", OWN), False, True, "fail", ()),
        (spf("fail", OWN), dkim("temperror", BELOW), False, True, "temperror", ()),
        (spf("fail", OWN), dkim("temperror", OTHER), False, True, "fail", ()),
        (spf("fail", OWN), dkim("temperror", ""), False, True, "temperror", ()),
        (spf("temperror", OWN), dkim("pass", OWN), False, True, "pass", ("dkim",)),
        (spf("fail", OWN), dkim("policy", OWN), False, True, "fail", ()),
        (spf("fail", OWN), dkim("policy", OWN), False, False, "permerror", ()),
        (spf("fail", OWN), dkim("policy", OTHER), False, False, "fail", ()),
        (spf("fail", OWN), dkim("none", ""), False, False, "fail", ()),
        (spf("pass", OWN), dkim("policy", OWN), False, False, "pass", ("spf",)),
    ],
)
def test_judgement(
    spf: Verdict, signature: Verdict, strict: bool, whole: bool, result: str, speak: tuple[str, ...]
) -> None:
    policy = DomainPolicy(OWN, "reject", strict_dkim=strict, strict_spf=strict)
    published = Published(policy, Verdict("dmarc", "none"))
    verdict, passed = judge(Author(OWN), published, spf, (signature,), whole=whole)
    assert (verdict.result, passed, verdict.value("header.from")) == (result, speak, OWN)


@pytest.mark.parametrize(
    ("domain", "organization"),
    [
        ("a.b.sender.example", "sender.example"),
        ("sender.example", "sender.example"),
        ("example", "example"),
        ("a.shop.co.uk", "shop.co.uk"),
        ("co.uk", "co.uk"),
        ("a.b.city.kawasaki.jp", "city.kawasaki.jp"),
    ],
)
def test_organizational_domains(domain: str, organization: str) -> None:
    assert organizational_domain(domain) == organization


def test_siblings_below_a_public_suffix_are_strangers() -> None:
    assert not aligned("one.co.uk", "two.co.uk", strict=False)
    assert not aligned("co.uk", "two.co.uk", strict=False)
    assert aligned("a.two.co.uk", "b.two.co.uk", strict=False)


@pytest.mark.parametrize(
    ("text", "domain"),
    [("Sender.Example", "sender.example"), ("bücher.example", "xn--bcher-kva.example"), ("[192.0.2.1]", None),
     ("a..b", None), ("", None), ("a b.example", None), ("x" * 64 + ".example", None), ("a.example.", None)],
)  # fmt: skip
def test_domains_as_dns_is_asked(text: str, domain: str | None) -> None:
    assert ascii_domain(text) == domain
