"""What an nft rule has to ask so that it matches exactly the packets that a flow rule of the policy means.

Contract
    Pure. `matches` gives every way in which a packet can match: zone times family times time of day; one is enough.
    What is said is not among them: `said` asks for it first.
    The cheapest question comes first: most packets go to ports that no rule names.
    Times are written in UTC: nft(8) is run so, and the kernel's clock is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from egressguard.firewall.host import Host
from egressguard.firewall.sets import address_set, mac_set, zone_interfaces
from egressguard.firewall.table import ANY_ZONE, FAMILIES, braces, quoted, zones_of_rule
from egressguard.net.speech import BEHIND_GREETING, CASE, GREETINGS, OPENING, masked, opening_mask
from egressguard.policy.fields import DAY_MINUTES, WEEKDAYS
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import prefixes

WEEK_MINUTES = len(WEEKDAYS) * DAY_MINUTES
_DAYS = {"mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday"}
_DAYS |= {"fri": "Friday", "sat": "Saturday", "sun": "Sunday"}
PROTOCOL_NUMBERS = {"ipip": 4, "6in4": 41, "gre": 47}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to be in a zone: `family` 4, 6 or 0 (either); `statement` is the nft expression."""

    family: int
    statement: str


def each_match(policy: Policy, rule: FlowRule, host: Host, asked: Collection[int] = ()) -> Iterator[tuple[str, str]]:
    """(zone, match) for every nft rule that `rule` becomes; none where its sets are empty.

    `asked`: the ports that whoever comes here goes to already."""
    times = list(_times(rule, host.utc_offset_minutes))
    transport = "" if asked and set(asked) == set(rule.port) else _transport(rule)
    possible = _families(policy, rule)
    for zone in zones_of_rule(rule):
        for variant in zone_variants(policy, host, zone):
            families = [
                family or variant.family
                for family in possible
                if not (family and variant.family) or family == variant.family
            ]
            for family, time in product(families, times):
                parts = [transport, variant.statement, *_addresses(rule, family), time]
                yield zone, " ".join(part for part in parts if part)


def _families(policy: Policy, rule: FlowRule) -> list[int]:
    """The families of which the rule lists addresses, 0 = either, as it lists none; [] = nothing can match."""
    listed = [prefixes(policy, texts) for texts in (rule.source, rule.destination) if texts]
    if not listed:
        return [0]
    return [family for family in (4, 6) if all(any(n.version == family for n in networks) for networks in listed)]


def zone_variants(policy: Policy, host: Host, zone: str) -> Iterator[Variant]:
    """Each way to be in a zone that somebody can be in."""
    if zone == ANY_ZONE:
        yield Variant(0, "")
        return
    interfaces = zone_interfaces(policy, host, zone)
    if interfaces:
        yield Variant(0, f"iifname {quoted(interfaces[0])}" if len(interfaces) == 1 else f"iifname @zone_{zone}_if")
    for family, word, _ in FAMILIES:
        if any(network.version == family for network in policy.site.zones[zone].networks):
            yield Variant(family, f"{word} saddr @zone_{zone}_{family}")


def _transport(rule: FlowRule) -> str:
    if rule.protocol in PROTOCOL_NUMBERS:
        return f"meta l4proto {PROTOCOL_NUMBERS[rule.protocol]}"
    if not rule.port:
        return f"meta l4proto {rule.protocol}"
    ports = sorted(set(rule.port))
    return f"{rule.protocol} dport {ports[0] if len(ports) == 1 else braces(ports)}"


def _addresses(rule: FlowRule, family: int) -> Iterator[str]:
    word = {4: "ip", 6: "ip6"}.get(family, "")
    if rule.source:
        yield f"{word} saddr @{address_set(rule, 'src')}_{family}"
    if rule.destination:
        yield f"{word} daddr @{address_set(rule, 'dst')}_{family}"
    if rule.source_mac:
        yield f"ether saddr @{mac_set(rule)}"


# What is said: the payload's first octets.

_VERB = bytes([CASE] * 4)


def may_speak() -> str:
    """A TCP packet whose payload begins with a letter that one of these begins with: for most, the only question."""
    letters = sorted({_number(bytes([verb[0]])) for verb in (*GREETINGS, OPENING)})
    return f"@ih,0,8 & {_number(_VERB[:1])} {braces(letters)}"


def said() -> Iterator[str]:
    """Each beginning of an SMTP client's payload, whatever the TCP options: what `speaks: smtp` means."""
    greetings = [_number(verb + bytes([behind])) for verb in GREETINGS for behind in BEHIND_GREETING]
    yield f"meta l4proto tcp @ih,0,40 & {_number(_VERB + bytes([0xFF]))} {braces(greetings)}"
    yield f"meta l4proto tcp @ih,0,{8 * len(OPENING)} & {_number(opening_mask())} == {_number(masked(OPENING))}"


def _number(octets: bytes) -> str:
    return f"0x{octets.hex()}"


# When: local days and hours as spans of the UTC week.


def _times(rule: FlowRule, offset_minutes: int) -> Iterator[str]:
    """The nft matches of the rule's times, one of which must hold; "" for a rule that has none."""
    if not (rule.weekdays or rule.hours):
        yield ""
        return
    by_hours: dict[tuple[int, int], list[int]] = {}
    for first, behind in utc_spans(rule, offset_minutes):
        day = first // DAY_MINUTES
        by_hours.setdefault((first % DAY_MINUTES, behind - day * DAY_MINUTES), []).append(day)
    for hours, days in sorted(by_hours.items()):
        yield " ".join(part for part in (_day_words(days), _hour_words(*hours)) if part)


def utc_spans(rule: FlowRule, offset_minutes: int) -> Sequence[tuple[int, int]]:
    """(first minute, the one behind the last) of the UTC week, Monday 0:00 = 0; none goes over midnight."""
    days = frozenset().union(*rule.weekdays) if rule.weekdays else frozenset(range(len(WEEKDAYS)))
    minutes: set[int] = set()
    for day in days:
        for start, end in rule.hours or ((0, DAY_MINUTES),):
            inside = range(start, end) if start < end else (*range(start, DAY_MINUTES), *range(end))
            minutes.update((day * DAY_MINUTES + minute - offset_minutes) % WEEK_MINUTES for minute in inside)
    starts = sorted(m for m in minutes if m % DAY_MINUTES == 0 or m - 1 not in minutes)
    ends = sorted(m + 1 for m in minutes if (m + 1) % DAY_MINUTES == 0 or m + 1 not in minutes)
    return list(zip(starts, ends, strict=True))


def _day_words(days: Sequence[int]) -> str:
    if len(days) == len(WEEKDAYS):
        return ""
    return f"meta day {braces(quoted(_DAYS[WEEKDAYS[day]]) for day in sorted(days))}"


def _hour_words(first: int, behind: int) -> str:
    if (first, behind) == (0, DAY_MINUTES):
        return ""
    last = behind - 1
    return f'meta hour "{first // 60:02}:{first % 60:02}"-"{last // 60:02}:{last % 60:02}:59"'
