"""What rendering must know of this machine, and the shells that find it out."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Literal

from egressguard.net.flow import IPAddress

QueueBackend = Literal["native", "xt", "none"]

_ROUTE_UP = 0x1
_ROUTE_REJECT = 0x200


@dataclass(frozen=True, slots=True)
class Host:
    """`redirect_port`, `tarpit_port`: where such flows land; `relay_uid`: who alone may reach port 25 from here;
    `own_addresses`: this machine's; `utc_offset_minutes`: the local time less UTC, now."""

    inside_interfaces: frozenset[str] = frozenset()
    redirect_port: int | None = None
    relay_uid: int | None = None
    queue: QueueBackend = "none"
    tarpit_port: int | None = None
    own_addresses: frozenset[IPAddress] = frozenset()
    utc_offset_minutes: int = 0


def read_inside_interfaces(proc: Path = Path("/proc/net")) -> frozenset[str]:
    """Interfaces that carry no default route, loopback aside. Raises OSError where the kernel tells nothing."""
    every = {name for _, name in socket.if_nameindex()}
    outside = default_interfaces_4((proc / "route").read_text())
    if (proc / "ipv6_route").exists():
        outside |= default_interfaces_6((proc / "ipv6_route").read_text())
    return frozenset(every - outside - {"lo"})


def read_own_addresses(proc: Path = Path("/proc/net")) -> frozenset[IPAddress]:
    """The addresses of this machine. Raises OSError where the kernel tells nothing."""
    own = own_addresses_4((proc / "fib_trie").read_text())
    if (proc / "if_inet6").exists():
        own |= own_addresses_6((proc / "if_inet6").read_text())
    return frozenset(own)


def own_addresses_4(text: str) -> set[IPAddress]:
    """The local addresses in the text of /proc/net/fib_trie: a leaf's line, and below it what it is."""
    found: set[IPAddress] = set()
    leaf = ""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.add(IPv4Address(leaf))
    return found


def own_addresses_6(text: str) -> set[IPAddress]:
    """The addresses in the text of /proc/net/if_inet6."""
    return {IPv6Address(int(line.split()[0], 16)) for line in text.splitlines() if line.strip()}


def default_interfaces_4(text: str) -> set[str]:
    """The interfaces of IPv4 default routes in the text of /proc/net/route."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return {
        r[0] for r in rows if len(r) >= 8 and r[1] == "00000000" and r[7] == "00000000" and int(r[3], 16) & _ROUTE_UP
    }


def default_interfaces_6(text: str) -> set[str]:
    """The interfaces of IPv6 default routes in the text of /proc/net/ipv6_route."""
    found = set()
    for line in text.splitlines():
        row = line.split()
        if len(row) >= 10 and row[0] == "0" * 32 and row[1] == "00":
            flags = int(row[8], 16)
            if flags & _ROUTE_UP and not flags & _ROUTE_REJECT:
                found.add(row[9])
    return found - {"lo"}
