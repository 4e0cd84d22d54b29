"""Octets of a body in seven bits: quoted-printable and base64 (RFC 2045 s6.7, s6.8). Pure.

Contract
    What is decoded is what was encoded, octet for octet. Lines have at most 76 characters and end with CRLF.
    Octets are looked at and encoded a piece at a time: they may lie in a mapped file that is larger than memory.
    Quoted-printable is for whole lines: what has a bare CR, a bare LF, a NUL or endless lines wants base64.
"""

from __future__ import annotations

import base64
import binascii
import enum
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from egressguard.mail.line_ends import is_malformed

Octets = bytes | mmap.mmap

PIECE_OCTETS = 256 * 1024
LINE_OCTETS = 998
"""RFC 5322 s2.1.1, and what "7bit" allows (RFC 2045 s2.7)."""
QUOTABLE_LINE_OCTETS = 8192
QUOTABLE_SHARE = 6
"""Up to one octet in so many beyond ASCII quoted-printable is the shorter one."""

_HIGH = bytes(range(128, 256))
_BASE64_OCTETS = 57 * 1024  # whole lines of it


class Encoding(enum.Enum):
    """Of a body, as Content-Transfer-Encoding names it."""

    SEVEN_BIT = "7bit"
    QUOTED_PRINTABLE = "quoted-printable"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class Look:
    """What a body is like. `high`: octets beyond ASCII; `malformed`: it has a bare CR, a bare LF or a NUL."""

    octets: int
    high: int
    longest_line: int
    malformed: bool

    @property
    def is_seven_bit(self) -> bool:
        """As RFC 2045 s2.7 has it."""
        return not self.high and not self.malformed and self.longest_line <= LINE_OCTETS

    @property
    def is_quotable(self) -> bool:
        """Whether quoted-printable fits, and makes less of it than base64."""
        if self.malformed or self.longest_line > QUOTABLE_LINE_OCTETS:
            return False
        return QUOTABLE_SHARE * self.high <= self.octets


def look_at(octets: Octets, start: int, end: int) -> Look:
    high, longest, malformed = 0, 0, False
    for piece in _pieces_of_lines(octets, start, end):
        high += 0 if piece.isascii() else len(piece) - len(piece.translate(None, _HIGH))
        longest = max(longest, *map(len, piece.split(b"\r\n")))
        malformed = malformed or is_malformed(piece)
    return Look(max(end - start, 0), high, longest, malformed)


def encoded(octets: Octets, start: int, end: int, encoding: Encoding) -> Iterator[bytes]:
    """The octets from `start` to `end` as they stand in a part of that encoding."""
    match encoding:
        case Encoding.SEVEN_BIT:
            return copied(octets, start, end)
        case Encoding.QUOTED_PRINTABLE:
            return _quoted(octets, start, end)
        case Encoding.BASE64:
            return _in_base64(octets, start, end)


def copied(octets: Octets, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, PIECE_OCTETS):
        yield octets[at : min(at + PIECE_OCTETS, end)]


def quoted_line(line: bytes) -> bytes:
    """One line without its end, whatever octets it has; it becomes several when it is long."""
    return binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n")


def _quoted(octets: Octets, start: int, end: int) -> Iterator[bytes]:
    for piece in _pieces_of_lines(octets, start, end):
        yield b"\r\n".join(map(quoted_line, piece.split(b"\r\n")))


def _in_base64(octets: Octets, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _BASE64_OCTETS):
        lines = base64.encodebytes(octets[at : min(at + _BASE64_OCTETS, end)]).rstrip(b"\n").replace(b"\n", b"\r\n")
        yield lines if at == start else b"\r\n" + lines


def _pieces_of_lines(octets: Octets, start: int, end: int) -> Iterator[bytes]:
    """Pieces that end where a line does, as far as lines are not endless."""
    while start < end:
        stop = min(start + PIECE_OCTETS, end)
        if stop < end:
            stop = octets.rfind(b"\n", start, stop) + 1 or stop
        yield octets[start:stop]
        start = stop
