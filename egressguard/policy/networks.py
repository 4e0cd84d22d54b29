"""Which zones, sets and devices an address belongs to.

Contract
    An IPv4-mapped IPv6 address counts as the IPv4 address it stands for.
    `@inside` in a zone's interfaces means the interfaces given at the time of asking.
    A set without prefixes contains nothing: a rule that names only empty sets never matches.
    A look-up is one binary search, however many prefixes, sets and rules there are; a @set that many rules name is
    prepared once.
"""

from __future__ import annotations

import ipaddress
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

from egressguard.net.flow import IPAddress, IPNetwork
from egressguard.policy.fields import parse_prefixes
from egressguard.policy.index import Remembered, numbers, table
from egressguard.policy.model import Device, Policy
from egressguard.policy.site import Site, Zone

INSIDE = "@inside"
PACKED_BOUNDS = 4096
"""So many bounds of IPv4 are kept packed: a tenth of the memory, and slower only where there are fewer."""

Listed = str | tuple[str, ...]
"""What rules list: "@set", or the prefixes that stand in one rule."""


@dataclass(frozen=True, slots=True)
class PrefixSet:
    """Prefixes as ascending bounds: first inside, first outside again, and so on. Neighbours are joined."""

    bounds_4: tuple[int, ...]
    bounds_6: tuple[int, ...]

    @classmethod
    def of(cls, networks: Iterable[IPNetwork]) -> Self:
        spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for network in networks:
            first = int(network.network_address)
            spans[network.version].append((first, first + (1 << network.max_prefixlen - network.prefixlen)))
        return cls(_joined(spans[4]), _joined(spans[6]))

    def __contains__(self, address: IPAddress) -> bool:
        bounds, number = (self.bounds_4, self.bounds_6)[address.version == 6], int(address)
        return bisect_right(bounds, number) % 2 == 1


def _joined(spans: list[tuple[int, int]]) -> tuple[int, ...]:
    bounds: list[int] = []
    for first, behind in sorted(spans):
        if not bounds or first > bounds[-1]:
            bounds += (first, behind)
        elif behind > bounds[-1]:
            bounds[-1] = behind
    return tuple(bounds)


class Places:
    """All addresses, cut wherever a zone, a device or something that a rule lists begins or ends.

    What can contain addresses is numbered: the zones, then the devices, then what the rules list. Pieces of the
    address space that the same of these contain are one place; `within[place]` has their numbers, ascending."""

    def __init__(self, site: Site, devices: Sequence[Device], lists: Iterable[Listed]) -> None:
        self._made_from = (site.zones, site.sets, devices)
        self.zones = {name: number for number, name in enumerate(site.zones)}
        self.devices = range(len(self.zones), len(self.zones) + len(devices))
        self.lists = {listed: number for number, listed in enumerate(dict.fromkeys(lists), start=self.devices.stop)}
        sets = [PrefixSet.of(zone.networks) for zone in site.zones.values()]
        sets += [PrefixSet.of(device.addresses) for device in devices]
        sets += [PrefixSet.of(_prefixes(site, (each,) if isinstance(each, str) else each)) for each in self.lists]
        numbered: dict[int, int] = {0: 0}
        self._bounds_4, self._places_4 = _cut([each.bounds_4 for each in sets], numbered)
        self._bounds_6, self._places_6 = _cut([each.bounds_6 for each in sets], numbered)
        self.within = tuple(tuple(numbers(containing)) for containing in numbered)
        self.zones_at = Remembered(_zones_at(self.zones, self.within))

    def is_of(self, site: Site, devices: Sequence[Device]) -> bool:
        zones, sets, its_devices = self._made_from
        return zones is site.zones and sets is site.sets and its_devices is devices

    def find(self, address: IPAddress) -> int:
        """The number of the place of an address."""
        number = int(address)
        if isinstance(address, ipaddress.IPv6Address):
            if number >> 32 != 0xFFFF:
                return self._places_6[bisect_right(self._bounds_6, number)]
            number &= 0xFFFFFFFF  # mapped
        return self._places_4[bisect_right(self._bounds_4, number)]

    def listed(self, texts: Iterable[str]) -> tuple[int, ...]:
        """The numbers of the prefixes and @sets that one rule lists. Raises KeyError when no rule lists them."""
        return tuple(self.lists[listed] for listed in _listed(texts))

    def named(self, texts: Iterable[str]) -> tuple[int, ...]:
        """The same, where zones may stand beside them."""
        zones = [text for text in texts if text in self.zones]
        others = [text for text in texts if text not in self.zones]
        return (*(self.zones[zone] for zone in zones), *self.listed(others))

    def rules_at(self, wanted: Iterable[tuple[int, Iterable[int]]], others: int) -> Remembered[int, int]:
        """(rule, the numbers of what it wants) -> place: the rules that want what contains it, and `others`."""
        by_number, within = table(wanted), self.within

        def work_out(place: int) -> int:
            rules = others
            for number in within[place]:
                rules |= by_number.get(number, 0)
            return rules

        return Remembered(work_out)


