"""The index changes no decision on a flow: the same as a plain walk over all rules, for any policy and any flow."""

from __future__ import annotations

import ipaddress
import tracemalloc
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from egressguard.net.flow import Flow, IPAddress, IPNetwork, Protocol
from egressguard.policy.decision import FlowAction, FlowDecision, Would
from egressguard.policy.facts import Moment
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.index import REMEMBERED_ENTRIES, prepared
from egressguard.policy.index_flows import FlowIndex
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import places_of, within, zones_of

PREFIXES = [
    *("0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "10.1.2.4/31", "10.1.2.6"),
    *("10.2.0.0/16", "192.0.2.0/25", "192.0.2.128/25", "0.0.0.0", "255.255.255.255"),
    *("::/0", "8000::/1", "fd00::/8", "fd00:1::/32", "fd00:1::/64", "fd00:1::5", "fd00:1::6/127", "::", "::/64"),
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
]
SETS = ["one", "two", "none"]
ZONES = ["lan", "dmz", "wire", "any-inside"]
INTERFACES = ["br0", "br1", "eth7", ""]
MACS = ["00:53:00:00:00:01", "00:53:00:00:00:02"]
HOSTS = ["mx.a.example", "mx.b.example"]


def edges(text: str) -> Iterator[IPAddress]:
    """The first and last addresses of a prefix, those beside them, and IPv4 ones in their IPv6 form too."""
    network = ip_network(text)
    kind: Any = type(network[0])
    for number in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1):
        if 0 <= number < 2**network.max_prefixlen:
            yield kind(number)
            if network.version == 4:
                yield IPv6Address((0xFFFF << 32) + number)


EDGES = sorted({address for text in PREFIXES for address in edges(text)}, key=lambda a: (a.version, int(a)))
ADDRESSES: st.SearchStrategy[IPAddress] = (
    st.sampled_from(EDGES)
    | st.builds(IPv4Address, st.integers(0, 2**32 - 1))
    | st.builds(IPv6Address, st.integers(0, 2**128 - 1))
)


def some(items: list[Any], least: int = 1) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(items), min_size=least, max_size=4)


