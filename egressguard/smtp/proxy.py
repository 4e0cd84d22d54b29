"""The PROXY protocol, versions 1 and 2 (haproxy's specification): who a load balancer says its client is.

Contract
    Pure and incremental: octets in, the header, "more" or ProxyError out. What stands behind the header is not looked
    at. It never waits for octets that the header cannot have: both versions are bounded, and a wrong octet is refused
    as soon as it is there.
    Nothing here decides whether a peer may say such things: only listeners that trust theirs may ask.
    A header that names no addresses (UNKNOWN, LOCAL, UNSPEC) is valid: the connection's own addresses hold. One for
    a transport that cannot reach us (UNIX, UDP) is refused.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from egressguard.net.flow import IPAddress, plain_address

V1_OCTETS = 107  # the specification's worst case, with CRLF
V2_BLOCK_OCTETS = 2048
"""What may follow the first 16 octets: addresses are 36, the rest are TLVs (a certificate's name, a unique id)."""

_V1_PREFIX = b"PROXY "
_V1_SHORTEST = len(b"PROXY UNKNOWN\r\n")
_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")
_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD = struct.Struct("!12sBBH")  # signature, version and command, family and transport, octets that follow
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESSES = {_TCP4: struct.Struct("!4s4sHH"), _TCP6: struct.Struct("!16s16sHH")}
_TLV = struct.Struct("!BH")
_FAMILIES, _TRANSPORTS = range(4), range(3)  # unspecified, IPv4, IPv6, UNIX; unspecified, stream, datagram


class ProxyError(ValueError):
    """The octets are no PROXY header that we take; the connection is to be cut."""


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The header is not whole yet; it has at least `octets` in all."""

    octets: int


@dataclass(frozen=True, slots=True)
class Header:
    """`octets` is the header's length. `local`: it names nobody, addresses are None and ports 0."""

    octets: int
    source: IPAddress | None = None
    source_port: int = 0
    destination: IPAddress | None = None
    destination_port: int = 0

    @property
    def local(self) -> bool:
        return self.source is None


def parse_proxy(buffer: bytes) -> NeedMore | Header:
    """What the connection's first octets say. Raises ProxyError; ask again with more octets after NeedMore."""
    if not buffer:
        return NeedMore(_V1_SHORTEST)
    if _V2_SIGNATURE.startswith(buffer[: len(_V2_SIGNATURE)]):
        return _parse_v2(buffer)
    if _V1_PREFIX.startswith(buffer[: len(_V1_PREFIX)]):
        return _parse_v1(buffer)
    raise ProxyError("expected a PROXY header")


def _parse_v1(buffer: bytes) -> NeedMore | Header:
    line, crlf, _ = buffer[:V1_OCTETS].partition(b"\r\n")
    if not crlf:
        if len(buffer) >= V1_OCTETS:
            raise ProxyError(f"a version 1 header has at most {V1_OCTETS} octets")
        if b"\r" in buffer[:-1] or b"\n" in buffer:
            raise ProxyError("expected CR LF at the end of the header")
        return NeedMore(max(_V1_SHORTEST, len(buffer) + 1))
    octets = len(line) + len(crlf)
    if _V1_UNKNOWN.fullmatch(line):
        return Header(octets)
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise ProxyError("expected PROXY TCP4 or TCP6, two addresses and two ports")
    kind = IPv4Address if match[1] == b"TCP4" else IPv6Address
    source, destination = _v1_address(kind, match[2]), _v1_address(kind, match[3])
    return Header(octets, source, _v1_port(match[4]), destination, _v1_port(match[5]))


def _v1_address(kind: type[IPv4Address] | type[IPv6Address], word: bytes) -> IPAddress:
    try:
        return plain_address(str(kind(word.decode("ascii"))))
    except ValueError:
        raise ProxyError("expected addresses of the family that the header names") from None


def _v1_port(word: bytes) -> int:
    if int(word) > 65535 or (word[:1] == b"0" and word != b"0"):
        raise ProxyError("expected ports from 0 to 65535")
    return int(word)


def _parse_v2(buffer: bytes) -> NeedMore | Header:
    if len(buffer) < _V2_HEAD.size:
        return NeedMore(_V2_HEAD.size)
    _, command, family, length = _V2_HEAD.unpack_from(buffer)
    if command not in (_V2_LOCAL, _V2_PROXY):
        raise ProxyError("expected version 2 and the command LOCAL or PROXY")
    if length > V2_BLOCK_OCTETS:
        raise ProxyError(f"a version 2 header has at most {V2_BLOCK_OCTETS} octets behind the first 16")
    layout = _v2_layout(family) if command == _V2_PROXY else None
    if layout is not None and length < layout.size:
        raise ProxyError("the header is too short for its addresses")
    octets = _V2_HEAD.size + length
    if len(buffer) < octets:
        return NeedMore(octets)
    if layout is None:
        return Header(octets)  # whatever else stands in it is to be passed over
    _check_tlvs(buffer[_V2_HEAD.size + layout.size : octets])
    source, destination, source_port, destination_port = layout.unpack_from(buffer, _V2_HEAD.size)
    return Header(octets, _v2_address(source), source_port, _v2_address(destination), destination_port)


def _v2_layout(family: int) -> struct.Struct | None:
    """How the addresses lie; None: the header has none that count."""
    if family in _ADDRESSES:
        return _ADDRESSES[family]
    address_family, transport = family >> 4, family & 0x0F
    if address_family in _FAMILIES and transport in _TRANSPORTS and 0 in (address_family, transport):
        return None
    raise ProxyError("expected TCP over IPv4 or IPv6")


def _v2_address(octets: bytes) -> IPAddress:
    return plain_address(str(IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)))


def _check_tlvs(octets: bytes) -> None:
    """They tell us nothing, but a sender that cannot frame them cannot be trusted with the addresses either."""
    at = 0
    while at < len(octets):
        if len(octets) - at < _TLV.size:
            raise ProxyError("a TLV ends early")
        at += _TLV.size + _TLV.unpack_from(octets, at)[1]
    if at != len(octets):
        raise ProxyError("a TLV ends early")
