"""What the flow rules of a policy decide, for all flows at once.

Contract
    Pure. For every flow whose names are resolved, `flow_outcomes` says what policy.flows.decide_flow says.
    "@inside" is the interfaces that the caller gives. Without them it is one interface of that name: IN_SIDE.
    A host name is a fact: whether the destination is one of its addresses. So is what a payload begins with.
    The week's minutes are local ones, unless the caller says how far local time is from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

from egressguard.net.flow import TEREDO_PORT, TUNNELS, Flow
from egressguard.policy.decision import FlowAction
from egressguard.policy.facts import Moment
from egressguard.policy.fields import DAY_MINUTES, WEEKDAYS
from egressguard.policy.flows import MAPPED_RULE, TUNNELS_RULE
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import INSIDE, PrefixSet, prefixes
from egressguard.policy.space import axes
from egressguard.policy.space.region import Outcomes, Region, Space
from egressguard.policy.space.witness import SPEAKS_SMTP

IN_SIDE = "(inside)"
"""The interface that stands for all of "@inside" where nobody knows which they are."""
MAPPED = PrefixSet.of([IPv6Network("::ffff:0:0/96")])


@dataclass(frozen=True, slots=True, order=True)
class FlowOutcome:
    """`rule` is "" where no rule decides."""

    action: FlowAction
    rule: str

    def __str__(self) -> str:
        return f"{self.action.value} by {self.rule}" if self.rule else self.action.value


NO_RULE = FlowOutcome(FlowAction.ALLOW, "")


def flow_outcomes(space: Space, policy: Policy, inside: Collection[str] = (IN_SIDE,)) -> Outcomes[FlowOutcome]:
    """What every flow comes to."""
    return space.first_match(FlowRegions(space, policy, inside).decisions(), NO_RULE)


def host_fact(name: str) -> str:
    return f"the destination is {name}"


def numbers_of(space: Space, flow: Flow, moment: Moment, hosts: Collection[str] = ()) -> dict[int, int]:
    """The fields of a flow, as Outcomes.at asks for them; `hosts`: names that have its destination's address."""
    six = flow.destination.version == 6
    return {
        axes.FAMILY.level: int(six),
        axes.PROTOCOL.level: axes.PROTOCOLS[flow.protocol.value],
        axes.TO_PORT.level: flow.destination_port,
        axes.FROM_PORT.level: flow.source_port,
        axes.INTERFACE.level: space.name_number(flow.interface),
        (axes.FROM_6 if six else axes.FROM_4).level: int(flow.source),
        (axes.TO_6 if six else axes.TO_4).level: int(flow.destination),
        axes.CARD.level: axes.mac_number(flow.source_mac),
        axes.MINUTE.level: moment.weekday * DAY_MINUTES + moment.minute,
        **{space.fact_level(host_fact(name)): 1 for name in hosts},
        space.fact_level(SPEAKS_SMTP): int(flow.speaks == "smtp"),
    }


