"""The header section: find it, and find fields in it, whatever octets somebody sent (RFC 5322 s2.2).

Contract
    Nothing is decoded and nothing is repaired: octets in, slices of the same octets out.
    At most HEADER_OCTETS are looked at; a field is at most what its lines say, folds kept.
"""

from __future__ import annotations

import email.errors
import email.header
import re
from collections.abc import Iterator
from dataclasses import dataclass

HEADER_OCTETS = 1024 * 1024
"""Longer header sections exist only to hurt; what follows is treated as body."""

_NAME = rb"[\x21-\x39\x3b-\x7e]+"
_FIELD_NAME = re.compile(_NAME + rb"(?=[ \t]*:)")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+\Z")
_REST = rb"[^\n]*(?:\n|\Z)"
_LINES = re.compile(rb"(?:" + _NAME + rb"[ \t]*:" + _REST + rb"|[ \t][ \t\r\x0b\x0c]*\S" + _REST + rb"){1,100}")
"""A field's lines, or of several; a fold is not blank. Not all at once: each takes the matcher some memory."""


@dataclass(frozen=True, slots=True)
class Field:
    """`name` as sent; `value` is what follows the colon, folds and all, without the last line ending."""

    name: bytes
    value: bytes


def split_header_section(content: bytes) -> tuple[bytes, bytes]:
    """(header section, the rest). The empty line that parts them belongs to the rest.

    A line that is neither a field nor a continuation ends the section too: it was a body from there on.
    """
    end = 0
    if content[:1] not in (b" ", b"\t"):
        while (lines := _LINES.match(content, end, HEADER_OCTETS)) is not None:
            end = lines.end()
    return content[:end], content[end:]


def header_section(content: bytes) -> bytes:
    return split_header_section(content)[0]


def fields(header_section: bytes) -> Iterator[Field]:
    """The fields of a header section, from the top. Lines before the first field are skipped."""
    lines: list[bytes] = []
    for match in _LINE.finditer(header_section, 0, HEADER_OCTETS):
        line = match.group()
        if line[:1] in (b" ", b"\t"):
            if lines:
                lines.append(line)
            continue
        yield from _field(lines)
        lines = [line] if _FIELD_NAME.match(line) else []
    yield from _field(lines)


def _field(lines: list[bytes]) -> Iterator[Field]:
    if lines:
        name, _, value = b"".join(lines).partition(b":")
        yield Field(name.rstrip(b" \t"), value.rstrip(b"\r\n"))


def find_fields(header_section: bytes, name: str, *, limit: int = 1000) -> list[bytes]:
    """The values of the fields called `name` (without regard to case), at most `limit` of them."""
    wanted = name.lower().encode("ascii")
    found: list[bytes] = []
    if wanted not in header_section.lower():  # most of what is looked for is not there
        return found
    for field in fields(header_section):
        if field.name.lower() == wanted:
            found.append(field.value)
            if len(found) >= limit:
                break
    return found


def decode_words(text: str) -> str:
    """A field's value or a parameter as people read it: RFC 2047 words decoded, what cannot be shown left out."""
    try:
        pieces = email.header.decode_header(text)
        joined = "".join(
            piece.decode(charset or "ascii", "replace") if isinstance(piece, bytes) else piece
            for piece, charset in pieces
        )
    except (LookupError, ValueError, email.errors.HeaderParseError):
        joined = text
    return "".join(c for c in joined if c.isprintable()).strip()
