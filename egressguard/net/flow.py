"""One transport flow as the gateway sees it. No I/O; nothing here knows nftables."""

from __future__ import annotations

import enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from egressguard.values import value

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Protocol(enum.Enum):
    """TCP, UDP, and the tunnels that carry whole packets: IPv4 in IP (4), IPv6 in IP (41: 6to4, ISATAP), GRE (47)."""

    TCP = "tcp"
    UDP = "udp"
    IPIP = "ipip"
    SIX_IN_FOUR = "6in4"
    GRE = "gre"


TUNNELS = frozenset({Protocol.IPIP, Protocol.SIX_IN_FOUR, Protocol.GRE})
TEREDO_PORT = 3544
"""UDP (RFC 4380 s2.7): IPv6 to and through a Teredo server."""


@value(frozen=True, slots=True)
class Flow:
    """`interface` is where it arrived ("" = made by this gateway itself).

    `source_mac` is the link-layer source ("" = not known); `speaks` is the protocol that the first octets of who opened
    the flow are of: "smtp", or "" while nothing was said and for all else. Ports are 0 where the protocol has none."""

    source: IPAddress
    destination: IPAddress
    destination_port: int
    interface: str = ""
    protocol: Protocol = Protocol.TCP
    source_port: int = 0
    source_mac: str = ""
    speaks: str = ""


# Not ipaddress's `is_private`: that has the documentation's prefixes too, and others that routers carry.
_INSIDE: tuple[IPNetwork, ...] = tuple(
    ip_network(prefix)
    for prefix in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "224.0.0.0/3", "::/127", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
)


def is_of_inside(address: IPAddress) -> bool:
    """Whether the address means something in one network only: private, shared, loopback, link-local, multicast."""
    return any(address in network for network in _INSIDE if network.version == address.version)


def counted_as(address: IPAddress) -> IPAddress:
    """By what a client is counted: who has one IPv6 address has the other 2^64 of its prefix, too."""
    if isinstance(address, IPv6Address):
        return IPv6Address(int(address) >> 64 << 64)
    return address


@lru_cache(4096)
def plain_address(text: str) -> IPAddress:
    """Parse an address; an IPv4-mapped IPv6 address becomes the IPv4 address it stands for (RFC 4291 s2.5.5.2)."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
