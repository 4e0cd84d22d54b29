"""Small random policies for messages, changes of them, and messages that meet them; all by a seeded `chance`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from egressguard.policy.model import Policy

Rules = list[dict[str, Any]]
RESULTS = ["none", "pass", "fail", "temperror"]
CLIENTS = ["lan", "dmz", "@one", "@none", "10.1.2.3", "10.1.0.0/16", "fd00::/8", "192.0.2.0/25"]
PATHS = ["anna@x.example", '"anna"@X.example', "*@x.example", "*@sub.x.example", "bob@own.example"]
DOMAINS = ["x.example", ".x.example", ".example", "@local", "own.example"]
TEXTS = ["*", "mx.*", "*.x.example", "mx.x.example", "*x*", "ylmf-??", "[a-c]*", "[!m]*"]
NAMES = ["*.exe", "*.zip", "invoice*", "a.zip", "*", "*.e?e", "[ar]*"]
TYPES = ["application/*", "text/plain", "*/jpeg", "image/*"]
LIMITS = ["per-host", "per-user"]
LISTS = ["zen", "spam"]

Chance = random.Random


def _some(values: list[str]) -> Callable[[Chance], list[str]]:
    return lambda chance: chance.sample(values, chance.choice([1, 1, 2]))


def _one(*values: Any) -> Callable[[Chance], Any]:
    return lambda chance: chance.choice(values)


MATCHES: dict[str, Callable[[Chance], Any]] = {
    "client": _some(CLIENTS),
    "device": _some(["@any", "printer", "nas"]),
    "listener": _some(["lan", "submission"]),
    "redirected": _one(True, False),
    "authenticated": _one(True, False),
    "user": _some(["anna", "bob"]),
    "tls": _one(True, False),
    "helo": _some(TEXTS),
    "sender": _some([*PATHS, "<>"]),
    "sender_domain": _some(DOMAINS),
    "recipient": _some(PATHS),
    "recipient_domain": _some(DOMAINS),
    "weekdays": _some(["mon", "tue-thu", "sat-mon"]),
    "hours": _some(["08:00-18:00", "22:00-06:00", "00:00-24:00"]),
    "over_limit": _some(LIMITS),
    "spf": _some(RESULTS),
    "dmarc": _some(RESULTS),
    "dmarc_policy": _some(["none", "quarantine", "reject"]),
    "block_list": _some(LISTS),
    "more_than_recipients": _one(1, 2, 50),
    "larger_than_octets": _one(0, 999, 1000),
    "header": lambda chance: {name: _some(TEXTS)(chance) for name in chance.sample(["Subject", "list-id"], 1)},
    "attachment_name": _some(NAMES),
    "attachment_type": _some(TYPES),
    "attachment_encrypted": _one(True, False),
    "attachment_macro": _one(True, False),
    "attachment_active": _one(True, False),
    "attachment_deeper_than": _one(1, 2),
    "verdict": _some(["infected", "denied", "ambiguous", "clean"]),
    "score_at_least": _one("-1", "0", "6.5"),
}
EFFECTS: dict[str, Callable[[Chance], Any]] = {
    "limit": _some(LIMITS),
    "tag": _some(["bulk", "seen"]),
    "route": _one(["provider"], ["backup", "provider"], ["mx"]),
    "notify": _some(["a@x.example", "b@x.example"]),
    "add_header": lambda chance: {chance.choice(["X-A", "X-B"]): "yes"},
    "staged": _one(True),
    "rewrite_sender": _one(True),
    "source_routes": _some(["mx", "provider"]),
}
ACTIONS = ["accept", "accept", "reject", "defer", "quarantine", "hold", "continue", "continue"]


def rule(chance: Chance) -> dict[str, Any]:
    keys = chance.sample(sorted(MATCHES), chance.choice([0, 1, 1, 2, 2, 3]))
    match = {key: MATCHES[key](chance) for key in keys}
    if match.get("authenticated") is False:
        match.pop("user", None)
    effects = {key: EFFECTS[key](chance) for key in EFFECTS if chance.random() < 0.15}
    return {"match": match, "action": chance.choice(ACTIONS), **effects}


def routes(chance: Chance) -> Rules:
    keys = ["client", "listener", "user", "sender", "recipient_domain", "larger_than_octets", "verdict"]
    tags: dict[str, Callable[[Chance], Any]] = {"tag": _some(["bulk", "seen"]), "smaller_than_octets": _one(999, 1001)}
    asks = {key: MATCHES[key] for key in keys} | tags
    found = []
    for number in range(chance.choice([0, 0, 1, 2, 3])):
        match = {key: asks[key](chance) for key in chance.sample(sorted(asks), chance.choice([0, 1, 1, 2]))}
        via = chance.choice(["mx", ["provider", "backup"], "[192.0.2.1]:2525", "backup"])
        found.append({"name": f"r{number}", "match": match, "via": via})
    return found


def rules(chance: Chance, most: int = 8) -> Rules:
    return [rule(chance) for _ in range(chance.randint(1, most))]


def changed(chance: Chance, before: Rules) -> Rules:
    """One slip or two, as administrators make them; not all change what is decided."""
    after = [dict(each) for each in before]
    for _ in range(chance.choice([1, 1, 2])):
        at, other = chance.randrange(len(after)), chance.randrange(len(after))
        what = chance.choice(["away", "swap", "action", "match", "new", "stage"])
        if what == "away" and len(after) > 1:
            del after[at]
        elif what == "swap":
            after[at], after[other] = after[other], after[at]
        elif what == "action":
            after[at]["action"] = chance.choice(ACTIONS)
        elif what == "match":
            after[at]["match"] = rule(chance)["match"]
        elif what == "stage":
            after[at]["staged"] = not after[at].get("staged", False)
        else:
            after.insert(at, rule(chance))
    return after


def policy(
    mail: Rules,
    *,
    limits: Rules | None = None,
    sets: dict[str, Any] | None = None,
    **sections: Any,
) -> Policy:
    """The rules at a small site, whose rules are named in their order."""
    site = {
        "zones": {"lan": {"networks": ["10.0.0.0/8", "fd00::/16"]}, "dmz": {"networks": "10.1.0.0/16"}},
        "sets": sets or {"one": ["10.1.2.0/24", "fd00:1::/32"], "none": []},
        "domains": ["Own.example"],
        "block_lists": {name: {"zone": f"{name}.example"} for name in LISTS},
        "relay": {"listeners": {n: {"kind": "smtp", "port": p} for n, p in (("lan", 25), ("submission", 587))}},
        "smart_hosts": {"provider": {"host": "a.example"}, "backup": {"host": "b.example"}},
    }
    devices = [
        {"name": "printer", "addresses": "10.1.2.3", "senders": ["*@own.example", "<>"]},
        {"name": "nas", "addresses": ["10.1.2.4", "fd00::/64"], "senders": "nas@x.example", "recipients": PATHS[:2]},
    ]
    known = limits or [{"per": "host", "messages_per_hour": 9}, {"per": "user", "messages_per_day": 5}]
    whole = {
        "site": site,
        "mail": [{"name": f"m{number}", **each} for number, each in enumerate(mail)],
        "limits": [{"name": name, **each} for name, each in zip(LIMITS, known, strict=True)],
        "devices": devices,
    }
    return Policy.model_validate(whole | sections)


def limits(chance: Chance) -> Rules:
    return [
        {
            "per": per,
            "messages_per_hour": 9,
            "staged": chance.random() < 0.3,
            "above": chance.choice(["defer", "reject", "quarantine", "contain"]),
        }
        for per in ("host", "user")
    ]


def message(chance: Chance) -> dict[str, Any]:
    """The `given` of an expectation."""
    addresses = ["10.1.2.3", "10.1.2.4", "10.1.9.9", "10.9.9.9", "fd00::1", "fd00:1::1", "fe80::1", "198.51.100.7"]
    paths = ["anna@x.example", "bob@x.example", "p@sub.x.example", "bob@own.example", "nas@x.example", "q@a.example"]
    given: dict[str, Any] = {
        "client": chance.choice(addresses),
        "listener": chance.choice(["lan", "submission"]),
        "helo": chance.choice(["", "mx.x.example", "mx.", "ylmf-pc", "b", "a.x.example"]),
        "tls": chance.random() < 0.5,
        "user": chance.choice([None, "anna", "bob", "carl"]),
        "redirected": chance.random() < 0.3,
        "sender": chance.choice(["", *paths]),
        "recipient": [chance.choice(["postmaster", *paths])],
        "when": f"{chance.choice(['mon', 'wed', 'sun'])} {chance.choice(['05:59', '06:00', '22:00', '18:00'])}",
        "over_limit": [name for name in LIMITS if chance.random() < 0.3],
        "recipient_count": chance.choice([1, 2, 3, 51]),
        "size_octets": chance.choice([0, 1, 1000, 1001]),
        "header": {"subject": [chance.choice(["", "mx.", "box", "hello"])]} if chance.random() < 0.5 else {},
        "verdict": chance.choice(["infected", "denied", "ambiguous", "clean", "clean", "unknown"]),
        "attachments": [_attachment(chance) for _ in range(chance.choice([0, 0, 1, 2]))],
        "score": chance.choice(["-2", "-1", "0", "6.5"]),
        "unknown": [what for what in ("authentication", "block_list", "score", "attachments") if chance.random() < 0.1],
        "block_list": [name for name in LISTS if chance.random() < 0.3],
        "dmarc_policy": chance.choice(["none", "quarantine", "reject"]),
    }
    return given | {method: chance.choice(RESULTS) for method in ("spf", "dmarc")}


def _attachment(chance: Chance) -> dict[str, Any]:
    names = ["run.exe", "a.zip", "invoice 1.pdf", "x", "b.ece"]
    return {
        "path": [chance.choice(names) for _ in range(chance.choice([1, 1, 2, 3]))],
        "type": chance.choice(["application/pdf", "text/plain", "image/jpeg", "image/gif"]),
        **{flag: chance.random() < 0.3 for flag in ("encrypted", "macro", "active")},
    }
