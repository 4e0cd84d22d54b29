"""Where a redirected connection was meant to go: the kernel's conntrack still knows (SO_ORIGINAL_DST).

Contract
    None when it was not redirected, or when the kernel cannot say (no conntrack entry, no such option).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from egressguard.net.flow import IPAddress, plain_address

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST has the same number
_SOCKADDR_IN = struct.Struct("=H2s4s8x")  # family in host order, port in network order
_SOCKADDR_IN6 = struct.Struct("=H2sI16sI")

Endpoint = tuple[IPAddress, int]


class Socket(Protocol):
    def getsockopt(self, level: int, option: int, buflen: int, /) -> bytes: ...

    def getsockname(self) -> tuple[object, ...]: ...


def original_destination(sock: Socket) -> str | None:
    """ "address:port" the client dialled, when that is not the address we were reached at."""
    here = sock.getsockname()
    if len(here) < 2 or not isinstance(here[1], int):  # not an Internet socket
        return None
    ours = (plain_address(str(here[0])), here[1])
    meant = _asked(_ask_ipv4 if ours[0].version == 4 else _ask_ipv6, sock)
    return None if meant is None or meant == ours else render_endpoint(meant)


def render_endpoint(endpoint: Endpoint) -> str:
    address, port = endpoint
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def parse_sockaddr_in(octets: bytes) -> Endpoint:
    _family, port, address = _SOCKADDR_IN.unpack(octets[: _SOCKADDR_IN.size])
    return ipaddress.IPv4Address(address), int.from_bytes(port, "big")


def parse_sockaddr_in6(octets: bytes) -> Endpoint:
    _family, port, _flow, address, _scope = _SOCKADDR_IN6.unpack(octets[: _SOCKADDR_IN6.size])
    return ipaddress.IPv6Address(address), int.from_bytes(port, "big")


def _ask_ipv4(sock: Socket) -> Endpoint:
    return parse_sockaddr_in(sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, _SOCKADDR_IN.size))


def _ask_ipv6(sock: Socket) -> Endpoint:
    return parse_sockaddr_in6(sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, _SOCKADDR_IN6.size))


def _asked(ask: Callable[[Socket], Endpoint], sock: Socket) -> Endpoint | None:
    try:
        return ask(sock)
    except (OSError, struct.error):
        return None
