"""All checks of a message at once, against a real name server; whatever comes, there is an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from egressguard.mail.header import split_header_section
from egressguard.policy.facts import Authentication
from egressguard.senderauth.check import MOST_QUESTIONS, Checker
from egressguard.senderauth.resolver import Resolver
from egressguard.senderauth.results_field import authentication_results
from egressguard.senderauth.verdict import SenderAuthentication
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import MESSAGE, arc_set, rsa_key, signed, txt

GOOD, BAD = "192.0.2.10", "198.51.100.9"
SILENT = ["mute.example"]


def zone() -> str:
    return (
        txt("sender.example", "v=spf1 ip4:192.0.2.0/24 -all")
        + txt("_dmarc.sender.example", "v=DMARC1; p=reject; sp=quarantine")
        + txt("s1._domainkey.sender.example", rsa_key()[1])
        + txt("arc._domainkey.list.example", rsa_key()[1])
        + txt("plain.example", "v=spf1 ip4:192.0.2.0/24 -all")
        + txt("mail.sender.example", "v=spf1 a -all")
        + "mail.sender.example. 300 A 192.0.2.10\n"
    )


async def _check(
    messages: Sequence[tuple[str, str, str, bytes, bool]], server: NameServer, deadline_seconds: float = 10.0
) -> list[SenderAuthentication]:
    async with running(server, lifetime_seconds=2.0) as resolver:
        checker = Checker(resolver, deadline_seconds=deadline_seconds)
        try:
            return await asyncio.gather(
                *(
                    checker.check(
                        ip_address(client), helo, path, content if whole else None, split_header_section(content)[0]
                    )
                    for client, helo, path, content, whole in messages
                )
            )
        finally:
            checker.close()


def check(
    client: str, path: str, content: bytes, *, helo: str = "mail.sender.example", whole: bool = True
) -> SenderAuthentication:
    server = NameServer(zone(), failing=["broken.example"])
    (result,) = asyncio.run(_check([(client, helo, path, content, whole)], server))
    assert sum(server.asked.values()) <= MOST_QUESTIONS
    return result


def from_(domain: str) -> bytes:
    return MESSAGE.replace(b"anna@sender.example", b"anna@" + domain.encode())


@pytest.mark.parametrize(
    ("client", "path", "content", "summary", "aligned"),
    [
        (GOOD, "anna@sender.example", signed(), ("pass", "pass", "pass"), ("spf", "dkim")),
        (GOOD, "anna@sender.example", MESSAGE, ("pass", "none", "pass"), ("spf",)),
        (BAD, "anna@sender.example", signed(), ("fail", "pass", "pass"), ("dkim",)),
        (BAD, "anna@sender.example", MESSAGE, ("fail", "none", "fail"), ()),
        (GOOD, "x@plain.example", MESSAGE, ("pass", "none", "fail"), ()),
        (GOOD, "x@plain.example", signed(), ("pass", "pass", "pass"), ("dkim",)),
        (GOOD, "x@plain.example", signed() + b"more\r\n", ("pass", "fail", "fail"), ()),
        (GOOD, "x@plain.example", from_("plain.example"), ("pass", "none", "none"), ()),
        (GOOD, "x@mail.sender.example", MESSAGE, ("pass", "none", "pass"), ("spf",)),
        (GOOD, "", MESSAGE, ("pass", "none", "pass"), ("spf",)),  # HELO is below the author's domain
        (GOOD, "x@broken.example", from_("broken.example"), ("temperror", "none", "temperror"), ()),
        (GOOD, "x@plain.example", b"From: a@b.example\r\n" + MESSAGE, ("pass", "none", "permerror"), ()),
        (GOOD, "x@plain.example", b"Subject: nobody\r\n\r\nx\r\n", ("pass", "none", "permerror"), ()),
    ],
)
def test_summaries(
    client: str, path: str, content: bytes, summary: tuple[str, str, str], aligned: tuple[str, ...]
) -> None:
    result = check(client, path, content)
    assert (result.summary, result.aligned) == (Authentication(*summary), aligned), result


def test_what_the_domain_asks_for() -> None:
    own = check(BAD, "x@plain.example", MESSAGE)
    assert (own.dmarc.result, own.disposition) == ("fail", "reject")
    below = check(BAD, "x@plain.example", from_("list.sender.example"))
    assert (below.dmarc.result, below.disposition) == ("fail", "quarantine")
    assert check(BAD, "x@plain.example", from_("plain.example")).disposition == "none"


def test_helo_has_a_verdict_of_its_own() -> None:
    result = check(BAD, "x@plain.example", MESSAGE, helo="mail.sender.example")
    assert (result.helo.result, result.helo.properties) == ("fail", (("smtp.helo", "mail.sender.example"),))


def test_a_forwarded_message_has_its_chain() -> None:
    result = check(BAD, "list@plain.example", arc_set(signed() + b"footer\r\n", 1, domain="list.example"))
    assert (result.arc.result, result.summary) == ("pass", Authentication("fail", "fail", "fail"))


def test_a_message_too_large_to_be_held_does_not_fail_for_it() -> None:
    result = check(BAD, "x@plain.example", signed(), whole=False)
    assert result.summary == Authentication("fail", "policy", "permerror")
    assert check(GOOD, "x@sender.example", signed(), whole=False).summary.dmarc == "pass"
    assert check(BAD, "x@plain.example", MESSAGE, whole=False).summary.dmarc == "fail"


def test_name_servers_that_are_silent_are_waited_for_only_so_long() -> None:
    server = NameServer(zone(), silent=["example", "arpa"])
    content = arc_set(signed(), 1, domain="list.example")
    (result,) = asyncio.run(_check([(GOOD, "h.example", "x@y.example", content, True)], server, deadline_seconds=0.3))
    words = [result.spf.result, result.helo.result, result.dkim[0].result, result.dmarc.result, result.arc.result]
    assert words == ["temperror"] * 5


def test_without_name_servers_nothing_is_known() -> None:
    async def nobody() -> SenderAuthentication:
        checker = Checker(Resolver(["127.0.0.1:1"], lifetime_seconds=0.3))
        content = signed()
        try:
            return await checker.check(ip_address(GOOD), "h.example", "x@y.example", content, content[:-1])
        finally:
            checker.close()

    assert asyncio.run(nobody()).spf.result == "temperror"


def test_a_closed_checker_still_answers() -> None:
    async def closed() -> SenderAuthentication:
        async with running(NameServer(zone())) as resolver:
            checker = Checker(resolver)
            checker.close()
            return await checker.check(ip_address(GOOD), "h.example", "x@y.example", MESSAGE, MESSAGE)

    result = asyncio.run(closed())
    assert (result.spf.result, result.dkim[0].result, result.dmarc.result) == ("temperror", "none", "temperror")


def test_results_are_counted() -> None:
    async def counted() -> float | None:
        registry = CollectorRegistry()
        async with running(NameServer(zone())) as resolver:
            checker = Checker(resolver, registry=registry)
            content = signed()
            await checker.check(ip_address(GOOD), "h", "x@sender.example", content, split_header_section(content)[0])
            checker.close()
        labels = {"method": "dmarc", "result": "pass"}
        return registry.get_sample_value("egressguard_senderauth_results_total", labels)

    assert asyncio.run(counted()) == 1.0


def test_messages_at_the_same_time_do_not_mix() -> None:
    cases = [(GOOD, "h.example", "x@sender.example", signed(), True), (BAD, "h", "y@plain.example", MESSAGE, True)] * 15
    results = asyncio.run(_check(cases, NameServer(zone())))
    words = [(result.spf.result, result.summary.dkim, result.summary.dmarc) for result in results]
    assert words == [("pass", "pass", "pass"), ("fail", "none", "fail")] * 15


DATA = Path(__file__).parent.parent / "data" / "mail"


@pytest.mark.parametrize("path", sorted(DATA.iterdir()), ids=lambda path: path.name)
def test_real_mail_goes_through(path: Path) -> None:
    content = path.read_bytes()
    crlf = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    for form in (content, crlf):
        result = check(BAD, "x@plain.example", form)
        assert result.spf.result == "fail"
        assert authentication_results("mx.site.example", result).endswith(b"\r\n")


def test_signed_real_mail_passes() -> None:
    for path in sorted(DATA.iterdir()):
        content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        section, rest = split_header_section(content)
        if not rest.startswith(b"\r\n") or b"\nFrom:" not in section:
            continue  # nobody could sign it
        assert check(GOOD, "x@plain.example", signed(content)).summary.dkim == "pass", path.name


_FIELDS = st.sampled_from(
    [b"From: a@sender.example\r\n", b"From: <\r\n", b"DKIM-Signature: v=1\r\n", b"ARC-Seal: i=1; cv=none\r\n", b"\r\n",
     b" folded\r\n", b"no field\r\n", b"X: \xff\0\r\n", b"\n", b"From : b@c.example\r\n"]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(_FIELDS, max_size=12).map(b"".join), st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_whatever_comes_there_is_an_answer(content: bytes, helo: str, path: str, whole: bool) -> None:
    result = check(GOOD, path, content, helo=helo, whole=whole)
    assert "pass" not in {result.summary.dkim, result.arc.result}
    assert authentication_results("mx.site.example", result).count(b"Authentication-Results:") == 1
