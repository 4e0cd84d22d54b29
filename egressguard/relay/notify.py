"""Tell the sender what could not be delivered: a DSN as a new message for the same spool transaction."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate

from egressguard.mail.dsn import Failure, render_failure
from egressguard.mail.envelope import NULL_REVERSE_PATH, Envelope
from egressguard.mail.outcome import Outcome
from egressguard.store.interface import Claim, NewMessage


def failure_notice(
    claim: Claim,
    failed: Mapping[str, Outcome],
    original: bytes,
    *,
    hostname: str,
    now: float,
    dsn_queue_id: str,
    given_up: bool,
) -> NewMessage | None:
    """The DSN for the recipients that failed for good, or None: nobody to tell (RFC 5321 s4.5.5)."""
    if not failed or claim.reverse_path == NULL_REVERSE_PATH:
        return None
    failure = Failure(
        reporting_mta=hostname,
        queue_id=claim.queue_id,
        reverse_path=claim.reverse_path,
        outcomes=failed,
        original=original,
        arrival_date=formatdate(claim.received_at),
        date=formatdate(now),
        boundary=f"=_{dsn_queue_id}",
        given_up=given_up,
    )
    content = render_failure(failure)
    utf8 = not claim.reverse_path.isascii()
    return NewMessage(
        queue_id=dsn_queue_id,
        envelope=Envelope(NULL_REVERSE_PATH, (claim.reverse_path,), smtputf8=utf8, body_8bit=not content.isascii()),
        content=content,
        received_at=now,
        rule="dsn",
        # One notice per message and set of recipients, whatever crashes in between.
        source_id=f"dsn:{claim.queue_id}:{','.join(sorted(failed))}",
    )
