"""Searches that look for a rare word first, and only there at what stands around it. Pure.

Contract
    Each finds exactly what the regular expression finds that it stands for, in time that grows with the content: the
    expressions try every line, these only the lines that could be meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.scan.heading import CONTENT_FIELD
from egressguard.scan.octets import Octets, overlapping
from egressguard.scan.searching import match

_LINE_ENDS = b"\r\n\x0b\x0c"
_BEFORE_A_FIELD = bytes(octet for octet in (*range(0x21), *range(0x7F, 0x100)) if octet not in _LINE_ENDS)
"""What CONTENT_FIELD lets stand between a line's end and the word."""
_NEAR_OCTETS = 64
_WORD = b"content"
_MARK_OCTETS = 4
_NO_NAME = b" \r\n\t"


def content_fields(content: Octets) -> Iterator[re.Match[bytes]]:
    """As CONTENT_FIELD.finditer."""
    end = 0
    for base, lowered in _lowered(content):
        alike = base and len(lowered) - len(lowered.lstrip(_BEFORE_A_FIELD))
        at = lowered.find(_WORD, max(end - base, 0))
        while at >= 0:
            if at <= alike:  # the line's end may stand before this window
                start = _line_end(content, end, base + at)
            else:
                start = base + _line_end(lowered, max(end - base, 0), at, -base - 1)
            if start >= 0 and (found := match(CONTENT_FIELD, content, start)) is not None:
                yield found
                end = found.end()
            at = lowered.find(_WORD, max(at + 1, end - base))


def _lowered(content: Octets) -> Iterator[tuple[int, bytes]]:
    if isinstance(content, bytes):
        yield 0, content.lower()
    else:
        yield from ((base, window.lower()) for base, window in overlapping(content, len(_WORD) - 1))


def _line_end(content: Octets, least: int, at: int, nowhere: int = -1) -> int:
    """Where the line's end stands that nothing but blanks and the like parts from `at`; `nowhere`: none from `least`
    on."""
    near = _NEAR_OCTETS
    while True:
        first = max(least, at - near)
        kept = content[first:at].rstrip(_BEFORE_A_FIELD)
        if kept:
            return first + len(kept) - 1 if kept[-1] in _LINE_ENDS else nowhere
        if first == least:
            return nowhere
        near *= 4


def line_of_dashes(content: Octets, start: int, end: int) -> int:
    r"""Where rb"[\r\n]--[^ \r\n\t]" is found first in content[start:end]; -1 = nowhere."""
    if not isinstance(content, bytes):
        windows = overlapping(content, _MARK_OCTETS - 1, start, end)
        seen = ((base, line_of_dashes(window, 0, len(window))) for base, window in windows)
        return next((base + at for base, at in seen if at >= 0), -1)
    found = [at for mark in (b"\n--", b"\r--") if (at := _marked(content, mark, start, end)) >= 0]
    return min(found, default=-1)


def _marked(content: bytes, mark: bytes, start: int, end: int) -> int:
    at = content.find(mark, start, end)
    while at >= 0:
        after = content[at + 3 : min(at + 4, end)]
        if after and after not in _NO_NAME:
            return at
        at = content.find(mark, at + 1, end)
    return -1
