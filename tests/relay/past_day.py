"""A day of a small site, as its relay meets it: a printer, a laptop, people, a guest, a bot, a spam run, malware.

Played to the real acceptance (policy, limits, examination, spool, quarantine) under any rules; what it came to is told
per message and recipient, and stands in a real journal.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.policy.facts import ScanReport, ScanRequest
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.policy.recorded import RecordedMail, recorded_mail
from egressguard.quarantine.hold import Quarantine
from egressguard.relay.accept import Acceptance
from egressguard.relay.outgoing import Outgoing
from egressguard.relay.outside import Outside
from egressguard.relay.return_paths import ReturnPaths
from egressguard.relay.signatures import Signatures
from egressguard.scan.examine import examine
from egressguard.senderauth.resolver import Resolver
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content
from egressguard.store.journal import Journal
from egressguard.store.limits import LimitStore
from egressguard.store.spool import SqliteSpool

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
MORNING = 1_795_593_600.0  # a Wednesday, 8:00 UTC
RULES: dict[str, Any] = {
    "site": {
        "zones": {"lan": {"networks": "192.0.2.0/24"}, "guest": {"networks": "198.51.100.0/24"}},
        "sets": {"servers": ["192.0.2.25"]},
        "domains": ["site.example"],
        "relay": {
            "hostname": "gateway.site.example",
            "listeners": {"lan": {"kind": "smtp", "port": 0}, "submission": {"kind": "submission", "port": 0}},
        },
        "scan": {"denied_names": ["*.exe"]},
        "journal": {"header_field": ["X-Mailer"]},
    },
    "devices": [{"name": "printer", "addresses": "192.0.2.20", "senders": "printer@site.example"}],
    "limits": [
        {"name": "per-user", "per": "user", "recipients_per_hour": 12, "above": "reject"},
        {"name": "new", "per": "host", "new_destinations_per_day": 4, "above": "quarantine"},
    ],
    "mail": [
        {"name": "malware", "match": {"verdict": "infected"}, "action": "quarantine", "folder": "Infected"},
        {"name": "denied", "match": {"verdict": "denied"}, "action": "quarantine", "folder": "Denied"},
        {"name": "invoices", "match": {"header": {"Subject": "*invoice*"}}, "action": "hold"},
        {"name": "users", "match": {"authenticated": True}, "limit": ["per-user"], "action": "accept"},
        {"name": "printer", "match": {"device": "printer"}, "action": "accept"},
        {
            "name": "guests",
            "match": {"redirected": True, "client": "guest", "sender_domain": "site.example"},
            "limit": ["new"],
            "action": "accept",
        },
        {"name": "servers", "match": {"client": "@servers"}, "action": "accept"},
        {"name": "own", "match": {"recipient_domain": "@local"}, "action": "accept"},
    ],
}


def rules(*changes: Callable[[dict[str, Any]], object]) -> Policy:
    """The day's rules with changes made to a copy of them."""
    given = copy.deepcopy(RULES)
    for change in changes:
        change(given)
    return policy_of(given)


def policy_of(given: Mapping[str, Any]) -> Policy:
    """Through the whole reader, so that names are checked too."""
    loaded = parse_rules({"rules.yaml": yaml.safe_dump(dict(given)).encode()})
    assert loaded.policy is not None, loaded.faults
    return loaded.policy


@dataclass(frozen=True)
class Sent:
    """`after` seconds since the one before."""

    session: SessionFacts
    sender: str
    to: tuple[str, ...]
    content: bytes
    after: float = 60.0


def mail(subject: str, *, body: bytes = b"text\r\n", more: str = "") -> bytes:
    return f"Subject: {subject}\r\n{more}MIME-Version: 1.0\r\n".encode() + b"\r\n" + body


def attached(name: str, content: bytes = b"MZ something") -> bytes:
    head = f'Subject: a file\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream; name="{name}"\r\n'
    head += f'Content-Disposition: attachment; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


def session(address: str, **more: Any) -> SessionFacts:
    return replace(SessionFacts(ip_address(address), 40000, "lan", "smtp", helo="there", esmtp=True), **more)


def login(address: str, user: str) -> SessionFacts:
    return session(address, listener="submission", kind="submission", tls=True, user=user)