def _zones_at(zones: Mapping[str, int], within: Sequence[tuple[int, ...]]) -> Callable[[int], frozenset[str]]:
    return lambda place: frozenset(name for name, number in zones.items() if number in within[place])


def _cut(sets: Sequence[Sequence[int]], numbered: dict[int, int]) -> tuple[Sequence[int], Sequence[int]]:
    """The bounds of several sets -> all bounds, and the number of the place in front of, between and behind them.

    `numbered` numbers the places by the sets that contain them (bit i: the i-th), in the order of its keys."""
    changes: dict[int, int] = {}
    for number, bounds in enumerate(sets):
        bit = 1 << number
        for bound in bounds:
            changes[bound] = changes.get(bound, 0) ^ bit
    ascending = sorted(changes)
    containing = 0
    places = array("I", [0])
    for bound in ascending:
        containing ^= changes[bound]
        places.append(numbered.setdefault(containing, len(numbered)))
    is_packed = len(ascending) >= PACKED_BOUNDS and ascending[-1] <= 1 << 32
    return array("Q", ascending) if is_packed else ascending, places


def _everything_listed(policy: Policy) -> Iterator[Listed]:
    for flow in policy.flows:
        yield from _listed(flow.source)
        yield from _listed(flow.destination)
    clients = chain((rule.match.client for rule in policy.mail), (route.match.client for route in policy.routes))
    for client in clients:
        yield from _listed(text for text in client if text not in policy.site.zones)


def _listed(texts: Iterable[str]) -> Iterator[Listed]:
    """What a rule lists: each @set by itself, the prefixes together."""
    plain: list[str] = []
    for text in texts:
        if text.startswith("@"):
            yield text
        else:
            plain.append(text)
    if plain:
        yield tuple(plain)


def places_of(policy: Policy) -> Places:
    """The places of a policy, what any of its rules lists among them.

    They are kept with the site: policies that differ in their rules only (policy.mutate makes many) share them."""
    kept, lists = _kept(policy), dict.fromkeys(_everything_listed(policy))
    if kept is None or not lists.keys() <= kept.lists.keys():
        policy.site._prepared = kept = Places(policy.site, policy.devices, lists)
    return kept


def _kept(policy: Policy) -> Places | None:
    private = policy.site.__pydantic_private__  # `site._prepared` takes pydantic longer than looking an address up
    assert private is not None
    kept = private["_prepared"]
    return kept if isinstance(kept, Places) and kept.is_of(policy.site, policy.devices) else None


def _any_places(policy: Policy) -> Places:
    """For what does not ask for lists, or can do without."""
    return _kept(policy) or places_of(policy)


def normal(address: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv4-mapped one; any other address as it is."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def prefixes(policy: Policy, texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Prefixes and @set names -> prefixes. The names are known: policy.load checked them."""
    return _prefixes(policy.site, texts)


def _prefixes(site: Site, texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    networks: list[IPNetwork] = []
    for text in texts:
        if text.startswith("@"):
            networks += site.sets[text[1:]]
        else:
            networks += parse_prefixes(text)
    return tuple(networks)


def within(policy: Policy, address: IPAddress, texts: tuple[str, ...]) -> bool:
    """Whether `address` is in one of these prefixes and @sets."""
    places = _any_places(policy)
    try:
        listed = places.listed(texts)
    except KeyError:  # no rule asks this
        return normal(address) in PrefixSet.of(prefixes(policy, texts))
    return not frozenset(listed).isdisjoint(places.within[places.find(address)])


def zones_of(policy: Policy, address: IPAddress, interface: str, inside_interfaces: frozenset[str]) -> frozenset[str]:
    """The zones of a packet: it arrived on one of a zone's interfaces, or its source is in its networks.

    A mail client is known by its address only: ask with interface ""."""
    places = _any_places(policy)
    zones = places.zones_at[places.find(address)]
    if not interface:
        return zones
    arrived = (name for name, zone in policy.site.zones.items() if _arrived(zone, interface, inside_interfaces))
    return zones.union(arrived)


def devices_at(policy: Policy, address: IPAddress) -> tuple[Device, ...]:
    """The devices that have this address, in their order."""
    places = _any_places(policy)
    devices = places.devices
    return tuple(policy.devices[n - devices.start] for n in places.within[places.find(address)] if n in devices)


def _arrived(zone: Zone, interface: str, inside_interfaces: frozenset[str]) -> bool:
    return interface in zone.interfaces or (INSIDE in zone.interfaces and interface in inside_interfaces)
