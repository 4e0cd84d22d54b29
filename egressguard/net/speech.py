"""What the first octets of a TCP payload say: the beginning of an SMTP client's session, on whatever port.

Contract
    Pure. The kernel is asked the same question with the same constants (firewall.matching).
    A server's "220 " is no proof: FTP says it too. So is nothing that a TLS client says.
    Commands are matched whatever their case (RFC 5321 s2.4), with what must stand behind them.
"""

from __future__ import annotations

SMTP = "smtp"
GREETINGS = (b"EHLO", b"HELO", b"LHLO")  # RFC 5321 s4.1.1.1, RFC 2033 s4.1
BEHIND_GREETING = b" \t\r\n"
OPENING = b"MAIL FROM:"  # many servers ask for no greeting
CASE = 0xDF
"""`octet & CASE` is a letter in upper case."""


def upper(octets: bytes) -> bytes:
    """Letters in upper case; what is no letter becomes something that is no letter of ours."""
    return bytes(octet & CASE for octet in octets)


def speaks(payload: bytes) -> str:
    """ "smtp", or "" for what begins in another way or is too short to tell."""
    if upper(payload[:4]) in GREETINGS and payload[4:5] and payload[4:5] in BEHIND_GREETING:
        return SMTP
    return SMTP if masked(payload[: len(OPENING)]) == OPENING else ""


def opening_mask() -> bytes:
    """What of OPENING is a letter, and so without regard to case."""
    return bytes(CASE if chr(octet).isalpha() else 0xFF for octet in OPENING)


def masked(octets: bytes) -> bytes:
    """The octets as OPENING is compared with them."""
    return bytes(octet & mask for octet, mask in zip(octets, opening_mask(), strict=False))
