"""The text of a delivery status notification (RFC 3464, RFC 3461 s6, RFC 6533): multipart/report. Pure.

Contract
    What this makes goes out with the null reverse-path, and never about a null reverse-path (relay.notify).
    Octets of strangers (replies, addresses, ENVID, ORCPT, the original) stay in their places: no reply can add a
    field, nothing of the original can end a part.
    Fields are ASCII unless the reverse-path itself is not: then they are UTF-8, for a reader that asked for it.
    Of the original its header section comes back, its size bounded; all of it where the caller says so and the
    message can stand in a part as it is.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from egressguard.mail.header import split_header_section
from egressguard.mail.outcome import Outcome
from egressguard.mail.trace import date_time
from egressguard.mail.transfer_encoding import LINE_OCTETS, quoted_line
from egressguard.mail.xtext import XtextError, decode_utf8_text, decode_xtext, encode_unitext, encode_utf8_xtext

RETURNED_OCTETS = 32 * 1024
"""Of a header section that comes back alone."""
WORDS_CHARACTERS = 400
"""Of what a peer said: more is of no use to anybody."""
XTEXT_CHARACTERS = 500
_UNFIT = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n|[^\r\n]{%d}" % (LINE_OCTETS + 1))
"""What no part has that is not encoded: NUL, bare CR or LF, endless lines."""


class Action(enum.Enum):
    """RFC 3464 s2.3.3. RELAYED: to a host that will not tell what became of it."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"


_SUBJECTS = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.DELIVERED: "Your message was delivered",
    Action.RELAYED: "Your message was passed on",
}
# The classes of RFC 3463 that an action can have, and what is said when the status is of another. Class 4 fails when
# we gave up on something that might have passed (RFC 3464 s2.3.4).
_STATUSES = {
    Action.FAILED: ("45", "5.0.0"),
    Action.DELAYED: ("4", "4.0.0"),
    Action.DELIVERED: ("2", "2.0.0"),
    Action.RELAYED: ("2", "2.0.0"),
}
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


@dataclass(frozen=True, slots=True)
class Report:
    """What a DSN tells. Times are seconds since the epoch; `boundary` must occur nowhere in `original`.

    `envid` and the `orcpts` of forward-paths are as in mail.envelope. `retry_until` counts for DELAYED only.
    `original` is the message or its beginning; `returns_whole`: it is all of it, and all of it comes back.
    `smtputf8`: the original's header section is UTF-8.
    """

    action: Action
    reporting_mta: str
    queue_id: str
    reverse_path: str
    outcomes: Mapping[str, Outcome]
    original: bytes
    arrived_at: float
    at: float
    boundary: str
    given_up: frozenset[str] = frozenset()
    retry_until: float = 0.0
    envid: str | None = None
    orcpts: Mapping[str, str] = field(default_factory=dict)
    returns_whole: bool = False
    smtputf8: bool = False

    @property
    def is_utf8(self) -> bool:
        """Whether fields may be UTF-8: it travels as SMTPUTF8 anyway."""
        return not self.reverse_path.isascii()


def render_report(report: Report) -> bytes:
    """The whole message with CRLF line ends. Raises ValueError when the boundary is not one."""
    boundary = report.boundary.encode("ascii")
    if boundary in report.original:
        raise ValueError("the boundary occurs in the message")
    parts = (_for_people(report), _for_machines(report), _returned(report))
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    return _header(report, is_8bit=not body.isascii()) + b"\r\n" + body


def _header(report: Report, *, is_8bit: bool) -> bytes:
    mta = _words(report.reporting_mta)
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{mta}>",
        f"To: <{_words(report.reverse_path)}>",
        f"Subject: {_SUBJECTS[report.action]}",
        f"Date: {date_time(report.at)}",
        f"Message-ID: <{report.boundary.strip('=_')}@{mta}>",
        "Auto-Submitted: auto-replied",  # RFC 3834 s5
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="' + report.boundary + '"',
    ]
    lines += ["Content-Transfer-Encoding: 8bit"] if is_8bit else []
    return b"".join(line.encode("utf-8", "replace") + b"\r\n" for line in lines)


# The part for people.


def _for_people(report: Report) -> bytes:
    lines = [f"This is the mail gateway {_words(report.reporting_mta)}.", "", *_opening(report)]
    for path, outcome in report.outcomes.items():
        lines += ["", f"<{_words(path)}>"]
        if path in report.given_up:
            lines.append("    was tried again and again, and given up. The last answer was:")
        said = f"{_words(outcome.said_by)} said: " if outcome.said_by else ""
        lines.append(f"    {said}{outcome.status} {_words(outcome.text)}")
    return _text_part("text/plain; charset=utf-8", [line.encode("utf-8", "replace") for line in lines])


def _opening(report: Report) -> list[str]:
    match report.action:
        case Action.FAILED:
            return [
                "Your message could not be delivered to the recipients below. Nothing more will be",
                f"tried. When you ask your postmaster about it, name this id: {report.queue_id}",
            ]
        case Action.DELAYED:
            return [
                "Your message could not be delivered to the recipients below yet. You need not send",
                f"it again: it will be tried until {date_time(report.retry_until)}.",
            ]
        case Action.DELIVERED:
            return ["Your message was delivered to the recipients below, as you asked to be told."]
        case Action.RELAYED:
            return [
                "Your message was passed on for the recipients below. You asked to be told when it is",
                "delivered; the next mail host does not tell of that, so this is the last you hear.",
            ]


# The part for machines.


