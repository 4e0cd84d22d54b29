"""One transport flow as the gateway sees it. No I/O; nothing here knows nftables."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Protocol(enum.Enum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Flow:
    """`interface` is where it arrived ("" = made by this gateway itself)."""

    source: IPAddress
    destination: IPAddress
    destination_port: int
    interface: str = ""
    protocol: Protocol = Protocol.TCP
    source_port: int = 0


def plain_address(text: str) -> IPAddress:
    """Parse an address; an IPv4-mapped IPv6 address becomes the IPv4 address it stands for (RFC 4291 s2.5.5.2)."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
