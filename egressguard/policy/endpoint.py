"""Where a server listens, as rule files write it."""

from __future__ import annotations

import ipaddress


def parse_endpoint(text: str, default_port: int) -> tuple[str, int]:
    """ "192.0.2.53", "192.0.2.53:5353", "2001:db8::53" or "[2001:db8::53]:5353" -> (address, port).

    Raises ValueError."""
    host, port = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(f"'{text}' is not [address]:port")
        port = rest[1:] if rest else ""
        ipaddress.IPv6Address(host)
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if text.endswith(":") and not text.endswith("::"):
        raise ValueError(f"'{text}' ends where a port should be")
    return str(ipaddress.ip_address(host)), parse_port(port) if port else default_port


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def parse_port(text: str) -> int:
    """Decimal digits -> 1..65535. Raises ValueError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError(f"'{text}' is not a port")
    return int(text)
