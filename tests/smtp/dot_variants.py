"""The table of ends of data: each way in which somebody somewhere has read "the message ends here".

Contract
    Twenty-four rows. INSIDE: not an end (RFC 5321 s4.1.1.4), and no octets of a message either: a bare CR, a bare LF
    or a NUL. TEXT: no end, and a lawful line of text. END: the one true end, with unlawful octets right before it:
    what follows is the client's next command, the message before it is not to be had.
    Used inward (tests/smtp/test_smuggling_inward.py) and outward (tests/smtp/test_smuggling_outward.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Fate(Enum):
    INSIDE = "inside"
    TEXT = "text"
    END = "end"


@dataclass(frozen=True, slots=True)
class Variant:
    """`octets` stand between the text and what is smuggled."""

    name: str
    octets: bytes
    fate: Fate = Fate.INSIDE

    def __str__(self) -> str:
        return self.name


VARIANTS = (
    Variant("lf.lf", b"\n.\n"),
    Variant("lf.cr", b"\n.\r"),
    Variant("lf.crlf", b"\n.\r\n"),
    Variant("cr.lf", b"\r.\n"),
    Variant("cr.cr", b"\r.\r"),
    Variant("cr.crlf", b"\r.\r\n"),
    Variant("crlf.lf", b"\r\n.\n"),
    Variant("crlf.cr", b"\r\n.\r"),
    Variant("crlf.crcrlf", b"\r\n.\r\r\n"),
    Variant("crcrlf.crcrlf", b"\r\r\n.\r\r\n"),
    Variant("lfcr.lfcr", b"\n\r.\n\r"),
    Variant("lfcr.crlf", b"\n\r.\r\n"),
    Variant("crlf.lfcr", b"\r\n.\n\r"),
    Variant("lflf.lflf", b"\n\n.\n\n"),
    Variant("nothing.crlflf", b".\r\n\n"),
    Variant("crlf-nul.crlf", b"\r\n\0.\r\n"),
    Variant("crlf.nul-crlf", b"\r\n.\0\r\n"),
    Variant("cr-nul-lf.cr-nul-lf", b"\r\0\n.\r\0\n"),
    Variant("nothing.crlf", b".\r\n", Fate.TEXT),
    Variant("crlf.nothing", b"\r\n.", Fate.TEXT),
    Variant("crlf.blank-crlf", b"\r\n. \r\n", Fate.TEXT),
    Variant("crcrlf.crlf", b"\r\r\n.\r\n", Fate.END),
    Variant("lfcrlf.crlf", b"\n\r\n.\r\n", Fate.END),
    Variant("nul-crlf.crlf", b"\0\r\n.\r\n", Fate.END),
)

INSIDE, TEXT, END = ([variant for variant in VARIANTS if variant.fate is fate] for fate in Fate)

HEADER = b"Subject: outer\r\n\r\n"
SMUGGLED = (
    b"MAIL FROM:<admin@smuggled.example>\r\nRCPT TO:<bert@example.org>\r\nDATA\r\nSubject: inner\r\n\r\nclick here"
)


def attack(variant: Variant, padding_octets: int = 0) -> bytes:
    """A message with `variant` in it and another transaction behind it, without the end that the client means.

    `padding_octets` of lawful text stand before it, to move it within the octets that a reader takes at once.
    """
    lines, left = divmod(padding_octets, 78)
    return HEADER + (b"x" * 76 + b"\r\n") * lines + b"y" * left + b"text" + variant.octets + SMUGGLED


def is_lawful(content: bytes) -> bool:
    """Lines that end with CRLF, and neither a bare CR, a bare LF nor a NUL (RFC 5321 s2.3.8, RFC 5322 s2.1)."""
    rest = content.replace(b"\r\n", b"")
    return not any(octet in rest for octet in b"\r\n\0")
