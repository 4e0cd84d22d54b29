"""Which zones and sets an address belongs to: prefix look-ups prepared once per policy.

Contract
    An IPv4-mapped IPv6 address counts as the IPv4 address it stands for.
    `@inside` in a zone's interfaces means the interfaces given at the time of asking.
    A set without prefixes contains nothing: a rule that names only empty sets never matches.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from egressguard.net.flow import IPAddress, IPNetwork
from egressguard.policy.model import Policy
from egressguard.policy.site import Site, Zone

INSIDE = "@inside"


@dataclass(frozen=True, slots=True)
class PrefixSet:
    """Prefixes by length: a look-up costs one hash per length that occurs, however many prefixes there are."""

    by_length: tuple[tuple[int, int, frozenset[int]], ...]

    @classmethod
    def of(cls, networks: Iterable[IPNetwork]) -> PrefixSet:
        groups: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            shift = network.max_prefixlen - network.prefixlen
            groups.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
        return cls(tuple((version, shift, frozenset(heads)) for (version, shift), heads in groups.items()))

    def __contains__(self, address: IPAddress) -> bool:
        number, version = int(address), address.version
        return any(v == version and (number >> shift) in heads for v, shift, heads in self.by_length)


@dataclass(slots=True)
class Prepared:
    """The prefix sets of one site, each made when it is first asked for; valid while the mappings are the same."""

    zones: Mapping[str, Zone]
    sets: Mapping[str, tuple[IPNetwork, ...]]
    of_zone: dict[str, PrefixSet] = field(default_factory=dict)
    of_texts: dict[tuple[str, ...], PrefixSet] = field(default_factory=dict)


def normal(address: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv4-mapped one; any other address as it is."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def prefixes(policy: Policy, texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Prefixes and @set names -> prefixes. The names are known: policy.load checked them."""
    networks: list[IPNetwork] = []
    for text in texts:
        if text.startswith("@"):
            networks += policy.site.sets[text[1:]]
        else:
            networks.append(ipaddress.ip_network(text))
    return tuple(networks)


def within(policy: Policy, address: IPAddress, texts: tuple[str, ...]) -> bool:
    """Whether `address` is in one of these prefixes and @sets."""
    prepared = _prepared(policy.site)
    found = prepared.of_texts.get(texts)
    if found is None:
        found = prepared.of_texts[texts] = PrefixSet.of(prefixes(policy, texts))
    return normal(address) in found


def zones_of(policy: Policy, address: IPAddress, interface: str, inside_interfaces: frozenset[str]) -> frozenset[str]:
    """The zones of a packet: it arrived on one of a zone's interfaces, or its source is in its networks.

    A mail client is known by its address only: ask with interface ""."""
    source, prepared = normal(address), _prepared(policy.site)
    return frozenset(
        name
        for name, zone in policy.site.zones.items()
        if _arrived(zone, interface, inside_interfaces) or source in _zone_prefixes(prepared, name)
    )


def _arrived(zone: Zone, interface: str, inside_interfaces: frozenset[str]) -> bool:
    if not interface:
        return False
    return interface in zone.interfaces or (INSIDE in zone.interfaces and interface in inside_interfaces)


def _zone_prefixes(prepared: Prepared, name: str) -> PrefixSet:
    found = prepared.of_zone.get(name)
    if found is None:
        found = prepared.of_zone[name] = PrefixSet.of(prepared.zones[name].networks)
    return found


def _prepared(site: Site) -> Prepared:
    """Kept with the site, so that it goes when the policy goes; a copied site with other zones gets its own."""
    kept = site._prepared
    if isinstance(kept, Prepared) and kept.zones is site.zones and kept.sets is site.sets:
        return kept
    site._prepared = made = Prepared(site.zones, site.sets)
    return made
