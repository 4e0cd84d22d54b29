"""Decide what happens to a flow.

Contract
    Pure: no clock, no DNS, no files. The first rule that matches wins.
    No rule matching is ALLOW with rule "": what no rule names is none of our business.
    Staged rules decide nothing; each that matches before the decision comes along as `would`.
    A matcher that cannot tell (a host name not resolved yet) gives action None: drop silently, TCP asks again.
    The same rules in the same order as firewall.render puts into the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from egressguard.net.flow import Flow, IPAddress
from egressguard.policy.decision import FlowAction, FlowDecision, Would
from egressguard.policy.index import prepared
from egressguard.policy.index_flows import FlowIndex
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import normal

AddressesOf = Callable[[str], frozenset[IPAddress] | None]


def _nothing_known(_name: str) -> frozenset[IPAddress] | None:
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rules cannot know: the interfaces without a default route; a name's addresses (None: not known yet)."""

    inside_interfaces: frozenset[str] = frozenset()
    addresses_of: AddressesOf = _nothing_known


NO_RULE = FlowDecision(FlowAction.ALLOW, "", "no rule names this flow")


def decide_flow(policy: Policy, flow: Flow, surroundings: Surroundings, *, start_at: str | None = None) -> FlowDecision:
    """The decision on one flow; `start_at` names the rule to begin with (the one that queued it).

    A `start_at` that the policy no longer has (it was replaced meanwhile) means all rules."""
    index = prepared(policy, FlowIndex)
    rules = index.candidates(flow, surroundings.inside_interfaces)
    if start_at is not None:
        first = index.position.get(start_at, 0)
        rules = rules >> first << first
    would: tuple[Would, ...] = ()
    while rules:
        lowest = rules & -rules
        rules ^= lowest
        number = lowest.bit_length() - 1
        rule = index.rules[number]
        answer = not rule.destination_host or _host_matches(rule, flow.destination, surroundings.addresses_of)
        if rule.staged:
            would += (Would(rule.name, rule.action),) if answer else ()
        elif answer is None:
            return FlowDecision(None, rule.name, "a host name is not resolved yet", would)
        elif answer:
            decision = index.decisions[number]
            return replace(decision, would=would) if would else decision
    return replace(NO_RULE, would=would) if would else NO_RULE


def _host_matches(rule: FlowRule, address: IPAddress, addresses_of: AddressesOf) -> bool | None:
    destination = normal(address)
    answers = [addresses_of(name) for name in rule.destination_host]
    if any(destination in map(normal, known) for known in answers if known is not None):
        return True
    return None if None in answers else False
