"""Tell the sender what became of a message: a DSN as a new message for the same spool transaction (RFC 3461 s5, s6).

Contract
    Never about a null reverse-path. A notice names only recipients that want it; who did not ask hears of failures.
    One notice per message, kind and set of recipients, whatever crashes in between: its source id says so.
    Success is told of where nobody else will: of mailboxes here or behind LMTP, and of hosts that do not offer DSN.
    A delay is told of once, at the first deferral after DELAY_SECONDS.
    A message that asked for REQUIRETLS has notices that do, and that bring its header section only (RFC 8689 s5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace

from egressguard.mail.dsn import render_report
from egressguard.mail.envelope import NULL_REVERSE_PATH, Envelope
from egressguard.mail.outcome import Outcome
from egressguard.mail.report import Action, Report
from egressguard.policy.scheduling import Retry
from egressguard.relay.schedule import retry_at
from egressguard.store.content import Content
from egressguard.store.interface import Claim, NewMessage
from egressguard.values import value

RETURNED_OCTETS = 64 * 1024
"""A message up to this size comes back whole where RET=FULL asks for it; of others the header section does."""
DELAY_SECONDS = 4 * 3600  # as RFC 5321 s4.5.4.1 and most senders' patience have it: some hours, not minutes


@value(frozen=True, slots=True)
class News:
    """What an attempt came to, by recipient. `failed` for good, `given_up` those of them that might have passed;
    `succeeded`: whom nobody else tells of it, in mailboxes of the site if `local`; `delayed`: who is told of it now."""

    failed: Mapping[str, Outcome] = field(default_factory=dict)
    given_up: frozenset[str] = frozenset()
    succeeded: Mapping[str, Outcome] = field(default_factory=dict)
    local: bool = False
    delayed: Mapping[str, Outcome] = field(default_factory=dict)
    retry_until: float = 0.0


def is_wanted(claim: Claim, news: News) -> bool:
    """Whether there is anything to tell, and anybody who wants to know."""
    if claim.reverse_path == NULL_REVERSE_PATH:
        return False
    for due in claim.recipients:
        path, wants = due.forward_path, due.options.wants
        if (path in news.failed and wants("FAILURE")) or (path in news.succeeded and wants("SUCCESS")):
            return True
        if path in news.delayed and wants("DELAY"):
            return True
    return False


def notices_of(
    claim: Claim, news: News, content: bytes, *, hostname: str, now: float, new_id: Callable[[], str]
) -> dict[str, NewMessage]:
    """The notices, each under all the recipients that it tells of. `content`, `new_id` as in failure_notice."""
    failed = failure_notice(
        claim, news.failed, content, hostname=hostname, now=now, notice_id=new_id(), given_up=news.given_up
    )
    succeeded = success_notice(
        claim, news.succeeded, content, hostname=hostname, now=now, notice_id=new_id(), local=news.local
    )
    delayed = delay_notice(
        claim, news.delayed, content, hostname=hostname, now=now, notice_id=new_id(), retry_until=news.retry_until
    )
    told: dict[str, NewMessage] = {}
    for event, outcomes, notice in (
        ("FAILURE", news.failed, failed),
        ("SUCCESS", news.succeeded, succeeded),
        ("DELAY", news.delayed, delayed),
    ):
        told |= {} if notice is None else dict.fromkeys(_wanting(claim, event, outcomes), notice)
    return told


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

    `content` is the message, or the beginning of one that has more than RETURNED_OCTETS. `notice_id` is the DSN's
    queue id and must not be guessable: it parts the DSN's pieces too.
    """
    wanting = _wanting(claim, "FAILURE", failed)
    whole = claim.ret == "FULL" and _may_return_whole(claim, content)
    report = _report(claim, Action.FAILED, wanting, content, hostname, now, notice_id)
    return _notice(claim, replace(report, given_up=given_up, returns_whole=whole), notice_id)


