"""Mailboxes in paths (RFC 5321 s4.1.2, RFC 6531 s3.3): parse strictly, never repair.

Contract
    Pure. What is accepted means one domain only, here and to DNS: a U-label in a form that name resolution would
    fold into another name (full-width letters, ideographic full stops, invisible characters) is refused.
    Lengths count in octets as sent, and for a U-label also in octets of its A-label, which is what DNS is asked.
"""

from __future__ import annotations

import ipaddress
import re
import stringprep
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

LOCAL_PART_OCTETS = 64  # RFC 5321 s4.5.3.1.1
DOMAIN_OCTETS = 255  # s4.5.3.1.2
LABEL_OCTETS = 63  # RFC 1035 s2.3.4

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_UTF8_DOT_STRING = re.compile(r"[^\x00-\x20\"(),:;<>@\[\\\]\x7f.]+(?:\.[^\x00-\x20\"(),:;<>@\[\\\]\x7f.]+)*")
_QUOTED_STRING = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*"')
_UTF8_QUOTED_STRING = re.compile(r'"(?:[^\x00-\x1f"\\\x7f]|\\[\x20-\x7e])*"')
_LABEL = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9-]{{0,{LABEL_OCTETS - 2}}}[A-Za-z0-9])?")
_U_LABEL = re.compile(r"[^\x00-\x2c\x2e\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]+")
_FULL_STOPS = re.compile("[\u3002\uff0e\uff61]")  # IDNA 2003 (RFC 3490 s3.1) takes these for dots too
_CONTEXT_JOINERS = frozenset("\u200c\u200d")  # zero-width, yet letters' own: RFC 5892 appendix A allows them
_FILLERS = frozenset("\u115f\u1160\u17b4\u17b5\u180f")  # letters by category, and yet nothing to see
_NO_LETTERS = frozenset({"Cc", "Cf", "Cn", "Co", "Zs", "Zl", "Zp"})
_FOLDED_BUT_OWN = str.maketrans("", "", "\u00df\u03c2")  # sharp s, final sigma: RFC 5892 s2.6 allows them


class AddressError(ValueError):
    """The text is not a Mailbox; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Address:
    """`local_part` as it was sent (quotes kept), `domain` in lower case; a literal keeps its brackets."""

    local_part: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"


@lru_cache(4096)
def parse_address(text: str, *, utf8: bool = False) -> Address:
    """Parse a Mailbox. Raises AddressError; `utf8` allows RFC 6531's wider alphabet."""
    local_part, at, domain = text.rpartition("@")
    if not at:
        raise AddressError("expected local-part@domain")
    if _octets(local_part) > LOCAL_PART_OCTETS:
        raise AddressError(f"local-part is over {LOCAL_PART_OCTETS} octets")
    dot_string, quoted_string = (_UTF8_DOT_STRING, _UTF8_QUOTED_STRING) if utf8 else (_DOT_STRING, _QUOTED_STRING)
    if not (dot_string.fullmatch(local_part) or quoted_string.fullmatch(local_part)):
        raise AddressError("local-part is neither a dot-string nor a quoted string")
    if _has_surrogates(local_part):
        raise AddressError("local-part is not UTF-8")
    return Address(local_part, parse_domain(domain, utf8=utf8))


def parse_domain(text: str, *, utf8: bool = False) -> str:
    """Return the domain (or address literal, RFC 5321 s4.1.3) in lower case. Raises AddressError."""
    if _octets(text) > DOMAIN_OCTETS:
        raise AddressError(f"domain is over {DOMAIN_OCTETS} octets")
    if text.startswith("[") and text.endswith("]"):
        return _parse_literal(text)
    if _has_surrogates(text):
        raise AddressError("domain is not UTF-8")
    labels = [_a_label(label, utf8=utf8) for label in text.split(".")]
    if len(".".join(labels)) > DOMAIN_OCTETS:
        raise AddressError(f"domain is over {DOMAIN_OCTETS} octets in its ASCII form")
    return text.lower()


def _a_label(label: str, *, utf8: bool) -> str:
    """The label as DNS is asked for it (RFC 5890 s2.3.2.1). Raises AddressError."""
    if label.isascii() or not utf8:
        if not _LABEL.fullmatch(label):
            raise AddressError("domain is not a dot-separated list of labels")
        return label
    lower = label.lower()
    if not _U_LABEL.fullmatch(label) or _FULL_STOPS.search(label):
        raise AddressError("domain is not a dot-separated list of labels")
    if lower[0] == "-" or lower[-1] == "-" or lower[2:4] == "--":  # RFC 5891 s4.2.3.1
        raise AddressError("a label begins or ends with a hyphen, or has two at its third place")
    if lower.isascii() or not _is_stable(lower) or any(map(_vanishes, lower)):
        raise AddressError("a label is not in the form that DNS is asked for")
    a_label = "xn--" + lower.encode("punycode").decode("ascii")
    if len(a_label) > LABEL_OCTETS:
        raise AddressError(f"a label is over {LABEL_OCTETS} octets in its ASCII form")
    return a_label


def ascii_form(path: str) -> str | None:
    """The same mailbox with A-labels for U-labels (RFC 5890 s2.3.2.1); None when its local-part is not ASCII."""
    if path.isascii():
        return path
    local_part, _, domain = path.rpartition("@")
    a_labels = ascii_domain(domain)
    return f"{local_part}@{a_labels}" if local_part and local_part.isascii() and a_labels is not None else None


def ascii_domain(domain: str) -> str | None:
    """The domain in A-labels; None when it is none."""
    try:
        return ".".join(_a_label(label, utf8=True) for label in parse_domain(domain, utf8=True).split("."))
    except AddressError:
        return None


def _is_stable(label: str) -> bool:
    """Whether folding changes nothing (RFC 5892 s2.2)."""
    if unicodedata.normalize("NFKC", label) != label:
        return False
    folded = label.translate(_FOLDED_BUT_OWN)
    return unicodedata.normalize("NFKC", folded.casefold()) == unicodedata.normalize("NFKC", folded)


def _vanishes(character: str) -> bool:
    """Whether IDNA 2003 would leave it out (RFC 3454 table B.1), nobody can see it, or it is no character yet."""
    if character in _CONTEXT_JOINERS:
        return False
    ignored = stringprep.in_table_b1(character) or character in _FILLERS
    return ignored or unicodedata.category(character) in _NO_LETTERS


def _parse_literal(text: str) -> str:
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            _ipv6(inner[5:])
        else:
            ipaddress.IPv4Address(inner)
    except ValueError as wrong:
        raise AddressError(f"address literal: {wrong}") from None
    return text.lower()


def _ipv6(text: str) -> None:
    if ipaddress.IPv6Address(text).scope_id is not None:  # an interface of the sender's own machine
        raise ValueError(f"unexpected zone in {text!r}")


def _octets(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any(0xD800 <= ord(c) <= 0xDFFF for c in text)


def domain_of(path: str) -> str:
    """The domain of a path already parsed, in lower case; "" for the null path or a bare local-part."""
    return path.rpartition("@")[2].lower() if "@" in path else ""
