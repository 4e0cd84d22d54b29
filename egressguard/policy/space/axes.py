"""What a packet is described by: one axis a field, in the order in which diagrams ask.

Contract
    Pure. Every field of every packet is one whole number; what a packet does not have has a number of its own.
    Fields that split rules best are asked first: few packets meet few rules, whatever else the rules look at.
    IPv4 and IPv6 addresses have axes apart, so that no number is an address of no family.
    `preferred` are the numbers that a witness takes first, so that it looks like a packet that one meets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from egressguard.policy.fields import DAY_MINUTES, WEEKDAYS
from egressguard.policy.space.diagram import Span

FAMILIES = (4, 6)
PROTOCOLS = {"icmp": 1, "ipip": 4, "tcp": 6, "udp": 17, "6in4": 41, "gre": 47, "icmpv6": 58, "dccp": 33, "sctp": 132}
STATES = (
    "new",
    "established",
    "established, an answer",
    "related",
    "related, an answer",
    "invalid",
    "untracked",
)
"""What conntrack says of a packet, and whose way it goes: an answer is a packet of direction "reply"."""
PAYLOAD_OCTETS = 10
"""So many octets of the payload are axes: as many as the longest question looks at."""
NO_MAC = 1 << 48
NO_OWNER = 1 << 32
NAMES = 1 << 16
"""Interfaces that are told apart. 0 is none: a packet that this machine itself sends, or that it takes."""
SYN = 0x02


@dataclass(frozen=True, slots=True)
class Axis:
    """`size`: numbers 0 to size - 1. `words` says what a span of numbers is, `any` what the axis is."""

    level: int
    name: str
    size: int
    words: Callable[[Sequence[Span]], str]
    preferred: tuple[Span, ...] = ()


def numbers_in_words(spans: Sequence[Span]) -> str:
    return ", ".join(_range(first, None if behind is None else behind - 1) for first, behind in spans)


def _range(first: int, last: int | None) -> str:
    if last is None:
        return f"{first} and up"
    return str(first) if first == last else f"{first}-{last}"


def _chosen(choices: Sequence[str]) -> Callable[[Sequence[Span]], str]:
    def words(spans: Sequence[Span]) -> str:
        found = [choice for first, behind in spans for choice in choices[first:behind]]
        return ", ".join(found)

    return words


def _protocols(spans: Sequence[Span]) -> str:
    named = {number: name for name, number in PROTOCOLS.items()}
    if all(behind == first + 1 for first, behind in spans):
        return ", ".join(named.get(first, str(first)) for first, _ in spans)
    return numbers_in_words(spans)


def addresses_in_words(spans: Sequence[Span], family: int) -> str:
    """Prefixes where a span is one, ranges where it is none."""
    return ", ".join(_address_span(first, behind, family) for first, behind in spans)


def _address_span(first: int, behind: int | None, family: int) -> str:
    kind: type[IPv4Address] | type[IPv6Address] = IPv4Address if family == 4 else IPv6Address
    bits = 32 if family == 4 else 128
    size = (1 << bits if behind is None else behind) - first
    if size == 1:
        return str(kind(first))
    if size & (size - 1) == 0 and first % size == 0:
        network = IPv4Network if family == 4 else IPv6Network
        return str(network((first, bits - size.bit_length() + 1)))
    return f"{kind(first)}-{kind(first + size - 1)}"


def mac_text(number: int) -> str:
    return "" if number == NO_MAC else ":".join(f"{octet:02x}" for octet in number.to_bytes(6, "big"))


def mac_number(text: str) -> int:
    return int(text.replace(":", ""), 16) if text else NO_MAC


def _macs(spans: Sequence[Span]) -> str:
    found = []
    for first, behind in spans:
        last = (NO_MAC + 1 if behind is None else behind) - 1
        first_text, last_text = mac_text(first) or "none", mac_text(last) or "none"
        found.append(first_text if first == last else f"{first_text}-{last_text}")
    return ", ".join(found)


def _minutes(spans: Sequence[Span]) -> str:
    found = []
    for first, behind in spans:
        last = (len(WEEKDAYS) * DAY_MINUTES if behind is None else behind) - 1
        found.append(f"{_minute(first)}-{_minute(last)}")
    return ", ".join(found)


def _minute(number: int) -> str:
    day, minute = divmod(number, DAY_MINUTES)
    return f"{WEEKDAYS[day]} {minute // 60:02}:{minute % 60:02}"


def _owners(spans: Sequence[Span]) -> str:
    return ", ".join(
        "nobody's" if first == NO_OWNER else _range(first, None if behind is None else behind - 1)
        for first, behind in spans
    )


def _addresses(family: int) -> Callable[[Sequence[Span]], str]:
    return lambda spans: addresses_in_words(spans, family)


def _span_of(network: IPv4Network | IPv6Network) -> Span:
    """The hosts of a prefix, its first address left out."""
    return int(network.network_address) + 1, int(network.broadcast_address) + 1


_THERE_4 = (_span_of(IPv4Network("198.51.100.0/24")), _span_of(IPv4Network("203.0.113.0/24")))
_THERE_6 = (_span_of(IPv6Network("2001:db8:ffff::/48")), _span_of(IPv6Network("2000::/3")))
_HERE_4 = (_span_of(IPv4Network("192.168.0.0/16")), _span_of(IPv4Network("10.0.0.0/8")), (1, 0xE0000000))
_HERE_6 = (_span_of(IPv6Network("fd00::/8")), _span_of(IPv6Network("2000::/3")), (1, 1 << 127))
_HIGH_PORTS = ((40000, 65536), (1024, 65536))

FAMILY = Axis(0, "family", 2, _chosen(("IPv4", "IPv6")), ((0, 1),))
PROTOCOL = Axis(1, "protocol", 256, _protocols, ((6, 7), (17, 18), (47, 48), (41, 42), (4, 5)))
TO_PORT = Axis(2, "to port", 65536, numbers_in_words, ((25, 26), (1, 65536)))
INTERFACE = Axis(3, "arriving on", NAMES, numbers_in_words, ((1, NAMES),))
OUT_INTERFACE = Axis(4, "leaving on", NAMES, numbers_in_words, ((NAMES - 1, NAMES), (1, NAMES)))
FROM_4 = Axis(5, "from", 1 << 32, _addresses(4), _HERE_4)
FROM_6 = Axis(6, "from", 1 << 128, _addresses(6), _HERE_6)
TO_4 = Axis(7, "to", 1 << 32, _addresses(4), _THERE_4)
TO_6 = Axis(8, "to", 1 << 128, _addresses(6), _THERE_6)
CARD = Axis(9, "from the card", NO_MAC + 1, _macs, ((0x020000000001, NO_MAC), (1, NO_MAC)))
MINUTE = Axis(10, "in the week", len(WEEKDAYS) * DAY_MINUTES, _minutes, ((12 * 60, 10080),))
STATE = Axis(11, "conntrack state", len(STATES), _chosen(STATES), ((0, 1),))
FLAGS = Axis(12, "TCP flags", 256, numbers_in_words, ((SYN, SYN + 1), (0x10, 0x11)))
FROM_PORT = Axis(13, "from port", 65536, numbers_in_words, _HIGH_PORTS)
FRAGMENT_4 = Axis(14, "fragment field", 65536, numbers_in_words, ((0, 1),))
FRAGMENT_6 = Axis(15, "fragment header", 3, _chosen(("none", "of a first", "of a later")), ((0, 1),))
MARK = Axis(16, "mark", 1 << 32, numbers_in_words, ((0, 1),))
OWNER = Axis(17, "sent by the user", NO_OWNER + 1, _owners, ((1000, 60000),))
PAYLOAD_LENGTH = Axis(18, "octets of payload", 65536, numbers_in_words, ((0, 1), (64, 65)))
PAYLOAD = tuple(
    Axis(19 + n, f"payload octet {n}", 256, numbers_in_words, ((0x20, 0x7F),)) for n in range(PAYLOAD_OCTETS)
)
FIRST_FACT = 64
"""The level of the first yes-or-no question that is no field."""

AXES = (
    *(FAMILY, PROTOCOL, TO_PORT, INTERFACE, OUT_INTERFACE, FROM_4, FROM_6, TO_4, TO_6, CARD, MINUTE, STATE, FLAGS),
    *(FROM_PORT, FRAGMENT_4, FRAGMENT_6, MARK, OWNER, PAYLOAD_LENGTH, *PAYLOAD),
)
BY_LEVEL = {axis.level: axis for axis in AXES}
PORT_PROTOCOLS = frozenset({6, 17, 33, 132, 136})
"""TCP, UDP, DCCP, SCTP, UDP-Lite: the two ports stand at the same place in all of them."""
