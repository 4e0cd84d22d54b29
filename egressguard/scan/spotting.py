"""Searches that look for a rare word first, and only there at what stands around it. Pure.

Contract
    Each finds exactly what the regular expression finds that it stands for, in time that grows with the content: the
    expressions try every line, these only the lines that could be meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.scan.encodings import Octets
from egressguard.scan.heading import CONTENT_FIELD

_COPIED_OCTETS = 4 * 1024 * 1024
"""What is larger is not copied to be searched, but left to the expression."""
_LINE_ENDS = b"\r\n\x0b\x0c"
_BEFORE_A_FIELD = bytes(octet for octet in (*range(0x21), *range(0x7F, 0x100)) if octet not in _LINE_ENDS)
"""What CONTENT_FIELD lets stand between a line's end and the word."""
_NEAR_OCTETS = 64
_NO_NAME = b" \r\n\t"


def content_fields(content: Octets) -> Iterator[re.Match[bytes]]:
    """As CONTENT_FIELD.finditer."""
    if len(content) > _COPIED_OCTETS:
        yield from CONTENT_FIELD.finditer(content)
        return
    lowered, end = content[:].lower(), 0
    at = lowered.find(b"content")
    while at >= 0:
        start = _line_end(lowered, end, at)
        if start >= 0 and (match := CONTENT_FIELD.match(content, start)) is not None:
            yield match
            end = match.end()
        at = lowered.find(b"content", max(at + 1, end))


def _line_end(content: bytes, least: int, at: int) -> int:
    """Where the line's end stands that nothing but blanks and the like parts from `at`; -1: none from `least` on."""
    near = _NEAR_OCTETS
    while True:
        first = max(least, at - near)
        kept = content[first:at].rstrip(_BEFORE_A_FIELD)
        if kept:
            return first + len(kept) - 1 if kept[-1] in _LINE_ENDS else -1
        if first == least:
            return -1
        near *= 4


def line_of_dashes(content: Octets, start: int, end: int) -> int:
    r"""Where rb"[\r\n]--[^ \r\n\t]" is found first in content[start:end]; -1 = nowhere."""
    found = [at for mark in (b"\n--", b"\r--") if (at := _marked(content, mark, start, end)) >= 0]
    return min(found, default=-1)


def _marked(content: Octets, mark: bytes, start: int, end: int) -> int:
    at = content.find(mark, start, end)
    while at >= 0:
        after = content[at + 3 : min(at + 4, end)]
        if after and after not in _NO_NAME:
            return at
        at = content.find(mark, at + 1, end)
    return -1
