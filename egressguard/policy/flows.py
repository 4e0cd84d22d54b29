"""Decide what happens to a flow.

Contract
    Pure: no clock, no DNS, no files. The first rule that matches wins.
    No rule matching is ALLOW with rule "": what no rule names is none of our business. Two things are before and behind
    all rules: an IPv4-mapped address on the wire is a DROP (RFC 6890: never on a network), and a tunnel that no rule
    names is the business of its zone's `tunnels`.
    Staged rules decide nothing; each that matches before the decision comes along as `would`.
    A matcher that cannot tell (a host name not resolved yet) gives action None: drop silently, TCP asks again.
    The same rules in the same order as firewall.render puts into the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from egressguard.net.flow import TEREDO_PORT, TUNNELS, Flow, IPAddress, Protocol
from egressguard.policy.decision import FlowAction, FlowDecision, Would
from egressguard.policy.facts import Moment
from egressguard.policy.index import prepared
from egressguard.policy.index_flows import FlowIndex
from egressguard.policy.matchers import in_hours, in_weekdays
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import normal, zones_of

AddressesOf = Callable[[str], frozenset[IPAddress] | None]


def _nothing_known(_name: str) -> frozenset[IPAddress] | None:
    return None


def _no_time() -> Moment | None:
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rules cannot know: the interfaces without a default route; a name's addresses (None: not known yet);
    the local time (None: not known)."""

    inside_interfaces: frozenset[str] = frozenset()
    addresses_of: AddressesOf = _nothing_known
    moment: Callable[[], Moment | None] = _no_time


MAPPED_RULE, TUNNELS_RULE = "mapped-addresses", "tunnels"
"""The names under which decisions are told that no rule takes."""
_MAPPED_PREFIX = 0xFFFF
_MAPPED = FlowDecision(FlowAction.DROP, MAPPED_RULE, "an IPv4-mapped address has no place on a network")
_TUNNEL = FlowDecision(
    FlowAction.REJECT, TUNNELS_RULE, "a tunnel that no rule names, and `tunnels: reject` in its zone"
)
NO_RULE = FlowDecision(FlowAction.ALLOW, "", "no rule names this flow")


def decide_flow(policy: Policy, flow: Flow, surroundings: Surroundings, *, start_at: str | None = None) -> FlowDecision:
    """The decision on one flow; `start_at` names the rule to begin with (the one that queued it).

    A `start_at` that the policy no longer has (it was replaced meanwhile) means all rules."""
    if flow.destination.version == 6 and _is_mapped(flow):
        return _MAPPED
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
        answer = True if index.is_plain[number] else _rest_matches(policy, rule, flow, surroundings)
        if rule.staged:
            would += (Would(rule.name, rule.action),) if answer else ()
        elif answer is None:
            return FlowDecision(None, rule.name, "a host name is not resolved yet", would)
        elif answer:
            decision = index.decisions[number]
            return replace(decision, would=would) if would else decision
    left = NO_RULE if flow.protocol is Protocol.TCP else _unnamed(policy, flow, surroundings)
    return replace(left, would=would) if would else left


def _is_mapped(flow: Flow) -> bool:
    return int(flow.destination) >> 32 == _MAPPED_PREFIX or int(flow.source) >> 32 == _MAPPED_PREFIX


def _unnamed(policy: Policy, flow: Flow, surroundings: Surroundings) -> FlowDecision:
    """What happens to a flow that no rule names and that is not TCP."""
    is_teredo = flow.protocol is Protocol.UDP and flow.destination_port == TEREDO_PORT
    if not (is_teredo or flow.protocol in TUNNELS):
        return NO_RULE
    zones = zones_of(policy, flow.source, flow.interface, surroundings.inside_interfaces)
    return _TUNNEL if any(policy.site.zones[zone].tunnels == "reject" for zone in zones) else NO_RULE


def _rest_matches(policy: Policy, rule: FlowRule, flow: Flow, surroundings: Surroundings) -> bool | None:
    """The matchers that the index does not look at; False for certain before "cannot tell"."""
    if rule.source_mac and not mac_matches(policy, rule, flow.source_mac):
        return False
    in_time = time_matches(rule, surroundings.moment)
    if in_time is False:
        return False
    host = not rule.destination_host or _host_matches(rule, flow.destination, surroundings.addresses_of)
    return host if in_time or host is False else None


def mac_matches(policy: Policy, rule: FlowRule, mac: str) -> bool:
    """Whether the rule's MAC addresses and @sets of them have this one; nobody has "" (not known)."""
    sets = policy.site.mac_sets
    return any(mac in sets[text[1:]] if text.startswith("@") else mac == text.lower() for text in rule.source_mac)


def time_matches(rule: FlowRule, moment: Callable[[], Moment | None]) -> bool | None:
    """Whether it is the rule's time; None when it asks and nobody knows the time."""
    if not (rule.weekdays or rule.hours):
        return True
    now = moment()
    if now is None:
        return None
    in_days = not rule.weekdays or in_weekdays(rule.weekdays, now)
    return in_days and (not rule.hours or in_hours(rule.hours, now))


def _host_matches(rule: FlowRule, address: IPAddress, addresses_of: AddressesOf) -> bool | None:
    destination = normal(address)
    answers = [addresses_of(name) for name in rule.destination_host]
    if any(destination in map(normal, known) for known in answers if known is not None):
        return True
    return None if None in answers else False
