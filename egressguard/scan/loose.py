"""The loosest reading: a part begins wherever a field of MIME's stands, whatever boundaries say. Never raises.

Contract
    `pieces` gives every block of such fields with what follows it up to the next line that starts with two hyphens,
    the next block or the end: so whatever delimiter a mail program takes for one, its parts are among these.
    Pieces that the plain reading has, too, with the same body, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from egressguard.scan.heading import Describer
from egressguard.scan.octets import Octets
from egressguard.scan.searching import search
from egressguard.scan.spotting import CONTENT_FIELD, content_fields, empty_line, line_of_dashes, no_field
from egressguard.scan.tree import Leaf

MAX_BLOCKS = 3000
_BLOCK_OCTETS = 256 * 1024
_VALUE_OCTETS = 64 * 1024
_ABOVE_OCTETS = 4096
_SECTION_STARTS = (b"\n\n", b"\n\r\n", b"\r\r", b"\n--", b"\r--")
_LAST_LINE_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?![ \t])")


def pieces(content: Octets, known: Collection[Leaf], describe: Describer, problems: list[str]) -> Iterator[Leaf]:
    """The parts that only a loose reader sees."""
    bodies = {leaf.start: leaf.end for leaf in known}
    if (broken := _broken_header(content, describe)) is not None:
        yield broken
    blocks = list(_blocks(content, problems))
    for number, (start, after, last, body) in enumerate(blocks):
        following = blocks[number + 1][0] if number + 1 < len(blocks) else len(content)
        heading = None
        for first in dict.fromkeys((body, *_early_bodies(content, after, body))):
            dashes = line_of_dashes(content, max(0, first - 1), following)
            end = dashes if dashes >= 0 else following
            if first in bodies and abs(bodies[first] - end) <= 2 and not _spans_parts(content, start, after):
                continue
            heading = heading or describe(content[_section_start(content, start) : min(last, start + _BLOCK_OCTETS)])
            yield Leaf(heading, first, max(first, end))


def _broken_header(content: Octets, describe: Describer) -> Leaf | None:
    """What follows the first line of the message's header that is no field: many readers end the header there."""
    most = min(len(content), _BLOCK_OCTETS)
    empty = empty_line(content, 0, most)
    start = no_field(content, 0, empty[0] if empty else most)
    if start < 0:
        return None
    dashes = line_of_dashes(content, start, len(content))
    return Leaf(describe(content[:start]), start, dashes if dashes >= 0 else len(content))


def _spans_parts(content: Octets, start: int, after: int) -> bool:
    """Whether a delimiter stands among the fields: who does not know it takes those above it for this part's, too."""
    return line_of_dashes(content, start, min(after, start + _BLOCK_OCTETS)) >= 0


def _section_start(content: Octets, field: int) -> int:
    """Where the section begins that the field stands in: lines above it may be fields to others."""
    above = content[max(0, field - _ABOVE_OCTETS) : field]
    return field - len(above) + max(above.rfind(mark) + len(mark) if mark in above else 0 for mark in _SECTION_STARTS)


def _blocks(content: Octets, problems: list[str]) -> Iterator[tuple[int, int, int, int]]:
    """(start of the first field, end of the last field's line, end of the section, start of the body) of each block."""
    start = last = limit = -1
    body = len(content)
    for number, field in enumerate(_fields(content)):
        if number >= MAX_BLOCKS:
            problems.append(f"more than {MAX_BLOCKS} fields of MIME")
            break
        if start < 0 or field >= limit:
            if start >= 0:
                yield _block(content, start, last, limit, body)
            start, most = field, min(len(content), field + _BLOCK_OCTETS)
            limit, body = empty_line(content, start, most) or (most, most)
        last = field
    if start >= 0:
        yield _block(content, start, last, limit, body)


def _block(content: Octets, start: int, last: int, limit: int, body: int) -> tuple[int, int, int, int]:
    """Without an empty line (`body` is `limit`) nobody knows how far the section goes behind its last field."""
    after = _value_end(content, last)
    return start, after, after if body == limit else max(after, limit), body


def _fields(content: Octets) -> Iterator[int]:
    if CONTENT_FIELD.match(b"\n" + content[:200]):
        yield 0
    for match in content_fields(content):
        yield match.start() + 1


def _value_end(content: Octets, start: int) -> int:
    """Behind the field's last line, folds included."""
    end = search(_LAST_LINE_END, content, start, min(len(content), start + _VALUE_OCTETS))
    return end.end() if end else min(len(content), start + _VALUE_OCTETS)


def _early_bodies(content: Octets, after: int, body: int) -> Iterator[int]:
    """Where a line stands behind the last field of ours that is no field at all: many take that for the body."""
    wrong = no_field(content, max(0, after - 1), body)
    if wrong >= 0:
        yield wrong
