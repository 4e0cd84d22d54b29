"""Invariants of rules are proven for all flows: beside brute force over every flow of a small world."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import product
from typing import Any

import pytest

from egressguard.net.flow import Flow, IPAddress, Protocol
from egressguard.policy.decision import FlowAction
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.invariants import Invariant, Packets
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.policy.proof import MANAGEMENT, PORT_25, idle_rules, prove_rules
from egressguard.policy.space.flows import FlowRegions
from egressguard.policy.space.region import Space
from tests.policy.language import as_yaml

POLICIES = int(os.environ.get("EGRESSGUARD_POLICIES", "60"))
PORTS = (24, 25, 26, 465, 586, 587, 2525, 2526)
LAN: dict[str, Any] = {"lan": {"interfaces": ["br0"], "networks": ["10.0.0.0/30", "fd00::/126"]}}


def policy_of(flows: list[dict[str, Any]], invariants: list[dict[str, Any]], **site: Any) -> Policy:
    return Policy.model_validate({"site": {"zones": LAN, **site}, "flows": flows, "invariants": invariants})


def prefixes(dice: random.Random) -> list[str]:
    """Prefixes inside 4 bits of both families."""
    four, six = dice.randrange(28, 33), dice.randrange(124, 129)
    return [
        f"10.0.0.{dice.randrange(16) >> (32 - four) << (32 - four)}/{four}",
        f"fd00::{dice.randrange(16) >> (128 - six) << (128 - six):x}/{six}",
    ]


def packets(dice: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, values in (("source", prefixes(dice)), ("destination", prefixes(dice))):
        if dice.random() < 0.5:
            found[key] = dice.sample(values, dice.randrange(1, 3))
    if dice.random() < 0.6:
        found["port"] = dice.sample(PORTS, dice.randrange(1, 4))
    if dice.random() < 0.4:
        found["from"] = "lan"
    if dice.random() < 0.2:
        found["speaks"] = "smtp"
    return found


def drawn(dice: random.Random) -> Policy:
    flows = [
        {"name": f"r{n}", "action": dice.choice(["allow", "reject", "drop"]), **packets(dice)}
        for n in range(dice.randrange(1, 7))
    ]
    invariants = [
        {
            "name": f"i{n}",
            dice.choice(["never", "always"]): packets(dice),
            "except": [packets(dice)][: dice.randrange(2)],
        }
        for n in range(2)
    ]
    return policy_of(flows, invariants)


def world() -> Iterator[Flow]:
    """4 bits of addresses at both ends, 8 ports, two families, two interfaces, silent and speaking."""
    for six, interface, said in product((False, True), ("br0", "br1"), ("", "smtp")):
        kind: Any = IPv6Address if six else IPv4Address
        base = (0xFD00 << 112) if six else (10 << 24)
        ends: list[IPAddress] = [kind(base + n) for n in range(16)]
        for source, destination, port in product(ends, ends, PORTS):
            yield Flow(source, destination, port, interface, Protocol.TCP, 40000, "", said)


WORLD = list(world())


WHOLE_WORLD = POLICIES >= 1000
ENDS = sorted({flow.source for flow in WORLD}, key=str)


@pytest.mark.parametrize("part", range(4))
def test_the_proof_agrees_with_brute_force_over_a_small_world(part: int) -> None:
    """EGRESSGUARD_POLICIES says how many policies (`make system`: 1000, each asked about the whole small world)."""
    for seed in range(part, POLICIES, 4):
        policy, dice = drawn(random.Random(seed)), random.Random(seed)
        regions = FlowRegions(Space(), policy)
        proofs = {proof.name: proof for proof in prove_rules(regions)}
        asked = [(invariant, proofs[invariant.name], *by_hand(invariant)) for invariant in policy.invariants]
        for flow in WORLD if WHOLE_WORLD else dice.sample(WORLD, 800):
            passes = decide_flow(policy, flow, Surroundings()).action is FlowAction.ALLOW
            for invariant, proof, is_wanted, is_besides in asked:
                if passes == (invariant.never is not None) and is_wanted(flow) and not is_besides(flow):
                    assert not proof.holds, (seed, invariant.name, flow)
        for invariant, proof, is_wanted, is_besides in asked:
            if proof.witness is not None and (flow := proof.witness.flow) is not None:
                assert is_wanted(flow) and not is_besides(flow), (seed, flow)
                decided = decide_flow(policy, flow, Surroundings(frozenset())).action is FlowAction.ALLOW
                assert decided == (invariant.never is not None), (seed, flow)


Answer = Callable[[Flow], bool]


def by_hand(invariant: Invariant) -> tuple[Answer, Answer]:
    """What an invariant is about, and what it is not, flow by flow."""
    wanted = invariant.never or invariant.always
    assert wanted is not None
    besides = [one_by_hand(each) for each in invariant.besides]
    return one_by_hand(wanted), lambda flow: any(holds(flow) for holds in besides)


def one_by_hand(packets: Packets) -> Answer:
    def within(texts: Iterable[str]) -> Callable[[IPAddress], bool]:
        networks = [ip_network(text) for text in texts]
        known = {end: any(end in network for network in networks) for end in ENDS}
        return lambda end: known.get(end, any(end in network for network in networks))

    source, destination, lan = within(packets.source), within(packets.destination), within(LAN["lan"]["networks"])
    return lambda flow: (
        flow.protocol is Protocol.TCP
        and (not packets.source or source(flow.source))
        and (not packets.destination or destination(flow.destination))
        and (not packets.port or flow.destination_port in packets.port)
        and (not packets.from_zone or flow.interface == "br0" or lan(flow.source))
        and (not packets.speaks or flow.speaks == "smtp")
    )


BLOCK = {"name": "block", "from": "lan", "port": 25, "action": "reject"}
SERVER = {"name": "server", "source": "10.0.0.2", "port": 25, "action": "allow"}


def proven(policy: Policy) -> dict[str, bool]:
    return {proof.name: proof.holds for proof in prove_rules(FlowRegions(Space(), policy))}


@pytest.mark.parametrize(
    ("flows", "invariant", "holds"),
    [
        ([BLOCK], {"never": {"from": "lan", "port": 25}}, True),
        ([SERVER, BLOCK], {"never": {"from": "lan", "port": 25}}, False),
        ([SERVER, BLOCK], {"never": {"from": "lan", "port": 25}, "except": [{"source": "10.0.0.2"}]}, True),
        (
            [SERVER, BLOCK],
            {"never": {"from": "lan", "port": 25}, "except": [{"source": "10.0.0.2", "port": 26}]},
            False,
        ),
        ([BLOCK, SERVER], {"always": {"source": "10.0.0.2", "port": 25}}, False),
        ([SERVER, BLOCK], {"always": {"source": "10.0.0.2", "port": 25}}, True),
        ([{**BLOCK, "staged": True}], {"never": {"from": "lan", "port": 25}}, False),
        ([{**BLOCK, "action": "drop"}], {"never": {"from": "lan", "to": "internet", "port": 25}}, True),
        ([{**BLOCK, "destination": "0.0.0.0/0"}], {"never": {"from": "lan", "to": "internet", "port": 25}}, False),
        ([{**BLOCK, "hours": "08:00-18:00"}], {"never": {"from": "lan", "port": 25}}, False),
        ([], {"never": {"from": "lan", "protocol": "gre"}}, True),
        ([{"name": "v", "protocol": "gre", "action": "allow"}], {"never": {"from": "lan", "protocol": "gre"}}, False),
        ([{"name": "s", "speaks": "smtp", "action": "drop"}], {"never": {"speaks": "smtp"}}, True),
        ([{"name": "s", "speaks": "smtp", "port": 443, "action": "drop"}], {"never": {"speaks": "smtp"}}, False),
    ],
)
def test_what_holds_and_what_does_not(flows: list[Any], invariant: dict[str, Any], holds: bool) -> None:
    assert proven(policy_of(flows, [{"name": "i", **invariant}]))["i"] == holds


@pytest.mark.parametrize(
    ("flows", "holds"),
    [
        ([BLOCK], True),
        ([], False),
        ([SERVER, BLOCK], True),
        ([{"name": "all", "source": "10.0.0.2", "action": "allow"}, BLOCK], False),
        ([{**BLOCK, "protocol": "udp"}], False),
    ],
)
def test_port_25_is_open_by_rules_that_name_it_only(flows: list[Any], holds: bool) -> None:
    assert proven(policy_of(flows, []))[PORT_25] == holds


def test_management_is_an_invariant() -> None:
    managed = {"apply": {"management": [{"from": "10.0.0.2", "to": "198.51.100.9", "port": 22}]}}
    assert proven(policy_of([BLOCK], [], **managed))[MANAGEMENT]
    assert not proven(policy_of([{"name": "x", "source": "10.0.0.0/29", "action": "drop"}], [], **managed))[MANAGEMENT]


@pytest.mark.parametrize(
    ("flows", "found"),
    [
        ([SERVER, BLOCK], []),
        ([BLOCK, SERVER], ["shadowed: server at  by block"]),
        ([BLOCK, {**BLOCK, "name": "again"}], ["redundant: block at  by again", "shadowed: again at  by block"]),
        ([{"name": "open", "port": 80, "action": "allow"}], ["redundant: open at "]),
        ([{"name": "none", "source": "@nobody", "action": "drop"}, BLOCK], ["empty: none at "]),
        ([{**BLOCK, "name": "some", "source": "10.0.0.0/31"}, BLOCK], ["redundant: some at  by block"]),
        ([{**BLOCK, "staged": True}, BLOCK], []),
    ],
)
def test_rules_that_do_nothing_are_named(flows: list[Any], found: list[str]) -> None:
    idle = idle_rules(FlowRegions(Space(), policy_of(flows, [], sets={"nobody": []})))
    assert sorted(map(str, idle)) == sorted(found)


@pytest.mark.parametrize(
    ("invariant", "fault"),
    [
        ({"name": "i"}, "an invariant says one thing; expected one of the keys never and always"),
        ({"name": "i", "never": {}, "always": {}}, "an invariant says one thing"),
        ({"name": "i", "never": {"from": "lna"}}, "unknown zone 'lna', did you mean 'lan'?"),
        ({"name": "i", "never": {"to": "internt"}}, "unknown zone 'internt', did you mean 'internet'?"),
        ({"name": "i", "never": {"source": "@x"}}, "unknown set 'x'"),
        ({"name": "i", "never": {}, "except": [{"port": 25, "protocol": "gre"}]}, "gre has no ports"),
        ({"name": "i", "never": {"speaks": "smtp", "protocol": "udp"}}, "SMTP is spoken over TCP"),
        ({"name": "i", "nevr": {}}, "unknown key 'nevr', did you mean 'never'?"),
    ],
)
def test_faults_of_invariants_have_a_place(invariant: dict[str, Any], fault: str) -> None:
    whole = {"site": {"zones": LAN, "relay": {"listeners": {"a": {"kind": "smtp", "port": 25}}}}}
    faults = parse_rules({"p.yaml": as_yaml({**whole, "invariants": [invariant]})}).faults
    assert len(faults) == 1 and fault in str(faults[0])
    assert faults[0].file == "p.yaml" and faults[0].line == 1 and faults[0].column > 1