PRINTER, BOT, SERVER = session("192.0.2.20", helo="printer"), session("192.0.2.30", helo="x"), session("192.0.2.25")
STRANGER = session("203.0.113.9", helo="mx.elsewhere.example")
GUEST = session("198.51.100.140", original_destination="203.0.113.25:25")
ANNA, BERT = login("192.0.2.10", "anna"), login("192.0.2.11", "bert")


def day() -> list[Sent]:
    sent = [Sent(PRINTER, "printer@site.example", ("anna@site.example",), mail(f"scan {n}")) for n in range(3)]
    sent += [Sent(PRINTER, "printer@site.example", ("service@mx.example",), mail("toner"))]
    sent += [Sent(PRINTER, "else@site.example", ("x@mx.example",), mail("spoofed"))]
    sent += [Sent(ANNA, "anna@site.example", (f"friend{n}@mx.example",), mail("hello")) for n in range(4)]
    sent += [Sent(ANNA, "anna@site.example", ("a@mx.example", "b@partner.example"), mail("your invoice"))]
    sent += [Sent(ANNA, "anna@site.example", ("a@mx.example",), mail("big", body=b"x" * 20_000 + b"\r\n"))]
    sent += [Sent(ANNA, "anna@site.example", ("a@mx.example",), attached(name)) for name in ("run.exe", "list.iso")]
    sent += [Sent(ANNA, "anna@site.example", ("a@mx.example",), attached("x.com", EICAR))]
    sent += [Sent(BOT, "spam@bot.example", (f"victim{n}@mx.example",), mail("pills"), 1.0) for n in range(3)]
    sent += [Sent(BOT, "spam@bot.example", ("anna@site.example", "victim@mx.example"), mail("pills"), 1.0)]
    sent += [Sent(STRANGER, "x@elsewhere.example", ("victim@mx.example",), mail("relay?"))]
    sent += [Sent(GUEST, "guest@site.example", (f"x@new{n}.example",), mail("from a guest"), 5.0) for n in range(7)]
    sent += [Sent(GUEST, "guest@elsewhere.example", ("x@mx.example",), mail("from a guest"))]
    sent += [Sent(SERVER, "shop@site.example", ("x@mx.example",), mail("order", more="X-Mailer: Shop 1\r\n"))]
    # Somebody has bert's password.
    sent += [
        Sent(BERT, "bert@site.example", (f"to{n}@a.example", f"to{n}@b.example"), mail("win"), 20.0) for n in range(10)
    ]
    sent += [Sent(BERT, "bert@site.example", ("late@mx.example",), mail("night"), 12 * 3600.0)]
    return sent


@dataclass
class Played:
    """For each message by its number in the day: what became of its recipients, whether they were taken at RCPT, and
    what the journal was told, as it reads it."""

    actions: dict[int, Counter[str]] = field(default_factory=dict)
    at_rcpt: dict[int, Counter[str]] = field(default_factory=dict)
    rows: dict[int, list[RecordedMail]] = field(default_factory=dict)


class _Everybody:
    """Every address of the site has a mailbox, with room."""

    def refusal(self, policy: Policy, forward_path: str) -> None:
        return None

    def surely_fits(self, policy: Policy, forward_path: str, size_octets: int) -> bool:
        return True

    def no_room(self, policy: Policy, forward_path: str, size_octets: int) -> None:
        return None


class _Scanner:
    def __init__(self, policy: Policy) -> None:
        self._settings = policy.site.scan

    async def scan(self, content: Content, request: ScanRequest) -> ScanReport:
        return examine(content.whole(), self._settings)


class _Everybody:
    """Who has a mailbox here is no matter of rules: all have."""

    def refusal(self, policy: Policy, forward_path: str) -> Reply | None:
        return None

    def surely_fits(self, policy: Policy, forward_path: str, size_octets: int) -> bool:
        return True

    def no_room(self, policy: Policy, forward_path: str, size_octets: int) -> Reply | None:
        return None


def play(policy: Policy, folder: Path, journal: Path | None = None) -> Played:
    """The whole day under these rules, with stores of its own below `folder`."""
    with ExitStack() as stack:
        return asyncio.run(_play(policy, folder, journal, stack))


