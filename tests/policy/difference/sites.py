"""A site of some size, and what people do to its rule files that changes nothing."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Any

from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy

Sections = dict[str, Any]

BASE: Sections = {
    "site": {
        "zones": {
            "lan": {"interfaces": ["@inside"], "networks": ["10.0.0.0/8", "fd00::/8"]},
            "guests": {"interfaces": "wlan0", "networks": "192.168.7.0/24", "tunnels": "allow"},
        },
        "sets": {
            "servers": ["10.0.0.25", "10.0.0.26", "fd00::25"],
            "partners": ["203.0.113.0/25", "198.51.100.64-198.51.100.95"],
        },
        "mac_sets": {"printers": ["00:53:00:00:00:01", "00:53:00:00:00:02"]},
        "domains": ["example.org"],
        "block_lists": {"zen": {"zone": "zen.example"}},
        "relay": {
            "listeners": {"lan": {"kind": "smtp", "port": 25}, "submission": {"kind": "submission", "port": 587}}
        },
        "smart_hosts": {"provider": {"host": "a.example"}, "backup": {"host": "b.example"}},
    },
    "flows": [
        {"name": "servers", "from": "lan", "source": "@servers", "port": 25, "action": "allow"},
        {"name": "partner", "from": "lan", "destination": "@partners", "port": [25, 2525], "action": "allow"},
        {"name": "by-name", "port": 25, "destination_host": "mx.example.net", "decide": "queue", "action": "allow"},
        {"name": "printers", "source_mac": "@printers", "port": 465, "action": "drop"},
        {"name": "at-night", "from": "guests", "port": [465, 587], "hours": "22:00-06:00", "action": "reject"},
        {"name": "weekend", "from": "guests", "port": 587, "weekdays": "sat-sun", "action": "drop", "log": False},
        {"name": "udp", "from": "guests", "protocol": "udp", "port": 53, "action": "reject"},
        {"name": "gre", "from": "lan", "protocol": "gre", "destination": "203.0.113.9", "action": "allow"},
        {"name": "stricter", "from": "lan", "port": 587, "staged": True, "action": "reject"},
        {"name": "block", "from": ["lan", "guests"], "port": 25, "action": "reject"},
        {"name": "disguised", "from": "lan", "speaks": "smtp", "action": "reject", "log_per_second": 5},
    ],
    "limits": [
        {"name": "per-user", "per": "user", "messages_per_hour": 100, "above": "reject"},
        {"name": "per-host", "per": "host", "recipients_per_day": 1000, "above": "contain"},
    ],
    "mail": [
        {"name": "lists", "match": {"header": {"List-Id": "*"}}, "action": "continue", "tag": "bulk"},
        {"name": "marks", "match": {"client": "guests"}, "action": "continue", "add_header": {"X-Site": "guests"}},
        {"name": "malware", "match": {"verdict": "infected"}, "action": "quarantine", "folder": "Infected"},
        {"name": "denied", "match": {"verdict": ["denied", "ambiguous"]}, "action": "quarantine", "folder": "Denied"},
        {"name": "macros", "match": {"attachment_macro": True, "authenticated": False}, "action": "quarantine"},
        {
            "name": "programs",
            "match": {"attachment_name": ["*.exe", "*.scr"]},
            "action": "reject",
            "text": "no programs",
        },
        {"name": "spam", "match": {"score_at_least": "7.5"}, "action": "hold"},
        {"name": "listed", "match": {"block_list": "zen", "authenticated": False}, "action": "reject"},
        {"name": "forged", "match": {"dmarc": "fail", "dmarc_policy": "reject"}, "action": "reject"},
        {"name": "chief", "match": {"recipient": "chief@example.org", "hours": "22:00-06:00"}, "action": "hold"},
        {"name": "large", "match": {"larger_than_octets": 1000000}, "action": "reject", "text": "too large"},
        {"name": "many", "match": {"more_than_recipients": 50, "authenticated": True}, "action": "defer"},
        {"name": "boss", "match": {"user": "boss"}, "action": "accept", "route": "backup"},
        {"name": "users", "match": {"authenticated": True, "tls": True}, "action": "accept", "limit": "per-user"},
        {"name": "printer", "match": {"device": "@any"}, "action": "accept", "limit": "per-host"},
        {
            "name": "servers",
            "match": {"client": "@servers", "sender_domain": ["example.org", ".example.org"]},
            "action": "accept",
        },
        {"name": "own", "match": {"recipient_domain": "@local"}, "action": "accept", "notify": "root@example.org"},
    ],
    "routes": [
        {"name": "bulk", "match": {"tag": "bulk"}, "via": "backup"},
        {"name": "partner", "match": {"recipient_domain": "partner.example"}, "via": ["provider", "backup"]},
        {"name": "rest", "match": {"larger_than_octets": 500000}, "via": "[192.0.2.1]:2525"},
    ],
    "tls": [
        {"name": "partner", "match": {"recipient_domain": ["partner.example", ".partner.example"]}, "level": "secure"},
        {"name": "old", "match": {"next_hop": "mx.old.example"}, "level": "none"},
    ],
    "devices": [
        {"name": "copier", "addresses": ["10.0.0.70", "fd00::70"], "senders": "copier@example.org"},
        {"name": "camera", "addresses": "10.0.0.71", "senders": "<>", "recipients": "*@example.org"},
    ],
}


def load(*files: Sections) -> Policy:
    loaded = parse_rules({f"{number:02}.yaml": json.dumps(file).encode() for number, file in enumerate(files)})
    assert loaded.policy is not None, list(map(str, loaded.faults))
    return loaded.policy


# Refactorings: (chance, sections) -> nothing, the sections are changed in place.

Chance = random.Random


def _rename_set(chance: Chance, rules: Sections) -> None:
    kind = chance.choice(["sets", "mac_sets"])
    old = chance.choice(sorted(rules["site"][kind]))
    new = f"{old}-{chance.randrange(1000)}"
    rules["site"][kind][new] = rules["site"][kind].pop(old)
    _replace(rules, f"@{old}", f"@{new}")


def _inline_set(chance: Chance, rules: Sections) -> None:
    name = chance.choice(sorted(rules["site"]["sets"]))
    members = rules["site"]["sets"][name]
    for rule in rules["flows"]:
        for key in ("source", "destination"):
            if rule.get(key) == f"@{name}":
                rule[key] = list(members)


def _extract_set(chance: Chance, rules: Sections) -> None:
    name = f"extracted-{chance.randrange(10**6)}"
    for rule in rules["flows"]:
        if rule.get("destination") == "203.0.113.9":
            rules["site"]["sets"][name] = ["203.0.113.9"]
            rule["destination"] = f"@{name}"


def _rename_zone(chance: Chance, rules: Sections) -> None:
    old = chance.choice(sorted(rules["site"]["zones"]))
    new = f"{old}{chance.randrange(1000)}"
    rules["site"]["zones"][new] = rules["site"]["zones"].pop(old)
    for rule in rules["flows"]:
        rule.update({"from": _swapped(rule["from"], old, new)} if "from" in rule else {})
    for rule in rules["mail"]:
        match = rule["match"]
        match |= {"client": _swapped(match["client"], old, new)} if "client" in match else {}


def _rename_rule(chance: Chance, rules: Sections) -> None:
    section = chance.choice(["flows", "mail", "routes", "tls"])
    rule = chance.choice(rules[section])
    rule["name"] += f"-{chance.randrange(10**6)}"
    rule["note"] = "renamed"


def _split_rule(chance: Chance, rules: Sections) -> None:
    """One rule with a list becomes two beside each other."""
    for section, key in chance.sample([("flows", "port"), ("mail", "verdict"), ("mail", "attachment_name")], 3):
        for place, rule in enumerate(rules[section]):
            holder = rule if section == "flows" else rule["match"]
            if isinstance(holder.get(key), list) and len(holder[key]) > 1:
                second = copy.deepcopy(rule)
                (second if section == "flows" else second["match"])[key] = holder[key][1:]
                second["name"] += f"-{chance.randrange(10**6)}"
                holder[key] = holder[key][:1]
                rules[section].insert(place + 1, second)
                return


def _swap_disjoint(chance: Chance, rules: Sections) -> None:
    """Neighbours that no packet or message can both match."""
    names = [
        ("flows", "udp", "gre"),
        ("flows", "weekend", "udp"),
        ("mail", "malware", "denied"),
        ("tls", "partner", "old"),
    ]
    section, one, other = chance.choice(names[:3])
    order = [rule["name"].partition("-")[0] for rule in rules[section]]
    if order.count(one) == order.count(other) == 1 and abs(order.index(one) - order.index(other)) == 1:
        first, second = sorted((order.index(one), order.index(other)))
        rules[section][first], rules[section][second] = rules[section][second], rules[section][first]


def _shadowed(chance: Chance, rules: Sections) -> None:
    """A rule behind one that takes all that it would."""
    section = chance.choice(["flows", "mail"])
    deciding = [r for r in rules[section] if r["action"] != "continue" and not r.get("staged") and "limit" not in r]
    copied = copy.deepcopy(chance.choice(deciding))
    copied |= {"name": f"shadowed-{chance.randrange(10**6)}", "action": "reject"}
    for key in ("folder", "text", "route", "notify", "decide", "destination_host", "log_per_second", "log"):
        copied.pop(key, None)
    if copied.get("name", "").startswith("shadowed") and section == "flows" and copied.get("port") == 25:
        copied["source"] = "@servers"
        copied["from"] = "lan"
    rules[section].append(copied)


def _halve_prefix(chance: Chance, rules: Sections) -> None:
    for zone in rules["site"]["zones"].values():
        networks = zone["networks"] if isinstance(zone["networks"], list) else [zone["networks"]]
        zone["networks"] = [str(half) for text in networks for half in ip_network(text).subnets()]
        chance.shuffle(zone["networks"])


def _shuffle_lists(chance: Chance, rules: Sections) -> None:
    for rule in rules["flows"]:
        if isinstance(rule.get("port"), list):
            chance.shuffle(rule["port"])
    for rule in rules["mail"]:
        for wanted in rule["match"].values():
            if isinstance(wanted, list):
                chance.shuffle(wanted)
    for name in ("sets", "zones"):
        items = list(rules["site"][name].items())
        chance.shuffle(items)
        rules["site"][name] = dict(items)


def _rename_limit(chance: Chance, rules: Sections) -> None:
    limit = chance.choice(rules["limits"])
    new = f"limit-{chance.randrange(10**6)}"
    for rule in rules["mail"]:
        rule.update({"limit": new} if rule.get("limit") == limit["name"] else {})
    limit["name"] = new


def _other_case(chance: Chance, rules: Sections) -> None:
    for rule in rules["mail"]:
        for key in ("sender_domain", "recipient", "attachment_name"):
            if isinstance(rule["match"].get(key), str):
                rule["match"][key] = rule["match"][key].upper()
            elif key in rule["match"]:
                rule["match"][key] = [text.upper() for text in rule["match"][key]]


REFACTORINGS: list[Callable[[Chance, Sections], None]] = [
    *(_rename_set, _inline_set, _extract_set, _rename_zone, _rename_rule, _split_rule, _swap_disjoint, _shadowed),
    *(_halve_prefix, _shuffle_lists, _rename_limit, _other_case),
]


def refactored(chance: Chance) -> list[Sections]:
    """The base in other words: some refactorings, then cut into files."""
    rules = copy.deepcopy(BASE)
    for refactor in chance.choices(REFACTORINGS, k=chance.choice([1, 2, 3, 5])):
        refactor(chance, rules)
    files: list[Sections] = [{"site": rules.pop("site")}]
    for section, items in rules.items():
        cut = chance.randrange(len(items) + 1)
        files += [{section: items[:cut]}, {section: items[cut:]}]
    return files


def _replace(value: Any, old: str, new: str) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        if isinstance(item, dict | list):
            _replace(item, old, new)
        elif item == old:
            value[key] = new


def _swapped(value: Any, old: str, new: str) -> Any:
    if isinstance(value, list):
        return [new if item == old else item for item in value]
    return new if value == old else value


def with_rule(section: str, name: str, change: Mapping[str, Any]) -> Policy:
    """The base with one rule changed."""
    rules = copy.deepcopy(BASE)
    for rule in rules[section]:
        if rule["name"] == name:
            rule.update(change)
    return load(rules)
