"""One packet through a listed ruleset, rule by rule, as a kernel would: no sets of packets, nothing of fates.py.

Rates are below their limits, sets that fill at run time are empty, the daemon answers what `decide` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from egressguard.firewall.listing import ListedChain, ListedSet, Listing

BITS = {"established": 2, "related": 4, "new": 8, "invalid": 1, "untracked": 64}


@dataclass(frozen=True)
class Sent:
    """A packet on its way through."""

    source: Any
    destination: Any
    protocol: int
    source_port: int = 40000
    port: int = 0
    flags: int = 2
    state: str = "new"
    is_answer: bool = False
    arrives: str = "br0"
    leaves: str = "wan0"
    mac: str = "02:00:00:00:00:09"
    payload: bytes = b""
    day: int = 1  # Sunday is 0
    minute: int = 720
    mark: int = 0


Decide = Callable[[Sent], int | None]
"""A queued packet -> the mark that it comes back with; None: dropped."""
_ENDS = {"accept", "drop", "reject", "queue", "xt", "redirect", "return"}


def fate_of(listing: Listing, packet: Sent, decide: Decide) -> str:
    """pass, redirect, drop or reject."""
    for hook in ("prerouting", "forward", "postrouting"):
        for chain in listing.base_chains(hook):
            if chain.kind == "nat" and packet.state not in {"new", "related"}:
                continue
            seen = packet if chain.priority >= -200 else replace(packet, state="invalid", is_answer=False)
            verdict, after = _chain(listing, chain, seen)
            packet = replace(packet, mark=after.mark)
            verdict = verdict if verdict not in {"", "return"} else chain.policy
            if verdict in {"queue", "xt"}:
                mark = decide(packet)
                if mark is None:
                    return "drop"
                packet = replace(packet, mark=mark)
            elif verdict != "accept":
                return verdict
    return "pass"


def _chain(listing: Listing, chain: ListedChain, packet: Sent) -> tuple[str, Sent]:
    for rule in chain.rules:
        verdict, packet = _rule(listing, rule.expressions, packet)
        if verdict:
            return verdict, packet
    return "", packet


def _rule(listing: Listing, expressions: Sequence[Mapping[str, Any]], packet: Sent) -> tuple[str, Sent]:
    for expression in expressions:
        ((kind, value),) = expression.items()
        if kind == "match" and not _holds(listing, value, packet):
            return "", packet
        if kind == "limit" and value.get("inv"):
            return "", packet
        if kind == "mangle":
            packet = replace(packet, mark=value["value"])
        if kind in {"jump", "goto"}:
            verdict, packet = _chain(listing, listing.chains[value["target"]], packet)
            if verdict == "return":
                verdict = ""
            return verdict or ("return" if kind == "goto" else ""), packet
        if kind in _ENDS:
            return kind, packet
    return "", packet


def _holds(listing: Listing, match: Mapping[str, Any], packet: Sent) -> bool:
    left, operator, right = match["left"], match["op"], match["right"]
    if "ct" in left:
        if left["ct"]["key"] == "direction":
            return packet.state in {"new", "established", "related"} and packet.is_answer == (right in (1, "reply"))
        wanted = right if isinstance(right, list) else [right]
        return any(BITS[packet.state] & bit for bit in wanted)
    found = _value(left, packet)
    if found is None:
        return False
    if operator in {">=", "<="}:
        return bool(found >= right) if operator == ">=" else bool(found <= right)
    inside = _is_in(listing, right, found, left)
    return inside != (operator == "!=")


def _value(left: Mapping[str, Any], packet: Sent) -> Any:
    ((kind, asked),) = left.items()
    if kind == "&":
        value, mask = _value(asked[0], packet), _bits(asked[1])
        return None if value is None else value & mask
    if kind == "concat":
        return tuple(_value(part, packet) for part in asked)
    if kind == "meta":
        own = {
            "l4proto": packet.protocol,
            "nfproto": 2 if packet.source.version == 4 else 10,
            "iifname": packet.arrives,
        }
        own |= {
            "oifname": packet.leaves,
            "mark": packet.mark,
            "day": packet.day,
            "hour": packet.minute * 60,
            "skuid": None,
        }
        return own[asked["key"]]
    if kind in {"fib", "exthdr"}:
        return "no"
    return _header(asked, packet)


def _header(asked: Mapping[str, Any], packet: Sent) -> Any:
    if asked.get("base") == "ih":
        octets = packet.payload[: asked["len"] // 8]
        return int.from_bytes(octets, "big") if len(octets) == asked["len"] // 8 else None
    protocol, field = asked["protocol"], asked["field"]
    if protocol in {"ip", "ip6"}:
        if packet.source.version != (4 if protocol == "ip" else 6):
            return None
        return {"saddr": packet.source, "daddr": packet.destination, "frag-off": 0}[field]
    if protocol == "ether":
        return packet.mac
    if packet.protocol not in {"tcp": (6,), "udp": (17,), "th": (6, 17)}[protocol]:
        return None
    return {"sport": packet.source_port, "dport": packet.port, "flags": packet.flags}[field]


def _is_in(listing: Listing, right: Any, found: Any, left: Mapping[str, Any]) -> bool:
    if isinstance(right, str) and right.startswith("@"):
        named: ListedSet = listing.sets[right[1:]]
        return not named.at_run_time and any(_is_in(listing, element, found, left) for element in named.elements)
    if isinstance(right, dict) and "set" in right:
        return any(_is_in(listing, element, found, left) for element in right["set"])
    if isinstance(right, dict) and "range" in right:
        low, high = (_plain(end, found) for end in right["range"])
        return bool(low <= found <= high)
    if isinstance(right, dict) and "prefix" in right:
        return found in ip_network((right["prefix"]["addr"], right["prefix"]["len"]))
    return bool(found == _plain(right, found))


def _plain(value: Any, like: Any) -> Any:
    if isinstance(value, str) and ":" in value and isinstance(like, int):  # a time of day, in seconds
        hour, minute, *second = map(int, value.split(":"))
        return hour * 3600 + minute * 60 + sum(second)
    if isinstance(value, str) and not isinstance(like, str):
        return int(value, 16) if value.startswith("0x") else ip_address(value)
    return _bits(value)


def _bits(value: Any) -> Any:
    if isinstance(value, list):
        return sum(value)
    return int(value, 16) if isinstance(value, str) and value.startswith("0x") else value
