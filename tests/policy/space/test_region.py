"""Regions of packets: what belongs together, whose numbers nobody has, and what the words and the witness say."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from egressguard.net.flow import Protocol
from egressguard.policy.networks import PrefixSet
from egressguard.policy.space import axes
from egressguard.policy.space.region import Region, Space


def prefixes(*texts: str) -> PrefixSet:
    return PrefixSet.of(ip_network(text) for text in texts)


@pytest.fixture
def space() -> Space:
    return Space()


def test_all_of_an_axis_is_everything(space: Space) -> None:
    assert space.among(axes.TO_PORT, [(0, 65536)]) == space.everything
    assert space.source(prefixes("0.0.0.0/0")) == space.family(4)
    assert space.destination(prefixes("::/0", "0.0.0.0/0")) == space.everything
    assert space.source(prefixes()) == space.nothing and not space.nothing
    halves = space.source(prefixes("0.0.0.0/1")) | space.source(prefixes("128.0.0.0/1"))
    assert halves == space.family(4)


def test_an_address_is_of_one_family(space: Space) -> None:
    four, six = space.source(prefixes("192.0.2.0/24")), space.destination(prefixes("2001:db8::/32"))
    assert not four & six
    assert four <= space.family(4) and six <= space.family(6)
    assert (~four & space.family(6)) == space.family(6)


def test_a_port_is_of_a_protocol_that_has_ports(space: Space) -> None:
    assert not space.to_ports([25]) & space.protocol("gre")
    assert space.to_ports([25]) & space.protocol("tcp")


def test_interfaces_that_nobody_names_are_there(space: Space) -> None:
    inside = space.interfaces(["br0", "eth1"])
    rest = ~inside & space.interfaces(["br0", "eth2"])
    assert rest == space.interfaces(["eth2"])
    found = (~inside - space.interfaces(["eth2", ""])).witness()
    assert found is not None and found.interface == "(any other)"


def test_the_same_region_made_in_two_ways_is_equal(space: Space) -> None:
    lan, printers = space.source(prefixes("10.0.0.0/8")), space.source(prefixes("10.1.0.0/16"))
    assert (lan - printers) | (lan & printers) == lan
    assert ~(~lan | printers) == lan - printers
    assert printers <= lan and not lan <= printers


def test_regions_of_two_spaces_are_never_joined(space: Space) -> None:
    with pytest.raises(ValueError, match="different spaces"):
        _ = space.family(4) | Space().family(4)


def test_a_witness_is_the_plainest_packet(space: Space) -> None:
    region = space.protocol("tcp") & space.to_ports([25, 80]) & space.source(prefixes("10.1.2.0/24"))
    found = (region - space.source(prefixes("10.1.2.0/25"))).witness()
    assert found is not None and found.flow is not None
    assert (str(found.source), found.flow.destination_port, found.state) == ("10.1.2.128", 25, "new")
    assert found.flow.protocol is Protocol.TCP and found.payload == b"" and found.number(axes.FLAGS) == axes.SYN
    assert space.nothing.witness() is None


@pytest.mark.parametrize("text", ["10.0.0.1/32", "2001:db8::25/128", "255.255.255.255/32", "0.0.0.0/32"])
def test_the_only_packet_is_found(space: Space, text: str) -> None:
    region = space.source(prefixes(text)) & space.fact("the moon is full") - space.fact("it rains")
    found = region.witness()
    assert found is not None and str(found.source) == text.partition("/")[0]
    assert found.facts == {"the moon is full": True, "it rains": False}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: s.everything, ["everything"]),
        (lambda s: s.nothing, []),
        (lambda s: s.family(6), ["IPv6"]),
        (lambda s: s.protocol("tcp") & s.to_ports([25, 465, 466]), ["protocol tcp, to port 25, 465-466"]),
        (lambda s: s.protocol("tcp") - s.to_ports([25]), ["protocol tcp, to port any but 25"]),
        (
            lambda s: s.source(prefixes("10.0.0.0/8", "192.0.2.1/32")) & s.interfaces(["br0", ""]),
            ["IPv4, arriving on none, br0, from 10.0.0.0/8, 192.0.2.1"],
        ),
        (lambda s: s.family(4) - s.source(prefixes("10.0.0.0/8")), ["IPv4, from any but 10.0.0.0/8"]),
        (lambda s: s.cards(["02:00:00:00:00:01"]), ["from the card 02:00:00:00:00:01"]),
        (lambda s: s.state("new", "invalid"), ["conntrack state new, invalid"]),
        (lambda s: s.fact("speaks smtp"), ["speaks smtp"]),
        (lambda s: ~s.fact("speaks smtp"), ["not: speaks smtp"]),
        (
            lambda s: s.source(prefixes("10.0.0.0/8")) | s.destination(prefixes("2001:db8::/32")),
            ["IPv4, from 10.0.0.0/8", "IPv6, to 2001:db8::/32"],
        ),
        (lambda s: s.among(axes.MINUTE, [(0, 600)]), ["in the week mon 00:00-mon 09:59"]),
    ],
)
def test_words(space: Space, make: object, words: list[str]) -> None:
    assert callable(make)
    region: Region = make(space)
    assert list(region.words()) == words


def test_long_lists_are_cut_short(space: Space) -> None:
    (words,) = space.source(prefixes(*(f"10.0.0.{n}/32" for n in range(0, 40, 2)))).words()
    assert words.endswith("10.0.0.14 and 12 more")
    many = space.union(space.source(prefixes(f"10.0.0.{n}/32")) & space.one_of(axes.MARK, [n]) for n in range(1, 30, 2))
    assert len(list(many.words(limit=5))) == 6 and list(many.words(limit=5))[-1] == "and more"


def test_the_first_rule_that_matches_wins(space: Space) -> None:
    lan = space.source(prefixes("10.0.0.0/8"))
    server = space.source(prefixes("10.0.0.25/32"))
    old = space.first_match([(server, "allow"), (lan, "reject")], "pass")
    assert old.labels() == {"allow", "reject", "pass"}
    assert old.region("reject") == lan - server
    new = space.first_match([(lan, "reject"), (server, "allow")], "pass")
    assert new.labels() == {"reject", "pass"}
    assert old.against(new) == {("allow", "reject"): server}
    assert old.against(old) == {}
    moved = space.first_match([(lan - server, "reject"), (server, "allow")], "pass")
    assert moved == old and not old.against(moved)


def test_labels_are_renamed_and_left_out(space: Space) -> None:
    lan = space.source(prefixes("10.0.0.0/8"))
    outcomes = space.first_match([(lan, "reject")], "allow")
    assert outcomes.named({"reject": "drop"}).region("drop") == lan
    inside = outcomes.within(space.family(6))
    assert inside.labels() == {None, "allow"} and inside.region(None) == space.family(4)


def test_whatever_the_card(space: Space) -> None:
    lan = space.source(prefixes("10.0.0.0/8"))
    region = (lan & space.cards(["02:00:00:00:00:01"])) | space.cards(["02:00:00:00:00:02"])
    assert (region & lan).whatever(axes.CARD) == lan
