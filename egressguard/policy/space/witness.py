"""One packet of a region, and a region in words.

Contract
    Pure. The same region gives the same packet; it looks like one that could be met, where the region has such.
    A field that the region leaves open has its plainest value: a SYN, conntrack state new, no fragment, no payload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from egressguard.net.flow import Flow, IPAddress, Protocol
from egressguard.net.speech import SMTP, speaks
from egressguard.policy.facts import Moment
from egressguard.policy.fields import DAY_MINUTES
from egressguard.policy.space import axes
from egressguard.policy.space.axes import Axis
from egressguard.policy.space.diagram import LEAF, Node, Span, spans_by_child

_PROTOCOLS = {axes.PROTOCOLS[protocol.value]: protocol for protocol in Protocol}
SHOWN_SPANS = 8
SPEAKS_SMTP = "speaks smtp"
"""The fact that stands for what a TCP payload begins with."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A packet. `numbers` has every field by level that the region asks for; `facts` the yes and no of the others."""

    numbers: Mapping[int, int]
    interface: str
    out_interface: str
    facts: Mapping[str, bool] = field(default_factory=dict)

    def number(self, axis: Axis) -> int:
        return self.numbers.get(axis.level, plain(axis))

    @property
    def family(self) -> int:
        return axes.FAMILIES[self.number(axes.FAMILY)]

    @property
    def source(self) -> IPAddress:
        six = self.family == 6
        return IPv6Address(self.number(axes.FROM_6)) if six else IPv4Address(self.number(axes.FROM_4))

    @property
    def destination(self) -> IPAddress:
        return IPv6Address(self.number(axes.TO_6)) if self.family == 6 else IPv4Address(self.number(axes.TO_4))

    @property
    def protocol(self) -> int:
        return self.number(axes.PROTOCOL)

    @property
    def state(self) -> str:
        return axes.STATES[self.number(axes.STATE)]

    def moment(self) -> Moment:
        """The local time of it, where the week's minutes are local ones."""
        return Moment(*divmod(self.number(axes.MINUTE), DAY_MINUTES))

    def local_minute(self, utc_offset_minutes: int) -> int:
        """The minute of the local week, where they are those of UTC."""
        return (self.number(axes.MINUTE) + utc_offset_minutes) % axes.MINUTE.size

    @property
    def payload(self) -> bytes:
        """What is asked of it, and filling behind."""
        length = self.number(axes.PAYLOAD_LENGTH)
        asked = bytes(self.number(axis) for axis in axes.PAYLOAD)
        return (asked + b" " * length)[:length] or (b"EHLO \r\n" if self.facts.get(SPEAKS_SMTP) else b"")

    @property
    def flow(self) -> Flow | None:
        """The flow as rules see it; None for a protocol that no rule can name."""
        if (protocol := _PROTOCOLS.get(self.protocol)) is None:
            return None
        has_ports = self.protocol in axes.PORT_PROTOCOLS
        said = SMTP if self.facts.get(SPEAKS_SMTP) else speaks(self.payload)
        return Flow(
            self.source,
            self.destination,
            self.number(axes.TO_PORT) if has_ports else 0,
            self.interface,
            protocol,
            self.number(axes.FROM_PORT) if has_ports else 0,
            axes.mac_text(self.number(axes.CARD)),
            said,
        )


def packet_in_words(packet: Witness) -> str:
    """ "tcp 192.0.2.7:40000 -> 198.51.100.1:25, arriving on br0, conntrack state new, SYN": what is ordinary is left
    out."""
    names = {number: name for name, number in axes.PROTOCOLS.items()}
    has_ports = packet.protocol in axes.PORT_PROTOCOLS
    ends = [_end(packet.source, packet.number(axes.FROM_PORT) if has_ports else None)]
    ends.append(_end(packet.destination, packet.number(axes.TO_PORT) if has_ports else None))
    parts = [f"{names.get(packet.protocol, f'protocol {packet.protocol}')} {' -> '.join(ends)}"]
    if packet.interface:
        parts.append(f"arriving on {packet.interface}")
    parts += [
        f"{axis.name} {axis.words([(packet.numbers[axis.level], packet.numbers[axis.level] + 1)])}"
        for axis in _TOLD
        if axis.level in packet.numbers and packet.numbers[axis.level] != plain(axis)
    ]
    if packet.number(axes.PAYLOAD_LENGTH):
        parts.append(f"payload {packet.payload[: len(axes.PAYLOAD)]!r}")
    return ", ".join([*parts, *(fact for fact, is_so in packet.facts.items() if is_so)])