class FlowRegions:
    """The regions of one policy's rules, zones and lists in one space; each list is made once."""

    def __init__(
        self, space: Space, policy: Policy, inside: Collection[str] = (IN_SIDE,), utc_offset_minutes: int = 0
    ) -> None:
        """`utc_offset_minutes`: local time less that of the week's minutes."""
        self.space, self.policy, self._inside = space, policy, inside
        self._offset = utc_offset_minutes
        self._listed: dict[tuple[str, tuple[str, ...]], Region] = {}
        self._zones: dict[str, Region] = {}

    def decisions(self) -> list[tuple[Region, FlowOutcome]]:
        """What decides, in its order: the rules in force between what stands before and behind all of them."""
        rules = [
            (self.rule(rule), FlowOutcome(FlowAction(rule.action), rule.name))
            for rule in self.policy.flows
            if not rule.staged
        ]
        mapped = FlowOutcome(FlowAction.DROP, MAPPED_RULE)
        return [(self.mapped(), mapped), *rules, (self.tunnels(), FlowOutcome(FlowAction.REJECT, TUNNELS_RULE))]

    def rule(self, rule: FlowRule) -> Region:
        """The flows that the rule matches, whether an earlier rule takes them or not."""
        space = self.space
        region = space.protocol(rule.protocol)
        if rule.port:
            region &= space.to_ports(rule.port)
        if rule.from_zone:
            region &= self.zones(rule.from_zone)
        if rule.destination:
            region &= self.listed("to", rule.destination)
        if rule.source:
            region &= self.listed("from", rule.source)
        if rule.speaks:
            region &= space.fact(SPEAKS_SMTP)
        if rule.source_mac:
            region &= self.cards(rule.source_mac)
        if rule.weekdays or rule.hours:
            region &= self.times(rule)
        if rule.destination_host:
            region &= space.union(space.fact(host_fact(name)) for name in rule.destination_host)
        return region

    def let_pass(self, rule: FlowRule) -> Region:
        """The flows that the rule can let pass: nobody knows of which host names while the daemon is away."""
        if rule.fail == "open":
            return self.whatever_host(rule)
        return self.rule(rule) if rule.action == "allow" else self.space.nothing

    def whatever_host(self, rule: FlowRule) -> Region:
        """The flows that a rule matches, names aside: of a rule that asks the daemon, those that it asks about."""
        return self.rule(rule.model_copy(update={"destination_host": ()}))

    def zones(self, names: Iterable[str]) -> Region:
        """Packets from any of these zones: by where they arrive or by their source."""
        return self.space.union(map(self._zone, names))

    def _zone(self, name: str) -> Region:
        if name not in self._zones:
            arrived = self.space.interfaces(self.interfaces_of(name))
            self._zones[name] = arrived | self.space.source(PrefixSet.of(self.policy.site.zones[name].networks))
        return self._zones[name]

    def interfaces_of(self, name: str) -> list[str]:
        """The interfaces of a zone; "" is where a packet of this machine itself comes from, and in no zone."""
        named = set(self.policy.site.zones[name].interfaces)
        return sorted((named - {INSIDE} | (set(self._inside) if INSIDE in named else set())) - {""})

    def listed(self, which: str, texts: Sequence[str]) -> Region:
        """Packets "from" or "to" these prefixes, ranges and @sets."""
        key = (which, tuple(texts))
        if key not in self._listed:
            addresses = PrefixSet.of(prefixes(self.policy, texts))
            self._listed[key] = self.space.source(addresses) if which == "from" else self.space.destination(addresses)
        return self._listed[key]

    def cards(self, texts: Iterable[str]) -> Region:
        """Packets of these MAC addresses and @sets of them."""
        sets = self.policy.site.mac_sets
        named = (sets[text[1:]] if text.startswith("@") else (text.lower(),) for text in texts)
        return self.space.cards(mac for macs in named for mac in macs)

    def times(self, rule: FlowRule) -> Region:
        """The minutes of the week at which the rule is asked."""
        days = frozenset().union(*rule.weekdays) if rule.weekdays else range(len(WEEKDAYS))
        spans = []
        for day in days:
            for first, behind in rule.hours or ((0, DAY_MINUTES),):
                parts = [(first, behind)] if first < behind else [(0, behind), (first, DAY_MINUTES)]
                spans += [(day * DAY_MINUTES + start, day * DAY_MINUTES + end) for start, end in parts]
        week = len(WEEKDAYS) * DAY_MINUTES
        moved = [((start - self._offset) % week, end - start) for start, end in spans]
        over = [(0, start + length - week) for start, length in moved if start + length > week]
        return self.space.among(axes.MINUTE, [*((start, start + length) for start, length in moved), *over])

    def mapped(self) -> Region:
        """Packets with an IPv4-mapped address on the wire."""
        return self.space.source(MAPPED) | self.space.destination(MAPPED)

    def tunnels(self) -> Region:
        """Tunnels from zones that do not allow them."""
        space = self.space
        carried = space.union(space.protocol(protocol.value) for protocol in sorted(TUNNELS, key=lambda p: p.value))
        teredo = space.protocol("udp") & space.to_ports([TEREDO_PORT])
        closed = (name for name, zone in self.policy.site.zones.items() if zone.tunnels == "reject")
        return (carried | teredo) & self.zones(closed)