def success_notice(
    claim: Claim,
    succeeded: Mapping[str, Outcome],
    content: bytes,
    *,
    hostname: str,
    now: float,
    notice_id: str,
    local: bool,
) -> NewMessage | None:
    """The DSN for the recipients that asked for SUCCESS: delivered if `local`, else relayed to a host without DSN."""
    wanting = _wanting(claim, "SUCCESS", succeeded)
    action = Action.DELIVERED if local else Action.RELAYED
    return _notice(claim, _report(claim, action, wanting, content, hostname, now, notice_id), notice_id)


def delay_notice(
    claim: Claim,
    delayed: Mapping[str, Outcome],
    content: bytes,
    *,
    hostname: str,
    now: float,
    notice_id: str,
    retry_until: float,
) -> NewMessage | None:
    """The DSN for the recipients that asked for DELAY and have to wait, at most until `retry_until`."""
    wanting = _wanting(claim, "DELAY", delayed)
    report = _report(claim, Action.DELAYED, wanting, content, hostname, now, notice_id)
    return _notice(claim, replace(report, retry_until=retry_until), notice_id)


def is_first_delay(retry: Retry, received_at: float, now: float, attempts: int) -> bool:
    """Whether a deferral at `now` may be the first after DELAY_SECONDS, or what the rules say instead.

    `attempts` have been made, with this one.

    Nobody keeps when the attempt before was; this is the earliest it can have been. Where that is in doubt this says
    yes, and the notice's source id keeps it from being told again.
    """
    told_from = received_at + (retry.warn_after_seconds or DELAY_SECONDS)
    before: float | None = received_at
    for attempt in range(1, attempts - 1):
        if before is None or before >= told_from:
            return False
        before = retry_at(retry, received_at, before, attempt)
    return now >= told_from and (attempts <= 1 or (before is not None and before < told_from))


def _wanting(claim: Claim, event: str, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Those of `outcomes` whose recipient wants to hear of `event`."""
    if claim.reverse_path == NULL_REVERSE_PATH:
        return {}
    wanting = {due.forward_path for due in claim.recipients if due.options.wants(event)}
    return {path: outcome for path, outcome in outcomes.items() if path in wanting}


def _may_return_whole(claim: Claim, content: bytes) -> bool:
    """Whoever gave it to us as 8-bit content takes it back so; nobody is asked to take binary content back."""
    if claim.requiretls or claim.binary or len(content) != claim.size_octets:
        return False
    return len(content) <= RETURNED_OCTETS and (content.isascii() or claim.body_8bit)


def _report(
    claim: Claim,
    action: Action,
    outcomes: Mapping[str, Outcome],
    content: bytes,
    hostname: str,
    now: float,
    notice_id: str,
) -> Report:
    return Report(
        action=action,
        reporting_mta=hostname,
        queue_id=claim.queue_id,
        reverse_path=claim.reverse_path,
        outcomes=outcomes,
        original=content,
        arrived_at=claim.received_at,
        at=now,
        boundary=f"=_{notice_id}_{_digest((notice_id, action.value, *outcomes))}",
        envid=claim.envid,
        orcpts={due.forward_path: due.options.orcpt for due in claim.recipients if due.options.orcpt is not None},
        smtputf8=claim.smtputf8,
        client=claim.client,
    )


def _notice(claim: Claim, report: Report, notice_id: str) -> NewMessage | None:
    if not report.outcomes:
        return None
    text = render_report(report)
    envelope = Envelope(
        NULL_REVERSE_PATH,
        (claim.reverse_path,),
        smtputf8=not claim.reverse_path.isascii(),
        body_8bit=not text.isascii(),
        requiretls=claim.requiretls,
    )
    source_id = f"dsn:{claim.queue_id}:{report.action.value}:{_digest(sorted(report.outcomes))}"
    return NewMessage(notice_id, envelope, Content.of(text), report.at, rule="dsn", source_id=source_id)


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
