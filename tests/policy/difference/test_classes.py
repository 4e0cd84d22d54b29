"""Facts in classes: every value falls into one, all of a class are matched alike, and words say which they are."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.difference.classes import Addresses, hours, number, one_of, paths
from egressguard.policy.networks import PrefixSet
from egressguard.policy.patterns import domain_matches, path_matches

PREFIXES = ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/17", "192.0.2.1", "fd00::/8", "fd00::/64", "0.0.0.0/0", "::/0"]
PATHS = ["anna@x.example", "*@x.example", "*@sub.x.example", "bob@y.example"]
DOMAINS = ["x.example", ".x.example", ".example", "@local"]


def prefix_set(*texts: str) -> PrefixSet:
    return PrefixSet.of(map(ip_network, texts))


@given(st.lists(st.lists(st.sampled_from(PREFIXES), max_size=3).map(lambda texts: prefix_set(*texts)), max_size=4))
def test_addresses_of_a_class_are_in_the_same_sets(sets: list[PrefixSet]) -> None:
    addresses = Addresses("client", sets, [])
    everything = 0
    for each in sets:
        inside = addresses.within(each)
        for place, sample in enumerate(addresses.fact.samples):
            assert (sample in each) == bool(inside >> place & 1)
    for version, classes in addresses.versions.items():
        samples = [s for place, s in enumerate(addresses.fact.samples) if classes >> place & 1]
        assert {sample.version for sample in samples} == {version}
        everything |= classes
    assert everything == addresses.fact.full


def test_an_address_looks_like_one() -> None:
    addresses = Addresses("client", [prefix_set("10.0.0.0/8")], [ip_address("198.51.100.7")])
    assert addresses.fact.sample(addresses.within(prefix_set("10.0.0.0/8"))) == IPv4Address("10.0.0.1")
    assert ip_address("198.51.100.7") in addresses.fact.samples


LOCAL_PARTS, HOSTS = ["anna", "bob", "carl"], ["x.example", "sub.x.example", "a.b.x.example", "y.example", "z.test"]


@pytest.mark.parametrize("path", ["", *(f"{local}@{host}" for local in LOCAL_PARTS for host in HOSTS)])
def test_a_path_is_matched_as_one_of_the_samples(path: str) -> None:
    fact = paths("sender", [*PATHS, "<>"], DOMAINS, ["y.example"], without_domain="")

    def answers(of: str) -> list[bool]:
        by_path = [path_matches([pattern], of) for pattern in (*PATHS, "<>")]
        return by_path + [domain_matches([pattern], of, ["y.example"]) for pattern in DOMAINS]

    assert answers(path) in [answers(sample) for sample in fact.samples]


@pytest.mark.parametrize(
    ("above", "words"),
    [((0, 9), "octets 0 to 9"), ((10, 10**9), "octets 10 or more"), ((10, 99), "octets 10 to 99"), ((0, 10**9), "")],
)
def test_neighbours_are_told_as_one(above: tuple[int, int], words: str) -> None:
    fact = number("octets", 1000, [10, 50, 100])
    assert fact.samples[0] == 1000
    assert fact.words(fact.where(lambda size: above[0] <= size <= above[1])) == words


def test_words() -> None:
    time = hours([(480, 1080), (1320, 360)])
    assert time.words(time.where(lambda minute: minute < 480)) == "time 00:00-08:00"
    users = one_of("user", [None, "anna", "bert", "carl", "dora"], lambda name: name or "nobody")
    users.where(lambda name: name is not None, "anybody")
    assert users.words(1) == "user not anybody" and users.words(users.full - 1) == "user anybody"
    assert users.words(0b110) == "user anna, bert" and users.words(0b11101) == "user not anna"
    where = Addresses("from", [prefix_set("10.0.0.0/9"), prefix_set("10.128.0.0/9"), prefix_set("::/0")], [])
    both = where.within(prefix_set("10.0.0.0/9")) | where.within(prefix_set("10.128.0.0/9"))
    assert where.fact.words(both) == "from 10.0.0.0/8"
    assert where.fact.words(where.versions[6]) == "from any IPv6"