def sometimes(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping that has some of the keys."""
    return st.fixed_dictionaries({}, optional=keys)


SITES = st.fixed_dictionaries(
    {
        "zones": st.fixed_dictionaries(
            {
                "lan": st.fixed_dictionaries({"networks": some(PREFIXES)}),
                "dmz": st.fixed_dictionaries({"networks": some(PREFIXES), "interfaces": some(INTERFACES)}),
                "wire": st.fixed_dictionaries({"interfaces": some(INTERFACES), "tunnels": st.just("allow")}),
                "any-inside": st.just({"interfaces": ["@inside"]}),
            }
        ),
        "mac_sets": st.just({"cards": MACS[:1]}),
        "sets": st.fixed_dictionaries({"one": some(PREFIXES, 0), "two": some(PREFIXES, 0), "none": st.just([])}),
    }
)
LISTS = some([*PREFIXES, *(f"@{name}" for name in SETS)])
RULES = st.lists(
    sometimes(
        **{"from": some(ZONES)},
        source=LISTS,
        destination=LISTS,
        destination_host=some(HOSTS),
        protocol=st.sampled_from(["tcp", "udp", "gre"]),
        port=some([25, 465, 587]),
        source_mac=some([*MACS, "@cards"]),
        speaks=st.just("smtp"),
        hours=st.sampled_from(["08:00-18:00", "22:00-06:00"]),
        weekdays=st.sampled_from(["mon-fri", ["sat", "mon"]]),
        staged=st.booleans(),
        action=st.sampled_from([action.value for action in FlowAction]),
    ),
    max_size=8,
)
FLOWS = st.builds(
    Flow,
    source=ADDRESSES,
    destination=ADDRESSES,
    destination_port=st.sampled_from([25, 465, 80, 3544]),
    interface=st.sampled_from(INTERFACES),
    protocol=st.sampled_from(Protocol),
    source_mac=st.sampled_from(["", *MACS]),
    speaks=st.sampled_from(["", "smtp"]),
)
MOMENTS = st.none() | st.builds(Moment, st.integers(0, 6), st.sampled_from([0, 359, 360, 480, 1080, 1319, 1320]))
KNOWN = st.dictionaries(st.sampled_from(HOSTS), st.frozensets(st.sampled_from(EDGES), max_size=8))
INSIDE = st.frozensets(st.sampled_from(INTERFACES))


def policy_from(site: dict[str, Any], flows: list[dict[str, Any]], **others: Any) -> Policy:
    named = [{"action": "drop"} | rule | {"name": f"r{number}"} for number, rule in enumerate(flows)]
    return Policy.model_validate({"site": site, "flows": named, **others})


def plain(address: IPAddress) -> IPAddress:
    return getattr(address, "ipv4_mapped", None) or address


def contains(networks: tuple[IPNetwork, ...], address: IPAddress) -> bool:
    return any(network.version == plain(address).version and plain(address) in network for network in networks)


def listed(policy: Policy, texts: tuple[str, ...]) -> tuple[IPNetwork, ...]:
    every: list[IPNetwork] = []
    for text in texts:
        every += policy.site.sets[text[1:]] if text.startswith("@") else [ip_network(text)]
    return tuple(every)


def walked_zones(policy: Policy, address: IPAddress, interface: str, inside: frozenset[str]) -> set[str]:
    return {
        name
        for name, zone in policy.site.zones.items()
        if contains(zone.networks, address)
        or (interface and interface in zone.interfaces)
        or (interface and "@inside" in zone.interfaces and interface in inside)
    }


def walked_answer(policy: Policy, rule: FlowRule, flow: Flow, surroundings: Surroundings) -> bool | None:
    zones = walked_zones(policy, flow.source, flow.interface, surroundings.inside_interfaces)
    if rule.protocol != flow.protocol.value or (rule.port and flow.destination_port not in rule.port):
        return False
    if rule.from_zone and not zones & set(rule.from_zone):
        return False
    if rule.source and not contains(listed(policy, rule.source), flow.source):
        return False
    if rule.destination and not contains(listed(policy, rule.destination), flow.destination):
        return False
    if rule.speaks and not flow.speaks:
        return False
    if rule.source_mac and flow.source_mac not in {
        m for t in rule.source_mac for m in (MACS[:1] if t == "@cards" else [t])
    }:
        return False
    if (on_time := walked_time(rule, surroundings.moment())) is False:
        return False
    host = walked_host(rule, flow, surroundings)
    return host if on_time or host is False else None


def walked_time(rule: FlowRule, moment: Moment | None) -> bool | None:
    if not rule.weekdays and not rule.hours:
        return True
    if moment is None:
        return None
    hours = {m for a, b in rule.hours for m in (range(a, b) if a < b else [*range(a, 1440), *range(b)])}
    return (not rule.weekdays or any(moment.weekday in days for days in rule.weekdays)) and (
        not rule.hours or moment.minute in hours
    )


def walked_host(rule: FlowRule, flow: Flow, surroundings: Surroundings) -> bool | None:
    known = [surroundings.addresses_of(name) for name in rule.destination_host]
    if not known or any(plain(flow.destination) in map(plain, addresses) for addresses in known if addresses):
        return True
    return None if None in known else False


def walk(policy: Policy, flow: Flow, surroundings: Surroundings, start_at: str | None) -> FlowDecision:
    """decide_flow, one rule after the other."""
    if flow.destination.version == 6 and any(plain(a) is not a for a in (flow.source, flow.destination)):
        return FlowDecision(FlowAction.DROP, "mapped-addresses", "an IPv4-mapped address has no place on a network")
    names = [rule.name for rule in policy.flows]
    would: tuple[Would, ...] = ()
    for rule in policy.flows[names.index(start_at) if start_at in names else 0 :]:
        answer = walked_answer(policy, rule, flow, surroundings)
        if rule.staged and answer:
            would += (Would(rule.name, rule.action),)
        elif not rule.staged and answer is None:
            return FlowDecision(None, rule.name, "a host name is not resolved yet", would)
        elif not rule.staged and answer:
            return FlowDecision(FlowAction(rule.action), rule.name, f"matched at {rule.at}", would)
    tunnel = flow.protocol.value in {"ipip", "6in4", "gre"} or (flow.protocol.value, flow.destination_port) == (
        "udp",
        3544,
    )
    zones = walked_zones(policy, flow.source, flow.interface, surroundings.inside_interfaces) if tunnel else set()
    if any(policy.site.zones[zone].tunnels == "reject" for zone in zones):
        words = "a tunnel that no rule names, and `tunnels: reject` in its zone"
        return FlowDecision(FlowAction.REJECT, "tunnels", words, would)
    return FlowDecision(FlowAction.ALLOW, "", "no rule names this flow", would)


class Asked:
    """Names and their addresses; remembers who was asked for."""

    def __init__(self, known: dict[str, frozenset[IPAddress]]) -> None:
        self.known, self.names = known, list[str]()

    def __call__(self, name: str) -> frozenset[IPAddress] | None:
        self.names.append(name)
        return self.known.get(name)


@given(
    SITES,
    RULES,
    st.lists(FLOWS, min_size=1, max_size=8),
    INSIDE,
    KNOWN,
    st.sampled_from([None, "r1", "r3", "gone"]),
    MOMENTS,
)
def test_a_flow_is_decided_as_a_walk_over_all_rules_decides_it(
    site: dict[str, Any],
    rules: list[dict[str, Any]],
    subjects: list[Flow],
    inside: frozenset[str],
    known: dict[str, frozenset[IPAddress]],
    start_at: str | None,
    moment: Moment | None,
) -> None:
    policy = policy_from(site, rules)
    for flow in subjects:
        walked, found = Asked(known), Asked(known)
        expected = walk(policy, flow, Surroundings(inside, walked, lambda: moment), start_at)
        assert decide_flow(policy, flow, Surroundings(inside, found, lambda: moment), start_at=start_at) == expected
        assert found.names == walked.names  # asking makes the gate resolve a name


@given(SITES, RULES, st.lists(ADDRESSES, min_size=1, max_size=8), st.sampled_from(INTERFACES), INSIDE, LISTS)
def test_an_address_is_in_the_zones_and_lists_that_contain_it(
    site: dict[str, Any],
    rules: list[dict[str, Any]],
    addresses: list[IPAddress],
    interface: str,
    inside: frozenset[str],
    texts: list[str],
) -> None:
    policy = policy_from(site, rules)
    asked = [tuple(texts), *(rule.source for rule in policy.flows)]
    for address in addresses:
        assert zones_of(policy, address, interface, inside) == walked_zones(policy, address, interface, inside)
        for each in asked:
            assert within(policy, address, each) == contains(listed(policy, each), address)


def test_every_edge_of_every_prefix_is_on_its_side() -> None:
    """All at once, as a site has them: each prefix a rule's own, in one policy."""
    rules = [{"source": text, "staged": True} for text in PREFIXES]
    policy = policy_from({"zones": {}}, rules)
    for address in EDGES:
        flow = Flow(address, ip_address("192.0.2.1"), 25)
        found = [would.rule for would in decide_flow(policy, flow, Surroundings()).would]
        assert found == [f"r{n}" for n, text in enumerate(PREFIXES) if contains((ip_network(text),), address)]


SITE = {
    "zones": {"lan": {"networks": "10.0.0.0/8"}},
    "sets": {"big": [f"198.18.{n // 256}.{n % 256}" for n in range(9)]},
}


def test_rules_that_cannot_match_are_not_looked_at() -> None:
    rules = [{"from": "lan", "source": f"10.0.{n // 256}.{n % 256}", "port": 25} for n in range(2000)]
    policy = policy_from(SITE, [*rules, {"from": "lan", "port": 25}])
    left = prepared(policy, FlowIndex).candidates(flow("10.0.3.232"), frozenset())
    assert left == 1 << 1000 | 1 << 2000


def flow(source: str, destination: str = "192.0.2.1", port: int = 25) -> Flow:
    return Flow(ip_address(source), ip_address(destination), port)


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    count = REMEMBERED_ENTRIES + 10
    rules = [{"source": [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"]} for n in range(0, 2 * count, 2)]
    policy = policy_from(SITE, rules)
    for n in range(0, 2 * count, 2):
        assert decide_flow(policy, Flow(IPv4Address((10 << 24) + n), ip_address("192.0.2.1"), 25), Surroundings()).rule
    assert all(
        len(kept) <= REMEMBERED_ENTRIES for kept in (prepared(policy, FlowIndex)._source, places_of(policy).zones_at)
    )


def test_a_policy_with_other_parts_is_decided_by_these() -> None:
    policy = policy_from(SITE, [{"source": "@big"}])
    inside = flow("198.18.0.1")
    assert decide_flow(policy, inside, Surroundings()).rule == "r0"
    emptied = policy.site.model_copy(update={"sets": {"big": ()}})
    others = (policy.replace(flows=()), policy.replace(site=emptied))
    copies = (policy.model_copy(update={"flows": ()}), policy.model_copy(update={"site": emptied}))
    for other in (*others, *copies):
        assert decide_flow(other, inside, Surroundings()).rule == ""
    assert decide_flow(policy, inside, Surroundings()).rule == "r0"


def test_policies_of_one_site_share_what_is_prepared_of_its_sets() -> None:
    policy = policy_from(SITE, [{"source": "@big"}, {"destination": "@big", "port": 26}, {"source": ["@big", "@big"]}])
    places = places_of(policy)
    assert list(places.lists) == ["@big"]
    assert places_of(policy.replace(flows=policy.flows[1:])) is places
    more = policy_from(SITE, [{"source": "192.0.2.0/24"}]).flows
    assert places_of(policy.replace(flows=more)) is not places


def test_a_set_of_100000_prefixes_stays_small() -> None:
    """Two octets of memory for each octet that the file has, whatever the number of rules."""
    networks = [ip_network((n * 40000, 32)) for n in range(100_000)]
    policy = policy_from(SITE, [{"source": "@big", "port": n} for n in range(1, 100)])
    sets = {"big": tuple(networks)}
    policy = policy.replace(site=policy.site.model_copy(update={"sets": sets}))
    tracemalloc.start()
    try:
        assert (
            decide_flow(policy, Flow(IPv4Address(40000 * 77), ip_address("192.0.2.1"), 25), Surroundings()).rule
            == "r24"
        )
        kept, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4_000_000
    assert (
        decide_flow(policy, Flow(IPv4Address(40000 * 77 + 1), ip_address("192.0.2.1"), 25), Surroundings()).rule == ""
    )


def test_the_scope_of_a_link_local_address_does_not_count() -> None:
    policy = policy_from(SITE, [{"source": "fe80::/10"}])
    scoped = ipaddress.IPv6Address("fe80::1%eth0")
    assert decide_flow(policy, Flow(scoped, ip_address("2001:db8::1"), 25), Surroundings()).rule == "r0"
