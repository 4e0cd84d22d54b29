"""The octets of BDAT chunks (RFC 3030): counted, not searched; text is held to the same line ends as DATA.

Contract
    Pure; the result is the same however the octets are cut. Text with a bare CR, a bare LF or a NUL is a fault of
    the whole message: we could not hand it on by DATA without inviting somebody to see two messages in it.
    With BODY=BINARYMIME octets mean nothing to us. After a fault or an overrun no content comes out.
"""

from __future__ import annotations

from egressguard.mail.line_ends import is_malformed


class ChunkedData:
    """Feed what the chunks hold; after the last one call `end`."""

    def __init__(self, limit_octets: int, *, binary: bool) -> None:
        self._limit_octets = limit_octets
        self._binary = binary
        self._undecided = b""
        self.malformed = False
        self.content_octets = 0

    @property
    def too_big(self) -> bool:
        return self.content_octets > self._limit_octets

    def feed(self, octets: bytes) -> bytes:
        """What of it is content now; a CR waits for what follows it."""
        self.content_octets += len(octets)
        if not self._binary:
            octets = self._undecided + octets
            self._undecided = b"\r" if octets.endswith(b"\r") else b""
            octets = octets[: len(octets) - len(self._undecided)]
            self.malformed = self.malformed or is_malformed(octets)
        return b"" if self.malformed or self.too_big else octets

    def end(self) -> None:
        if self._undecided:
            self.malformed = True