def _for_machines(report: Report) -> bytes:
    kind = "message/global-delivery-status" if report.is_utf8 else "message/delivery-status"
    fields = [*_message_fields(report), ""]
    for path, outcome in report.outcomes.items():
        fields += [*_recipient_fields(report, path, outcome), ""]
    text = "".join(f"{line}\r\n" for line in fields[:-1])
    octets = text.encode("utf-8" if report.is_utf8 else "ascii")
    encoding = "" if octets.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    return f"Content-Type: {kind}\r\n{encoding}\r\n".encode("ascii") + octets


def _message_fields(report: Report) -> Iterator[str]:
    if report.envid is not None and (envid := _meaning(report.envid)):
        yield f"Original-Envelope-Id: {envid}"
    yield f"Reporting-MTA: dns; {_ascii(report.reporting_mta)}"
    yield f"X-EgressGuard-Queue-ID: {report.queue_id}"
    yield f"Arrival-Date: {date_time(report.arrived_at)}"


def _recipient_fields(report: Report, path: str, outcome: Outcome) -> Iterable[str]:
    if (original := _original_recipient(report.orcpts.get(path, ""), utf8=report.is_utf8)) is not None:
        yield f"Original-Recipient: {original}"
    yield f"Final-Recipient: {_typed_address(path, utf8=report.is_utf8)}"
    yield f"Action: {report.action.value}"
    yield f"Status: {_status(report.action, outcome.status)}"
    if outcome.said_by:
        yield f"Remote-MTA: dns; {_ascii(outcome.said_by)}"
    if outcome.reply is not None and report.action in {Action.FAILED, Action.DELAYED}:
        yield f"Diagnostic-Code: smtp; {_ascii(str(outcome.reply))}"
    yield f"Last-Attempt-Date: {date_time(report.at)}"
    if report.action is Action.DELAYED:
        yield f"Will-Retry-Until: {date_time(report.retry_until)}"


def _status(action: Action, status: str) -> str:
    classes, default = _STATUSES[action]
    return status if _STATUS.fullmatch(status) and status[0] in classes else default


def _typed_address(path: str, *, utf8: bool) -> str:
    """RFC 3464 s2.3.2; an address that is not ASCII as RFC 6533 s3 has it."""
    return f"rfc822; {_ascii(path)}" if path.isascii() else "utf-8; " + _encoded_address(path, utf8=utf8)


def _original_recipient(orcpt: str, *, utf8: bool) -> str | None:
    """The field's value for ORCPT's, which is "type;xtext"; None when it is not of that form."""
    address_type, semicolon, text = orcpt.partition(";")
    if not semicolon or not _ascii(address_type):
        return None
    if address_type.lower() != "utf-8":
        address = _meaning(text)
        return f"{_ascii(address_type)}; {address}" if address else None
    try:
        return "utf-8; " + _encoded_address(decode_utf8_text(text, utf8=True), utf8=utf8)
    except XtextError:
        return None


def _encoded_address(address: str, *, utf8: bool) -> str:
    visible = _words(address) or "?"
    return encode_unitext(visible) if utf8 else encode_utf8_xtext(visible)


def _meaning(xtext: str) -> str:
    """What the xtext stands for, as far as that is visible ASCII; "" when it is no xtext (RFC 3461 s6.3)."""
    try:
        meant = decode_xtext(xtext).decode("latin-1")[:XTEXT_CHARACTERS]
    except XtextError:
        return ""
    return "".join(c if " " <= c <= "~" else "?" for c in meant).strip()


# The original.


def _returned(report: Report) -> bytes:
    section, _ = split_header_section(report.original)
    if report.returns_whole and not _UNFIT.search(report.original):
        return _whole_part(report, section)
    section = _bounded(section)
    kind = "text/rfc822-headers; charset=utf-8"  # RFC 6522 s4
    if report.smtputf8 and not section.isascii() and _is_utf8(section):
        kind = "message/global-headers"  # RFC 6533 s5: in quoted-printable it goes anywhere
    return _text_part(kind, section.removesuffix(b"\r\n").split(b"\r\n"))


def _whole_part(report: Report, section: bytes) -> bytes:
    """The message octet for octet. What is in UTF-8 from its header section on may be encoded (RFC 6532 s3.7)."""
    if report.smtputf8 and not section.isascii():
        encoded = base64.encodebytes(report.original).replace(b"\n", b"\r\n")
        return b"Content-Type: message/global\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encoded
    encoding = b"7bit" if report.original.isascii() else b"8bit"
    return b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n" + report.original


def _bounded(section: bytes) -> bytes:
    if len(section) <= RETURNED_OCTETS:
        return section
    return section[: section.rfind(b"\n", 0, RETURNED_OCTETS) + 1] or section[:RETURNED_OCTETS]


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _text_part(media_type: str, lines: list[bytes]) -> bytes:
    """The lines as a part: as they are if they can be, else quoted-printable (RFC 2045 s6.7)."""
    plain = all(line.isascii() and len(line) <= LINE_OCTETS and not re.search(rb"[\x00\r\n]", line) for line in lines)
    encoding = b"7bit" if plain else b"quoted-printable"
    encoded = lines if plain else [quoted_line(line) for line in lines]
    head = b"Content-Type: " + media_type.encode() + b"\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n"
    return head + b"\r\n".join(encoded) + b"\r\n"


def _words(text: str) -> str:
    """One line of visible characters, whatever it was."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:WORDS_CHARACTERS]


def _ascii(text: str) -> str:
    return _words(text).encode("ascii", "replace").decode("ascii")
