"""Trace fields: who handed us a message (RFC 5321 s4.4), and how many have handled it before."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache

from egressguard.mail.header import find_fields
from egressguard.net.flow import IPAddress, plain_address

_UNSAFE = re.compile(r"[^A-Za-z0-9._:\[\]-]")
NAME_CHARACTERS = 255
RECEIVED_OCTETS = 2000
_FROM_CLAUSE = re.compile(r"\s*from\s+(\S+)(.*?)\sby\s", re.IGNORECASE | re.DOTALL)
_LITERAL = re.compile(r"^\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]", re.IGNORECASE)
_CLAIMED = re.compile(r"\((?:HELO|EHLO)[ =][^)]*\)", re.IGNORECASE)
_SEEN = re.compile(r"[(\[\s](?:IPv6:)?([0-9A-Fa-f]*[.:][0-9A-Fa-f.:]+)[\])]", re.IGNORECASE)
HOP_LIMIT = 1000
"""Counting stops here: nobody allows more hops."""


def received_field(
    *,
    helo: str,
    client: str,
    host: str,
    queue_id: str,
    at: float,
    esmtp: bool = True,
    tls: bool = False,
    authenticated: bool = False,
    smtputf8: bool = False,
    forward_path: str = "",
) -> bytes:
    """A whole Received: field with its CRLF, to be put before the content.

    `helo` and `client` (an IP address) come from outside and cannot break out of their places. `forward_path` is
    given only when the transaction has one recipient: the others must not learn of each other (RFC 5321 s7.2).
    """
    keyword = protocol_keyword(esmtp=esmtp, tls=tls, authenticated=authenticated, smtputf8=smtputf8)
    whom = f"\r\n\tfor <{forward_path}>" if forward_path and _fits_one_line(forward_path) else ""
    text = (
        f"{_hop(helo, client, host)} with {keyword} id {_safe(queue_id) or 'unknown'}{whom};\r\n\t{date_time(at)}\r\n"
    )
    return text.encode("utf-8", "replace")


@lru_cache(256)
def _hop(helo: str, client: str, host: str) -> str:
    """What a Received field says of every message that a client hands over."""
    return f"Received: from {_safe(helo) or 'unknown'} ({_literal(client)})\r\n\tby {_safe(host) or 'unknown'}"


def forwarded_field(*, host: str, queue_id: str, at: float) -> bytes:
    """A Received: field with its CRLF for what we send on ourselves: nobody handed it to us (RFC 5321 s4.4)."""
    by = f"Received: by {_safe(host) or 'unknown'} (forwarded) id {_safe(queue_id) or 'unknown'};"
    return f"{by}\r\n\t{date_time(at)}\r\n".encode("ascii")


def received_from(value: bytes) -> tuple[str, IPAddress] | None:
    """(the name it gave, the address) of who sent, from a Received field's value (RFC 5321 s4.4); None: not said.

    The address is what the server saw, in parentheses; one behind "from" counts only where nothing else stands there.
    """
    clause = _FROM_CLAUSE.match(value[:RECEIVED_OCTETS].decode("utf-8", "replace"))
    if clause is None:
        return None
    for address in (*_SEEN.findall(_CLAIMED.sub("", clause[2])), *_LITERAL.findall(clause[1])):
        try:
            return clause[1], plain_address(address)
        except ValueError:
            continue
    return None


def protocol_keyword(*, esmtp: bool, tls: bool, authenticated: bool, smtputf8: bool = False) -> str:
    """The `with` keyword: RFC 3848, and RFC 6531 s4.3 for SMTPUTF8."""
    if not esmtp:
        return "SMTP"
    base = "UTF8SMTP" if smtputf8 else "ESMTP"
    return base + ("S" if tls else "") + ("A" if authenticated else "")


def count_hops(header_section: bytes) -> int:
    """How many Received fields there are (RFC 5321 s6.3), at most HOP_LIMIT."""
    return len(find_fields(header_section, "Received", limit=HOP_LIMIT))


def date_time(at: float) -> str:
    """RFC 5322 date-time in UTC."""
    return _date_time(int(at))


@lru_cache(16)
def _date_time(at: int) -> str:
    return format_datetime(datetime.fromtimestamp(at, UTC))


def _safe(text: str) -> str:
    """What may stand where a domain stands; anything else becomes "?", so that nobody forges a field."""
    return _UNSAFE.sub("?", text[:NAME_CHARACTERS])


def _literal(client: str) -> str:
    address = _safe(client.strip("[]")) or "unknown"
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _fits_one_line(path: str) -> bool:
    return path.isprintable() and "<" not in path and ">" not in path and len(path) <= 320
