"""The text of a delivery status notification (RFC 3464): multipart/report, action failed. Pure.

Contract
    The reverse-path of what this makes is null, and it is never made about a null reverse-path.
    The original's header section is returned (text/rfc822-headers, RFC 6522), its octets bounded, 8-bit safe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from egressguard.mail.header import header_section
from egressguard.mail.outcome import Outcome

RETURNED_OCTETS = 32 * 1024
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


@dataclass(frozen=True, slots=True)
class Failure:
    """What a DSN tells: dates as RFC 5322 s3.3, `boundary` a string that occurs in no part."""

    reporting_mta: str
    queue_id: str
    reverse_path: str
    outcomes: Mapping[str, Outcome]
    original: bytes
    arrival_date: str
    date: str
    boundary: str
    given_up: bool = False


def render_failure(failure: Failure) -> bytes:
    """The whole message with CRLF line ends."""
    boundary = failure.boundary.encode()
    parts = [_for_people(failure), _for_machines(failure), _returned(failure)]
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return _header(failure) + b"\r\n" + body + b"--" + boundary + b"--\r\n"


def _header(failure: Failure) -> bytes:
    mta = failure.reporting_mta
    lines = [
        f"From: Mail Delivery System <mailer-daemon@{mta}>",
        f"To: <{failure.reverse_path}>",
        "Subject: Undelivered Mail Returned to Sender",
        f"Date: {failure.date}",
        f"Message-ID: <{failure.queue_id}.{failure.boundary}@{mta}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{failure.boundary}"',
    ]
    return _crlf(lines)


def _for_people(failure: Failure) -> bytes:
    why = "It was tried for a long time and could not be delivered" if failure.given_up else "It was refused"
    lines = ["Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit", ""]
    lines += [f"This is the mail gateway {failure.reporting_mta}.", ""]
    lines += [f"Your message could not be delivered to one or more recipients. {why};", "nothing more will be tried."]
    for path, outcome in failure.outcomes.items():
        said = f" {outcome.said_by} said:" if outcome.said_by else ""
        lines += ["", f"<{path}>:{said} {outcome.status} {_one_line(outcome.text)}"]
    return _crlf([*lines, ""])


def _for_machines(failure: Failure) -> bytes:
    lines = ["Content-Type: message/delivery-status", ""]
    lines += [f"Reporting-MTA: dns; {failure.reporting_mta}", f"X-Queue-ID: {failure.queue_id}"]
    lines += [f"Arrival-Date: {failure.arrival_date}", ""]
    for path, outcome in failure.outcomes.items():
        lines += [f"Final-Recipient: rfc822; {path}", "Action: failed"]
        lines.append(f"Status: {_failed_status(outcome.status)}")
        if outcome.said_by:
            lines.append(f"Remote-MTA: dns; {outcome.said_by}")
        if outcome.reply is not None:
            lines.append(f"Diagnostic-Code: smtp; {_one_line(str(outcome.reply))}")
        lines.append("")
    return _crlf(lines)


def _returned(failure: Failure) -> bytes:
    section = header_section(failure.original)
    if len(section) > RETURNED_OCTETS:
        section = section[: section.rfind(b"\n", 0, RETURNED_OCTETS) + 1]
    section = section.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return _crlf(["Content-Type: text/rfc822-headers", "Content-Transfer-Encoding: 8bit", ""]) + section


def _failed_status(status: str) -> str:
    """A failed recipient's status is of class 5, or of class 4 when we gave up (RFC 3464 s2.3.4)."""
    return status if _STATUS.fullmatch(status) and status[0] != "2" else "5.0.0"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:800]


def _crlf(lines: list[str]) -> bytes:
    return b"".join(line.encode("utf-8", "replace") + b"\r\n" for line in lines)
