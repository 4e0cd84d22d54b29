"""Content as the octets that follow 354: dot-stuffed, ended, and refused when it could be taken for two messages.

Contract
    Pure; the result is the same however the content is cut into pieces. Nothing is repaired: a bare CR, a bare LF or
    a NUL is BadOctets (SMTP smuggling); only a missing line end before the final dot is added, as it must be.
"""

from __future__ import annotations

from egressguard.mail.line_ends import is_malformed


class BadOctets(Exception):
    """The content has a bare CR, a bare LF or a NUL."""


class Stuffing:
    """`add` pieces, then `end`."""

    def __init__(self) -> None:
        self._undecided = b""  # a CR that waits for its LF
        self._at_line_start = True

    def add(self, piece: bytes) -> bytes:
        """What of it can be sent now. Raises BadOctets."""
        octets = self._undecided + piece if self._undecided else piece
        if octets.endswith(b"\r"):
            self._undecided, octets = b"\r", octets[:-1]
        else:
            self._undecided = b""
        if not octets:
            return b""
        if is_malformed(octets):
            raise BadOctets
        stuffed = octets.replace(b"\n.", b"\n..") if b"." in octets else octets
        if self._at_line_start and octets[:1] == b".":
            stuffed = b"." + stuffed
        self._at_line_start = octets.endswith(b"\n")
        return stuffed

    def end(self) -> bytes:
        """The end of the content and of the message. Raises BadOctets."""
        if self._undecided:
            raise BadOctets
        return b".\r\n" if self._at_line_start else b"\r\n.\r\n"
