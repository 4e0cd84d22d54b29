"""The text of a delivery status notification (RFC 3464): multipart/report, action failed. Pure.

Contract
    What this makes goes out with the null reverse-path, and never about a null reverse-path (relay.notify).
    Octets of strangers (replies, addresses, the original's header section) stay in their places: no reply can add
    a field, no header section can end a part. Parts are 7-bit unless the reverse-path itself is not ASCII.
    The original's header section comes back (text/rfc822-headers, RFC 6522), its size bounded; the body does not.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egressguard.mail.header import split_header_section
from egressguard.mail.outcome import Outcome
from egressguard.mail.trace import date_time

RETURNED_OCTETS = 32 * 1024
LINE_OCTETS = 998  # RFC 5322 s2.1.1
WORDS_CHARACTERS = 400
"""Of what a peer said: more is of no use to anybody."""
_FAILED_STATUS = re.compile(r"[45]\.\d{1,3}\.\d{1,3}")
_NOT_XTEXT = re.compile(r"[^\x21-\x7e]|\\")


@dataclass(frozen=True, slots=True)
class Failure:
    """What a DSN tells. Times are seconds since the epoch; `boundary` must occur nowhere in `original`."""

    reporting_mta: str
    queue_id: str
    reverse_path: str
    outcomes: Mapping[str, Outcome]
    original: bytes
    arrived_at: float
    at: float
    boundary: str
    given_up: frozenset[str] = frozenset()


def render_failure(failure: Failure) -> bytes:
    """The whole message with CRLF line ends. Raises ValueError when the boundary is not one."""
    boundary = failure.boundary.encode("ascii")
    section = _bounded(split_header_section(failure.original)[0])
    if boundary in section:
        raise ValueError("the boundary occurs in the message")
    parts = (_for_people(failure), _for_machines(failure), _returned(section))
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return _header(failure) + b"\r\n" + body + b"--" + boundary + b"--\r\n"


def _header(failure: Failure) -> bytes:
    mta = _words(failure.reporting_mta)
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{mta}>",
        f"To: <{_words(failure.reverse_path)}>",
        "Subject: Your message could not be delivered",
        f"Date: {date_time(failure.at)}",
        f"Message-ID: <{failure.boundary.strip('=_')}@{mta}>",
        "Auto-Submitted: auto-replied",  # RFC 3834 s5
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="' + failure.boundary + '"',
    ]
    return b"".join(line.encode("utf-8", "replace") + b"\r\n" for line in lines)


def _for_people(failure: Failure) -> bytes:
    lines = [
        f"This is the mail gateway {_words(failure.reporting_mta)}.",
        "",
        "Your message could not be delivered to the recipients below. Nothing more will be",
        f"tried. When you ask your postmaster about it, name this id: {failure.queue_id}",
    ]
    for path, outcome in failure.outcomes.items():
        lines += ["", f"<{_words(path)}>"]
        if path in failure.given_up:
            lines.append("    was tried again and again, and given up. The last answer was:")
        said = f"{_words(outcome.said_by)} said: " if outcome.said_by else ""
        lines.append(f"    {said}{outcome.status} {_words(outcome.text)}")
    return _quoted_printable("text/plain; charset=utf-8", [line.encode("utf-8", "replace") for line in lines])


def _for_machines(failure: Failure) -> bytes:
    lines = [
        "Content-Type: message/delivery-status",
        "",
        f"Reporting-MTA: dns; {_ascii(failure.reporting_mta)}",
        f"X-EgressGuard-Queue-ID: {failure.queue_id}",
        f"Arrival-Date: {date_time(failure.arrived_at)}",
    ]
    for path, outcome in failure.outcomes.items():
        lines += ["", *_recipient_fields(path, outcome, failure.at)]
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _recipient_fields(path: str, outcome: Outcome, at: float) -> Iterable[str]:
    yield f"Final-Recipient: {_typed_address(path)}"
    yield "Action: failed"
    # Class 5, or class 4 when we gave up on something that might have passed (RFC 3464 s2.3.4).
    yield f"Status: {outcome.status if _FAILED_STATUS.fullmatch(outcome.status) else '5.0.0'}"
    if outcome.said_by:
        yield f"Remote-MTA: dns; {_ascii(outcome.said_by)}"
    if outcome.reply is not None:
        yield f"Diagnostic-Code: smtp; {_ascii(str(outcome.reply))}"
    yield f"Last-Attempt-Date: {date_time(at)}"


def _typed_address(path: str) -> str:
    """RFC 3464 s2.3.2; an address that is not ASCII in the 7-bit form of RFC 6533 s3."""
    if path.isascii():
        return f"rfc822; {_ascii(path)}"
    return "utf-8; " + _NOT_XTEXT.sub(lambda found: f"\\x{{{ord(found[0]):X}}}", path)


def _returned(section: bytes) -> bytes:
    return _quoted_printable("text/rfc822-headers; charset=utf-8", section.removesuffix(b"\r\n").split(b"\r\n"))


def _bounded(section: bytes) -> bytes:
    if len(section) <= RETURNED_OCTETS:
        return section
    return section[: section.rfind(b"\n", 0, RETURNED_OCTETS) + 1] or section[:RETURNED_OCTETS]


def _quoted_printable(media_type: str, lines: list[bytes]) -> bytes:
    """The lines as a part: as they are if they can be, else quoted-printable (RFC 2045 s6.7)."""
    plain = all(line.isascii() and len(line) <= LINE_OCTETS and not re.search(rb"[\x00\r\n]", line) for line in lines)
    encoding = b"7bit" if plain else b"quoted-printable"
    encoded = lines if plain else [_quoted_line(line) for line in lines]
    head = b"Content-Type: " + media_type.encode() + b"\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n"
    return head + b"\r\n".join(encoded) + b"\r\n"


def _quoted_line(line: bytes) -> bytes:
    return binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n")


def _words(text: str) -> str:
    """One line of visible characters, whatever it was."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:WORDS_CHARACTERS]


def _ascii(text: str) -> str:
    return _words(text).encode("ascii", "replace").decode("ascii")
