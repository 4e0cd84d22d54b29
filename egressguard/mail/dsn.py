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
import re
import textwrap

from egressguard.mail.advice import advice
from egressguard.mail.header import find_fields, split_header_section
from egressguard.mail.report import Action, Report, visible
from egressguard.mail.status_fields import message_fields, recipient_fields
from egressguard.mail.trace import date_time
from egressguard.mail.transfer_encoding import LINE_OCTETS, quoted_line

RETURNED_OCTETS = 32 * 1024
"""Of a header section that comes back alone."""
PEOPLE_CHARACTERS = 75  # of a line for people: quoted-printable need not break it
_UNFIT = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n|[^\r\n]{%d}" % (LINE_OCTETS + 1))
"""What no part has that is not encoded: NUL, bare CR or LF, endless lines."""
_MESSAGE_ID = re.compile(rb"<[!-;=?-~]{1,250}>")
_SUBJECTS = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.DELIVERED: "Your message was delivered",
    Action.RELAYED: "Your message was passed on",
    Action.EXPANDED: "Your message was passed on to several recipients",
}


def render_report(report: Report) -> bytes:
    """The whole message with CRLF line ends. Raises ValueError when the boundary is not one."""
    boundary = report.boundary.encode("ascii")
    if boundary in report.original:
        raise ValueError("the boundary occurs in the message")
    parts = (_for_people(report), _for_machines(report), _returned(report))
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    return _header(report, is_8bit=not body.isascii()) + b"\r\n" + body


def _header(report: Report, *, is_8bit: bool) -> bytes:
    mta = visible(report.reporting_mta)
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{mta}>",
        f"To: <{visible(report.reverse_path)}>",
        f"Subject: {_SUBJECTS[report.action]}",
        f"Date: {date_time(report.at)}",
        f"Message-ID: <{report.boundary.strip('=_')}@{mta}>",
        *_thread(report),
        "Auto-Submitted: auto-replied",  # RFC 3834 s5
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="' + report.boundary + '"',
    ]
    lines += ["Content-Transfer-Encoding: 8bit"] if is_8bit else []
    return b"".join(line.encode("utf-8", "replace") + b"\r\n" for line in lines)


def _thread(report: Report) -> list[str]:
    """Where the answer belongs (RFC 3834 s3.1.5): to the message that it is about, if that has a name of its own."""
    section, _ = split_header_section(report.original)
    found = [value.strip() for value in find_fields(section, "Message-ID", limit=2)]
    if len(found) != 1 or not _MESSAGE_ID.fullmatch(found[0]):
        return []
    name = found[0].decode("ascii")
    return [f"In-Reply-To: {name}", f"References: {name}"]


# The part for people.


def _for_people(report: Report) -> bytes:
    lines = [f"This is the mail gateway {visible(report.reporting_mta)}.", "", *_opening(report)]
    for path, outcome in report.outcomes.items():
        lines += ["", f"<{visible(path)}>"]
        if path in report.given_up:
            lines.append("    was tried again and again, and given up. The last answer was:")
        said = f"{visible(outcome.said_by)} said: " if outcome.said_by else ""
        lines.append(f"    {said}{outcome.status} {visible(outcome.text)}")
        lines += _what_to_do(outcome.status) if report.action is Action.FAILED else []
    return _text_part("text/plain; charset=utf-8", [line.encode("utf-8", "replace") for line in lines])


def _what_to_do(status: str) -> list[str]:
    words = f"What to do: {advice(status)}"
    return textwrap.wrap(words, PEOPLE_CHARACTERS, initial_indent="    ", subsequent_indent="    ")


def _opening(report: Report) -> list[str]:
    match report.action:
        case Action.FAILED:
            return [
                "Your message could not be delivered to the recipients below. Nothing more",
                f"will be tried. Your postmaster finds it by this id: {report.queue_id}",
            ]
        case Action.DELAYED:
            return [
                "Your message could not be delivered to the recipients below yet. You need",
                f"not send it again: it is tried until {date_time(report.retry_until)}.",
            ]
        case Action.DELIVERED:
            return ["Your message was delivered to the recipients below: you asked to be told."]
        case Action.RELAYED:
            return [
                "Your message was passed on for the recipients below. You asked to be told",
                "when it is delivered; the next mail host does not tell of that, so this is",
                "the last you hear.",
            ]
        case Action.EXPANDED:
            return [
                "Your message was passed on to all who receive mail of the addresses below.",
                "Nothing more will be told of them.",
            ]


# The part for machines.


def _for_machines(report: Report) -> bytes:
    kind = "message/global-delivery-status" if report.is_utf8 else "message/delivery-status"
    fields = [*message_fields(report), ""]
    for path, outcome in report.outcomes.items():
        fields += [*recipient_fields(report, path, outcome), ""]
    text = "".join(f"{line}\r\n" for line in fields[:-1])
    octets = text.encode("utf-8" if report.is_utf8 else "ascii")
    encoding = "" if octets.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    return f"Content-Type: {kind}\r\n{encoding}\r\n".encode("ascii") + octets


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
