"""The flows that hosts open, as two policies see them: their facts in classes, and each rule as boxes of them.

Contract
    Pure and exact. What a key means is asked of policy.flows and policy.networks, class by class.
    An interface is told apart by its name and by whether it is one of "@inside".
    A host name is a fact of its own: the destination is one of its addresses, is not, or nobody knows yet.
    An IPv4-mapped address is in no class: both policies drop it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from ipaddress import ip_address
from itertools import chain
from typing import Any

from egressguard.net.flow import TEREDO_PORT, TUNNELS, Protocol
from egressguard.policy.difference.boxes import Box, Search
from egressguard.policy.difference.classes import Addresses, Fact, hours, one_of, yes_or_no
from egressguard.policy.difference.ends import Boxes
from egressguard.policy.difference.given import clock
from egressguard.policy.facts import Moment
from egressguard.policy.fields import WEEKDAYS
from egressguard.policy.flows import mac_matches
from egressguard.policy.matchers import in_hours, in_weekdays
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import INSIDE, PrefixSet, prefixes

USUAL_SOURCES = tuple(map(ip_address, ("192.168.1.50", "10.0.0.50", "fd00::50", "2001:db8::50")))
USUAL_DESTINATIONS = tuple(map(ip_address, ("198.51.100.7", "203.0.113.7", "2001:db8:ffff::7")))
ELSEWHERE = ("192.0.2.1", "2001:db8::1")
"""Where a name leads that does not lead to the destination."""
UNKNOWN_MAC, SOME_MAC = "", "02:00:00:00:00:01"
IS, IS_NOT, UNRESOLVED = "is", "is not", "is not resolved"

Interface = tuple[str, bool]
"""(its name, whether it is one of "@inside")."""


class Openings:
    """What flows bring, for these two policies; boxes name a fact by its number."""

    def __init__(self, old: Policy, new: Policy) -> None:
        self._policies = (old, new)
        self._rules = [rule for policy in self._policies for rule in policy.flows]
        self._prefixes: dict[tuple[int, str], PrefixSet] = {}
        sets = list(self._prefix_sets())
        self._sources = Addresses("from", sets, USUAL_SOURCES)
        self._destinations = Addresses("to", sets, USUAL_DESTINATIONS)
        self._facts: list[Fact] = []
        self._numbers: dict[str, int] = {}
        for name, fact in self._all_facts():
            self._numbers[name] = len(self._facts)
            self._facts.append(fact)

    @cached_property
    def search(self) -> Search:
        four, six = ({"from": a.versions[v], "to": b.versions[v]} for a, b, v in self._sides())
        carried = self.where("protocol", lambda p: p in {Protocol.IPIP, Protocol.SIX_IN_FOUR})
        source, destination = self._numbers["from"], self._numbers["to"]
        impossible = [
            {source: four["from"], destination: six["to"]},
            {source: six["from"], destination: four["to"]},
            {source: six["from"]} | carried,  # both are protocols inside of IPv4
        ]
        return Search([fact.full for fact in self._facts], learned=impossible)

    def _sides(self) -> Iterator[tuple[Addresses, Addresses, int]]:
        yield self._sources, self._destinations, 4
        yield self._sources, self._destinations, 6

    def words(self, box: Box) -> str:
        """Which flows these are, in the words of rules."""
        told = (self._facts[number].words(classes) for number, classes in sorted(box.items()))
        return "; ".join(filter(None, told)) or "any"

    def given(self, box: Box) -> Mapping[str, Any]:
        """One flow of the box, as an expectation gives it; what is usual is left out."""
        source, destination = self._sample(box, "from"), self._sample(box, "to")
        protocol, (interface, is_inside) = self._sample(box, "protocol"), self._sample(box, "interface")
        given: dict[str, Any] = {"from": str(source), "to": str(destination)}
        given |= {} if protocol in TUNNELS else {"port": self._sample(box, "port")}
        given |= {"protocol": protocol.value} if protocol is not Protocol.TCP else {}
        given |= {"speaks": "smtp"} if self._sample(box, "speaks") else {}
        given |= {"mac": mac} if (mac := self._sample(box, "mac")) else {}
        given |= {"interface": interface} if interface else {}
        given |= {"inside": [interface]} if is_inside else {}
        given |= clock(self._sample(box, "weekday"), self._sample(box, "minute"))
        answers = {name: self._sample(box, _host(name)) for name in self._hosts()}
        leads = {IS: str(destination), IS_NOT: ELSEWHERE[destination.version == 6]}
        dns = {name: [leads[answer]] for name, answer in answers.items() if answer in leads}
        return given | ({"dns": dns} if dns else {})

    # A rule as boxes.

    def matched(self, policy: Policy, rule: FlowRule) -> Boxes:
        """The boxes of yes."""
        hosts = [self.where(_host(name), lambda answer: answer == IS) for name in rule.destination_host]
        return self._product([*self._plain(policy, rule), tuple(hosts) or ({},)])

    def unsure(self, policy: Policy, rule: FlowRule) -> Boxes:
        """The boxes of "cannot tell", behind those of yes."""
        hosts = [self.where(_host(name), lambda answer: answer == UNRESOLVED) for name in rule.destination_host]
        return self._product([*self._plain(policy, rule), tuple(hosts)])

    def tunnels(self, policy: Policy) -> Boxes:
        """Tunnels from zones that do not allow them."""
        closed = [name for name, zone in policy.site.zones.items() if zone.tunnels == "reject"]
        carried = self.where("protocol", lambda protocol: protocol in TUNNELS)
        teredo = self.where("protocol", lambda protocol: protocol is Protocol.UDP)
        teredo |= self.where("port", lambda port: port == TEREDO_PORT)
        return self._product([self._zones(policy, closed), (carried, teredo)])

    def where(self, name: str, holds: Any, said: str = "") -> Box:
        number = self._numbers[name]
        return {number: self._facts[number].where(holds, said)}

    def _plain(self, policy: Policy, rule: FlowRule) -> Iterator[Boxes]:
        """What a rule asks for besides host names."""
        yield (self.where("protocol", lambda protocol: protocol.value == rule.protocol),)
        if rule.port:
            yield (self.where("port", lambda port: port in rule.port, ", ".join(map(str, rule.port))),)
        if rule.from_zone:
            yield self._zones(policy, rule.from_zone)
        if rule.source:
            yield (self._within("from", self._sources, policy, rule.source),)
        if rule.destination:
            yield (self._within("to", self._destinations, policy, rule.destination),)
        if rule.speaks:
            yield (self.where("speaks", lambda speaks: speaks),)
        if rule.source_mac:
            yield (self.where("mac", lambda mac: mac_matches(policy, rule, mac), ", ".join(rule.source_mac)),)
        if rule.weekdays:
            yield (self.where("weekday", lambda day: in_weekdays(rule.weekdays, Moment(day, 0))),)
        if rule.hours:
            yield (self.where("minute", lambda minute: in_hours(rule.hours, Moment(0, minute))),)

    def _zones(self, policy: Policy, names: Iterable[str]) -> Boxes:
        """From any of these zones: by the source, or by where it arrives."""
        wanted = list(names)
        by_source = self._within("from", self._sources, policy, wanted)
        interfaces = set(chain.from_iterable(policy.site.zones[name].interfaces for name in wanted))

        def arrives(interface: Interface) -> bool:
            name, is_inside = interface
            return bool(name) and (name in interfaces or (is_inside and INSIDE in interfaces))

        by_interface = self.where("interface", arrives, ", ".join(sorted(interfaces)))
        return tuple(box for box in (by_source, by_interface) if all(box.values()))

    def _within(self, name: str, addresses: Addresses, policy: Policy, texts: Iterable[str]) -> Box:
        wanted, classes = list(texts), 0
        for text in wanted:
            classes |= addresses.within(self._prefixes[id(policy), text], text)
        return {self._numbers[name]: addresses.fact.named(classes, ", ".join(wanted))}

    def _product(self, groups: Iterable[Boxes]) -> Boxes:
        boxes: list[Box] = [{}]
        for group in groups:
            met = (self.search.meet(box, each) for box in boxes for each in group)
            boxes = [box for box in met if box is not None]
        return tuple(box for box in boxes if all(box.values()))

    def _sample(self, box: Box, name: str) -> Any:
        number = self._numbers[name]
        fact = self._facts[number]
        return fact.sample(box.get(number, fact.full))

    # What there is.

    def _all_facts(self) -> Iterator[tuple[str, Fact]]:
        yield "protocol", Fact("", list(Protocol), [protocol.value for protocol in Protocol])
        named = sorted({TEREDO_PORT, *(port for rule in self._rules for port in rule.port)}, key=lambda p: (p != 25, p))
        other = next(port for port in (443, *range(1, 65536)) if port not in named)
        yield "port", Fact("port", [*named, other], [*map(str, named), "any other"])
        yield "from", self._sources.fact
        yield "to", self._destinations.fact
        yield "interface", self._interfaces()
        yield "speaks", yes_or_no(yes="speaks smtp", no="does not speak smtp")
        yield "mac", one_of("mac", [UNKNOWN_MAC, SOME_MAC, *self._macs()], lambda mac: mac or "not known")
        yield "weekday", one_of("weekday", range(7), lambda day: WEEKDAYS[day])
        yield "minute", hours(chain.from_iterable(rule.hours for rule in self._rules))
        for name in self._hosts():
            labels = [f"the destination {answer} {name}" for answer in (IS, IS_NOT)]
            yield _host(name), Fact("", [IS_NOT, IS, UNRESOLVED], [labels[1], labels[0], f"{name} {UNRESOLVED}"])

    def _interfaces(self) -> Fact:
        zones = (zone for policy in self._policies for zone in policy.site.zones.values())
        named = sorted({name for zone in zones for name in zone.interfaces} - {INSIDE, ""})
        other = next(name for name in ("eth0", *(f"eth{n}" for n in range(1, len(named) + 2))) if name not in named)
        samples = [("", False), *((name, inside) for name in (*named, other) for inside in (False, True))]
        labels = ["none that is known", *(f"{n}{' (inside)' if inside else ''}" for n, inside in samples[1:])]
        return Fact("arriving on", samples, labels)

    def _macs(self) -> list[str]:
        texts = chain.from_iterable(rule.source_mac for rule in self._rules)
        sets = chain.from_iterable(macs for policy in self._policies for macs in policy.site.mac_sets.values())
        return sorted({*sets, *(text.lower() for text in texts if not text.startswith("@"))})

    def _hosts(self) -> list[str]:
        return sorted({name for rule in self._rules for name in rule.destination_host})

    def _prefix_sets(self) -> Iterator[PrefixSet]:
        for policy in self._policies:
            for name, zone in policy.site.zones.items():
                self._prefixes[id(policy), name] = PrefixSet.of(zone.networks)
            for text in chain.from_iterable((*rule.source, *rule.destination) for rule in policy.flows):
                if (id(policy), text) not in self._prefixes:
                    self._prefixes[id(policy), text] = PrefixSet.of(prefixes(policy, (text,)))
        yield from self._prefixes.values()


def _host(name: str) -> str:
    return f"host {name}"