async def _play(policy: Policy, folder: Path, journal: Path | None, stack: ExitStack) -> Played:
    now, registry, told = [MORNING], CollectorRegistry(), list[tuple[str, Mapping[str, Any]]]()
    folder.mkdir(parents=True, exist_ok=True)
    written = None
    if journal is not None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        written = Journal(journal, max_rows=100_000)
        stack.callback(written.close)

    def record(kind: str, fields: Mapping[str, object]) -> None:
        told.append((kind, fields))
        if written is not None:
            written.record(now[0] + 1, kind, fields)

    spool, limits = SqliteSpool(folder / "spool"), LimitStore(folder / "limits.sqlite")
    stack.callback(spool.close)
    stack.callback(limits.close)
    quarantine = Quarantine(folder / "quarantine", spool, lambda *_: None, registry, clock=lambda: now[0])
    stack.callback(quarantine.close)
    outside = Outside(Resolver(["127.0.0.1:9"]), registry)  # nobody of the world gets as far as a message
    stack.callback(outside.close)
    return_paths = ReturnPaths(folder, registry, "smtpd")
    acceptance = Acceptance(
        policy,
        hostname="gateway.site.example",
        spool=spool,
        holder=quarantine,
        scanner=_Scanner(policy),
        limits=limits,
        outside=outside,
        outgoing=Outgoing(Signatures(folder, registry, "smtpd"), return_paths),
        return_paths=return_paths,
        mailboxes=_Everybody(),
        record=record,
        registry=registry,
        clock=lambda: now[0],
    )
    played = Played()
    for number, sent in enumerate(day()):
        now[0] += sent.after
        await _send(acceptance, number, sent, played, told)
    return played


async def _send(
    acceptance: Acceptance, number: int, sent: Sent, played: Played, told: list[tuple[str, Mapping[str, Any]]]
) -> None:
    actions, at_rcpt, before = Counter[str](), Counter[str](), len(told)
    taken = []
    for path in sent.to:
        reply = acceptance.on_recipient(sent.session, sent.sender, path, None)
        assert not asyncio.iscoroutine(reply), "nobody of the world is asked about"
        if reply.is_positive:  # type: ignore[union-attr]
            taken.append(path)
            at_rcpt["goes on"] += 1
        else:
            refused = "defer" if reply.is_transient else "reject"  # type: ignore[union-attr]
            actions[refused] += 1
            at_rcpt[refused] += 1
    if taken and sent.session is not STRANGER:  # its message would be asked about in DNS
        await acceptance.on_message(sent.session, Envelope(sent.sender, tuple(taken)), Content.of(sent.content))
        kind, fields = told[-1]
        assert fields["recipient_count"] == len(taken)
        words = {"accepted": "accept", "quarantined": "quarantine", "held": "hold", "refused": "reject"}
        actions[words.get(kind.partition(".")[2], "defer")] += len(taken)
    played.actions[number], played.at_rcpt[number] = actions, at_rcpt
    rows = [recorded_mail(0.0, kind, json.loads(json.dumps(fields))) for kind, fields in told[before:]]
    played.rows[number] = [row for row in rows if row is not None]
    assert len(played.rows[number]) == len(rows)


def set_rule(name: str, /, **keys: Any) -> Callable[[dict[str, Any]], object]:
    """Change keys of a message rule; None takes one away."""

    def change(given: dict[str, Any]) -> None:
        rule = next(rule for rule in given["mail"] if rule["name"] == name)
        for key, value in keys.items():
            rule.pop(key, None)
            if value is not None:
                rule[key] = value

    return change


def without(section: str, name: str) -> Callable[[dict[str, Any]], object]:
    def change(given: dict[str, Any]) -> None:
        given[section] = [each for each in given[section] if each["name"] != name]

    return change


def first(rule: dict[str, Any], section: str = "mail") -> Callable[[dict[str, Any]], object]:
    return lambda given: given[section].insert(0, rule)


def set_limit(name: str, /, **keys: Any) -> Callable[[dict[str, Any]], object]:
    return lambda given: next(each for each in given["limits"] if each["name"] == name).update(keys)


def set_site(*path: str, to: Any) -> Callable[[dict[str, Any]], object]:
    def change(given: dict[str, Any]) -> None:
        place = given["site"]
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = to

    return change
