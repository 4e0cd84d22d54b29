"""What the wall stopped, read from NFLOG: an own reader, because no kept library works (docs/decisions).

Contract
    `parse_message` never raises on any octets; what it does not understand is None.
    A kernel that had to drop messages (ENOBUFS) is counted, and reading goes on.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from egressguard.net.headers import Packet, parse_packet

_NETLINK_NETFILTER = 12
_SUBSYSTEM_ULOG = 4
_PACKET, _CONFIG = (_SUBSYSTEM_ULOG << 8) | 0, (_SUBSYSTEM_ULOG << 8) | 1
_REQUEST, _ACKNOWLEDGE = 0x1, 0x4
_BIND, _COPY_PACKET = 1, 2
_MAX_MESSAGES_PER_WAKE = 256
_RECEIVE_OCTETS = 1 << 20

ATTRIBUTE_INTERFACE_IN, ATTRIBUTE_PAYLOAD, ATTRIBUTE_PREFIX, ATTRIBUTE_MAC = 4, 9, 10, 8


@dataclass(frozen=True, slots=True)
class Observation:
    """One logged packet. `action` and `rule` are what firewall.table.log_prefix was given; `mac` is "" where the link
    has none; `payload` is what was copied of it."""

    action: str
    rule: str
    packet: Packet
    interface: str = ""
    mac: str = ""
    payload: bytes = b""


def parse_datagram(octets: bytes, interface_name: Callable[[int], str]) -> Iterator[Observation]:
    """The observations in one netlink datagram."""
    offset = 0
    while offset + 16 <= len(octets):
        length, kind = struct.unpack_from("=IH", octets, offset)
        if length < 16 or offset + length > len(octets):
            return
        if kind == _PACKET:
            found = parse_message(octets[offset + 16 : offset + length], interface_name)
            if found is not None:
                yield found
        offset += (length + 3) & ~3


def parse_message(message: bytes, interface_name: Callable[[int], str]) -> Observation | None:
    """One NFULNL_MSG_PACKET behind its netlink header, or None when it is not one of ours."""
    attributes = dict(_attributes(message[4:]))
    prefix = attributes.get(ATTRIBUTE_PREFIX, b"").rstrip(b"\0").decode("ascii", "replace")
    mark, _, rest = prefix.partition(":")
    action, _, rule = rest.partition(":")
    if mark != "eg" or not rule:
        return None
    octets = attributes.get(ATTRIBUTE_PAYLOAD, b"")
    packet = parse_packet(octets)
    if packet is None:
        return None
    payload = octets[packet.payload_at :]
    return Observation(action, rule, packet, _interface(attributes, interface_name), _mac(attributes), payload)


def _attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(octets):
        length, kind = struct.unpack_from("=HH", octets, offset)
        if length < 4 or offset + length > len(octets):
            return
        yield kind & 0x3FFF, octets[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _interface(attributes: dict[int, bytes], interface_name: Callable[[int], str]) -> str:
    raw = attributes.get(ATTRIBUTE_INTERFACE_IN, b"")
    return interface_name(struct.unpack("!I", raw)[0]) if len(raw) == 4 else ""


def _mac(attributes: dict[int, bytes]) -> str:
    raw = attributes.get(ATTRIBUTE_MAC, b"")
    if len(raw) < 4:
        return ""
    (length,) = struct.unpack_from("!H", raw)
    return ":".join(f"{octet:02x}" for octet in raw[4 : 4 + length]) if length == 6 and len(raw) >= 10 else ""


def interface_name(index: int) -> str:
    """ "" for one that is gone; a name is asked for once a second at most."""
    return _named(index, int(time.monotonic()))


@functools.lru_cache(maxsize=256)
def _named(index: int, _second: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


class NflogReader:
    """Reads one NFLOG group on the event loop; needs CAP_NET_ADMIN. `lost` counts overflows of the socket."""

    def __init__(self, group: int, observe: Callable[[Observation], None], copy_octets: int) -> None:
        self._observe = observe
        self.lost = 0
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            self._sock.bind((0, 0))
            self._sock.settimeout(5)
            self._configure(group, 1, struct.pack("!B", _BIND))
            self._configure(group, 2, struct.pack("!IBB", copy_octets, _COPY_PACKET, 0))
            self._sock.setblocking(False)
        except OSError:
            self._sock.close()
            raise

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._sock, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def _configure(self, group: int, kind: int, value: bytes) -> None:
        attribute = struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
        payload = struct.pack("!BBH", socket.AF_UNSPEC, 0, group) + attribute
        flags = _REQUEST | _ACKNOWLEDGE
        self._sock.send(struct.pack("=IHHII", 16 + len(payload), _CONFIG, flags, kind, 0) + payload)
        answer = self._sock.recv(8192)
        (code,) = struct.unpack_from("=i", answer, 16)
        if code:
            raise OSError(-code, f"NFLOG group {group}: {os.strerror(-code)}")

    def _read(self) -> None:
        for _ in range(_MAX_MESSAGES_PER_WAKE):
            try:
                datagram = self._sock.recv(_RECEIVE_OCTETS)
            except BlockingIOError:
                return
            except OSError as wrong:
                if wrong.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            for observation in parse_datagram(datagram, interface_name):
                self._observe(observation)
