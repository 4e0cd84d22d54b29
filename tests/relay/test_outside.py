"""Mail from the world: who it is judged by, what rules learn of it, and what is put down with it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.policy.facts import ScanReport, ScanRequest
from egressguard.policy.model import Policy
from egressguard.quarantine.hold import Quarantine
from egressguard.relay.accept import Acceptance
from egressguard.relay.outgoing import Outgoing
from egressguard.relay.outside import Outside, Source, is_of_the_world, source_of
from egressguard.relay.return_paths import ReturnPaths
from egressguard.relay.signatures import Signatures
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content
from egressguard.store.limits import LimitStore
from egressguard.store.spool import SqliteSpool
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import MESSAGE, rsa_key, signed, txt

GOOD, BAD, SERVICE = "192.0.2.10", "198.51.100.9", "203.0.113.64"
STRANGER = SessionFacts(ipaddress.ip_address(GOOD), 40000, "world", "smtp", helo="mail.sender.example", esmtp=True)
HOST = "mx.site.example"
TO = "anna@site.example"
OUT = Envelope("anna@sender.example", (TO,))

ZONE = (
    txt("sender.example", "v=spf1 ip4:192.0.2.0/24 -all")
    + txt("_dmarc.sender.example", "v=DMARC1; p=reject")
    + txt("s1._domainkey.sender.example", rsa_key()[1])
    + "9.100.51.198.zen.example. 300 A 127.0.0.4\n"
    + "10.2.0.192.other.example. 300 A 127.0.0.2\n"
)
RULES: list[dict[str, Any]] = [
    {"name": "listed", "match": {"block_list": "zen"}, "action": "reject", "text": "You are on a list"},
    {"name": "disowned", "match": {"dmarc": "fail", "dmarc_policy": "reject"}, "action": "reject"},
    {"name": "own", "match": {"recipient_domain": "@local"}, "action": "accept"},
]


def policy_of(rules: list[dict[str, Any]] = RULES) -> Policy:
    site = {
        "zones": {"lan": {"networks": ["10.0.0.0/8"]}},
        "domains": ["site.example"],
        "block_lists": {
            "zen": {"zone": "zen.example", "answers": ["127.0.0.4"]},
            "other": {"zone": "other.example"},
        },
        "relay": {
            "hostname": HOST,
            "listeners": {"world": {"kind": "smtp", "port": 25}, "service": {"kind": "smtp", "port": 2525}},
            "relay_services": ["203.0.113.64/28"],
        },
    }
    return Policy.model_validate({"site": site, "mail": rules})


class NoScanner:
    async def scan(self, content: Content, request: ScanRequest) -> ScanReport:
        raise AssertionError("no rule asks for it")


class Boxes:
    """anna has a mailbox, with room."""

    def refusal(self, policy: Policy, forward_path: str) -> Reply | None:
        return None if forward_path.startswith("anna@") else Reply(550, "5.1.1", "No such mailbox here")

    def surely_fits(self, policy: Policy, forward_path: str, size_octets: int) -> bool:
        return True

    def no_room(self, policy: Policy, forward_path: str, size_octets: int) -> Reply | None:
        return None


@dataclass
class Desk:
    acceptance: Acceptance
    spool: SqliteSpool
    registry: CollectorRegistry
    journal: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    async def rcpt(self, session: SessionFacts) -> str:
        answer = self.acceptance.on_recipient(session, OUT.reverse_path, TO, None)
        return str(answer if isinstance(answer, Reply) else await answer)

    async def take(self, session: SessionFacts, content: Content | bytes, envelope: Envelope = OUT) -> str:
        taken = content if isinstance(content, Content) else Content.of(content)
        return str(await self.acceptance.on_message(session, envelope, taken))

    async def stored(self) -> bytes:
        (row,) = await self.spool.rows(10)
        return (await self.spool.content(row["queue_id"])).whole()

    async def notify(self) -> list[object]:
        (claim,) = await self.spool.claim(9e9, 10, lambda *_: 9e9)
        return [due.options.notify for due in claim.recipients]


Story = Callable[[Desk], Awaitable[None]]


def play(
    folder: Path,
    story: Story,
    *,
    rules: list[dict[str, Any]] = RULES,
    silent: tuple[str, ...] = (),
    more: str = "",
) -> None:
    async def whole() -> None:
        async with running(NameServer(ZONE + more, silent=silent), lifetime_seconds=1.0) as resolver:
            registry = CollectorRegistry()
            outside = Outside(resolver, registry)
            spool, limits = SqliteSpool(folder / "spool"), LimitStore(folder / "limits.sqlite")
            journal: list[tuple[str, Mapping[str, object]]] = []
            return_paths = ReturnPaths(folder / "secrets", registry, "smtpd")
            acceptance = Acceptance(
                policy_of(rules),
                hostname="unused.example",
                spool=spool,
                holder=Quarantine(folder / "quarantine", spool, lambda *_: None, registry),
                scanner=NoScanner(),
                limits=limits,
                outside=outside,
                outgoing=Outgoing(Signatures(folder / "secrets", registry, "smtpd"), return_paths),
                return_paths=return_paths,
                mailboxes=Boxes(),
                record=lambda kind, fields: journal.append((kind, fields)),
                registry=registry,
            )
            try:
                await story(Desk(acceptance, spool, registry, journal))
            finally:
                outside.close()
                limits.close()
                spool.close()

    asyncio.run(whole())


@pytest.mark.parametrize(
    ("change", "is_of_it"),
    [
        ({}, True),
        ({"client": "10.1.2.3"}, False),
        ({"client": "127.0.0.1"}, False),
        ({"client": "2001:db8::1"}, True),
        ({"kind": "submission"}, False),
        ({"user": "anna"}, False),
        ({"original_destination": "198.51.100.7:25"}, False),
    ],
)
def test_who_is_of_the_world(change: dict[str, Any], is_of_it: bool) -> None:
    if "client" in change:
        change = {"client": ipaddress.ip_address(change["client"])}
    assert is_of_the_world(policy_of(), replace(STRANGER, **change)) is is_of_it


SERVED = replace(STRANGER, client=ipaddress.ip_address(SERVICE), helo="out.service.example")


@pytest.mark.parametrize(
    ("section", "source"),
    [
        (
            b"Received: from mail.x.example (mail.x.example [198.51.100.9]) by a.service.example\r\n",
            (BAD, "mail.x.example"),
        ),
        (b"Received: from a (b [IPv6:2001:db8::5]) by s\r\n", ("2001:db8::5", "a")),
        (b"Received: from unknown (HELO [192.0.2.1]) (198.51.100.9) by s\r\n", (BAD, "unknown")),
        (b"Received: from [198.51.100.9] (helo=[192.0.2.1]) by s\r\n", (BAD, "[198.51.100.9]")),
        (b"Received: from [192.0.2.1] (x [198.51.100.9])\r\n\tby s\r\n", (BAD, "[192.0.2.1]")),
        (
            b"Received: from in (in [203.0.113.65]) by out\r\nReceived: from x (x [198.51.100.9]) by in\r\n",
            (BAD, "x"),
        ),
        (b"Received: from in (in [10.0.0.5]) by out\r\nReceived: from x (x [198.51.100.9]) by in\r\n", (BAD, "x")),
        (b"Received: by s id 7\r\nReceived: from x (x [198.51.100.9]) by y\r\n", (None, "")),
        (b"Subject: x\r\n", (None, "")),
        (b"Received: from x (x [999.1.1.1]) by y\r\n", (None, "")),
    ],
)
def test_a_relay_service_says_who_gave_it_the_mail(section: bytes, source: tuple[str | None, str]) -> None:
    client = ipaddress.ip_address(source[0]) if source[0] else None
    assert source_of(policy_of(), SERVED, section) == Source(client, source[1])
    assert source_of(policy_of(), STRANGER, section) == Source(STRANGER.client, STRANGER.helo)


def test_what_is_true_is_written_on_top(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        assert (await desk.rcpt(STRANGER))[:3] == "250"
        assert (await desk.take(STRANGER, signed(MESSAGE)))[:3] == "250"
        head = (await desk.stored()).split(b"\r\n\r\n")[0]
        assert head.startswith(b"Received: ")
        for word in (
            b"spf=pass",
            b"dkim=pass",
            b"dmarc=pass",
            b"arc=none",
            b"\r\nAuthentication-Results: mx.site.example;",
        ):
            assert word in head
        assert await desk.notify() == [None]
        kind, fields = desk.journal[-1]
        told = {"spf": "pass", "dkim": "pass", "dmarc": "pass", "arc": "none", "dmarc_policy": "reject"}
        assert (kind, fields["authentication"]) == ("mail.accepted", told)
        sample = desk.registry.get_sample_value
        assert sample("egressguard_senderauth_results_total", {"method": "dmarc", "result": "pass"}) == 1

    play(tmp_path, story)


def test_mail_that_its_author_disowns_is_refused_by_rule(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        forger = replace(STRANGER, client=ipaddress.ip_address("198.51.100.77"))
        assert (await desk.rcpt(forger))[:3] == "250"
        assert await desk.take(forger, MESSAGE) == "550 5.7.1 Refused by rule disowned"
        assert await desk.spool.rows(10) == []

    play(tmp_path, story)


def test_mail_of_somebody_here_is_not_judged(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        inside = replace(STRANGER, client=ipaddress.ip_address("10.0.0.9"))
        assert (await desk.take(inside, MESSAGE))[:3] == "250"
        assert b"Authentication-Results" not in await desk.stored()

    play(tmp_path, story)


FORGED = b"Authentication-Results: mx.site.example; dmarc=pass\r\nAuthentication-Results: list.example; spf=fail\r\n"


@pytest.mark.parametrize("in_file", [False, True])
def test_results_in_our_name_are_hidden_and_others_stay(tmp_path: Path, in_file: bool) -> None:
    async def story(desk: Desk) -> None:
        octets = FORGED + MESSAGE
        content = Content.of(octets)
        if in_file:
            file = tmp_path / "spool" / "tmp" / "draft"
            file.write_bytes(octets)
            content = Content(file=file, file_octets=len(octets))
        assert (await desk.take(STRANGER, content))[:3] == "250"
        stored = await desk.stored()
        assert stored.count(b"Authentication-Results: mx.site.example") == 1
        assert stored.index(b"Authentication-Results: mx.site.example") < stored.index(
            b"X-Forged-Authen-Result: mx.site"
        )
        assert b"\r\nAuthentication-Results: list.example; spf=fail\r\n" in stored
        assert stored.endswith(MESSAGE)

    play(tmp_path, story)


def test_who_is_listed_is_refused_at_rcpt(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        listed = replace(STRANGER, client=ipaddress.ip_address(BAD))
        assert await desk.rcpt(listed) == "550 5.7.1 You are on a list"
        assert (await desk.rcpt(STRANGER))[:3] == "250"  # other.example has it, and no rule names that
        assert desk.registry.get_sample_value("egressguard_blocklist_hits_total", {"list": "zen"}) == 1

    play(tmp_path, story)


def test_whom_a_relay_service_has_it_from_is_known_with_the_header(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        assert (await desk.rcpt(SERVED))[:3] == "250"
        trace = b"Received: from mail.sender.example (x [%s]) by in.service.example\r\n"
        assert await desk.take(SERVED, trace % BAD.encode() + MESSAGE) == "550 5.7.1 You are on a list"
        assert (await desk.take(SERVED, trace % GOOD.encode() + MESSAGE))[:3] == "250"
        assert b"spf=pass" in await desk.stored()

    play(tmp_path, story)


def test_a_relay_service_that_does_not_say_makes_no_mail_fail(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        assert (await desk.take(SERVED, MESSAGE))[:3] == "250"
        stored = await desk.stored()
        assert b"spf=none" in stored
        assert b"dmarc=permerror" in stored

    play(tmp_path, story)


def test_name_servers_that_are_silent_make_no_mail_fail(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        assert (await desk.rcpt(STRANGER))[:3] == "250"
        assert (await desk.take(STRANGER, MESSAGE))[:3] == "250"
        stored = await desk.stored()
        assert b"spf=temperror" in stored
        assert b"dmarc=temperror" in stored

    play(tmp_path, story, silent=("example",))


def test_a_sender_that_nobody_vouches_for_hears_of_no_failure(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        other = replace(OUT, reverse_path="somebody@elsewhere.example")
        assert (await desk.take(STRANGER, MESSAGE.replace(b"sender.example", b"elsewhere.example"), other))[:3] == "250"
        assert await desk.notify() == [("NEVER",)]

    play(tmp_path, story)
