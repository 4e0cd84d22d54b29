"""Mailboxes in paths (RFC 5321 s4.1.2): parse strictly, never repair."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

LOCAL_PART_OCTETS = 64  # RFC 5321 s4.5.3.1.1
DOMAIN_OCTETS = 255  # s4.5.3.1.2

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_UTF8_DOT_STRING = re.compile(r"[^\x00-\x20\"(),:;<>@\[\\\]\x7f.]+(?:\.[^\x00-\x20\"(),:;<>@\[\\\]\x7f.]+)*")
_QUOTED_STRING = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*"')
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_UTF8_DOMAIN = re.compile(
    r"[^\x00-\x2c\x2f\x3a-\x40\x5b-\x60\x7b-\x7f.]+(?:\.[^\x00-\x2c\x2f\x3a-\x40\x5b-\x60\x7b-\x7f.]+)*"
)


class AddressError(ValueError):
    """The text is not a Mailbox; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Address:
    """`local_part` as it was sent (quotes kept), `domain` in lower case; a literal keeps its brackets."""

    local_part: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"


def parse_address(text: str, *, utf8: bool = False) -> Address:
    """Parse a Mailbox. Raises AddressError; `utf8` allows RFC 6531's wider alphabet."""
    local_part, at, domain = text.rpartition("@")
    if not at:
        raise AddressError("expected local-part@domain")
    if len(local_part.encode("utf-8", "surrogatepass")) > LOCAL_PART_OCTETS:
        raise AddressError(f"local-part is over {LOCAL_PART_OCTETS} octets")
    if len(domain.encode("utf-8", "surrogatepass")) > DOMAIN_OCTETS:
        raise AddressError(f"domain is over {DOMAIN_OCTETS} octets")
    dot_string = _UTF8_DOT_STRING if utf8 else _DOT_STRING
    if not (dot_string.fullmatch(local_part) or _QUOTED_STRING.fullmatch(local_part)):
        raise AddressError("local-part is neither a dot-string nor a quoted string")
    return Address(local_part, parse_domain(domain, utf8=utf8))


def parse_domain(text: str, *, utf8: bool = False) -> str:
    """Return the domain (or address literal, RFC 5321 s4.1.3) in lower case. Raises AddressError."""
    if text.startswith("[") and text.endswith("]"):
        return _parse_literal(text)
    if not (_UTF8_DOMAIN if utf8 else _DOMAIN).fullmatch(text):
        raise AddressError("domain is not a dot-separated list of labels")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise AddressError("domain is not UTF-8")
    return text.lower()


def _parse_literal(text: str) -> str:
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(inner[5:])
        else:
            ipaddress.IPv4Address(inner)
    except ValueError as wrong:
        raise AddressError(f"address literal: {wrong}") from None
    return text.lower()


def domain_of(path: str) -> str:
    """The domain of a path already parsed, in lower case; "" for the null path or a bare local-part."""
    return path.rpartition("@")[2].lower() if "@" in path else ""
