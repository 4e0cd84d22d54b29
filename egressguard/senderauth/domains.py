"""Domains as DNS is asked for them, and who stands behind them (RFC 7489 s3.1, s3.2).

Contract
    Pure but for the packaged public suffix list, which is read once.
    A domain that is itself a public suffix is aligned with nothing but itself.
"""

from __future__ import annotations

from functools import cache

from publicsuffixlist import PublicSuffixList

from egressguard.mail.address import AddressError, parse_domain

NAME_CHARACTERS = 253
"""RFC 1035 s2.3.4: 255 octets on the wire, with a length in front and the root behind."""


def ascii_domain(text: str) -> str | None:
    """The domain in lower case, U-labels as A-labels; None: it is no domain, or an address literal."""
    try:
        domain = parse_domain(text, utf8=True)
    except AddressError:
        return None
    if domain.startswith("["):
        return None
    labels = [label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in domain.split(".")]
    name = ".".join(labels)
    return name if len(name) <= NAME_CHARACTERS else None


def organizational_domain(domain: str) -> str:
    """The domain that its owner registered; a public suffix stands for itself. `domain` as ascii_domain gives it."""
    return _public_suffixes().privatesuffix(domain) or domain


def aligned(domain: str, author: str, *, strict: bool) -> bool:
    """Whether what was authenticated for `domain` speaks for `author` (RFC 7489 s3.1)."""
    if domain == author:
        return True
    return not strict and organizational_domain(domain) == organizational_domain(author)


@cache
def _public_suffixes() -> PublicSuffixList:
    return PublicSuffixList()
