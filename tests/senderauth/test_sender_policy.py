"""SPF against a real name server: the seven results, the limits of RFC 7208 s4.6.4, and hostile records."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.senderauth.resolver import Questions, Records
from egressguard.senderauth.sender_policy import (
    MOST_QUESTIONS,
    Identity,
    Question,
    check_spf,
    evaluate,
    helo_name,
    mail_from,
)
from egressguard.senderauth.verdict import Verdict
from egressguard.senderauth.workers import Workers
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import txt

GOOD, BAD, GOOD_6 = "192.0.2.10", "198.51.100.9", "2001:db8::10"

ZONE = (
    txt("pass.example", "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/64 -all")
    + txt("soft.example", "v=spf1 ip4:192.0.2.0/24 ~all")
    + txt("neutral.example", "v=spf1 ip4:192.0.2.0/24 ?all")
    + txt("silent-end.example", "v=spf1 ip4:192.0.2.0/24")
    + txt("other.example", "some other text")
    + txt("twice.example", "v=spf1 -all") + 'twice.example. 300 TXT "v=spf1 +all"\n'
    + txt("typo.example", "v=spf1 ipv4:192.0.2.10 -all")
    + txt("includes.example", "v=spf1 include:pass.example -all")
    + txt("includes-none.example", "v=spf1 include:other.example -all")
    + txt("includes-failing.example", "v=spf1 include:broken.example -all")
    + txt("redirects.example", "v=spf1 Redirect=pass.example")
    + txt("hosts.example", "v=spf1 a:host.example mx:mx.example -all")
    + "host.example. 300 A 192.0.2.77\nhost.example. 300 AAAA 2001:db8::10\n"
    + "mx.example. 300 MX 10 mail.mx.example.\nmail.mx.example. 300 A 192.0.2.10\n"
    + txt("pointer.example", "v=spf1 ptr:pointer.example -all")
    + "10.2.0.192.in-addr.arpa. 300 PTR out.pointer.example.\n"
    + "10.2.0.192.in-addr.arpa. 300 PTR gone.broken.example.\nout.pointer.example. 300 A 192.0.2.10\n"
    + txt("macros.example", "v=spf1 exists:%{l}.%{ir}.%{v}.%{d} -all")
    + "anna.10.2.0.192.in-addr.macros.example. 300 A 127.0.0.2\n"
    + txt("explains.example", "v=spf1 -all exp=why.explains.example") + txt("why.explains.example", "Because.")
    + "".join(txt(f"n{i}.example", f"v=spf1 include:n{i + 1}.example ?all") for i in range(15))
    + txt("n15.example", "v=spf1 ?all")
    + txt("ten.example", "v=spf1 " + " ".join(f"a:host{i}.ten.example" for i in range(10)) + " +all")
    + "".join(f"host{i}.ten.example. 300 A 203.0.113.{i}\n" for i in range(10))
    + txt("eleven.example", "v=spf1 " + " ".join(f"a:host{i}.ten.example" for i in range(10)) + " mx:ten.example +all")
    + txt("void2.example", "v=spf1 a:v1.void.example a:v2.void.example +all")
    + txt("void3.example", "v=spf1 a:v1.void.example a:v2.void.example a:v3.void.example +all")
    + txt("manymx.example", "v=spf1 mx -all")
    + "".join(f"manymx.example. 300 MX {i} host{i}.ten.example.\n" for i in range(11))
    + txt("long.example", "v=spf1 " + " ".join(f"ip4:203.0.113.{i}" for i in range(150)) + " -all")
    + txt("term.example", "v=spf1 a:." + "a" * 3000 + "! -all")
    + txt("digits.example", "v=spf1 exists:%{d" + "9" * 600 + "}.example -all")
    + txt("alias-target.example", "v=spf1 ip4:192.0.2.0/24 -all")
    + "alias.example. 300 CNAME alias-target.example.\n"
    + txt("xn--bcher-kva.example", "v=spf1 ip4:192.0.2.0/24 -all")
)  # fmt: skip


async def _check(identity: Identity, server: NameServer) -> Verdict:
    workers = Workers(1)
    try:
        async with running(server, lifetime_seconds=1.0) as resolver:
            return await check_spf(identity, Questions(resolver, MOST_QUESTIONS), workers)
    finally:
        workers.close()


def check(identity: Identity, server: NameServer | None = None) -> Verdict:
    server = server or NameServer(ZONE, failing=["broken.example"], silent=["mute.example"])
    return asyncio.run(_check(identity, server))


@pytest.mark.parametrize(
    ("client", "sender", "result"),
    [
        (GOOD, "anna@pass.example", "pass"),
        (GOOD_6, "anna@pass.example", "pass"),
        ("::ffff:192.0.2.10", "anna@pass.example", "pass"),
        (BAD, "anna@pass.example", "fail"),
        (BAD, "anna@soft.example", "softfail"),
        (BAD, "anna@neutral.example", "neutral"),
        (BAD, "anna@silent-end.example", "neutral"),
        (GOOD, "anna@other.example", "none"),
        (GOOD, "anna@nowhere.example", "none"),
        (GOOD, "anna@broken.example", "temperror"),
        (GOOD, "anna@mute.example", "temperror"),
        (GOOD, "anna@twice.example", "permerror"),
        (GOOD, "anna@typo.example", "permerror"),
        (GOOD, "anna@includes.example", "pass"),
        (BAD, "anna@includes.example", "fail"),
        (GOOD, "anna@includes-none.example", "permerror"),
        (GOOD, "anna@includes-failing.example", "temperror"),
        (GOOD, "anna@redirects.example", "pass"),
        (BAD, "anna@redirects.example", "fail"),
        (GOOD, "anna@hosts.example", "pass"),
        (GOOD_6, "anna@hosts.example", "pass"),
        (GOOD, "anna@pointer.example", "pass"),
        (BAD, "anna@pointer.example", "fail"),
        (GOOD, "anna@macros.example", "pass"),
        (GOOD, "bert@macros.example", "fail"),
        (BAD, "anna@explains.example", "fail"),
        (GOOD, "anna@alias.example", "pass"),
        (GOOD, "anna@b\u00fccher.example", "pass"),
        (GOOD, '"a@b"@pass.example', "pass"),
        (BAD, '"a@pass.example "@other.example', "none"),
        (GOOD, "anna@[192.0.2.10]", "none"),
        (GOOD, "anna@single", "none"),
    ],
)  # fmt: skip
def test_each_result(client: str, sender: str, result: str) -> None:
    verdict = check(mail_from(client, "mail.example", sender))
    assert (verdict.result, verdict.value("smtp.mailfrom")) == (result, sender), verdict


@pytest.mark.parametrize(
    ("domain", "result"),
    [
        ("ten.example", "pass"),  # ten terms that ask
        ("eleven.example", "permerror"),
        ("n0.example", "permerror"),  # includes fifteen deep
        ("void2.example", "pass"),
        ("void3.example", "permerror"),
        ("manymx.example", "permerror"),
        ("long.example", "fail"),  # over one UDP answer: TCP
    ],
)
def test_limits_of_rfc_7208(domain: str, result: str) -> None:
    assert check(mail_from(BAD, "mail.example", f"x@{domain}")).result == result


@pytest.mark.parametrize("domain", ["term.example", "digits.example"])
def test_a_record_made_to_take_time_is_refused(domain: str) -> None:
    assert check(mail_from(GOOD, "mail.example", f"x@{domain}")).result == "permerror"


def test_the_null_reverse_path_is_checked_as_helo() -> None:
    verdict = check(mail_from(GOOD, "pass.example", ""))
    assert (verdict.result, verdict.properties) == ("pass", (("smtp.helo", "pass.example"),))


@pytest.mark.parametrize(("helo", "result"), [("pass.example", "fail"), ("[198.51.100.9]", "none"), ("x y", "none")])
def test_helo_is_an_identity_of_its_own(helo: str, result: str) -> None:
    assert check(helo_name(BAD, helo)).result == result


def test_explanations_are_never_fetched() -> None:
    server = NameServer(ZONE)
    assert check(mail_from(BAD, "mail.example", "x@explains.example"), server).result == "fail"
    assert not [name for name, _ in server.asked if name.startswith("why.")]


def test_what_matched_is_told() -> None:
    assert check(mail_from(BAD, "mail.example", "x@pass.example")).reason == "matched -all"


def test_sessions_at_the_same_time_do_not_see_each_others_answers() -> None:
    async def many() -> list[str]:
        workers = Workers(4)
        async with running(NameServer(ZONE)) as resolver:
            identities = [mail_from((GOOD, BAD)[i % 2], "mail.example", f"u{i}@hosts.example") for i in range(40)]
            checks = [check_spf(one, Questions(resolver, MOST_QUESTIONS), workers) for one in identities]
            verdicts = await asyncio.gather(*checks)
        workers.close()
        return [verdict.result for verdict in verdicts]

    assert asyncio.run(many()) == ["pass", "fail"] * 20


_TERMS = st.sampled_from(
    ["a", "mx", "ptr", "-all", "include:%{d}", "exists:%{l1r+}.%{i}", "redirect=x.example", "exp=%{p}", "%{z9999}",
     "ip4:192.0.2.0/24", "ip6:::/0", "%{", "a:%{", "A/33", "mx//129", "=", "all:x", "a:" + "b." * 120 + "c", "\u00e9"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(_TERMS, st.text(max_size=20)), max_size=12), st.text(max_size=10), st.booleans())
def test_no_record_breaks_the_evaluation(terms: list[str], local_part: str, void: bool) -> None:
    record = ("v=spf1 " + " ".join(terms)).encode("utf-8", "replace")
    values = {"TXT": (record,), "A": ("192.0.2.1",), "AAAA": (), "MX": ((10, "x.example"),), "PTR": ("y.example",)}
    answers: dict[Question, Records] = {}
    identity = mail_from(GOOD, "mail.example", f"{local_part}@sender.example")
    for _ in range(MOST_QUESTIONS * 2):
        outcome = evaluate(identity, answers)
        if isinstance(outcome, Verdict):
            return
        answers[outcome] = Records(() if void and outcome.kind != "TXT" else values[outcome.kind])
    pytest.fail(f"asks without end: {record!r}")
