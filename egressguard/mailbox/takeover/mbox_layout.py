"""Where the messages of an mbox file begin and end, and what its programs wrote between their header fields.

Contract
    Reads one open file, in bounded memory. Every octet but From_ lines, the empty line before each, and the fields
    that programs keep flags and UIDs in, is in exactly one message, in its place.
    Content-Length is believed where the next message, or the file's end, is where it says: Dovecot writes text that
    looks like a From_ line as it is, because of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from egressguard.mailbox.takeover.from_line import BEGINS, LINE_OCTETS, LocalTime, received_at

HEADER_OCTETS = 4 * 1024 * 1024
"""A header section that is longer ends here: what follows is body, in its place all the same."""
_WINDOW_OCTETS = 4 * 1024 * 1024
_AHEAD_OCTETS = 64 * 1024

KEPT_BY_PROGRAMS = frozenset(
    {b"status", b"x-status", b"x-keywords", b"x-uid", b"x-imapbase", b"x-imap", b"content-length"}
)
"""Fields that Dovecot and UW IMAP write into the file and never show."""
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[ \t]*((?:[^\n]*)(?:\n[ \t][^\n]*)*)\n?")
_BLANK = re.compile(rb"(?:\A|\n)\r?\n")


@dataclass(frozen=True, slots=True)
class Piece:
    """A message's place. `ranges`: (offset, size) of its octets in order; `body_at`: how many are header section."""

    received_at: float
    ranges: tuple[tuple[int, int], ...]
    body_at: int
    fields: dict[bytes, bytes] = field(default_factory=dict)
    """Of KEPT_BY_PROGRAMS, and x-uidl: the first of each, unfolded."""


def is_mbox(fd: int) -> bool:
    """Whether the file begins with a From_ line. Raises OSError."""
    line = os.pread(fd, LINE_OCTETS + 1, 0).partition(b"\n")[0]
    return received_at(line) is not None


def read_layout(fd: int, local: LocalTime) -> Iterator[Piece]:
    """Each message; nothing when the file does not begin with a From_ line. Raises OSError."""
    window = _Window(fd)
    here = _from_line_at(window, 0, local)
    while here is not None:
        start, when = here
        header, size = _header_section(window, start)
        fields, ranges = _sort_fields(header, start)
        body = start + size
        end, here = _end(window, body, fields, local, start)
        if end < body:  # a From_ line within the header section: there was no body
            fields, ranges = _sort_fields(header[: end - start], start)
            body = end
        shown = sum(length for _, length in ranges)
        yield Piece(when, (*ranges, (body, end - body)) if end > body else ranges, shown, fields)


class _Window:
    """What was read last, so that small messages cost no read each."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self._data = b""
        self.size = os.fstat(fd).st_size

    def view(self, offset: int, ahead: int = _AHEAD_OCTETS) -> tuple[bytes, int]:
        """(octets, the offset of the first): those at `offset` are in it, and `ahead` more where the file has them."""
        end = self._at + len(self._data)
        if not (self._at <= offset and (offset + ahead <= end or (end >= self.size and offset <= end))):
            self._data = os.pread(self._fd, max(_WINDOW_OCTETS, ahead), offset)
            self._at = offset
        return self._data, self._at


def _from_line_at(window: _Window, offset: int, local: LocalTime) -> tuple[int, float] | None:
    """(where the header section begins, when it came), if a From_ line stands at `offset`."""
    data, base = window.view(offset, LINE_OCTETS + 2)
    at = offset - base
    if data[at : at + len(BEGINS)] != BEGINS:
        return None
    end = data.find(b"\n", at, at + LINE_OCTETS + 1)
    if end < 0:
        return None
    when = received_at(data[at:end].rstrip(b"\r"), local)
    return None if when is None else (base + end + 1, when)


def _header_section(window: _Window, start: int) -> tuple[bytes, int]:
    """The header section's octets with the empty line, and how many."""
    ahead = _AHEAD_OCTETS
    while True:
        data, base = window.view(start, ahead)
        part = data[start - base : start - base + ahead]
        if (blank := _BLANK.search(part)) is not None:
            return part[: blank.end()], blank.end()
        if len(part) < ahead or ahead >= HEADER_OCTETS:
            cut = len(part) if len(part) < ahead else part.rfind(b"\n") + 1
            return part[:cut], cut
        ahead = min(ahead * 4, HEADER_OCTETS)


def _sort_fields(header: bytes, start: int) -> tuple[dict[bytes, bytes], tuple[tuple[int, int], ...]]:
    """(what programs wrote, the ranges that are the message's own)."""
    kept: dict[bytes, bytes] = {}
    ranges: list[tuple[int, int]] = []
    own_from = position = 0
    while position < len(header):
        found = _FIELD.match(header, position)
        if found is None:
            position = (header.find(b"\n", position) + 1) or len(header)
            continue
        name = found[1].lower()
        if name in KEPT_BY_PROGRAMS or name == b"x-uidl":
            kept.setdefault(name, b" ".join(found[2].split()))
        if name in KEPT_BY_PROGRAMS:
            if found.start() > own_from:
                ranges.append((start + own_from, found.start() - own_from))
            own_from = found.end()
        position = found.end()
    if len(header) > own_from:
        ranges.append((start + own_from, len(header) - own_from))
    return kept, tuple(ranges)


def _end(
    window: _Window, body: int, fields: dict[bytes, bytes], local: LocalTime, start: int
) -> tuple[int, tuple[int, float] | None]:
    """(where the message ends, the From_ line behind it)."""
    length = fields.get(b"content-length", b"")
    if length.isdigit() and len(length) <= 12 and body + int(length) <= window.size:
        claimed = body + int(length)
        rest, base = window.view(claimed, 2)
        tail = rest[claimed - base : claimed - base + 2]
        gap = 2 if tail == b"\r\n" else 1 if tail[:1] == b"\n" else 0
        if claimed + gap >= window.size:
            return claimed, None
        if gap and (following := _from_line_at(window, claimed + gap, local)) is not None:
            return claimed, following
    return _search(window, start - 1, body, local)


def _search(window: _Window, offset: int, body: int, local: LocalTime) -> tuple[int, tuple[int, float] | None]:
    while True:
        data, base = window.view(offset)
        at = data.find(b"\n" + BEGINS, offset - base)
        if at < 0:
            end = base + len(data)
            if end >= window.size or not data[offset - base :]:
                return _without_empty_line(window, window.size, body), None
            offset = max(end - len(BEGINS), offset + 1)
            continue
        line = base + at + 1
        if (following := _from_line_at(window, line, local)) is not None:
            return _without_empty_line(window, line, body), following
        offset = line


def _without_empty_line(window: _Window, end: int, body: int) -> int:
    """The empty line before a From_ line, or at the file's end, is the file's, not the message's.

    The one that ends the header section is the message's."""
    if end <= body:
        return end
    data, base = window.view(max(end - 4, 0), 4)
    before = data[max(end - 4, 0) - base : end - base]
    empty = 2 if before.endswith(b"\n\r\n") else 1 if before.endswith(b"\n\n") else 0
    return max(end - empty, body)
