"""A message as verifiers of signatures see it: header fields, and digests of its body (RFC 6376 s3.4).

Contract
    The body is canonicalised in pieces, once for each form that a signature asks for, and never copied whole: time is
    linear and memory flat whatever the octets are. Fields go through dkimpy, bounded in octets, lines and number.
    Whatever cannot be looked at raises Refused; nothing is repaired.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator

import dkim

from egressguard.senderauth.verdict import Refused

HEADER_OCTETS = 256 * 1024
HEADER_LINES = 5000
"""dkimpy joins the lines of a field one by one, in quadratic time; with this many of them it is no matter."""
HEADER_FIELDS = 1000
PIECE_OCTETS = 64 * 1024
LINE_OCTETS = 1024 * 1024
"""RFC 5322 s2.1.1 allows 998; a relaxed body is canonicalised line by line."""

_BLANKS = re.compile(rb"[\t ]+")

Octets = bytes | mmap.mmap

Fields = list[tuple[bytes, bytes]]
"""(name, all that follows the colon, folds and last CRLF too), from the top."""


class Message:
    """`content` begins with `header_section`, has CRLF line ends; None = it is too large to be held in memory."""

    def __init__(self, header_section: bytes, content: Octets | None) -> None:
        self.header_section = header_section
        self._content = content
        self._digests: dict[tuple[bool, int | None], tuple[bytes, int]] = {}

    @property
    def whole(self) -> bool:
        return self._content is not None

    def rest(self, octets: int) -> bytes:
        """What stands behind the header section, at most `octets` of it."""
        start = len(self.header_section)
        return self._content[start : start + octets] if self._content else b""

    def fields(self) -> Fields:
        """Every field. Raises Refused."""
        section = self.header_section
        if len(section) > HEADER_OCTETS or section.count(b"\n") > HEADER_LINES:
            raise Refused("policy", "the header section is too large")
        if self.rest(2) not in (b"", b"\r\n"):
            raise Refused("permerror", "the header section is malformed")
        try:
            fields, _ = dkim.rfc822_parse(section)
        except (dkim.DKIMException, LookupError) as wrong:
            raise Refused("permerror", "the header section is malformed") from wrong
        if len(fields) > HEADER_FIELDS:
            raise Refused("policy", f"more than {HEADER_FIELDS} header fields")
        return [(name, value) for name, value in fields]

    def digest(self, *, relaxed: bool, limit: int | None) -> tuple[bytes, int]:
        """(SHA-256 of the first `limit` octets of the canonical body, octets of the whole of it). Raises Refused."""
        if self._content is None:
            raise Refused("policy", "the message is too large to be verified")
        key = relaxed, limit
        if key not in self._digests:
            start = len(self.header_section) + 2  # the empty line
            self._digests[key] = body_digest(self._content, start, relaxed=relaxed, limit=limit)
        return self._digests[key]


class _Sink:
    """SHA-256 of the first `limit` octets that come, and how many came."""

    def __init__(self, limit: int | None) -> None:
        self._hash = hashlib.sha256()
        self._left = limit
        self.octets = 0

    def update(self, octets: bytes) -> None:
        self.octets += len(octets)
        if self._left is None:
            self._hash.update(octets)
        elif self._left > 0:
            self._hash.update(octets[: self._left])
            self._left -= min(self._left, len(octets))

    def line_ends(self, number: int) -> None:
        whole, rest = divmod(number, PIECE_OCTETS)
        for _ in range(whole):
            self.update(b"\r\n" * PIECE_OCTETS)
        self.update(b"\r\n" * rest)

    def digest(self) -> bytes:
        return self._hash.digest()


def body_digest(content: Octets, start: int, *, relaxed: bool, limit: int | None = None) -> tuple[bytes, int]:
    """The body from `start` on, canonicalised (RFC 6376 s3.4.3, s3.4.4): its SHA-256 and its octets. Raises Refused."""
    sink, pending, empty = _Sink(limit), 0, True
    for piece in _pieces(content, start):
        lines = _relaxed(piece) if relaxed else piece
        core = _without_last_line_ends(lines)
        ends = (len(lines) - len(core)) // 2
        if not core:
            pending += ends
            continue
        sink.line_ends(pending)
        sink.update(core)
        pending, empty = ends, False
    if not (relaxed and empty):  # a simple body is never without a line end
        sink.line_ends(1)
    return sink.digest(), sink.octets


def _pieces(content: Octets, start: int) -> Iterator[bytes]:
    """Whole lines, about PIECE_OCTETS of them at a time."""
    while start < len(content):
        end = content.find(b"\n", start + PIECE_OCTETS) + 1 or len(content)
        yield content[start:end]
        start = end


def _relaxed(lines: bytes) -> bytes:
    # Blanks first: to look for blanks before each line end is quadratic where a line is all blanks.
    if len(lines) > PIECE_OCTETS + LINE_OCTETS:
        raise Refused("policy", f"a line is over {LINE_OCTETS} octets")
    if b"\t" in lines or b"  " in lines:
        lines = _BLANKS.sub(b" ", lines)
    return lines.replace(b" \r\n", b"\r\n")


def _without_last_line_ends(lines: bytes) -> bytes:
    if lines == b"\r\n" * (len(lines) // 2):
        return b""
    end = len(lines)
    while lines.endswith(b"\r\n", 0, end):
        end -= 2
    return lines[:end]
