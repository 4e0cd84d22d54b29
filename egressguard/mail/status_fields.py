"""The fields of a DSN's machine-readable part (RFC 3464 s2.2, s2.3; RFC 6533 s3, s4): each as one line. Pure.

Contract
    Whatever strangers wrote (replies, addresses, ENVID, ORCPT) is one line of visible characters: it adds no field.
    Lines are ASCII unless the reverse-path is not: then they may be UTF-8, for a reader that asked for it.
    What a client named itself comes back as it was meant, or, if that cannot be shown, as it was written.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from egressguard.mail.address import ascii_domain
from egressguard.mail.outcome import Outcome
from egressguard.mail.report import Action, Report, visible, visible_ascii
from egressguard.mail.trace import date_time
from egressguard.mail.xtext import XtextError, decode_utf8_text, decode_xtext, encode_unitext, encode_utf8_xtext

FIELD_OCTETS = 900
"""Of an address or a name; a line has 998 (RFC 5322 s2.1.1)."""

# The classes of RFC 3463 that an action can have, and what is said when the status is of another. Class 4 fails when
# we gave up on something that might have passed (RFC 3464 s2.3.4).
_STATUSES = {
    Action.FAILED: ("45", "5.0.0"),
    Action.DELAYED: ("4", "4.0.0"),
    Action.DELIVERED: ("2", "2.0.0"),
    Action.RELAYED: ("2", "2.0.0"),
    Action.EXPANDED: ("2", "2.0.0"),
}
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]{1,60}")


def message_fields(report: Report) -> Iterator[str]:
    if report.envid is not None and (envid := _meaning(report.envid)):
        yield f"Original-Envelope-Id: {envid}"
    yield f"Reporting-MTA: dns; {visible_ascii(report.reporting_mta)}"
    if literal := _address_literal(report.client):
        yield f"Received-From-MTA: dns; {literal}"
    yield f"Arrival-Date: {date_time(report.arrived_at)}"


def recipient_fields(report: Report, path: str, outcome: Outcome) -> Iterator[str]:
    if (original := _original_recipient(report.orcpts.get(path, ""), utf8=report.is_utf8)) is not None:
        yield f"Original-Recipient: {original}"
    yield f"Final-Recipient: {_typed_address(path, utf8=report.is_utf8)}"
    yield f"Action: {report.action.value}"
    yield f"Status: {_status(report.action, outcome.status)}"
    if outcome.said_by:
        yield f"Remote-MTA: dns; {ascii_domain(outcome.said_by) or visible_ascii(outcome.said_by)}"
    if report.action in {Action.FAILED, Action.DELAYED}:
        yield f"Diagnostic-Code: {_diagnostic(outcome, utf8=report.is_utf8)}"
    yield f"Last-Attempt-Date: {date_time(report.at)}"
    yield f"Final-Log-ID: {report.queue_id}"
    if report.action is Action.DELAYED:
        yield f"Will-Retry-Until: {date_time(report.retry_until)}"


def _address_literal(client: str) -> str:
    """Who gave us the message; nothing of programs of our own."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return ""
    if address.is_loopback:
        return ""
    return f"[IPv6:{address.compressed.partition('%')[0]}]" if address.version == 6 else f"[{address}]"


def _diagnostic(outcome: Outcome, *, utf8: bool) -> str:
    """A host's reply as it said it, or our own words, which are of a type of our own (RFC 3464 s2.1.1)."""
    kind, words = ("X-EgressGuard", outcome.text) if outcome.reply is None else ("smtp", str(outcome.reply))
    shown = visible(words) if utf8 and len(visible(words).encode()) <= FIELD_OCTETS else visible_ascii(words)
    return f"{kind}; {shown or 'no words'}"


def _status(action: Action, status: str) -> str:
    classes, default = _STATUSES[action]
    return status if _STATUS.fullmatch(status) and status[0] in classes else default


def _typed_address(path: str, *, utf8: bool) -> str:
    """RFC 3464 s2.3.2; an address that is not ASCII as RFC 6533 s3 has it."""
    if path.isascii():
        return f"rfc822; {visible_ascii(path)}"
    address = _encoded_address(path, utf8=utf8)
    if len(address.encode()) > FIELD_OCTETS:  # a domain of many characters is shorter in A-labels
        local_part, _, domain = path.rpartition("@")
        address = _encoded_address(f"{local_part}@{ascii_domain(domain) or domain}", utf8=utf8)
    return f"utf-8; {address[:FIELD_OCTETS]}"


def _original_recipient(orcpt: str, *, utf8: bool) -> str | None:
    """The field's value for ORCPT's, which is "type;xtext"; None when it is not of that form."""
    address_type, semicolon, text = orcpt.partition(";")
    if not semicolon or not _ADDRESS_TYPE.fullmatch(address_type):
        return None
    try:
        if address_type.lower() == "utf-8":
            address = _encoded_address(decode_utf8_text(text, utf8=True), utf8=utf8)
        elif _is_utf8_only(octets := decode_xtext(text)):  # should have said utf-8, and means it
            address_type, address = "utf-8", _encoded_address(octets.decode("utf-8"), utf8=utf8)
        else:
            address = _meaning(text)
    except XtextError:
        return None
    return f"{address_type}; {address}" if address and len(address.encode()) <= FIELD_OCTETS else None


def _is_utf8_only(octets: bytes) -> bool:
    if octets.isascii():
        return False
    try:
        return octets.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


def _encoded_address(address: str, *, utf8: bool) -> str:
    shown = visible(address) or "?"
    return encode_unitext(shown) if utf8 else encode_utf8_xtext(shown)


def _meaning(xtext: str) -> str:
    """What the xtext stands for if that is visible ASCII (RFC 3461 s6.3), else itself; "" when it is no xtext."""
    try:
        meant = decode_xtext(xtext)
    except XtextError:
        return ""
    fit = meant.isascii() and meant.decode("ascii").isprintable()
    return (meant.decode("ascii").strip() if fit else xtext)[:FIELD_OCTETS]