def _end(address: IPAddress, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


_TOLD = (axes.CARD, axes.MINUTE, axes.STATE, axes.FLAGS, axes.FRAGMENT_4, axes.FRAGMENT_6, axes.MARK, axes.OWNER)

_PLAIN = {axes.INTERFACE: 0, axes.OUT_INTERFACE: 0, axes.CARD: axes.NO_MAC, axes.OWNER: axes.NO_OWNER}


def plain(axis: Axis) -> int:
    """The number of a field that nobody asks for."""
    if axis in _PLAIN:
        return _PLAIN[axis]
    return axis.preferred[0][0] if axis.preferred else 0


def witness_of(node: Node, names: Sequence[str], facts: Sequence[str]) -> Witness | None:
    """The most ordinary packet of a region that says yes to something, None for an empty one.

    What can be reached is satisfiable: the way down never has to turn back."""
    numbers: dict[int, int] = {}
    said: dict[str, bool] = {}
    while node.level != LEAF:
        if node.level >= axes.FIRST_FACT:
            fact = facts[node.level - axes.FIRST_FACT]
            said[fact] = not _says_yes(node.children[0])
            node = node.children[int(said[fact])]
            continue
        axis = axes.BY_LEVEL[node.level]
        number = numbers[node.level] = _chosen(axis, node)
        node = next(child for child, spans in spans_by_child(node).items() if _holds(spans, number))
    if not node.value:
        return None
    arrived, leaves = (_name(names, numbers.get(axis.level, 0)) for axis in _INTERFACES)
    return Witness(numbers, arrived, leaves, said)


_INTERFACES = (axes.INTERFACE, axes.OUT_INTERFACE)


def _says_yes(node: Node) -> bool:
    """Whether any packet is in it: only one leaf says no to everything."""
    return node.level != LEAF or bool(node.value)


def _holds(spans: Sequence[Span], number: int) -> bool:
    return any(first <= number and (behind is None or number < behind) for first, behind in spans)


def _chosen(axis: Axis, node: Node) -> int:
    """The first preferred number whose piece says yes to something; else the smallest."""
    possible = [span for child, spans in spans_by_child(node).items() if _says_yes(child) for span in spans]
    possible.sort(key=lambda span: span[0])
    for first, behind in axis.preferred:
        for start, end in possible:
            number = max(first, start)
            if number < (axis.size if behind is None else behind) and (end is None or number < end):
                return number
    return possible[0][0]


def _name(names: Sequence[str], number: int) -> str:
    """The name of an interface; one that nobody names is told apart from all that are named."""
    return names[number] if number < len(names) else "(any other)"


def box_in_words(box: Mapping[int, Sequence[Span]], names: Sequence[str], facts: Sequence[str]) -> str:
    """One of the disjoint boxes that a region is made of: "IPv4, protocol tcp, to port 25, from 10.0.0.0/8"."""
    parts = [_part(level, spans, names, facts) for level, spans in sorted(box.items())]
    return ", ".join(parts) or "everything"


def _part(level: int, spans: Sequence[Span], names: Sequence[str], facts: Sequence[str]) -> str:
    if level >= axes.FIRST_FACT:
        fact = facts[level - axes.FIRST_FACT]
        return fact if spans[0][0] else f"not: {fact}"
    axis = axes.BY_LEVEL[level]
    words = axis.words if axis not in _INTERFACES else lambda those: _interfaces(those, names)
    beside = _beside(spans, axis.size)
    if len(beside) < len(spans):
        return f"{axis.name} any but {_shortened(axis, beside, words)}"
    text = _shortened(axis, spans, words)
    return text if axis is axes.FAMILY else f"{axis.name} {text}"


def _shortened(axis: Axis, spans: Sequence[Span], words: object) -> str:
    assert callable(words)
    more = f" and {len(spans) - SHOWN_SPANS} more" if len(spans) > SHOWN_SPANS else ""
    closed = [(first, axis.size if behind is None else behind) for first, behind in spans[:SHOWN_SPANS]]
    return f"{words(closed)}{more}"


def _interfaces(spans: Sequence[Span], names: Sequence[str]) -> str:
    found: list[str] = []
    for first, behind in spans:
        assert behind is not None
        found += [names[number] or "none" for number in range(first, min(behind, len(names)))]
        if behind > len(names):
            found.append("any other")
    return ", ".join(found)


def _beside(spans: Sequence[Span], size: int) -> list[Span]:
    """What these pieces leave out."""
    found: list[Span] = []
    at = 0
    for first, behind in spans:
        if first > at:
            found.append((at, first))
        at = size if behind is None else behind
    return [*found, (at, size)] if at < size else found
