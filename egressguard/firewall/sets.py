"""The named sets of the table: interfaces and networks of zones, what rules list, and what the kernel itself fills in.

Contract
    Tens of thousands of entries are a set, never rules. A @set that many rules name is one set in the kernel.
    `address_set` and `mac_set` name the set of a rule's list; every set that they name is rendered by `sets`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence

from egressguard.firewall.contain import contained_sets
from egressguard.firewall.host import Host
from egressguard.firewall.table import (
    FAMILIES,
    JUDGED,
    JUDGED_FLOWS,
    JUDGED_SECONDS,
    OWN,
    SEEN,
    SEEN_SECONDS,
    SEEN_SOURCES,
    braces,
    is_queued,
    quoted,
)
from egressguard.net.flow import IPNetwork
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import INSIDE, PrefixSet, prefixes


def address_set(rule: FlowRule, which: str) -> str:
    """The set of a rule's `source` ("src") or `destination` ("dst"), less the family at its end."""
    return _shared(rule.source if which == "src" else rule.destination, "set") or f"{which}_{rule.name}"


def mac_set(rule: FlowRule) -> str:
    return _shared(rule.source_mac, "macs") or f"mac_{rule.name}"


def _shared(texts: Sequence[str], prefix: str) -> str:
    """The set of the site that a rule names alone, or ""."""
    return f"{prefix}_{texts[0][1:]}" if len(texts) == 1 and texts[0].startswith("@") else ""


def sets(policy: Policy, host: Host) -> Iterator[str]:
    for name, zone in policy.site.zones.items():
        yield from _set(f"zone_{name}_if", "ifname", list(map(quoted, zone_interfaces(policy, host, name))))
        yield from _family_sets(f"zone_{name}", zone.networks)
    listed = {address_set(r, "src"): r.source for r in policy.flows if r.source}
    listed |= {address_set(r, "dst"): r.destination for r in policy.flows if r.destination}
    for name, texts in listed.items():
        yield from _family_sets(name, prefixes(policy, texts))
    for name, texts in {mac_set(r): r.source_mac for r in policy.flows if r.source_mac}.items():
        yield from _set(name, "ether_addr", sorted(_macs(policy, texts)))
    for family, _, kind in FAMILIES:
        own = sorted(int(address) for address in host.own_addresses if address.version == family)
        yield from _set(f"{OWN}_{family}", kind, list(map(_FORMS[family], own)))
    yield from contained_sets(policy)
    yield from _filled_by_the_kernel(policy)


def zone_interfaces(policy: Policy, host: Host, name: str) -> list[str]:
    """The interfaces of a zone, as they are now."""
    interfaces = set(policy.site.zones[name].interfaces)
    return sorted(interfaces - {INSIDE} | (host.inside_interfaces if INSIDE in interfaces else frozenset()))


def _macs(policy: Policy, texts: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for text in texts:
        found.update(policy.site.mac_sets[text[1:]] if text.startswith("@") else [text.lower()])
    return found


def _set(name: str, kind: str, elements: Sequence[str], *, flags: str = "", size: int = 0) -> Iterator[str]:
    yield f"set {name} {{"
    yield f"\ttype {kind}"
    if size:
        yield f"\tsize {size}"
    if flags:
        yield f"\tflags {flags}"
    if elements:
        yield f"\telements = {braces(elements)}"
    yield "}"


def _family_sets(name: str, networks: Sequence[IPNetwork]) -> Iterator[str]:
    for version, _, kind in FAMILIES:
        members = [n for n in networks if n.version == version]
        text = _FORMS[version]
        if len(members) >= HASHED_ADDRESSES and all(n.prefixlen == n.max_prefixlen for n in members):
            hosts = sorted({int(n.network_address) for n in members})
            yield from _set(f"{name}_{version}", kind, list(map(text, hosts)), size=len(hosts))
        else:
            elements = [_element(first, last, text, version) for first, last in _spans(members, version)]
            yield from _set(f"{name}_{version}", kind, elements, flags="interval")


HASHED_ADDRESSES = 64
"""So many single addresses are a hash table in the kernel; prefixes and ranges need a tree, which is slower."""
_FORMS: dict[int, Callable[[int], str]] = {
    4: lambda number: str(ipaddress.IPv4Address(number)),
    6: lambda number: str(ipaddress.IPv6Address(number)),
}


def _spans(networks: Iterable[IPNetwork], version: int) -> list[tuple[int, int]]:
    """(first, last) addresses, merged and ascending: overlapping elements are an error to the kernel."""
    found = PrefixSet.of(networks)
    bounds = found.bounds_4 if version == 4 else found.bounds_6
    return [(bounds[i], bounds[i + 1] - 1) for i in range(0, len(bounds), 2)]


def _element(first: int, last: int, text: Callable[[int], str], version: int) -> str:
    size = last - first + 1
    if size == 1:
        return text(first)
    if size & (size - 1) == 0 and first % size == 0:
        return f"{text(first)}/{(32 if version == 4 else 128) - size.bit_length() + 1}"
    return f"{text(first)}-{text(last)}"


def _filled_by_the_kernel(policy: Policy) -> Iterator[str]:
    for family, _, kind in FAMILIES:
        yield from _dynamic(f"{SEEN}_{family}", kind, SEEN_SOURCES, SEEN_SECONDS, "counter")
        if any(map(is_queued, policy.flows)):
            key = f"inet_proto . {kind} . inet_service . {kind} . inet_service"
            yield from _dynamic(f"{JUDGED}_{family}", key, JUDGED_FLOWS, JUDGED_SECONDS)


def _dynamic(name: str, kind: str, size: int, seconds: int, *more: str) -> Iterator[str]:
    yield f"set {name} {{"
    yield f"\ttype {kind}"
    yield f"\tsize {size}"
    yield "\tflags dynamic,timeout"
    yield f"\ttimeout {seconds}s"
    yield from (f"\t{line}" for line in more)
    yield "}"
