"""Taking mail: what the rules say, what is durable before 250, what our own troubles look like from outside."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.policy.facts import ScanReport, ScanRequest
from egressguard.policy.model import Policy
from egressguard.policy.relaying import Listener
from egressguard.policy.verdict import Verdict
from egressguard.quarantine.hold import Quarantine
from egressguard.relay.accept import Acceptance
from egressguard.relay.outgoing import Outgoing
from egressguard.relay.outside import Outside
from egressguard.relay.return_paths import ReturnPaths
from egressguard.relay.signatures import Signatures
from egressguard.senderauth.resolver import Resolver
from egressguard.smtp.hooks import SessionFacts
from egressguard.smtp.server import SmtpServer
from egressguard.smtp.settings import SmtpSettings
from egressguard.store.content import Content
from egressguard.store.draft import Draft
from egressguard.store.interface import NewMessage, SpoolBroken, SpoolFull
from egressguard.store.limits import LimitStore
from egressguard.store.spool import SqliteSpool

NOW = 1_800_000_000.0
CLEAN = ScanReport(Verdict.CLEAN, (), ())
STRANGER = SessionFacts(ipaddress.IPv4Address("192.0.2.7"), 40000, "lan", "smtp", helo="printer", esmtp=True)
ANNA = replace(STRANGER, listener="submission", kind="submission", tls=True, user="anna")
CONTENT = b"Subject: hello\r\n\r\ntext\r\n"
OUT = Envelope("anna@example.org", ("bert@example.net",))

RULES: list[dict[str, Any]] = [
    {"name": "malware", "match": {"verdict": "infected"}, "action": "quarantine", "folder": "Infected"},
    {"name": "silly", "match": {"recipient": "silly@example.net"}, "action": "reject", "text": "Not to that one"},
    {"name": "later", "match": {"recipient": "later@example.net"}, "action": "defer"},
    {"name": "users", "match": {"authenticated": True}, "action": "accept"},
    {"name": "own", "match": {"recipient_domain": "@local"}, "action": "accept"},
    {"name": "redirected", "match": {"redirected": True}, "action": "accept"},
]


def policy_of(
    mail: Sequence[Mapping[str, Any]] = RULES, *, mailboxes: Mapping[str, Any] | None = None, **relay: Any
) -> Policy:
    listeners = {"lan": {"kind": "smtp", "port": 0}, "submission": {"kind": "submission", "port": 0}}
    site = {
        "zones": {"lan": {"networks": ["192.0.2.0/24"]}},
        "domains": ["example.org"],
        "relay": {"hostname": "gateway.example.org", "listeners": listeners} | relay,
        "mailboxes": mailboxes or {},
    }
    return Policy.model_validate({"site": site, "mail": list(mail)})


@dataclass
class Scanner:
    report: ScanReport = CLEAN
    error: Exception | None = None

    async def scan(self, content: Content, request: ScanRequest) -> ScanReport:
        if self.error is not None:
            raise self.error
        return self.report


@dataclass
class Failing:
    """A spool and a quarantine that cannot store."""

    error: Exception

    def has_room(self, size_octets: int) -> bool:
        return True

    async def put(self, message: NewMessage) -> str:
        raise self.error

    async def hold(self, *_: object) -> None:
        raise self.error


class Boxes:
    """Who has a mailbox; the one of "full" takes a hundred octets, of the one on "slowdisk" it cannot be told."""

    def refusal(self, policy: Policy, forward_path: str) -> Reply | None:
        name = forward_path.partition("@")[0]
        if name == "disk":
            raise OSError("the disk")
        known = {"anna", "postmaster", "full", "slowdisk"}
        return None if name in known else Reply(550, "5.1.1", "No such mailbox here")

    def surely_fits(self, policy: Policy, forward_path: str, size_octets: int) -> bool:
        return forward_path.startswith("anna@")

    def no_room(self, policy: Policy, forward_path: str, size_octets: int) -> Reply | None:
        name = forward_path.partition("@")[0]
        if name == "slowdisk":
            raise OSError("the disk")
        return Reply(452, "4.2.2", "The mailbox is full") if name == "full" and size_octets > 100 else None


@dataclass
class Desk:
    acceptance: Acceptance
    spool: SqliteSpool
    quarantine: Quarantine
    scanner: Scanner
    registry: CollectorRegistry
    journal: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    async def stored(self) -> list[bytes]:
        return [(await self.spool.content(row["queue_id"])).whole() for row in await self.spool.rows(10)]

    def counted(self, decision: str, listener: str = "submission") -> float | None:
        labels = {"listener": listener, "decision": decision}
        return self.registry.get_sample_value("egressguard_smtpd_messages_total", labels)


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    spool = SqliteSpool(tmp_path / "spool")
    registry = CollectorRegistry()
    journal: list[tuple[str, Mapping[str, object]]] = []

    def record(kind: str, fields: Mapping[str, object]) -> None:
        json.dumps(dict(fields))  # the journal writes JSON
        journal.append((kind, fields))

    quarantine = Quarantine(tmp_path / "quarantine", spool, lambda *_: None, registry)
    scanner = Scanner()
    limits = LimitStore(tmp_path / "limits.sqlite")
    outside = Outside(Resolver(["127.0.0.1:9"]), registry)  # nobody from outside comes in these tests
    return_paths = ReturnPaths(tmp_path, registry, "smtpd")
    acceptance = Acceptance(
        policy_of(),
        hostname="unused.example.org",
        spool=spool,
        holder=quarantine,
        scanner=scanner,
        limits=limits,
        outside=outside,
        outgoing=Outgoing(Signatures(tmp_path, registry, "smtpd"), return_paths),
        return_paths=return_paths,
        mailboxes=Boxes(),
        record=record,
        registry=registry,
        clock=lambda: NOW,
    )
    made = Desk(acceptance, spool, quarantine, scanner, registry, journal)
    yield made
    outside.close()
    limits.close()
    spool.close()


def ask(desk: Desk, session: SessionFacts, path: str, reverse_path: str = "x@example.net") -> str:
    return str(desk.acceptance.on_recipient(session, reverse_path, path, None))


@pytest.mark.parametrize(
    ("session", "path", "reply"),
    [
        (STRANGER, "bert@example.net", "550 5.7.1 relaying denied"),
        (STRANGER, "anna@example.org", "250 2.1.5"),
        (STRANGER, "anna@EXAMPLE.org", "250 2.1.5"),
        (STRANGER, "postmaster", "250 2.1.5"),
        (STRANGER, "nobody@example.org", "550 5.1.1 "),
        (STRANGER, "disk@example.org", "451 4.3.0 "),
        (STRANGER, "silly@example.net", "550 5.7.1 Not to that one"),
        (STRANGER, "later@example.net", "451 4.7.1 Deferred by rule later"),
        (replace(STRANGER, original_destination="203.0.113.9:25"), "bert@example.net", "250 2.1.5"),
        (ANNA, "bert@example.net", "250 2.1.5"),
        (ANNA, "nobody@example.org", "550 5.1.1 "),
    ],
)
def test_recipients(session: SessionFacts, path: str, reply: str, desk: Desk) -> None:
    assert ask(desk, session, path).startswith(reply)
    assert bool(desk.journal) == (reply[0] != "2")


def test_a_refused_recipient_is_journaled_with_who_and_why(desk: Desk) -> None:
    ask(desk, STRANGER, "silly@example.net")
    kind, fields = desk.journal[0]
    assert kind == "mail.refused"
    assert {"client": "192.0.2.7", "listener": "lan", "rule": "silly", "stage": "rcpt"}.items() <= fields.items()
    assert fields["recipients"] == ["silly@example.net"]


def test_who_may_not_send_does_not_learn_who_lives_here(desk: Desk) -> None:
    desk.acceptance.policy = policy_of([{"name": "no", "match": {}, "action": "reject"}])
    assert ask(desk, STRANGER, "anna@example.org") == ask(desk, STRANGER, "nobody@example.org")


def take(desk: Desk, session: SessionFacts = ANNA, envelope: Envelope = OUT, content: bytes = CONTENT) -> str:
    return str(asyncio.run(desk.acceptance.on_message(session, envelope, Content.of(content))))


def test_250_means_that_it_is_in_the_spool(desk: Desk) -> None:
    reply = take(desk)
    assert reply.startswith("250 2.0.0 Taken as ")
    rows = asyncio.run(desk.spool.rows(10))
    assert [row["queue_id"] for row in rows] == [reply.split()[-1]]
    assert desk.counted("accepted") == 1
    kind, fields = desk.journal[0]
    assert kind == "mail.accepted"
    wanted = {"user": "anna", "rule": "users", "queue_id": reply.split()[-1], "recipient_count": 1}
    assert wanted.items() <= fields.items()


def test_a_submitted_message_gets_what_it_lacks(desk: Desk) -> None:
    take(desk)
    (stored,) = asyncio.run(desk.stored())
    assert stored.startswith(b"Received: from printer ([192.0.2.7])\r\n\tby gateway.example.org with ESMTPSA id ")
    assert b"\r\nDate: " in stored
    assert b"\r\nMessage-ID: <" in stored
    assert stored.endswith(CONTENT)


def test_a_submitted_message_keeps_what_it_has(desk: Desk) -> None:
    content = b"date: yesterday\r\nMESSAGE-ID: <mine>\r\n" + CONTENT
    take(desk, content=content)
    (stored,) = asyncio.run(desk.stored())
    assert stored.lower().count(b"date:") == 1
    assert stored.lower().count(b"message-id:") == 1


def test_a_relayed_message_gets_its_trace_only(desk: Desk) -> None:
    take(desk, session=STRANGER, envelope=Envelope("", ("anna@example.org",)))
    (stored,) = asyncio.run(desk.stored())
    assert b"Date:" not in stored
    assert b"Message-ID:" not in stored
    assert stored.endswith(CONTENT)


def test_recipients_do_not_learn_of_each_other(desk: Desk) -> None:
    take(desk, envelope=Envelope("anna@example.org", ("bert@example.net", "carl@example.net")))
    (stored,) = asyncio.run(desk.stored())
    assert b"bert" not in stored
    assert b"carl" not in stored


def test_a_held_message_is_answered_in_the_same_words(desk: Desk) -> None:
    accepted = take(desk)
    desk.scanner.report = ScanReport(Verdict.INFECTED, ("Eicar",), ())
    held = take(desk)
    assert held.split()[:-1] == accepted.split()[:-1]
    assert len(held) == len(accepted)
    (row,) = asyncio.run(desk.quarantine.rows())
    assert row["rule"] == "malware"
    assert len(asyncio.run(desk.spool.rows(10))) == 1
    assert desk.journal[-1][0] == "mail.quarantined"
    assert desk.counted("quarantined") == 1


def test_the_strictest_recipient_decides(desk: Desk) -> None:
    reply = take(desk, envelope=Envelope("anna@example.org", ("bert@example.net", "silly@example.net")))
    assert reply == "550 5.7.1 Not to that one"
    assert asyncio.run(desk.spool.rows(10)) == []
    assert desk.counted("refused") == 1


@pytest.mark.parametrize("error", [None, OSError("gone"), TimeoutError()])
def test_a_scanner_that_cannot_tell_defers(error: Exception | None, desk: Desk) -> None:
    desk.scanner.report, desk.scanner.error = ScanReport(None, ("clamd is away",)), error
    assert take(desk).startswith("451 4.7.1 ")
    assert asyncio.run(desk.spool.rows(10)) == []
    assert desk.journal[-1][0] == "mail.deferred"


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (SpoolFull("full"), "452 4.3.1 "),
        (SpoolBroken("EIO on /var/secret"), "451 4.3.0 "),
        (OSError(5, "EIO"), "451 4.3.0 "),
    ],
)
@pytest.mark.parametrize("verdict", [Verdict.CLEAN, Verdict.INFECTED])
def test_our_own_trouble_is_transient_and_keeps_quiet(
    error: Exception, reply: str, verdict: Verdict, desk: Desk
) -> None:
    desk.acceptance._spool = desk.acceptance._holder = Failing(error)
    desk.scanner.report = ScanReport(verdict, (), ())
    said = take(desk)
    assert said.startswith(reply)
    assert "secret" not in said
    assert desk.counted("deferred") == 1
    assert desk.journal[-1][0] == "mail.deferred"


def test_a_loop_ends(desk: Desk) -> None:
    desk.acceptance.policy = policy_of(max_hops=10)
    hop = b"Received: from a by b; now\r\n"
    assert take(desk, content=hop * 10 + CONTENT).startswith("250 ")
    assert take(desk, content=hop * 11 + CONTENT).startswith("554 5.4.6 ")


def test_one_policy_judges_a_message_though_another_comes_meanwhile(desk: Desk) -> None:
    class Reloading:
        async def scan(self, content: Content, request: ScanRequest) -> ScanReport:
            desk.acceptance.policy = policy_of([{"name": "no", "match": {}, "action": "reject"}])
            return CLEAN

    desk.acceptance._scanner = Reloading()
    assert take(desk).startswith("250 ")
    assert take(desk).startswith("550 ")


def test_what_the_server_refused_is_journaled(desk: Desk) -> None:
    desk.acceptance.on_refused(STRANGER, "auth", Reply(535, "5.7.8", "no"), "root")
    desk.acceptance.on_refused(STRANGER, "connect", Reply(421, "4.7.0", "full"), "")
    assert [kind for kind, _ in desk.journal] == ["mail.refused", "mail.deferred"]
    assert desk.journal[0][1]["about"] == "root"


def test_over_the_wire_what_the_rules_take_is_stored_and_the_rest_is_not(desk: Desk, tmp_path: Path) -> None:
    async def dialog() -> bytes:
        settings = SmtpSettings(hostname="gateway.example.org")
        server = SmtpServer(desk.acceptance, settings, None, None, desk.registry, lambda: Draft(tmp_path))
        sock = socket.create_server(("127.0.0.1", 0))
        await server.start("lan", Listener(kind="smtp", port=0), [sock])
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(b"EHLO printer\r\nMAIL FROM:<>\r\nRCPT TO:<bert@example.net>\r\n")
        writer.write(b"RCPT TO:<anna@example.org>\r\nDATA\r\n")
        said = await reader.readuntil(b"354 ")
        writer.write(b"line\r\n" + CONTENT + b".\r\nQUIT\r\n")
        said += await reader.read()
        writer.close()
        await server.drain(5)
        return said

    said = asyncio.run(dialog())
    assert b"\r\n550 5.7.1 relaying denied\r\n250 2.1.5 OK\r\n354 " in said
    assert b"\r\n250 2.0.0 Taken as " in said
    (row,) = asyncio.run(desk.spool.rows(10))
    assert len(row["recipients"]) == 1
    assert "anna@example.org" in json.dumps(row["recipients"])
    (stored,) = asyncio.run(desk.stored())
    assert stored.startswith(b"Received: from printer ([127.0.0.1])\r\n\tby gateway.example.org with ESMTP id ")
    assert b"\r\n\tfor <anna@example.org>;" in stored
    assert stored.endswith(b"\r\nline\r\n" + CONTENT)


def test_a_full_mailbox_is_put_off_at_rcpt_where_there_are_quotas(desk: Desk) -> None:
    async def ask(path: str, size: int | None) -> str:
        answer = desk.acceptance.on_recipient(STRANGER, "a@example.net", path, size)
        return str(answer if isinstance(answer, Reply) else await answer)[:9]

    async def walk() -> None:
        assert await ask("full@example.org", 101) == "250 2.1.5"  # nobody asks where there are none
        desk.acceptance.policy = policy_of(mailboxes={"quota": {"octets": 1000}})
        assert await ask("full@example.org", 101) == "452 4.2.2"
        assert await ask("full@example.org", None) == "250 2.1.5"
        assert await ask("postmaster@example.org", 101) == "250 2.1.5"
        at_once = desk.acceptance.on_recipient(STRANGER, "a@example.net", "anna@example.org", 101)
        assert str(at_once).startswith("250 2.1.5")  # it surely fits: nothing is waited for
        assert await ask("nobody@example.org", 101) == "550 5.1.1"
        assert await ask("slowdisk@example.org", 101) == "451 4.3.0"
        assert await ask("x@example.net", 101) == "550 5.7.1"

    asyncio.run(walk())
    told = [(kind, fields["reply"][:9], fields["stage"]) for kind, fields in desk.journal]  # type: ignore[index]
    assert told[0] == ("mail.deferred", "452 4.2.2", "rcpt")
    assert [kind for kind, _, _ in told] == ["mail.deferred", "mail.refused", "mail.deferred", "mail.refused"]
