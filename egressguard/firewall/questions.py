"""What one match of an nft rule asks -> the packets of which it holds. Pure, exact, or NotUnderstood.

Contract
    A question about a field that a packet does not have holds of no packet, nor does its contrary.
    Ports, flags and payload are nobody's in the later fragments of a packet.
    Membership in a set that is filled at run time is a fact: what it holds now says nothing.
    Fields that axes do not have, masks of wide fields, names with wildcards: refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from egressguard.firewall.listing import Listing, NotUnderstood
from egressguard.policy.fields import DAY_MINUTES, WEEKDAYS
from egressguard.policy.space import axes
from egressguard.policy.space.axes import Axis
from egressguard.policy.space.region import Region, Space

OWN_FACT = "the destination is this machine"
STATE_BITS = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_STATES_OF_BIT = {
    1: ("invalid",),
    2: ("established", "established, an answer"),
    4: ("related", "related, an answer"),
    8: ("new",),
    64: ("untracked",),
}
_DIRECTIONS: dict[str | int, tuple[str, ...]] = {
    "original": ("new", "established", "related"),
    "reply": ("established, an answer", "related, an answer"),
}
_DIRECTIONS |= {0: _DIRECTIONS["original"], 1: _DIRECTIONS["reply"]}
_FLAG_BITS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_PROTOCOL_WORDS = {"ipencap": 4, "ipv6": 41, "ipv6-icmp": 58, **axes.PROTOCOLS}
_DAY_WORDS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_CARRIERS = (4, 6, 17, 47)  # what the kernel knows to begin behind the header of: IPIP, TCP, UDP, GRE
_MASKED_BITS = 16  # the widest field whose masked values are gone through one by one
_FRAGMENT_OFFSET = 0x1FFF
_SECONDS = "59"

Numbers = Callable[[Any], Iterator[tuple[int, int]]]
"""A value of the listing -> spans (first, behind the last)."""


@dataclass(frozen=True, slots=True)
class _Field:
    """`guard`: the packets that have the field."""

    axis: Axis
    guard: Region
    numbers: Numbers


class Questions:
    """For the matches of one listing, in one space."""

    def __init__(self, space: Space, listing: Listing) -> None:
        self.space, self._listing = space, listing
        self._sets: dict[tuple[str, str], Region] = {}
        self._first = self._unless_later_fragment()

    def holds(self, match: Mapping[str, Any]) -> Region:
        """The packets of which `match` holds. Raises NotUnderstood with words for what, not where."""
        left, operator, right = match["left"], match["op"], match["right"]
        special = self._special(left, operator, right)
        if special is not None:
            return special
        if operator == "in" or (operator == "==" and isinstance(right, list)):
            return self._bits(left, operator, right)
        field = self._field(left)
        if operator in _ORDERS:
            number = _number(right)
            return field.guard & self.space.among(field.axis, [_ORDERS[operator](number, field.axis.size)])
        return self._compared(field, operator, self._inside(left, field, right))

    def _special(self, left: Any, operator: str, right: Any) -> Region | None:
        """Questions that are about more or less than the number of one field."""
        if not isinstance(left, dict):
            raise NotUnderstood(f"the question {_told(left)!r} is not understood")
        ask: dict[str, Callable[[Any, str, Any], Region]] = {
            "concat": self._concatenated,
            "&": self._masked,
            "fib": self._fib,
            "exthdr": self._fragment_header,
            "ct": self._conntrack,
        }
        ((kind, value),) = left.items()
        if kind in ask:
            return ask[kind](value, operator, right)
        if kind == "meta" and value.get("key") in {"day", "hour"}:
            return self._time(value["key"], operator, right)
        if kind == "payload" and value.get("base") == "ih":
            return self._payload(value, None, operator, right)
        return None

    def member(self, left: Mapping[str, Any], element: Any) -> Region:
        """The packets whose field, or fields, are this element of a map."""
        return self.holds({"left": left, "op": "==", "right": element})

    def _compared(self, field: _Field, operator: str, inside: Region) -> Region:
        if operator in {"==", "in"}:
            return inside & field.guard
        if operator == "!=":
            return field.guard - inside
        raise NotUnderstood(f"the operator {operator!r} is not understood here")

    def _inside(self, left: Any, field: _Field, right: Any) -> Region:
        if isinstance(right, str) and right.startswith("@"):
            return self._in_set(right[1:], left, field)
        return self.space.among(field.axis, _each(field.numbers, right))

    def _in_set(self, name: str, left: Any, field: _Field) -> Region:
        key = (name, field.axis.name + str(field.axis.level))
        if key not in self._sets:
            found = self._listing.sets.get(name)
            if found is None:
                raise NotUnderstood(f"the set @{name} is not in the listing")
            if found.at_run_time:
                self._sets[key] = self.space.fact(f"{_told(left)} is in @{name}")
            else:
                spans = (span for element in found.elements for span in _each(field.numbers, element))
                self._sets[key] = self.space.among(field.axis, spans)
        return self._sets[key]

    def _concatenated(self, parts: Sequence[Any], operator: str, right: Any) -> Region:
        if operator != "==":
            raise NotUnderstood(f"the operator {operator!r} of several fields at a time is not understood")
        guard = self.space.everything
        for part in parts:
            guard &= self._field(part).guard
        if isinstance(right, str) and right.startswith("@"):
            found = self._listing.sets.get(right[1:])
            if found is None:
                raise NotUnderstood(f"the set {right} is not in the listing")
            if found.at_run_time:
                return guard & self.space.fact(f"{' . '.join(map(_told, parts))} is in {right}")
            elements: Sequence[Any] = found.elements
        else:
            elements = right["set"] if isinstance(right, dict) and "set" in right else [right]
        return guard & self.space.union(self._tuple(parts, element["concat"]) for element in elements)

    def _tuple(self, parts: Sequence[Any], values: Sequence[Any]) -> Region:
        region = self.space.everything
        for part, value in zip(parts, values, strict=True):
            field = self._field(part)
            region &= self.space.among(field.axis, _each(field.numbers, value))
        return region

    def _field(self, left: Any) -> _Field:
        if isinstance(left, dict) and "payload" in left:
            found = self._header_field(left["payload"])
        elif isinstance(left, dict) and "meta" in left:
            found = self._meta(left["meta"]["key"])
        else:
            found = None
        if found is None:
            raise NotUnderstood(f"the question {_told(left)!r} is not understood")
        return found

    def _header_field(self, payload: Mapping[str, Any]) -> _Field | None:
        space = self.space
        protocol, name = payload.get("protocol"), payload.get("field")
        if protocol in {"ip", "ip6"} and name in {"saddr", "daddr"}:
            family = 4 if protocol == "ip" else 6
            axis = _ADDRESS_AXES[family, str(name)]
            return _Field(axis, space.family(family), _addresses(family))
        if protocol in {"tcp", "udp", "th", "sctp", "dccp"} and name in {"sport", "dport"}:
            guard = space.one_of(axes.PROTOCOL, axes.PORT_PROTOCOLS) if protocol == "th" else space.protocol(protocol)
            return _Field(axes.FROM_PORT if name == "sport" else axes.TO_PORT, guard & self._first, _integers)
        fixed = {
            ("tcp", "flags"): (axes.FLAGS, space.protocol("tcp") & self._first, _flags),
            ("ip", "frag-off"): (axes.FRAGMENT_4, space.family(4), _integers),
            ("ip", "protocol"): (axes.PROTOCOL, space.family(4), _protocols),
            ("ether", "saddr"): (axes.CARD, ~space.cards([""]), _cards),
        }.get((str(protocol), str(name)))
        return _Field(*fixed) if fixed else None

    def _meta(self, key: str) -> _Field | None:
        space = self.space
        arrived, leaves = ~space.interfaces([""]), ~space.interfaces([""], axes.OUT_INTERFACE)
        fixed = {
            "l4proto": (axes.PROTOCOL, space.everything, _protocols),
            "nfproto": (axes.FAMILY, space.everything, _families),
            "iifname": (axes.INTERFACE, arrived, self._names),
            "iif": (axes.INTERFACE, arrived, self._names),
            "oifname": (axes.OUT_INTERFACE, leaves, self._names),
            "oif": (axes.OUT_INTERFACE, leaves, self._names),
            "mark": (axes.MARK, space.everything, _integers),
            "skuid": (axes.OWNER, ~space.one_of(axes.OWNER, [axes.NO_OWNER]), _integers),
        }.get(key)
        return _Field(*fixed) if fixed else None

    def _names(self, value: Any) -> Iterator[tuple[int, int]]:
        if not isinstance(value, str) or value.endswith("*"):
            raise NotUnderstood(f"the interface {value!r} is not understood; expected a whole name")
        number = self.space.name_number(value)
        yield number, number + 1

    def _unless_later_fragment(self) -> Region:
        space = self.space
        whole = (n for n in range(1 << _MASKED_BITS) if not n & _FRAGMENT_OFFSET)
        first_4 = space.family(4) & space.one_of(axes.FRAGMENT_4, whole)
        return first_4 | (space.family(6) & space.one_of(axes.FRAGMENT_6, [0, 1]))

    def _bits(self, left: Any, operator: str, right: Any) -> Region:
        """Flags of TCP: "in" holds where any of them is set, "==" where these are and no others."""
        field = self._field(left)
        if field.axis is not axes.FLAGS:
            raise NotUnderstood(f"the question {_told(left)!r} with {operator!r} is not understood")
        wanted = _bits_of(right, _FLAG_BITS)
        numbers = [n for n in range(256) if (n & wanted if operator == "in" else n == wanted)]
        return field.guard & self.space.one_of(axes.FLAGS, numbers)

    def _masked(self, parts: Sequence[Any], operator: str, right: Any) -> Region:
        left, mask = parts
        if isinstance(left, dict) and left.get("payload", {}).get("base") == "ih":
            return self._payload(left["payload"], _number(mask), operator, right)
        field = self._field(left)
        if field.axis.size > 1 << _MASKED_BITS:
            raise NotUnderstood(f"a mask of {_told(left)!r} is not understood")
        of = _FLAG_BITS if field.axis is axes.FLAGS else {}
        bits, wanted = _bits_of(mask, of), {_bits_of(value, of) for value in _items(right)}
        inside = self.space.one_of(field.axis, (n for n in range(field.axis.size) if n & bits in wanted))
        return self._compared(field, operator, inside)

    def _payload(self, asked: Mapping[str, Any], mask: int | None, operator: str, right: Any) -> Region:
        """Octets from the beginning of what the transport carries: of those that are there."""
        offset, bits = asked["offset"], asked["len"]
        if offset % 8 or bits % 8 or offset + bits > 8 * len(axes.PAYLOAD):
            raise NotUnderstood(f"the question {_told({'payload': asked})!r} is not understood")
        first, count = offset // 8, bits // 8
        masks = ((1 << bits) - 1 if mask is None else mask).to_bytes(count, "big")
        space = self.space
        there = (
            space.one_of(axes.PROTOCOL, _CARRIERS)
            & self._first
            & space.among(axes.PAYLOAD_LENGTH, [(first + count, 65536)])
        )
        inside = space.union(
            self._octets(first, masks, _number(value).to_bytes(count, "big")) for value in _items(right)
        )
        return self._compared(_Field(axes.PAYLOAD_LENGTH, there, _integers), operator, inside)

    def _octets(self, first: int, masks: bytes, wanted: bytes) -> Region:
        region = self.space.everything
        for at, (mask, value) in enumerate(zip(masks, wanted, strict=True)):
            axis = axes.PAYLOAD[first + at]
            region &= self.space.one_of(axis, (octet for octet in range(256) if octet & mask == value))
        return region

    def _conntrack(self, ct: Mapping[str, Any], operator: str, right: Any) -> Region:
        space = self.space
        if ct == {"key": "state"} and operator in {"in", "==", "!="}:
            bits = {bit for value in _items(right) for bit in _split_bits(_bits_of(value, STATE_BITS))}
            inside = space.state(*(state for bit in bits for state in _STATES_OF_BIT[bit]))
            return ~inside if operator == "!=" else inside
        if ct == {"key": "direction"} and operator in {"==", "!="}:
            tracked = space.state(*_DIRECTIONS["original"], *_DIRECTIONS["reply"])
            inside = space.union(space.state(*_DIRECTIONS[value]) for value in _items(right))
            return tracked - inside if operator == "!=" else inside
        raise NotUnderstood(f"the question {_told({'ct': ct})!r} with {operator!r} is not understood")

    def _fib(self, fib: Mapping[str, Any], operator: str, right: Any) -> Region:
        if fib != {"result": "type", "flags": ["daddr"]} or right not in {"local", 2} or operator not in {"==", "!="}:
            raise NotUnderstood("this question about routes (fib) is not understood")
        own = self.space.fact(OWN_FACT)
        return own if operator == "==" else ~own

    def _fragment_header(self, header: Mapping[str, Any], operator: str, right: Any) -> Region:
        if header != {"name": "frag"} or not isinstance(right, bool) or operator not in {"==", "!="}:
            raise NotUnderstood("this question about an extension header is not understood")
        there = self.space.one_of(axes.FRAGMENT_6, [1, 2]) & self.space.family(6)
        return there if right == (operator == "==") else ~there

    def _time(self, key: str, operator: str, right: Any) -> Region:
        spans = _days(right) if key == "day" else _hours(right)
        inside = self.space.among(axes.MINUTE, spans)
        if operator not in {"==", "!="}:
            raise NotUnderstood(f"the operator {operator!r} of the time is not understood")
        return inside if operator == "==" else ~inside


_ORDERS: Mapping[str, Callable[[int, int], tuple[int, int]]] = {
    "<": lambda number, _size: (0, number),
    "<=": lambda number, _size: (0, number + 1),
    ">": lambda number, size: (number + 1, size),
    ">=": lambda number, size: (number, size),
}
_ADDRESS_AXES = {
    (4, "saddr"): axes.FROM_4,
    (6, "saddr"): axes.FROM_6,
    (4, "daddr"): axes.TO_4,
    (6, "daddr"): axes.TO_6,
}


def _items(right: Any) -> Sequence[Any]:
    """The values of an anonymous set, or the only one."""
    return right["set"] if isinstance(right, dict) and "set" in right else [right]


def _each(numbers: Numbers, right: Any) -> Iterator[tuple[int, int]]:
    """Spans of a value: one, a range, a prefix, or several."""
    for value in _items(right):
        if isinstance(value, dict) and "range" in value:
            low, high = value["range"]
            yield next(numbers(low))[0], next(numbers(high))[1]
        else:
            yield from numbers(value)


def _number(value: Any) -> int:
    if isinstance(value, str) and value.startswith("0x"):
        return int(value, 16)
    if not isinstance(value, int) or isinstance(value, bool):
        raise NotUnderstood(f"the value {value!r} is not understood; expected a number")
    return value


def _integers(value: Any) -> Iterator[tuple[int, int]]:
    number = _number(value)
    yield number, number + 1


def _addresses(family: int) -> Numbers:
    def numbers(value: Any) -> Iterator[tuple[int, int]]:
        if isinstance(value, dict) and "prefix" in value:
            network = ip_network((value["prefix"]["addr"], value["prefix"]["len"]))
            first, last, version = int(network[0]), int(network[-1]), network.version
        else:
            address = ip_address(value)
            first, last, version = int(address), int(address), address.version
        if version != family:
            raise NotUnderstood(f"the address {value!r} is none of IPv{family}")
        yield first, last + 1

    return numbers


def _protocols(value: Any) -> Iterator[tuple[int, int]]:
    number = _PROTOCOL_WORDS.get(value) if isinstance(value, str) else _number(value)
    if number is None:
        raise NotUnderstood(f"the protocol {value!r} is not understood; expected its number")
    yield number, number + 1


def _families(value: Any) -> Iterator[tuple[int, int]]:
    number = {"ipv4": 0, "ipv6": 1, 2: 0, 10: 1}.get(value)
    if number is None:
        raise NotUnderstood(f"the family {value!r} is not understood")
    yield number, number + 1


def _cards(value: Any) -> Iterator[tuple[int, int]]:
    number = axes.mac_number(str(value))
    yield number, number + 1


def _flags(value: Any) -> Iterator[tuple[int, int]]:
    number = _bits_of(value, _FLAG_BITS)
    yield number, number + 1


def _bits_of(value: Any, words: Mapping[str, int]) -> int:
    """A number, the name of a bit, or a list of them."""
    if isinstance(value, list):
        found = 0
        for each in value:
            found |= _bits_of(each, words)
        return found
    return words[value] if isinstance(value, str) and value in words else _number(value)


def _split_bits(bits: int) -> Iterator[int]:
    for bit in _STATES_OF_BIT:
        if bits & bit:
            yield bit
    if bits & ~sum(_STATES_OF_BIT):
        raise NotUnderstood(f"the conntrack states {bits} are not understood")


def _days(right: Any) -> Iterator[tuple[int, int]]:
    for value in _items(right):
        day = value if isinstance(value, int) else _DAY_WORDS.index(str(value))  # Sunday is 0
        monday_first = (day - 1) % len(WEEKDAYS)
        yield monday_first * DAY_MINUTES, (monday_first + 1) * DAY_MINUTES


def _hours(right: Any) -> Iterator[tuple[int, int]]:
    """Whole minutes, in the time zone of whoever ran nft: UTC. "17:59:59" is the end of a minute."""
    for value in _items(right):
        if not (isinstance(value, dict) and "range" in value):
            raise NotUnderstood(f"the time of day {value!r} is not understood; expected a range")
        low, high = (str(text).split(":") for text in value["range"])
        if low[2:] not in ([], ["00"]) or high[2:] != [_SECONDS]:
            raise NotUnderstood(f"the times of day {value['range']} are no whole minutes")
        first, behind = int(low[0]) * 60 + int(low[1]), int(high[0]) * 60 + int(high[1]) + 1
        if first >= behind:
            raise NotUnderstood(f"the times of day {value['range']} go over midnight")
        for day in range(len(WEEKDAYS)):
            yield day * DAY_MINUTES + first, day * DAY_MINUTES + behind


def _told(left: Any) -> str:
    """A question as nft writes it."""
    if isinstance(left, dict) and "payload" in left:
        asked = left["payload"]
        if "base" in asked:
            return f"@{asked['base']},{asked.get('offset')},{asked.get('len')}"
        return f"{asked.get('protocol')} {asked.get('field')}"
    if isinstance(left, dict) and len(left) == 1:
        ((kind, value),) = left.items()
        return f"{kind} {value.get('key', '')}".strip() if isinstance(value, dict) else str(kind)
    return str(left)[:60]
