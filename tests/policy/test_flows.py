"""Truth tables of flow rules: who, where to, which port, and what happens."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from egressguard.net.flow import Flow, IPAddress, Protocol
from egressguard.policy.decision import FlowAction, FlowDecision
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy

PolicyOf = Callable[[str], Policy]

RULES = """
flows:
  - {name: own, from: lan, source: "@mail-servers", port: 25, action: allow}
  - {name: none, source: "@nobody", action: drop}
  - {name: partner, from: lan, port: 25, destination: [203.0.113.0/24, "2001:db8:5::/48"], action: allow}
  - {name: old, from: lan, port: 25, source: 192.168.9.0/24, action: redirect}
  - {name: block, from: [lan, dmz], port: [25, 2525], action: reject}
  - {name: quiet, from: dmz, protocol: udp, port: 53, action: drop}
"""
WORLD, WORLD6 = "192.0.2.9", "2001:db8::9"


def flow(source: str, destination: str, port: int, interface: str = "", protocol: Protocol = Protocol.TCP) -> Flow:
    return Flow(ip_address(source), ip_address(destination), port, interface, protocol)


def decide(policy: Policy, subject: Flow, inside: frozenset[str] = frozenset()) -> FlowDecision:
    return decide_flow(policy, subject, Surroundings(inside))


@pytest.mark.parametrize(
    ("subject", "action", "rule"),
    [
        (flow("192.168.1.25", WORLD, 25), FlowAction.ALLOW, "own"),
        (flow("fd00::25", WORLD6, 25), FlowAction.ALLOW, "own"),
        (flow("192.168.1.26", WORLD, 25), FlowAction.REJECT, "block"),
        (flow("::ffff:192.168.1.26", WORLD, 25), FlowAction.REJECT, "block"),
        (flow("192.168.1.26", "203.0.113.7", 25), FlowAction.ALLOW, "partner"),
        (flow("::ffff:192.168.1.26", "::ffff:203.0.113.7", 80), FlowAction.DROP, "mapped-addresses"),
        (flow("fd00::1", "::ffff:203.0.113.7", 25), FlowAction.DROP, "mapped-addresses"),
        (flow("::ffff:192.168.1.26", "2001:db8:5::1", 25), FlowAction.DROP, "mapped-addresses"),
        (flow("fd00::1", "2001:db8:5::1", 25), FlowAction.ALLOW, "partner"),
        (flow("fd00::1", "2001:db8:6::1", 25), FlowAction.REJECT, "block"),
        (flow("192.168.9.4", WORLD, 25), FlowAction.REDIRECT, "old"),
        (flow("192.168.9.4", WORLD, 2525), FlowAction.REJECT, "block"),
        (flow("198.51.100.1", WORLD, 25), FlowAction.REJECT, "block"),
        (flow("198.51.100.1", "203.0.113.7", 25), FlowAction.REJECT, "block"),
        (flow("192.168.1.26", WORLD, 587), FlowAction.ALLOW, ""),
        (flow("192.0.2.1", WORLD, 25), FlowAction.ALLOW, ""),
        (flow("198.51.100.1", WORLD, 53, protocol=Protocol.UDP), FlowAction.DROP, "quiet"),
        (flow("198.51.100.1", WORLD, 53), FlowAction.ALLOW, ""),
        (flow("192.168.1.26", WORLD, 25, protocol=Protocol.UDP), FlowAction.ALLOW, ""),
    ],
)
def test_the_first_rule_that_matches_wins(subject: Flow, action: FlowAction, rule: str, policy_of: PolicyOf) -> None:
    decision = decide(policy_of(RULES), subject)
    assert (decision.action, decision.rule) == (action, rule)


@pytest.mark.parametrize(
    ("interface", "inside", "rule"),
    [
        ("br0", frozenset(), "block"),
        ("eth1", frozenset({"eth1"}), "block"),
        ("eth1", frozenset({"eth2"}), ""),
        ("", frozenset({""}), ""),
    ],
)
def test_an_interface_puts_any_source_into_its_zone(
    interface: str, inside: frozenset[str], rule: str, policy_of: PolicyOf
) -> None:
    """A bot that forges a foreign source does not leave its zone by that."""
    assert decide(policy_of(RULES), flow("203.0.113.200", WORLD, 25, interface), inside).rule == rule


def test_a_decision_says_where_its_rule_stands(policy_of: PolicyOf) -> None:
    decision = decide(policy_of(RULES), flow("192.168.1.26", WORLD, 25))
    assert decision.reason == "matched at rules.yaml:7:5"


HOSTS = """
flows:
  - {name: partner, from: lan, port: 25, destination_host: [mx.a.example, mx.b.example], decide: queue, action: allow}
  - {name: block, from: lan, port: 25, action: reject}
"""
A, B = ip_address("203.0.113.1"), ip_address("203.0.113.2")


@pytest.mark.parametrize(
    ("known", "destination", "action", "rule"),
    [
        ({"mx.a.example": {A}, "mx.b.example": {B}}, A, FlowAction.ALLOW, "partner"),
        ({"mx.a.example": {A}, "mx.b.example": {B}}, B, FlowAction.ALLOW, "partner"),
        ({"mx.a.example": {A}}, A, FlowAction.ALLOW, "partner"),  # one yes is enough
        ({"mx.a.example": {A}}, B, None, "partner"),  # the other name may still say yes
        ({}, A, None, "partner"),
        ({"mx.a.example": set(), "mx.b.example": set()}, A, FlowAction.REJECT, "block"),
        ({"mx.a.example": {ip_address("::ffff:203.0.113.1")}}, A, FlowAction.ALLOW, "partner"),
    ],
)
def test_a_host_name_that_is_not_known_yet_is_neither_yes_nor_no(
    known: dict[str, set[IPAddress]], destination: IPAddress, action: FlowAction | None, rule: str, policy_of: PolicyOf
) -> None:
    def addresses_of(name: str) -> frozenset[IPAddress] | None:
        return frozenset(known[name]) if name in known else None

    subject = Flow(ip_address("192.168.1.26"), destination, 25)
    decision = decide_flow(policy_of(HOSTS), subject, Surroundings(frozenset(), addresses_of))
    assert (decision.action, decision.rule) == (action, rule)


def test_a_certain_no_beats_a_name_that_is_not_known(policy_of: PolicyOf) -> None:
    """Nobody waits for DNS about a flow that the rule does not concern."""
    assert decide(policy_of(HOSTS), flow("192.168.1.26", WORLD, 587)).action is FlowAction.ALLOW
    assert decide(policy_of(HOSTS), flow("192.0.2.1", WORLD, 25)).rule == ""


def test_a_queued_flow_is_decided_from_the_rule_that_queued_it(policy_of: PolicyOf) -> None:
    policy, subject = policy_of(RULES), flow("192.168.1.25", WORLD, 25)
    assert decide_flow(policy, subject, Surroundings(), start_at="own").rule == "own"
    assert decide_flow(policy, subject, Surroundings(), start_at="block").rule == "block"
    assert decide_flow(policy, subject, Surroundings(), start_at="quiet").rule == ""


def test_a_rule_that_is_gone_after_a_reload_does_not_open_the_wall(policy_of: PolicyOf) -> None:
    decision = decide_flow(policy_of(RULES), flow("192.168.1.26", WORLD, 25), Surroundings(), start_at="gone")
    assert decision.action is FlowAction.REJECT
