"""Which zones and sets an address belongs to: prefix look-ups prepared once per policy.

Contract
    An IPv4-mapped IPv6 address counts as the IPv4 address it stands for.
    `@inside` in a zone's interfaces means the interfaces given at the time of asking.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from egressguard.net.flow import IPAddress, IPNetwork
from egressguard.policy.model import Policy

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


@lru_cache(maxsize=4096)
def prefix_set(networks: tuple[IPNetwork, ...]) -> PrefixSet:
    """The PrefixSet of a rule's networks; policies are replaced rarely and looked into often."""
    return PrefixSet.of(networks)


def zones_of(policy: Policy, address: IPAddress, interface: str, inside_interfaces: frozenset[str]) -> frozenset[str]:
    """The zones of a packet: it arrived on one of a zone's interfaces, or its source is in its networks."""
    source = normal(address)
    found = []
    for name, zone in policy.site.zones.items():
        arrived = interface and (
            interface in zone.interfaces or (INSIDE in zone.interfaces and interface in inside_interfaces)
        )
        if arrived or source in prefix_set(zone.networks):
            found.append(name)
    return frozenset(found)
