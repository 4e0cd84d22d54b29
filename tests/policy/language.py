"""A policy that uses every section, as plain values, and the places of every kind of mapping in it."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml

from egressguard.policy import (
    access,
    bounces,
    invariants,
    mailboxes,
    model,
    pipes,
    relaying,
    scanning,
    scheduling,
    signing,
    site,
    smart_host,
)
from egressguard.policy.fields import Strict
from egressguard.policy.holding import Digest, Holding, Links, Retention
from egressguard.policy.journaling import Journaling, PassedFlows
from egressguard.policy.model import Policy
from egressguard.policy.session_limits import SessionLimits

Value = dict[str, Any]
Path = tuple[str | int, ...]

WHOLE: Value = {
    "site": {
        "zones": {
            "lan": {"interfaces": "@inside", "networks": "192.168.0.0/16"},
            "guests": {"networks": "10.9.0.0/16"},
        },
        "mac_sets": {"printers": ["00:53:00:12:34:56"]},
        "sets": {"mail-servers": ["192.168.1.25", "fd00::25"], "blocked": []},
        "relay": {
            "listeners": {"lan": {"kind": "smtp", "port": 25}, "submission": {"kind": "submission", "port": 587}},
            "redirect_to": "lan",
            "tarpit_port": 2599,
            "tls": {"certificate": "/a.pem", "private_key": "/a.key"},
            "retry": {},
            "sessions": {},
            "concurrency": {},
            "dsn": {},
            "suppression": {},
        },
        "block_lists": {"zen": {"zone": "zen.dnsbl.example"}},
        "smart_hosts": {
            "provider": {
                "host": "smtp.provider.example",
                "tls": "starttls",
                "auth": {"user": "u", "secret": "file:provider"},
                "client_certificate": {"certificate": "/a.pem", "private_key": "/a.key"},
                "rate": {},
                "breaker": {},
            },
            "backup": {"host": "203.0.113.9"},
        },
        "domains": ["example.org"],
        "signing": {
            "own": {"domains": "example.org", "selector": "rsa202611", "key": "file:dkim/rsa202611.example.org.pem"}
        },
        "forwarding": {"srs": {"domain": "example.org", "secrets": "file:srs.secret"}},
        "destinations": {"slow": {"domain": "example.net"}},
        "pipes": {"uucp": {"command": ["/usr/bin/uux", "-", "{nexthop}!rmail", "({recipient})"]}},
        "packet_plane": {},
        "apply": {"management": [{"from": "192.168.1.10", "to": "198.51.100.9"}]},
        "scan": {
            "clamd": {"address": "unix:/c"},
            "rspamd": {"address": "unix:/r", "controller": {"address": "unix:/r"}},
            "spamd": {"address": "unix:/s"},
            "yara": {"folder": "yara"},
        },
        "mailboxes": {"quota": {}, "accounts": {"anna": {}}, "mbox": {}},
        "access": {"guessing": {}, "own_quarantine": {}},
        "metrics": {},
        "journal": {"passed_flows": {}},
        "quarantine": {
            "retention": {"Infected": {}},
            "digest": {
                "daily_at": "07:00",
                "links": {"url": "https://mail.example.org", "secret": "file:quarantine.secret"},
            },
        },
    },
    "flows": [{"name": "f", "action": "allow"}],
    "mail": [
        {"name": "m", "match": {}, "action": "accept"},
        {"name": "never", "staged": True, "tag": "bulk", "action": "continue"},
    ],
    "limits": [
        {"name": "per-host", "per": "host", "messages_per_hour": 300},
        {"name": "per-user", "per": "user", "messages_per_hour": 300},
    ],
    "routes": [{"name": "r", "match": {}, "via": "mx"}],
    "tls": [{"name": "t", "match": {}, "level": "verify"}],
    "devices": [
        {"name": "printer-2nd-floor", "addresses": "192.168.1.70", "senders": "printer@example.org"},
    ],
    "invariants": [
        {"name": "i", "never": {"from": "lan", "port": 25}, "except": [{"source": "192.168.1.25"}]},
        {"name": "j", "always": {"from": "lan", "port": 587}},
    ],
}

PLACES: dict[type[Strict], Path] = {
    Policy: (),
    site.Site: ("site",),
    site.Zone: ("site", "zones", "lan"),
    relaying.Relay: ("site", "relay"),
    relaying.Listener: ("site", "relay", "listeners", "submission"),
    relaying.Tls: ("site", "relay", "tls"),
    SessionLimits: ("site", "relay", "sessions"),
    scheduling.Retry: ("site", "relay", "retry"),
    scheduling.Concurrency: ("site", "relay", "concurrency"),
    bounces.Dsn: ("site", "relay", "dsn"),
    bounces.Suppression: ("site", "relay", "suppression"),
    site.BlockList: ("site", "block_lists", "zen"),
    smart_host.SmartHost: ("site", "smart_hosts", "provider"),
    smart_host.ClientCertificate: ("site", "smart_hosts", "provider", "client_certificate"),
    smart_host.SmartHostAuth: ("site", "smart_hosts", "provider", "auth"),
    signing.Signer: ("site", "signing", "own"),
    signing.Forwarding: ("site", "forwarding"),
    signing.Srs: ("site", "forwarding", "srs"),
    scheduling.Rate: ("site", "smart_hosts", "provider", "rate"),
    scheduling.Breaker: ("site", "smart_hosts", "provider", "breaker"),
    scheduling.Destination: ("site", "destinations", "slow"),
    pipes.Pipe: ("site", "pipes", "uucp"),
    site.PacketPlane: ("site", "packet_plane"),
    site.Apply: ("site", "apply"),
    site.ManagementFlow: ("site", "apply", "management", 0),
    site.Scan: ("site", "scan"),
    scanning.Clamd: ("site", "scan", "clamd"),
    scanning.Rspamd: ("site", "scan", "rspamd"),
    scanning.RspamdController: ("site", "scan", "rspamd", "controller"),
    scanning.Spamd: ("site", "scan", "spamd"),
    scanning.Yara: ("site", "scan", "yara"),
    mailboxes.Mailboxes: ("site", "mailboxes"),
    mailboxes.Quota: ("site", "mailboxes", "quota"),
    mailboxes.MailboxAccount: ("site", "mailboxes", "accounts", "anna"),
    mailboxes.Mbox: ("site", "mailboxes", "mbox"),
    access.Access: ("site", "access"),
    access.Guessing: ("site", "access", "guessing"),
    access.OwnQuarantine: ("site", "access", "own_quarantine"),
    site.Metrics: ("site", "metrics"),
    Journaling: ("site", "journal"),
    PassedFlows: ("site", "journal", "passed_flows"),
    Holding: ("site", "quarantine"),
    Retention: ("site", "quarantine", "retention", "Infected"),
    Digest: ("site", "quarantine", "digest"),
    Links: ("site", "quarantine", "digest", "links"),
    model.FlowRule: ("flows", 0),
    model.MailRule: ("mail", 0),
    model.MailMatch: ("mail", 0, "match"),
    model.Limit: ("limits", 0),
    model.Route: ("routes", 0),
    model.RouteMatch: ("routes", 0, "match"),
    model.TlsRule: ("tls", 0),
    model.TlsMatch: ("tls", 0, "match"),
    model.Device: ("devices", 0),
    invariants.Invariant: ("invariants", 0),
    invariants.Packets: ("invariants", 0, "never"),
}

BESIDE: dict[tuple[str, str], Value] = {
    ("Listener", "greeting_pause_seconds"): {"kind": "smtp"},
    ("FlowRule", "destination_host"): {"decide": "queue"},
    ("Invariant", "always"): {"never": None},
    ("Packets", "speaks"): {"protocol": "tcp"},
    ("FlowRule", "action"): {"port": 25},
    ("FlowRule", "fail"): {"decide": "queue"},
    ("FlowRule", "speaks"): {"protocol": "tcp"},
    ("MailRule", "folder"): {"action": "quarantine"},
    ("MailRule", "text"): {"action": "reject"},
    ("MailRule", "source_routes"): {"match": {"authenticated": True}},
    ("Limit", "folder"): {"above": "quarantine"},
    ("Digest", "owners"): {"admins": "postmaster@example.org"},
    ("Site", "dnssec"): {"resolvers": "127.0.0.1"},
    ("Limit", "contain_seconds"): {"above": "contain"},
}
"""Keys that another key needs beside it."""

LISTED = {
    "lists/blocked.txt": b"203.0.113.0/24 # somebody\n",
    "lists/helpdesk.txt": b"helpdesk@example.org\n",
    "shared/lists.yaml": b"",
    "shared/devices.yaml": b"devices:\n",
    "yara/own.yar": b"rule own { condition: false }\n",
}
"""The files that examples name."""


def keys(kind: type[Strict]) -> dict[str, Any]:
    """Key as rule files write it -> pydantic's field."""
    return {info.alias or name: info for name, info in kind.model_fields.items()}


def mapping_at(value: Value, path: Path) -> Value:
    for step in path:
        value = value[step]  # type: ignore[index]
    return value


def with_key(kind: type[Strict], key: str, item: object) -> Value:
    """WHOLE with this key in the mapping of this kind."""
    value = copy.deepcopy(WHOLE)
    mapping_at(value, PLACES[kind]).update({**BESIDE.get((kind.__name__, key), {}), key: item})
    return value


def as_yaml(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def everything() -> Value:
    """WHOLE with every key that there is, each with an example of its own, as far as they go together."""
    value = copy.deepcopy(WHOLE)
    for kind, path in PLACES.items():
        mapping = mapping_at(value, path)
        for key, info in keys(kind).items():
            if key not in mapping and (kind.__name__, key) not in BESIDE and key not in {"enabled", "staged"}:
                mapping[key] = info.examples[-1]
    return value


def in_blocks(value: object) -> bytes:
    """As YAML in block style: lines that can be lost, doubled and indented."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return str(text).encode()
