"""Prefix look-ups answer as the plain definition does, and belong to the policy they were made for."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.model import Policy
from egressguard.policy.networks import PrefixSet, normal, prefixes, within, zones_of

PolicyOf = Callable[[str], Policy]

V4 = st.builds(IPv4Address, st.integers(0, 2**32 - 1))
V6 = st.builds(IPv6Address, st.integers(0, 2**128 - 1))
NETWORKS_4 = st.builds(lambda a, n: IPv4Network((a, n), strict=False), V4, st.integers(0, 32))
NETWORKS_6 = st.builds(lambda a, n: IPv6Network((a, n), strict=False), V6, st.integers(0, 128))


@given(st.lists(NETWORKS_4 | NETWORKS_6, max_size=8), V4 | V6)
def test_a_prefix_set_contains_what_its_prefixes_contain(
    networks: list[IPv4Network | IPv6Network], address: IPv4Address | IPv6Address
) -> None:
    expected = any(address.version == n.version and address in n for n in networks)
    assert (address in PrefixSet.of(networks)) == expected


@given(NETWORKS_4 | NETWORKS_6, st.data())
def test_a_prefix_set_contains_the_edges_of_its_prefixes(
    network: IPv4Network | IPv6Network, data: st.DataObject
) -> None:
    inside = data.draw(st.sampled_from([network[0], network[-1], network.network_address]))
    assert inside in PrefixSet.of([network])
    if network.prefixlen and int(network[-1]) + 1 < 2**network.max_prefixlen:
        assert (type(network[0])(int(network[-1]) + 1)) not in PrefixSet.of([network])


def test_a_mapped_address_is_the_address_it_stands_for() -> None:
    assert normal(ip_address("::ffff:192.0.2.1")) == ip_address("192.0.2.1")
    assert normal(ip_address("2001:db8::1")) == ip_address("2001:db8::1")


def test_a_packet_may_be_in_several_zones_and_in_none(policy_of: PolicyOf) -> None:
    policy = policy_of("")
    assert zones_of(policy, ip_address("198.51.100.1"), "br0", frozenset()) == {"lan", "dmz"}
    assert zones_of(policy, ip_address("192.0.2.1"), "eth0", frozenset({"eth1"})) == frozenset()
    assert zones_of(policy, ip_address("192.0.2.1"), "eth7", frozenset({"eth7"})) == {"lan", "wire"}
    assert zones_of(policy, ip_address("::ffff:192.168.1.1"), "", frozenset()) == {"lan"}


def test_set_names_and_prefixes_may_be_mixed(policy_of: PolicyOf) -> None:
    policy, texts = policy_of(""), ("@mail-servers", "203.0.113.0/24", "@nobody")
    assert len(prefixes(policy, texts)) == 3
    assert within(policy, ip_address("192.168.1.25"), texts)
    assert within(policy, ip_address("203.0.113.5"), texts)
    assert not within(policy, ip_address("192.0.2.5"), texts)
    assert not within(policy, ip_address("192.0.2.5"), ("@nobody",))


def test_look_up_tables_do_not_outlive_the_policy_they_were_made_for(policy_of: PolicyOf) -> None:
    policy, address = policy_of(""), ip_address("192.168.1.25")
    assert within(policy, address, ("@mail-servers",))
    assert zones_of(policy, address, "", frozenset()) == {"lan"}
    emptied = policy.site.model_copy(update={"sets": {"mail-servers": ()}, "zones": {}})
    changed = policy.model_copy(update={"site": emptied})
    assert not within(changed, address, ("@mail-servers",))
    assert zones_of(changed, address, "", frozenset()) == frozenset()
    assert within(policy, address, ("@mail-servers",))
