"""What the kernel lists is proven to be what the rules say; a fault put into it by hand is found, its twin is not.

Every ruleset here is loaded into a kernel, in a namespace of its own, and read back from there.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from egressguard.firewall.host import Host
from egressguard.firewall.listing import Listing, NotUnderstood, parse_listing, with_queue_rules
from egressguard.firewall.nft import NftError, list_apart
from egressguard.firewall.proof import AS_THE_RULES, prove_listing
from egressguard.firewall.render import render_ruleset
from egressguard.firewall.table import TABLE
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.policy.proof import Proof
from tests.firewall.test_differential import POLICY as RICH
from tests.firewall.test_render_golden import CASES, rendered

POLICIES = int(os.environ.get("EGRESSGUARD_POLICIES", "25"))
HOST = Host(frozenset({"br0"}), None, 990, "xt")
SITE: dict[str, Any] = {
    "zones": {
        "lan": {"interfaces": ["br0"], "networks": ["10.1.0.0/24", "fd00:1::/64"]},
        "guest": {"interfaces": ["guest0", "guest1"]},
    },
    "sets": {"servers": ["10.1.0.24/30", "fd00:1::25"]},
    "apply": {"management": [{"from": "10.1.0.9", "to": "198.51.100.9", "port": 22}]},
}
ASKED = {"name": "asked", "destination_host": "mx.a.example", "decide": "queue", "action": "allow"}
POLICY = Policy.model_validate(
    {
        "site": SITE,
        "flows": [
            {"name": "servers", "from": "lan", "source": "@servers", "port": 25, "action": "allow"},
            {"from": "lan", "port": 26, **ASKED},
            {"name": "rest-26", "from": "lan", "port": 26, "action": "reject"},
            {"name": "block", "from": ["lan", "guest"], "port": 25, "action": "reject"},
            {"name": "submission", "from": ["lan", "guest"], "port": 587, "action": "allow"},
            {"name": "said", "from": "lan", "speaks": "smtp", "action": "reject"},
            {"name": "high", "from": "lan", "port": 2525, "action": "drop"},
        ],
        "invariants": [
            {"name": "no-2525", "never": {"from": "lan", "to": "internet", "port": 2525}},
            {"name": "no-speech", "never": {"from": "lan", "speaks": "smtp", "port": 443}},
            {"name": "submission", "always": {"from": "guest", "port": 587}},
            {
                "name": "lan-25",
                "never": {"from": "lan", "port": 25},
                "except": [{"source": "@servers"}],
            },
        ],
    }
)
RULESET = render_ruleset(POLICY, HOST)
HEAD = "type filter hook forward priority filter; policy accept;\n\t\tmeta nfproto"
TCP_0 = "chain tcp_0 {\n"
BLOCK_6 = 'tcp dport 25 ip6 saddr @zone_lan_6 counter name c_block/lan goto rule_block comment "block "'
ANSWERS = "ct direction reply tcp dport >= 1024 tcp flags & (syn | ack) != syn accept"
EHLO = "0x45484c4f20, "


def before(place: str, rule: str) -> tuple[str, str]:
    """A rule put in front of the rest of a chain."""
    return place, place.replace("\t\tmeta nfproto", f"\t\t{rule}\n\t\tmeta nfproto") if "hook" in place else place + (
        f"\t\t{rule}\n"
    )


def forward(faulty: str, harmless: str) -> tuple[str, str, str]:
    return HEAD, before(HEAD, faulty)[1], before(HEAD, harmless)[1]


def tcp_0(faulty: str, harmless: str) -> tuple[str, str, str]:
    return TCP_0, before(TCP_0, faulty)[1], before(TCP_0, harmless)[1]


FAULTS: dict[str, tuple[str, str, str]] = {
    "a shadowed exception": tcp_0('tcp dport 25 iifname "br0" goto rule_block', 'tcp dport 25 iifname "br1" counter'),
    "the IPv6 twin missing": (BLOCK_6, "counter", f"meta nfproto ipv6 {BLOCK_6}"),
    "a zone's prefix too long": ("{ 10.1.0.0/24 }", "{ 10.1.0.0/25 }", "{ 10.1.0.0-10.1.0.255 }"),
    "an exception's prefix too short": ("{ 10.1.0.24/30 }", "{ 10.1.0.24/29 }", "{ 10.1.0.24, 10.1.0.25-10.1.0.27 }"),
    "a range that ends one too late": ("{ 10.1.0.24/30 }", "{ 10.1.0.24-10.1.0.28 }", "{ 10.1.0.24-10.1.0.27 }"),
    "an interface missing in a set": ('{ "guest0", "guest1" }', '{ "guest0" }', '{ "guest1", "guest0" }'),
    "what stands is accepted": forward("ct state established accept", "ct state established counter"),
    "answers to any port": tcp_0("ct direction reply accept", ANSWERS),
    "answers that may be openings": ("tcp flags & (syn | ack) != syn accept", "accept", "tcp flags & 18 != 2 accept"),
    "the wrong hook": (
        "type filter hook forward priority filter;",
        "type filter hook input priority filter;",
        HEAD[:41],
    ),
    "marks asked before they are set": ("priority filter + 5", "priority filter - 5", "priority filter + 7"),
    "another mark for refusals": ("meta mark 0x45470001", "meta mark 0x45470003", "meta mark 1162280961"),
    "accepted instead of asked about": ("goto to_queue", "accept", "jump to_queue"),
    "asked about by another rule": ("meta mark set 0x45480001", "meta mark set 0x45480002", "meta mark set 1162346497"),
    "another protocol": (
        "meta l4proto tcp goto tcp_flows",
        "meta l4proto udp goto tcp_flows",
        "meta l4proto 6 goto tcp_flows",
    ),
    "a port missing in the question before": (
        "tcp dport { 25, 26, 587 } jump",
        "tcp dport { 26, 587 } jump",
        "tcp dport { 25-26, 587 } jump",
    ),
    "a greeting missing": (EHLO, "", "0x45484c4f20, 0x45484c4f20, "),
    "a letter missing": ("{ 0x45, 0x48, 0x4c, 0x4d }", "{ 0x45, 0x48, 0x4c }", "{ 0x4d, 0x4c, 0x48, 0x45 }"),
    "another user's processes": ("skuid != 990", "skuid != 991", "skuid != { 990 }"),
    "a way out for the gateway": ('oifname "lo" accept', 'oifname { "lo", "wan0" } accept', 'oifname { "lo" } accept'),
    "mapped destinations forgotten": (
        "ip6 daddr ::ffff:0:0/96 goto",
        "ip6 daddr ::ffff:0:0/97 goto",
        "ip6 daddr & ffff:ffff:ffff:ffff:ffff:ffff:: == ::ffff:0:0 goto",
    ),
    "closed at the end": (
        HEAD.replace("policy accept", "policy accept"),
        HEAD.replace("policy accept", "policy drop"),
        HEAD,
    ),
    "the administrator cut off": forward(
        "tcp dport 22 ip saddr 10.1.0.9 drop", "tcp dport 22 ip saddr 10.1.0.9 counter"
    ),
    "accepted below a rate": tcp_0("limit rate 5/second accept", "limit rate 5/second counter"),
    "accepted by a map": forward("tcp dport vmap { 24-25 : accept }", "tcp dport vmap { 24-25 : continue }"),
    "another program's mark": forward("meta mark 7 accept", "meta mark 7 counter"),
    "a tunnel forgotten": ("{ 4, 41, 47 }", "{ 4, 47 }", "{ 47, 41, 4 }"),
    "open for two hours": forward('meta hour "08:00"-"09:59:59" accept', 'meta hour "08:00"-"09:59:59" counter'),
    "dropped before it is routed": ("udp dport 53 jump who_asks", "tcp dport 587 drop", "udp dport 53 goto who_asks"),
    "fragments": ("ip frag-off & 0x3fff != 0 jump", "ip frag-off & 0x2000 != 0 jump", "ip frag-off & 16383 != 0 jump"),
    "accepted by a set that fills": forward("ip saddr @blocked_4 accept", "ip saddr @blocked_4 counter"),
    "a chain that leads away": ("tcp dport 2525 jump tcp_2", "tcp dport 2525 jump six", "tcp dport 2525 goto tcp_2"),
}


def listed(ruleset: str) -> Listing:
    try:
        text = asyncio.run(list_apart(ruleset))
    except NftError as wrong:
        if "unshare" in str(wrong):
            pytest.skip(f"needs network namespaces: {wrong}")
        raise
    return with_queue_rules(parse_listing(text, TABLE))


def broken(proofs: list[Proof]) -> dict[str, str]:
    return {proof.name: f"{proof.witness}" for proof in proofs if not proof.holds}


def test_everything_is_proven_of_the_base() -> None:
    proofs = prove_listing(POLICY, HOST, listed(RULESET))
    assert broken(proofs) == {}
    assert [proof.name for proof in proofs if proof.at == "(built in)"] == [
        *("as-the-rules", "port-25", "mapped-addresses", "own-processes")
    ]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_its_twin_is_none(name: str) -> None:
    right, faulty, harmless = FAULTS[name]
    assert right in RULESET
    found = prove_listing(POLICY, HOST, listed(RULESET.replace(right, faulty)))
    assert broken(found), "the fault is not found"
    assert all(proof.witness is not None and proof.words for proof in found if not proof.holds)
    assert broken(prove_listing(POLICY, HOST, listed(RULESET.replace(right, harmless)))) == {}


def test_a_flow_handed_to_a_flowtable_passes_from_then_on() -> None:
    """Not every kernel has flowtables: the rule is put into the listing."""
    text = json.loads(asyncio.run(list_apart(RULESET)))
    offload = {"flow": {"op": "add", "flowtable": "@fast"}}
    rule = {"family": "inet", "table": TABLE, "chain": "forward", "handle": 9999}
    at = next(n for n, item in enumerate(text["nftables"]) if item.get("rule", {}).get("chain") == "forward")
    for expressions, found in (
        ([offload], {"as-the-rules", "port-25", "lan-25"}),
        ([_match("dport", 80), offload], set[str]()),
    ):
        changed = [*text["nftables"][:at], {"rule": {**rule, "expr": expressions}}, *text["nftables"][at:]]
        listing = with_queue_rules(parse_listing(json.dumps({"nftables": changed}), TABLE))
        assert found <= broken(prove_listing(POLICY, HOST, listing)).keys()
        if not found:  # what stands on port 80 is not seen any more: neither what it says nor its addresses
            assert broken(prove_listing(POLICY, HOST, listing)).keys() == {"as-the-rules", "mapped-addresses"}


def _match(field: str, value: int) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": field}}, "right": value}}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_golden_ruleset_is_what_its_rules_say(case: Any) -> None:
    policy = parse_rules({"policy.yaml": (case / "policy.yaml").read_bytes()}).policy
    assert policy is not None
    host = Host(frozenset({"eth1", "wg0"}), 25, 990, "xt", tarpit_port=2599, utc_offset_minutes=120)
    found = broken(prove_listing(policy, host, listed(rendered(case))))
    assert found.keys() <= {"port-25"}
    assert ("port-25" in found) == (case.name in {"90-tarpit-and-tunnels", "95-passed-flows"})  # a zone without a rule


def test_the_rules_of_the_lab_are_what_the_kernel_has() -> None:
    policy = Policy.model_validate(RICH)
    host = Host(frozenset(), 9, 990, "xt", tarpit_port=10)
    assert AS_THE_RULES not in broken(prove_listing(policy, host, listed(render_ruleset(policy, host))))


def drawn(dice: random.Random) -> Iterator[dict[str, Any]]:
    """Rules that overlap in every field."""
    prefixes = ["10.1.0.0/24", "10.1.0.7", "10.1.0.4/30", "fd00:1::/64", "fd00:1::7", "10.1.0.3-10.1.0.9", "@servers"]
    for number in range(dice.randrange(1, 9)):
        rule: dict[str, Any] = {"name": f"r{number}", "action": dice.choice(["allow", "reject", "drop"])}
        kind = dice.choices(["tcp", "udp", "gre"], [8, 2, 1])[0]
        optional: dict[str, Any] = {
            "from": dice.choice(["lan", "guest", ["lan", "guest"]]),
            "source": dice.sample(prefixes, dice.randrange(1, 3)),
            "destination": dice.sample(prefixes, dice.randrange(1, 3)),
            "port": dice.choice([25, [25, 26], [26, 2525], 587]),
            "source_mac": "02:00:00:00:00:01",
            "hours": dice.choice(["08:00-18:00", "22:00-06:00"]),
            "weekdays": dice.choice(["mon-fri", ["sat", "mon"]]),
            "staged": True,
            "speaks": "smtp",
            "decide": "queue",
        }
        for key, likely in zip(optional, (6, 4, 4, 7, 1, 1, 1, 1, 2, 1), strict=True):
            if dice.random() < likely / 10:
                rule[key] = optional[key]
        rule["protocol"] = kind
        if kind == "gre":
            rule.pop("port", None)
        if kind != "tcp" or rule.get("decide"):
            rule.pop("speaks", None)
        if kind == "tcp" and rule.get("port") and not rule.keys() & {"speaks", "decide"} and dice.random() < 0.2:
            rule["action"] = dice.choice(["redirect", "tarpit"])
        yield rule


@pytest.mark.parametrize("part", range(5))
def test_drawn_rules_are_what_the_kernel_has_of_them(part: int) -> None:
    """EGRESSGUARD_POLICIES says how many (`make system`: 2000)."""
    for seed in range(part, POLICIES, 5):
        policy = Policy.model_validate({"site": SITE, "flows": list(drawn(random.Random(seed)))})
        host = Host(
            frozenset(), 2525, 990, "xt", tarpit_port=2599, utc_offset_minutes=random.Random(seed).choice([0, 90])
        )
        found = broken(prove_listing(policy, host, listed(render_ruleset(policy, host))))
        assert AS_THE_RULES not in found, (seed, policy.flows, found[AS_THE_RULES])


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("counter quota 10 mbytes accept", "the statement 'quota' is not understood"),
        ('iifname "eth*" accept', "the interface 'eth*' is not understood"),
        ("ip dscp 1 accept", "the question 'ip dscp' is not understood"),
        ("ct mark 5 accept", "the question 'ct mark' with '==' is not understood"),
        ("fib saddr . iif oif missing drop", "this question about routes (fib) is not understood"),
        ("meta mark set meta mark or 0x1", "is not understood; expected a mark that is set to a number"),
        ("tcp option maxseg size 10 accept", "'tcp option' is not understood"),
        ('meta hour "08:00"-"09:30" accept', "are no whole minutes"),
        ("synproxy mss 1460", "the statement 'synproxy' is not understood"),
        ("@nh,96,32 0x0a000001 accept", "the question '@nh,96,32' is not understood"),
    ],
)
def test_what_has_no_exact_meaning_here_is_refused_by_name(rule: str, words: str) -> None:
    place, changed = before(HEAD, rule)
    listing = listed(RULESET.replace(place, changed))
    with pytest.raises(NotUnderstood) as wrong:
        prove_listing(POLICY, HOST, listing)
    assert words in str(wrong.value) and str(wrong.value).startswith("chain forward, rule 1: ")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"nftables": 5}', '{"nftables": [{"rule": {"family": "inet", "table": "egressguard"}}]}']
)
def test_what_is_no_listing_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_listing(text, TABLE)
