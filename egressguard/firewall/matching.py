"""What an nft rule has to ask so that it matches exactly the packets that a flow rule of the policy means.

Contract
    Pure. `matches` gives every way in which a packet can match: zone times family times time of day; one is enough.
    What is said is not among them: `said` asks for it first.
    The cheapest question comes first: most packets go to ports that no rule names.
    Times are written in UTC: nft(8) is run so, and the kernel's clock is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from egressguard.firewall.host import Host
from egressguard.firewall.sets import address_set, mac_set
from egressguard.firewall.table import ANY_ZONE, braces, quoted, zones_of_rule
from egressguard.net.speech import BEHIND_GREETING, CASE, GREETINGS, OPENING, masked, opening_mask
from egressguard.policy.fields import DAY_MINUTES, WEEKDAYS
from egressguard.policy.model import FlowRule

WEEK_MINUTES = len(WEEKDAYS) * DAY_MINUTES
_DAYS = {"mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday"}
_DAYS |= {"fri": "Friday", "sat": "Saturday", "sun": "Sunday"}
PROTOCOL_NUMBERS = {"ipip": 4, "6in4": 41, "gre": 47}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to be in a zone: `family` 4, 6 or 0 (either); `statement` is the nft expression."""

    family: int
    statement: str


def each_match(rule: FlowRule, host: Host) -> Iterator[tuple[str, str]]:
    """(zone, match) for every nft rule that `rule` becomes."""
    for zone in zones_of_rule(rule):
        for match in matches(rule, zone, host):
            yield zone, match


def matches(rule: FlowRule, zone: str, host: Host) -> Iterator[str]:
    """Each way in which a packet can match `rule` from `zone`."""
    times = list(_times(rule, host.utc_offset_minutes))
    for variant in zone_variants(zone):
        families = (variant.family,) if variant.family else ((4, 6) if rule.source or rule.destination else (0,))
        for family, time in product(families, times):
            parts = [_transport(rule), variant.statement, *_addresses(rule, family), time]
            yield " ".join(part for part in parts if part)


def zone_variants(zone: str) -> Iterator[Variant]:
    if zone == ANY_ZONE:
        yield Variant(0, "")
        return
    yield Variant(0, f"iifname @zone_{zone}_if")
    yield Variant(4, f"ip saddr @zone_{zone}_4")
    yield Variant(6, f"ip6 saddr @zone_{zone}_6")


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
