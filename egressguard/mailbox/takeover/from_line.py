"""The line between the messages of an mbox: "From SENDER DATE".

Contract
    Pure. A line is one if its date can be read, in any of the ways that mail programs have written it; text that merely
    begins with "From " is none. A date without a zone is local time, which the caller knows.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import datetime

LINE_OCTETS = 1000
BEGINS = b"From "
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_ZONE = rb"(?: +([+-]\d{4}|[A-Z]{1,5}(?: [+-]\d{4})?))?"
_DATE = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +(?:(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +(\d{1,2})|(\d{1,2}) +"
    rb"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)) +(?:(\d{4}) +)?(\d{1,2}):(\d{2})(?::(\d{2}))?"
    + _ZONE
    + rb"(?: +(\d{4}))?"
    + _ZONE
    + rb"(?: remote from \S+)?\s*"
)
_START = re.compile(rb" (?=(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )")
_ZONES = {
    b"EST": -300,
    b"EDT": -240,
    b"CST": -360,
    b"CDT": -300,
    b"MST": -420,
    b"MDT": -360,
    b"PST": -480,
    b"PDT": -420,
}
_ZONES |= {b"UT": 0, b"UTC": 0, b"GMT": 0, b"Z": 0, b"CET": 60, b"CEST": 120}

LocalTime = Callable[[datetime], float]
"""A date without a zone -> seconds since 1970."""


def local_time(date: datetime) -> float:
    """By this machine's zone."""
    return date.timestamp()


def received_at(line: bytes, local: LocalTime = local_time) -> float | None:
    """When the message behind this line came, in seconds since 1970; None: no such line."""
    if not line.startswith(BEGINS) or len(line) > LINE_OCTETS:
        return None
    for start in _START.finditer(line, len(BEGINS) - 1):
        found = _DATE.fullmatch(line, start.end())
        if found:
            return _seconds(found, local)
    return None


def _seconds(found: re.Match[bytes], local: LocalTime) -> float | None:
    year = found[5] or found[10]
    if year is None:
        return None
    month, day = _MONTHS.index(found[1] or found[4]) + 1, int(found[2] or found[3])
    try:
        date = datetime(int(year), month, day, int(found[6]), int(found[7]), min(int(found[8] or 0), 59))
        offset = _offset_minutes(found[9] or found[11])
        if offset is None:
            return max(local(date), 0.0)
        return max(calendar.timegm(date.timetuple()) - offset * 60, 0.0)
    except (ValueError, OverflowError, OSError):
        return None


def _offset_minutes(zone: bytes | None) -> int | None:
    """None: local time, also where a zone's name is not known."""
    if not zone:
        return None
    digits = re.search(rb"([+-])(\d{2})(\d{2})", zone)
    if digits is None:
        return _ZONES.get(zone)
    minutes = int(digits[2]) * 60 + int(digits[3])
    return -minutes if digits[1] == b"-" else minutes
