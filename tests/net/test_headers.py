"""Header slicing, against scapy as the other opinion and against octets that nobody wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.net.flow import Protocol, plain_address
from egressguard.net.headers import parse_packet

scapy_inet = pytest.importorskip("scapy.layers.inet", reason="needs scapy")
scapy_inet6 = pytest.importorskip("scapy.layers.inet6", reason="needs scapy")
IP, TCP, UDP, ICMP = scapy_inet.IP, scapy_inet.TCP, scapy_inet.UDP, scapy_inet.ICMP
IPv6 = scapy_inet6.IPv6


@given(st.binary(max_size=200))
def test_any_octets_give_a_packet_or_none(octets: bytes) -> None:
    parse_packet(octets)


@given(st.sampled_from([4, 6]), st.binary(min_size=39, max_size=120))
def test_any_octets_behind_a_version_give_a_packet_or_none(version: int, octets: bytes) -> None:
    parse_packet(bytes([version << 4 | 5]) + octets)


@pytest.mark.parametrize(
    "packet",
    [
        IP(src="192.0.2.1", dst="198.51.100.2") / TCP(sport=4000, dport=25),
        IP(src="192.0.2.1", dst="198.51.100.2", options=b"\x01" * 8)
        / TCP(sport=4000, dport=25, options=[("MSS", 1400)]),
        IP(src="192.0.2.1", dst="198.51.100.2", flags="MF") / TCP(sport=4000, dport=25),
        IPv6(src="2001:db8::1", dst="2001:db8:1::2") / TCP(sport=4000, dport=25),
        IPv6(src="2001:db8::1", dst="2001:db8:1::2")
        / scapy_inet6.IPv6ExtHdrHopByHop()
        / scapy_inet6.IPv6ExtHdrDestOpt()
        / scapy_inet6.IPv6ExtHdrFragment(offset=0, m=1)
        / TCP(sport=4000, dport=25),
    ],
    ids=["plain", "options", "first-fragment", "ipv6", "ipv6-extensions"],
)
def test_addresses_and_ports_as_scapy_wrote_them(packet: object) -> None:
    parsed = parse_packet(bytes(packet))  # type: ignore[call-overload]

    assert parsed is not None
    assert (parsed.source_port, parsed.destination_port, parsed.protocol) == (4000, 25, Protocol.TCP)
    assert str(parsed.source) == packet.src and str(parsed.destination) == packet.dst  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "packet",
    [
        IP(src="192.0.2.1", dst="198.51.100.2", frag=10) / TCP(dport=25),
        IP(src="192.0.2.1", dst="198.51.100.2") / ICMP(),
        IPv6(src="2001:db8::1", dst="2001:db8:1::2") / scapy_inet6.IPv6ExtHdrFragment(offset=5) / TCP(dport=25),
        IPv6(src="2001:db8::1", dst="2001:db8:1::2") / scapy_inet6.ICMPv6EchoRequest(),
    ],
    ids=["later-fragment", "icmp", "ipv6-later-fragment", "icmpv6"],
)
def test_what_has_no_ports_is_none(packet: object) -> None:
    assert parse_packet(bytes(packet)) is None  # type: ignore[call-overload]


def test_truncated_at_every_octet_never_raises() -> None:
    whole = bytes(IPv6(src="2001:db8::1", dst="2001:db8:1::2") / scapy_inet6.IPv6ExtHdrHopByHop() / TCP(dport=25))
    for length in range(len(whole)):
        parse_packet(whole[:length])


def test_a_mapped_address_is_the_ipv4_address_it_stands_for() -> None:
    assert str(plain_address("::ffff:192.0.2.7")) == "192.0.2.7"
