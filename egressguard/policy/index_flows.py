"""Which flow rules can match a flow: per field a table from value to set of rules, joined.

Contract
    The rules that are left match in every field but `source_mac`, `weekdays`, `hours` and `destination_host`, which are
    not looked at here: a rule with one of them is not `is_plain`.
    The tables of addresses follow policy.networks; nothing here parses an address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from egressguard.net.flow import Flow, Protocol
from egressguard.policy.decision import FlowAction, FlowDecision
from egressguard.policy.index import Remembered, rule_set, table
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import INSIDE, Places, places_of
from egressguard.policy.site import Zone


class FlowIndex:
    """The flow rules of one policy. `decisions` has what each rule decides by itself, by its number."""

    def __init__(self, policy: Policy) -> None:
        self.rules, self._site = policy.flows, policy.site
        rules = self.rules
        self.decisions = Remembered[int, FlowDecision](lambda number: _decision(rules[number]))
        self.position = {rule.name: number for number, rule in reversed(list(enumerate(self.rules)))}
        self.is_plain = [not (r.source_mac or r.weekdays or r.hours or r.destination_host) for r in self.rules]
        self._silent = rule_set(number for number, rule in enumerate(self.rules) if rule.speaks is None)
        self._ports = {protocol: _ports(self.rules, protocol.value) for protocol in Protocol}
        self._arrived_on, self._arrived_inside = _interfaces(self.rules, policy.site.zones)
        places = places_of(policy)
        self._find = places.find
        self._from = _by_place(places, [[places.zones.get(name, -1) for name in rule.from_zone] for rule in self.rules])
        self._source = _by_place(places, [places.listed(rule.source) for rule in self.rules])
        self._destination = _by_place(places, [places.listed(rule.destination) for rule in self.rules])

    @classmethod
    def prepare(cls, policy: Policy) -> Self:
        return cls(policy)

    def is_of(self, policy: Policy) -> bool:
        return policy.flows is self.rules and policy.site is self._site

    def candidates(self, flow: Flow, inside_interfaces: frozenset[str]) -> int:
        """The rules that match the flow, those fields aside that are not looked at."""
        by_port, any_port = self._ports[flow.protocol]
        rules = by_port.get(flow.destination_port, any_port)
        if not flow.speaks:
            rules &= self._silent
        if not rules:
            return 0
        source = self._find(flow.source)
        from_zone = self._from[source]
        if interface := flow.interface:
            from_zone |= self._arrived_on.get(interface, 0)
            if interface in inside_interfaces:
                from_zone |= self._arrived_inside
        return rules & from_zone & self._source[source] & self._destination[self._find(flow.destination)]


def _decision(rule: FlowRule) -> FlowDecision:
    return FlowDecision(FlowAction(rule.action), rule.name, f"matched at {rule.at}")


def _ports(rules: tuple[FlowRule, ...], protocol: str) -> tuple[dict[int, int], int]:
    """Port -> rules, and the rules for all other ports."""
    of_protocol = [(number, rule.port) for number, rule in enumerate(rules) if rule.protocol == protocol]
    any_port = rule_set(number for number, ports in of_protocol if not ports)
    return table(of_protocol, any_port), any_port


def _interfaces(rules: tuple[FlowRule, ...], zones: dict[str, Zone]) -> tuple[dict[str, int], int]:
    """Interface -> the rules from a zone that it belongs to; the rules from a zone of all inside interfaces."""
    named = [(number, [zones[name] for name in rule.from_zone if name in zones]) for number, rule in enumerate(rules)]
    arrived_on = table((number, [i for zone in theirs for i in zone.interfaces]) for number, theirs in named)
    return arrived_on, arrived_on.get(INSIDE, 0)


def _by_place(places: Places, wanted: Sequence[Sequence[int]]) -> Remembered[int, int]:
    """Place -> the rules that want nothing or something that contains the place."""
    anywhere = rule_set(number for number, theirs in enumerate(wanted) if not theirs)
    return places.rules_at(enumerate(wanted), anywhere)
