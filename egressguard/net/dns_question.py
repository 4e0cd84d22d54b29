"""What a DNS question asks, from the octets of its UDP payload."""

from __future__ import annotations

import dns.exception
import dns.message
import dns.rdatatype

NAME_CHARACTERS = 255
_RESPONSE = 0x80


def mx_names(payload: bytes) -> tuple[str, ...]:
    """The names whose mail servers are asked for (RFC 1035 s4.1.2, QTYPE 15); () for all else, never an exception."""
    if len(payload) < 12 or payload[2] & _RESPONSE:
        return ()
    try:
        asked = dns.message.from_wire(payload, question_only=True, ignore_trailing=True).question
    except (dns.exception.DNSException, ValueError):
        return ()
    names = (entry.name.to_text(omit_final_dot=True) for entry in asked if entry.rdtype == dns.rdatatype.MX)
    return tuple(name[:NAME_CHARACTERS] for name in names)
