"""The octets after 354: find their end, undo dot-stuffing, refuse what could be two messages (RFC 5321 s4.5.2).

Contract
    Pure; the result is the same however the octets are cut into chunks.
    The end is CRLF "." CRLF and nothing else. A bare CR, a bare LF or a NUL anywhere before it is a fault of the
    whole message (SMTP smuggling): it is read to its end, so that no part of it is ever taken for commands.
    After a fault or an overrun no content comes out.
"""

from __future__ import annotations

from typing import NamedTuple

from egressguard.mail.line_ends import is_malformed

_END = b"\r\n.\r\n"


class Fed(NamedTuple):
    """`content` is a part of the message without dot-stuffing; `rest` what stands behind its end, None: no end yet."""

    content: bytes
    rest: bytes | None


class DottedData:
    """Feed chunks until there is a `rest`. Then `malformed`, `too_big` hold."""

    def __init__(self, limit_octets: int) -> None:
        self._limit_octets = limit_octets
        self._undecided = b"\r\n"  # the line before the first one: an end may stand right at the start
        self._at_start = True
        self.malformed = False
        self.too_big = False
        self.received_octets = 0
        self.content_octets = 0

    def feed(self, chunk: bytes) -> Fed:
        octets = self._undecided + chunk
        end = octets.find(_END) if b"." in octets else -1  # most of a large message is base64, which has none
        if end >= 0:
            rest = octets[end + len(_END) :]
            self.received_octets += len(chunk) - len(rest)
            return Fed(self._checked(octets[: end + 2]), rest)
        self.received_octets += len(chunk)
        cut = _safe_cut(octets)
        self._undecided = octets[cut:]
        return Fed(self._checked(octets[:cut]), None)

    def _checked(self, octets: bytes) -> bytes:
        """What of it is content."""
        if not octets:
            return b""
        if not self.malformed and is_malformed(octets):
            self.malformed = True
        lines = octets.replace(b"\r\n.", b"\r\n") if b"." in octets else octets
        if self._at_start:
            lines = lines[2:]
            self._at_start = False
        self.content_octets += len(lines)
        if self.content_octets > self._limit_octets:
            self.too_big = True
        return b"" if self.malformed or self.too_big else lines


def _safe_cut(octets: bytes) -> int:
    """Where to cut so that neither an end, nor a CRLF, nor a CRLF with its dot is torn apart."""
    cut = max(0, len(octets) - (len(_END) - 1))
    if octets[max(0, cut - 1) : cut] == b"\r":
        return cut - 1
    if octets[max(0, cut - 2) : cut] == b"\r\n":
        return cut - 2
    return cut
