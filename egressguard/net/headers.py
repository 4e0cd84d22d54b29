"""IPv4, IPv6, TCP and UDP header fields sliced from octets: what verdicts and observations need, nothing else.

Tunnels are packets too, with ports 0.

Contract
    `parse_packet` never raises: what is truncated, fragmented beyond its first part or unknown is None.
    IPv6 extension headers are followed, at most EXTENSIONS of them (RFC 8200 s4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from egressguard.net.flow import TUNNELS, Flow, IPAddress, Protocol

EXTENSIONS = 8
_PROTOCOLS = {6: Protocol.TCP, 17: Protocol.UDP, 4: Protocol.IPIP, 41: Protocol.SIX_IN_FOUR, 47: Protocol.GRE}
_EXTENSION_HEADERS = frozenset({0, 43, 60, 135})  # hop-by-hop, routing, destination options, mobility
_FRAGMENT = 44
UDP_OCTETS = 8
_AUTHENTICATION = 51


@dataclass(frozen=True, slots=True)
class Packet:
    source: IPAddress
    destination: IPAddress
    protocol: Protocol
    source_port: int
    destination_port: int
    payload_at: int = 0
    """Where the payload begins in the octets; behind their end when they hold none of it."""

    def flow(self, interface: str = "") -> Flow:
        return Flow(self.source, self.destination, self.destination_port, interface, self.protocol, self.source_port)


def parse_packet(octets: bytes) -> Packet | None:
    """The addresses and ports of a TCP, UDP or tunnel packet that starts with its IP header; None for all else."""
    if not octets:
        return None
    version = octets[0] >> 4
    try:
        if version == 4:
            return _parse_4(octets)
        return _parse_6(octets) if version == 6 else None
    except (struct.error, IndexError):
        return None


def _parse_4(octets: bytes) -> Packet | None:
    header_length = (octets[0] & 0x0F) * 4
    (fragment,) = struct.unpack_from("!H", octets, 6)
    if header_length < 20 or fragment & 0x1FFF:
        return None
    source, destination = struct.unpack_from("!II", octets, 12)
    return _with_ports(octets, header_length, octets[9], IPv4Address(source), IPv4Address(destination))


def _parse_6(octets: bytes) -> Packet | None:
    if len(octets) < 40:
        return None
    source, destination = IPv6Address(octets[8:24]), IPv6Address(octets[24:40])
    next_header, offset = octets[6], 40
    for _ in range(EXTENSIONS):
        if next_header in _EXTENSION_HEADERS:
            next_header, offset = octets[offset], offset + (octets[offset + 1] + 1) * 8
        elif next_header == _AUTHENTICATION:
            next_header, offset = octets[offset], offset + (octets[offset + 1] + 2) * 4
        elif next_header == _FRAGMENT:
            (fragment,) = struct.unpack_from("!H", octets, offset + 2)
            if fragment >> 3:
                return None
            next_header, offset = octets[offset], offset + 8
        else:
            break
    return _with_ports(octets, offset, next_header, source, destination)


def _with_ports(octets: bytes, offset: int, number: int, source: IPAddress, destination: IPAddress) -> Packet | None:
    protocol = _PROTOCOLS.get(number)
    if protocol is None:
        return None
    if protocol in TUNNELS:
        return Packet(source, destination, protocol, 0, 0)
    source_port, destination_port = struct.unpack_from("!HH", octets, offset)
    length = (octets[offset + 12] >> 4) * 4 if protocol is Protocol.TCP else UDP_OCTETS
    return Packet(source, destination, protocol, source_port, destination_port, offset + length)
