"""Searches that look for a rare word first, and only there at what stands around it. Pure.

Contract
    Each finds exactly what the regular expression finds that it stands for, in time that grows with the content: the
    expressions try every line, these only the lines that could be meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.scan.octets import Octets, Stored, overlapping
from egressguard.scan.searching import match, search

CONTENT_FIELD = re.compile(
    rb"(?i)[\r\n\x0b\x0c][\x00-\x09\x0e-\x20\x7f-\xff]*content[-_ \0\xad]?"
    rb"(type|transfer[-_ \0]?encoding|disposition|description|location|name)"
    rb"[^\n\r\x0b\x0c0-9A-Za-z:;=]{0,100}(?:\r?\n[ \t]+)?"
    rb"(?::|[;= \t](?=[ \t]{0,8}(?:attachment|inline|multipart/|message/|application/|base64|quoted-printable)))"
)
"""A line's end, then a field of RFC 2045's family, however the line starts and whatever the name has got in it; even
without a colon, where a value of the family follows."""

_EMPTY_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))[ \t\0]{0,1000}(?:\r\n|\n|\r(?!\n))")
_EMPTY_AFTER_LF = re.compile(rb"\n[ \t\0]{0,1000}(?:\r\n|\n|\r(?!\n))")
_EMPTY_AFTER_CR = re.compile(rb"\r(?!\n)[ \t\0]{0,1000}(?:\r\n|\n|\r(?!\n))")
_NO_FIELD = re.compile(rb"[\r\n](?![ \t]|[\x21-\x39\x3b-\x7e]{1,200}[ \t]{0,100}:)[^\r\n]")
_FIELDS = re.compile(rb"[^\r\n]*+(?:[\r\n]++(?:[ \t]|[\x21-\x39\x3b-\x7e]{1,200}+[ \t]{0,100}+:)[^\r\n]*+)*[\r\n]*+")
"""All up to what _NO_FIELD finds: lines that are fields, or folds of them."""
_LINE_ENDS = b"\r\n\x0b\x0c"
_BEFORE_A_FIELD = bytes(octet for octet in (*range(0x21), *range(0x7F, 0x100)) if octet not in _LINE_ENDS)
"""What CONTENT_FIELD lets stand between a line's end and the word."""
_NEAR_OCTETS = 64
_WORD = b"content"
_MARK_OCTETS = 4
_NO_NAME = b" \r\n\t"
_CR = 0x0D


def content_fields(content: Octets) -> Iterator[re.Match[bytes]]:
    """As CONTENT_FIELD.finditer."""
    return _fields_in_memory(content) if isinstance(content, bytes) else _fields_by_windows(content)


def _fields_in_memory(content: bytes) -> Iterator[re.Match[bytes]]:
    lowered = content.lower()
    end, at = 0, lowered.find(_WORD)
    while at >= 0:
        is_at_line_start = at > end and lowered[at - 1] in _LINE_ENDS
        start = at - 1 if is_at_line_start else _line_end(lowered, end, at)
        if start >= 0 and (found := CONTENT_FIELD.match(content, start)) is not None:
            yield found
            end = found.end()
        at = lowered.find(_WORD, max(at + 1, end))


def _fields_by_windows(content: Stored) -> Iterator[re.Match[bytes]]:
    end = 0
    for base, window in overlapping(content, len(_WORD) - 1):
        lowered = window.lower()
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


def empty_line(content: Octets, start: int, end: int) -> tuple[int, int] | None:
    """Where a line's end and the next are with nothing but blanks between: what _EMPTY_LINE finds first."""
    if not isinstance(content, bytes):
        found = search(_EMPTY_LINE, content, start, end)
        return found.span() if found else None
    after_lf = _EMPTY_AFTER_LF.search(content, start, end)
    after_cr = _EMPTY_AFTER_CR.search(content, start, after_lf.end() if after_lf else end)
    if after_cr is not None and (after_lf is None or after_cr.start() < after_lf.start()):
        return after_cr.span()
    if after_lf is None:
        return None
    first = after_lf.start()
    return first - (first > start and content[first - 1] == _CR), after_lf.end()


def no_field(content: Octets, start: int, end: int) -> int:
    """Where the first line begins behind a line's end in content[start:end] that is neither a field nor the fold of
    one; -1 = nowhere. As _NO_FIELD finds it."""
    if not isinstance(content, bytes):
        found = search(_NO_FIELD, content, start, end)
        return found.start() + 1 if found else -1
    fields = _FIELDS.match(content, start, end)
    return fields.end() if fields and fields.end() < end else -1
