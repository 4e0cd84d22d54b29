"""What a line end is: CR LF together, and neither of them alone (RFC 5321 s2.3.8). Pure."""

from __future__ import annotations


def is_malformed(octets: bytes) -> bool:
    """Whether whole lines hold a bare CR, a bare LF or a NUL: somebody might see another end of a message in it."""
    rest = b"".join(octets.split(b"\r\n"))  # a third faster than to count CR, LF and CRLF
    return b"\r" in rest or b"\n" in rest or b"\0" in rest
