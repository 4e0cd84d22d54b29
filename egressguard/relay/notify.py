"""Tell the sender what could not be delivered: a DSN as a new message for the same spool transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from egressguard.mail.dsn import Failure, render_failure
from egressguard.mail.envelope import NULL_REVERSE_PATH, Envelope
from egressguard.mail.outcome import Outcome
from egressguard.store.content import Content
from egressguard.store.interface import Claim, NewMessage


def failure_notice(
    claim: Claim,
    failed: Mapping[str, Outcome],
    content: bytes,
    *,
    hostname: str,
    now: float,
    notice_id: str,
    given_up: frozenset[str] = frozenset(),
) -> NewMessage | None:
    """The DSN for the recipients that failed for good, or None: nobody to tell (RFC 5321 s4.5.5).

    `notice_id` is the DSN's queue id and must not be guessable: it parts the DSN's pieces too.
    """
    if not failed or claim.reverse_path == NULL_REVERSE_PATH:
        return None
    text = render_failure(
        Failure(
            reporting_mta=hostname,
            queue_id=claim.queue_id,
            reverse_path=claim.reverse_path,
            outcomes=failed,
            original=content,
            arrived_at=claim.received_at,
            at=now,
            boundary=f"=_{notice_id}_{_digest(notice_id, *failed)}",
            given_up=given_up,
        )
    )
    envelope = Envelope(
        NULL_REVERSE_PATH,
        (claim.reverse_path,),
        smtputf8=not claim.reverse_path.isascii(),
        body_8bit=not text.isascii(),
    )
    # One notice per message and set of recipients, whatever crashes in between.
    source_id = f"dsn:{claim.queue_id}:{_digest(*sorted(failed))}"
    return NewMessage(notice_id, envelope, Content.of(text), now, rule="dsn", source_id=source_id)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
