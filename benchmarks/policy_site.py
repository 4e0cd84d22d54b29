"""A made-up site for benchmarks/policy.py: rule files of any size, and the flows and messages that meet them.

The rules are mixed as sites mix them: most name a host, a user, a partner or a pattern of their own and two matchers
at least; a message meets a few of them, and one of the last decides.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from egressguard.net.flow import Flow, IPAddress, Protocol
from egressguard.policy.facts import Attachment, Authentication, MailFacts, Moment, ScanReport
from egressguard.policy.verdict import Verdict

ZONES = 5
DEVICES = 40
SETS = 40
LISTED = 2
"""Sets that are long lists in files of their own."""


def rule_files(*, flow_count: int, mail_count: int, listed: int) -> dict[str, bytes]:
    """Rule files; `listed` = the prefixes in each long list."""
    dice = random.Random(5321)
    return {
        "10-site.yaml": _yaml({"site": _site(dice), "devices": _devices(), "limits": _limits()}),
        "20-flows.yaml": _yaml({"flows": list(_flow_rules(flow_count))}),
        "30-mail.yaml": _yaml({"mail": list(_mail_rules(mail_count))}),
        **{f"lists/blocked-{n}.txt": _prefixes(dice, listed) for n in range(LISTED)},
    }


def _yaml(sections: Mapping[str, Any]) -> bytes:
    """In flow style: JSON is YAML."""
    return json.dumps(sections, indent=1).encode()


def _site(dice: random.Random) -> dict[str, Any]:
    zones = {
        f"zone{n}": {"interfaces": f"br{n}", "networks": [f"10.{n}.0.0/16", f"fd00:{n}::/32"]} for n in range(ZONES)
    }
    sets: dict[str, Any] = {
        f"set{n}": [f"10.{n % ZONES}.{dice.randrange(256)}.{dice.randrange(256)}" for _ in range(20)]
        for n in range(SETS)
    }
    sets |= {f"blocked{n}": f"file:lists/blocked-{n}.txt" for n in range(LISTED)}
    listeners = {"lan": {"kind": "smtp", "port": 25}, "submission": {"kind": "submission", "port": 587}}
    return {
        "zones": zones,
        "sets": sets,
        "domains": ["example.org", "example.net"],
        "relay": {"listeners": listeners, "redirect_to": "lan"},
    }


def _prefixes(dice: random.Random, count: int) -> bytes:
    lengths = dice.choices([24, 28, 32], weights=[1, 1, 8], k=count)
    return "".join(f"{ip_network((dice.randrange(2**32), n), strict=False)}\n" for n in lengths).encode()


def _devices() -> list[dict[str, Any]]:
    return [
        {"name": f"device{n}", "addresses": [f"10.0.9.{n}", f"fd00:0:9::{n:x}"], "senders": f"device{n}@example.org"}
        for n in range(DEVICES)
    ]


def _limits() -> list[dict[str, Any]]:
    return [
        {"name": "per-user", "per": "user", "recipients_per_hour": 300},
        {"name": "per-host", "per": "host", "messages_per_minute": 60, "above": "contain"},
    ]


def _host(number: int) -> str:
    return f"10.{number % ZONES}.{number // ZONES % 250}.{number // 1250 + 10}"


def _flow_rules(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count - 1):
        zone, other = f"zone{n % ZONES}", f"zone{(n + 1) % ZONES}"
        mixed: tuple[dict[str, Any], ...] = (
            {"from": zone, "source": _host(n), "port": 25, "action": "allow"},
            {"destination": f"203.{n // 250}.{n % 250}.0/24", "port": 25, "action": "allow"},
            {
                "source": f"@set{n % SETS}",
                "destination": f"198.{n // 250}.{n % 250}.0/25",
                "port": [25, 587],
                "action": "allow",
            },
            {"from": zone, "source": f"10.{n % ZONES}.{n // ZONES % 250}.0/26", "port": 465, "action": "reject"},
            {
                "from": zone,
                "source": _host(n),
                "destination": f"@blocked{n % LISTED}",
                "port": [25, 465],
                "action": "drop",
            },
            {"from": zone, "protocol": "udp", "port": 53, "destination": f"9.{n % 250}.0.0/16", "action": "drop"},
            {"from": zone, "port": 2525, "destination": f"2001:db8:{n:x}::/48", "action": "reject"},
            {"from": [zone, other], "source": _host(n), "port": 25, "staged": True, "action": "drop"},
        )
        yield {"name": f"flow{n}", **mixed[n % len(mixed)]}
    yield {"name": "block", "from": [f"zone{n}" for n in range(ZONES)], "port": [25, 465, 587], "action": "reject"}


LAST_MAIL_RULES: tuple[dict[str, Any], ...] = (
    {"match": {"verdict": ["infected", "denied"]}, "action": "quarantine", "folder": "Infected"},
    {"match": {"attachment_macro": True, "authenticated": False}, "action": "quarantine"},
    {"match": {"score_at_least": "7.5"}, "action": "quarantine", "folder": "Spam"},
    {"match": {"larger_than_octets": 30_000_000}, "action": "reject", "text": "too large"},
    {"match": {"device": "@any"}, "action": "accept", "limit": "per-host"},
    {"match": {"authenticated": True, "tls": True, "sender_domain": "@local"}, "action": "accept", "limit": "per-user"},
    {"match": {"recipient_domain": "@local", "verdict": "clean"}, "action": "accept"},
)


def _mail_rules(count: int) -> Iterator[dict[str, Any]]:
    for n in range(max(0, count - len(LAST_MAIL_RULES))):
        zone, partner = f"zone{n % ZONES}", f"partner{n}.example"
        mixed: tuple[tuple[dict[str, Any], str], ...] = (
            ({"client": _host(n), "sender": f"*@dept{n}.example.org"}, "accept"),
            ({"user": f"user{n}", "recipient_domain": partner}, "tag"),
            ({"sender": f"user{n}@example.org", "recipient": f"bob@{partner}"}, "accept"),
            ({"sender_domain": [f"spam{n}.example", f".spam{n}.example"], "authenticated": False}, "reject"),
            ({"recipient_domain": [partner, f".{partner}"], "verdict": "infected"}, "quarantine"),
            ({"user": [f"user{n}", f"user{n + 1}"], "attachment_name": [f"*.x{n}", f"invoice{n}*"]}, "quarantine"),
            ({"client": f"@set{n % SETS}", "attachment_type": f"application/x-{n}"}, "reject"),
            ({"recipient": f"*@{partner}", "larger_than_octets": 1000 * n}, "hold"),
            (
                {"client": [zone, f"@blocked{n % LISTED}"], "user": f"user{n}", "verdict": ["infected", "denied"]},
                "quarantine",
            ),
            ({"client": zone, "hours": "22:00-06:00", "recipient": f"chief{n}@example.org"}, "tag"),
            ({"helo": f"*.dynamic{n}.example", "authenticated": False}, "reject"),
            ({"attachment_name": [f"*.y{n}", f"*.z{n}"]}, "quarantine"),
            ({"header": {"Subject": f"*offer {n}*"}, "sender_domain": f".news{n}.example"}, "tag"),
            ({"listener": "lan", "client": _host(n + 7), "spf": "fail", "recipient_domain": "@local"}, "defer"),
        )
        match, action = mixed[n % len(mixed)]
        does = {"action": "continue", "tag": f"tag{n % 9}"} if action == "tag" else {"action": action}
        yield {"name": f"mail{n}", "match": match, **does}
    for n, rule in enumerate(LAST_MAIL_RULES[-count:]):
        yield {"name": f"last{n}", **rule}


def changed(content: bytes) -> bytes:
    """Rule files of one section with five rules changed: turned, gone, new, swapped, narrower."""
    ((section, rules),) = json.loads(content).items()
    is_flows = section == "flows"
    rules[100]["action"] = "drop" if is_flows else "reject"
    del rules[300]
    what: dict[str, Any] = {"from": "zone1", "port": 25, "source": "10.1.0.0/22"}
    what = what if is_flows else {"match": {"client": "zone1", "verdict": "infected"}}
    rules.insert(50, {"name": "new", "action": "reject", **what})
    rules[201], rules[202] = rules[202], rules[201]
    (rules[3] if is_flows else rules[3]["match"]).update({"port": 465} if is_flows else {"authenticated": True})
    return _yaml({section: rules})


def flows(count: int) -> list[Flow]:
    """Flows that hosts of the site open: to anywhere, six in seven to a port of mail."""
    dice = random.Random(791)
    return [_flow(dice) for _ in range(count)]


def _flow(dice: random.Random) -> Flow:
    zone = dice.randrange(ZONES)
    port, protocol = dice.choice([25, 25, 25, 465, 587, 2525, 443]), Protocol.TCP
    if dice.random() < 0.1:
        port, protocol = 53, Protocol.UDP
    destination: IPAddress = IPv4Address(dice.randrange(2**32))
    if dice.random() < 0.2:
        destination = IPv6Address((0x20010DB8 << 96) + dice.getrandbits(90))
    return Flow(_client(dice, zone, six=destination.version == 6), destination, port, f"br{zone}", protocol)


def _client(dice: random.Random, zone: int, *, six: bool) -> IPAddress:
    if six:
        return IPv6Address((0xFD00 << 112) + (zone << 96) + dice.getrandbits(64))
    return IPv4Address((10 << 24) + (zone << 16) + dice.randrange(2**16))


def messages(count: int) -> list[MailFacts]:
    """A third from users, a third from outside for the site's own domains, a third from hosts and devices."""
    dice = random.Random(5322)
    return [_message(dice, n % 3) for n in range(count)]


