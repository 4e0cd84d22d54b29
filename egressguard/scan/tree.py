"""The plain reading: the MIME tree as RFC 2045 and 2046 have it, in spans of the message. Never raises.

Contract
    `leaves` gives each part that holds no other, in the message's order, without copying a body; a message that is
    attached as it stands is part of the tree. What is too much to read (levels, parts, fields, octets of a header
    section) is a problem in words, and what was read until then comes out.
"""

from __future__ import annotations

import re

from egressguard.scan.heading import Describer, Heading
from egressguard.scan.octets import Octets
from egressguard.scan.searching import match
from egressguard.values import value

MAX_PARTS = 1000
MAX_DEPTH = 50
MAX_FIELDS = 10_000
HEADER_OCTETS = 1024 * 1024
MAX_LOOKALIKES = 100_000
BOUNDARY_OCTETS = 1000
"""RFC 2046 s5.1.1 allows 70; longer ones than this are there to hurt."""

_NEWLINE = re.compile(rb"\r?\n")
_AFTER_DELIMITER = re.compile(rb"(--)|[ \t]{0,1000}(?:\r?\n|\r\Z|\Z)")


@value(frozen=True, slots=True)
class Leaf:
    """A part's body is content[start:end]."""

    heading: Heading
    start: int
    end: int


def leaves(content: Octets, describe: Describer, problems: list[str]) -> list[Leaf]:
    found: list[Leaf] = []
    waiting: list[tuple[int, int, int, str]] = [(0, len(content), 0, "text/plain")]
    while waiting:
        start, end, depth, default_type = waiting.pop()
        if depth > MAX_DEPTH:
            _note(problems, f"nested more than {MAX_DEPTH} levels deep")
            continue
        if len(found) >= MAX_PARTS:
            _note(problems, f"more than {MAX_PARTS} parts")
            break
        heading, body = _heading(content, start, end, default_type, describe, problems)
        children = _children(content, heading, body, end, problems)
        if children is None:
            found.append(Leaf(heading, body, end))
            continue
        inner = "message/rfc822" if heading.media_type == "multipart/digest" else "text/plain"
        waiting += [(first, last, depth + 1, inner) for first, last in reversed(children)]
    return found


def _note(problems: list[str], problem: str) -> None:
    if problem not in problems:
        problems.append(problem)


def _heading(
    content: Octets, start: int, end: int, default_type: str, describe: Describer, problems: list[str]
) -> tuple[Heading, int]:
    """The header section ends at the first empty line; without one there is no body."""
    empty = match(_NEWLINE, content, start, end)
    if empty is not None:
        return describe(b"", default_type), empty.end()
    most = min(end, start + HEADER_OCTETS)
    body = _body_start(content, start, most)
    if body < 0 and most < end:
        _note(problems, f"a header section of more than {HEADER_OCTETS} octets")
    body = body if body >= 0 else most
    block = content[start:body]
    if block.count(b"\n") > MAX_FIELDS:
        _note(problems, f"a header section of more than {MAX_FIELDS} lines")
    return describe(block, default_type), body


def _body_start(content: Octets, start: int, most: int) -> int:
    """Behind the first empty line; -1 = there is none. The usual line end of the two is looked for first: the other
    need not be looked for behind it."""
    first = content.find(b"\n", start, most)
    marks = (b"\n\r\n", b"\n\n") if content[first - 1 : first] == b"\r" else (b"\n\n", b"\n\r\n")
    body = -1
    for mark in marks:
        if (at := content.find(mark, start, most)) >= 0:
            body, most = at + len(mark), at + len(mark) - 1
    return body


def _children(
    content: Octets, heading: Heading, body: int, end: int, problems: list[str]
) -> list[tuple[int, int]] | None:
    """Where the parts inside start and end; None for a leaf."""
    if heading.encoding:
        return None
    if heading.media_type in ("message/rfc822", "message/global"):
        return [(body, end)]
    if not heading.media_type.startswith("multipart/") or not heading.boundary:
        return None
    if len(heading.boundary) > BOUNDARY_OCTETS:
        _note(problems, f"a boundary of more than {BOUNDARY_OCTETS} octets")
        return None
    return _split(content, b"--" + heading.boundary.rstrip(), body, end, problems) or None


def _split(content: Octets, mark: bytes, body: int, end: int, problems: list[str]) -> list[tuple[int, int]]:
    """RFC 2046 s5.1.1: delimiters start a line; the line end in front belongs to them. No last one: up to `end`."""
    parts: list[tuple[int, int]] = []
    start = -1
    position = body if content[body : body + len(mark)] == mark else _next(content, mark, body, end)
    for _ in range(MAX_LOOKALIKES):
        if position < 0:
            break
        after = match(_AFTER_DELIMITER, content, position + len(mark), end)
        if after is not None:
            if start >= 0:
                parts.append((start, max(start, _before_newline(content, position))))
            start = -1 if after[1] else after.end()
            if start < 0:
                break
            if len(parts) >= MAX_PARTS:
                _note(problems, f"more than {MAX_PARTS} parts")
                return parts
        position = _next(content, mark, position + len(mark), end)
    else:
        _note(problems, f"more than {MAX_LOOKALIKES} lines that look like delimiters")
    if start >= 0:
        parts.append((start, end))
    return parts


def _next(content: Octets, mark: bytes, start: int, end: int) -> int:
    """Where the next line starts that starts with `mark`."""
    position = content.find(b"\n" + mark, max(0, start - 1), end)
    return position + 1 if position >= 0 else -1


def _before_newline(content: Octets, position: int) -> int:
    return position - 2 if content[position - 2 : position - 1] == b"\r" else position - 1
