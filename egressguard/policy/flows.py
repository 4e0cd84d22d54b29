"""Decide what happens to a flow.

Contract
    Pure: no clock, no DNS, no files. The first rule that matches wins.
    No rule matching is ALLOW with rule "": what no rule names is none of our business.
    Staged rules decide nothing; each that matches before the decision comes along as `would`.
    A matcher that cannot tell (a host name not resolved yet) gives action None: drop silently, TCP asks again.
    The same rules in the same order as firewall.render puts into the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from egressguard.net.flow import Flow, IPAddress
from egressguard.policy.decision import FlowAction, FlowDecision, Would
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import normal, within, zones_of

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
    zones = zones_of(policy, flow.source, flow.interface, surroundings.inside_interfaces)
    would: tuple[Would, ...] = ()
    for rule in _rules_from(policy, start_at):
        answer = _matches(policy, rule, flow, zones, surroundings)
        if rule.staged:
            would += (Would(rule.name, rule.action),) if answer else ()
        elif answer is None:
            return FlowDecision(None, rule.name, "a host name is not resolved yet", would)
        elif answer:
            return FlowDecision(FlowAction(rule.action), rule.name, f"matched at {rule.at}", would)
    return replace(NO_RULE, would=would) if would else NO_RULE


def _rules_from(policy: Policy, start_at: str | None) -> Sequence[FlowRule]:
    names = [rule.name for rule in policy.flows] if start_at is not None else []
    return policy.flows[names.index(start_at) :] if start_at in names else policy.flows


def _matches(
    policy: Policy, rule: FlowRule, flow: Flow, zones: frozenset[str], surroundings: Surroundings
) -> bool | None:
    if rule.protocol != flow.protocol.value or (rule.port and flow.destination_port not in rule.port):
        return False
    if rule.from_zone and zones.isdisjoint(rule.from_zone):
        return False
    if rule.source and not within(policy, flow.source, rule.source):
        return False
    if rule.destination and not within(policy, flow.destination, rule.destination):
        return False
    return _host_matches(rule, normal(flow.destination), surroundings.addresses_of)


def _host_matches(rule: FlowRule, destination: IPAddress, addresses_of: AddressesOf) -> bool | None:
    if not rule.destination_host:
        return True
    answers = [addresses_of(name) for name in rule.destination_host]
    if any(destination in map(normal, known) for known in answers if known is not None):
        return True
    return None if None in answers else False
