"""What is put in front of a message that we take: Received, and what a submitted one left out. Pure.

Contract
    Nothing of the message itself is changed. Date and Message-ID are added where people submit mail and left them
    out (RFC 6409 s8); a relayed message gets neither, and a signed one may say by its signature that there is none.
"""

from __future__ import annotations

from egressguard.mail.envelope import Envelope
from egressguard.mail.header import find_fields
from egressguard.mail.trace import date_time, received_field
from egressguard.smtp.hooks import SessionFacts
from egressguard.values import value


@value(frozen=True, slots=True)
class Stamp:
    """Who took the message, under which id, when (seconds since the epoch)."""

    hostname: str
    queue_id: str
    at: float

    def in_front(self, session: SessionFacts, envelope: Envelope, header_section: bytes) -> bytes:
        """The fields to put before the message that has `header_section`, each with its CRLF."""
        received = self._received(session, envelope)
        return received if session.kind == "smtp" else received + self._missing(header_section)

    def _received(self, session: SessionFacts, envelope: Envelope) -> bytes:
        paths = envelope.forward_paths
        return received_field(
            helo=session.helo,
            client=session.client_text,
            host=self.hostname,
            queue_id=self.queue_id,
            at=self.at,
            esmtp=session.esmtp,
            tls=session.tls,
            authenticated=session.user is not None,
            smtputf8=envelope.smtputf8,
            forward_path=paths[0] if len(paths) == 1 else "",
        )

    def _missing(self, header_section: bytes) -> bytes:
        added = b""
        if not find_fields(header_section, "Date", limit=1):
            added += f"Date: {date_time(self.at)}\r\n".encode()
        if not find_fields(header_section, "Message-ID", limit=1):
            added += f"Message-ID: <{self.queue_id}@{self.hostname}>\r\n".encode()
        return b"" if added and _is_signed(header_section) else added


def _is_signed(header_section: bytes) -> bool:
    return any(find_fields(header_section, name, limit=1) for name in ("DKIM-Signature", "ARC-Message-Signature"))