def _message(dice: random.Random, kind: int) -> MailFacts:
    number = dice.randrange(6000)
    client, user, sender = (
        _client(dice, dice.randrange(ZONES), six=dice.random() < 0.2),
        None,
        f"host{number}@example.org",
    )
    recipient, listener = f"bob@partner{number}.example", "lan"
    if kind == 0:
        user, listener, sender = f"user{number}", "submission", f"user{number}@example.org"
    elif kind == 1:
        client, sender = IPv4Address(dice.randrange(2**32)), f"someone@a.spam{number}.example"
        recipient = f"chief{number}@example.org"
    elif dice.random() < 0.5:
        device = dice.randrange(DEVICES)
        client, sender = IPv4Address(f"10.0.9.{device}"), f"device{device}@example.org"
    return MailFacts(
        client=client,
        listener=listener,
        helo=f"mail{number}.somewhere{number % 97}.example",
        tls=kind == 0,
        user=user,
        reverse_path=sender,
        forward_path=recipient,
        moment=Moment(dice.randrange(7), dice.randrange(1440)),
        authentication=Authentication(spf=dice.choice(["pass", "none", "fail"])),
        recipient_count=dice.choice([1, 1, 2, 20]),
        size_octets=dice.randrange(2000, 9_000_000),
        headers={
            name: (f"{name} of {number}",) for name in ("from", "to", "subject", "date", "message-id", "received")
        },
        scan=ScanReport(Verdict.CLEAN, (), tuple(_attachments(dice)), score=dice.randrange(60) / 10),
    )


def _attachments(dice: random.Random) -> Iterator[Attachment]:
    for _ in range(dice.choice([0, 0, 1, 3])):
        ending, media_type = dice.choice(
            [("pdf", "application/pdf"), ("docx", "application/zip"), ("jpg", "image/jpeg")]
        )
        yield Attachment((f"Scan of {dice.randrange(9999)}.{ending}",), media_type, dice.randrange(10**6))
