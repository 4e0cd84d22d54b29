"""From an attempt's outcome to what the spool, the journal and the sender hear of it.

Contract
    Each recipient's next try is as its route, its destination or the site says; but soon, where a smart host was
    lost in the middle and there is another one, once for each.
    The settlement and its notices are one transaction. A full disk never loses an outcome: it is written when there
    is room again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from egressguard.mail.envelope import NULL_REVERSE_PATH
from egressguard.mail.outcome import Outcome, Result, one_line, permanent
from egressguard.policy.model import Policy
from egressguard.policy.pacing import retry_of
from egressguard.policy.routes import choose_route
from egressguard.policy.scheduling import Retry
from egressguard.relay.allowance import Allowance
from egressguard.relay.attempt import LOCAL, MX, Means, facts_of
from egressguard.relay.metrics import RelayMetrics
from egressguard.relay.notify import RETURNED_OCTETS, News, is_first_delay, is_wanted, notices_of
from egressguard.relay.pace import is_loss
from egressguard.relay.parcel import Parcel, head_start
from egressguard.relay.schedule import retry_at
from egressguard.relay.suppression import Suppressions
from egressguard.smtp.client import Sent
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, NewMessage, Settlement, Spool, SpoolFull
from egressguard.store.journal import DIALOGUE
from egressguard.store.queue_id import random_queue_id

log = logging.getLogger(__name__)

FULL_DISK_SECONDS = 1.0
"""How long to wait before writing an outcome again that found no room."""

SOON_SECONDS = 5.0
"""For the next smart host, after one was lost in the middle of a message."""
BY_ORDER = "order"
"""The transport of what a person gave up."""

TOLD_DIALOGUES = 20
"""Of one attempt: an MX with many dead addresses."""

Record = Callable[[str, Mapping[str, object]], None]


class Settling:
    def __init__(
        self, spool: Spool, record: Record, metrics: RelayMetrics, means: Means, suppressions: Suppressions
    ) -> None:
        self._spool = spool
        self._record = record
        self._metrics = metrics
        self._means = means
        self._suppressions = suppressions
        self._allowance = Allowance()

    async def settle(self, parcel: Parcel, sent: Sent, content: Content, now: float) -> bool:
        """True: there are notices in the queue now, due."""
        claim, outcomes = parcel.claim, sent.outcomes
        waiting: dict[str, float] = {}
        expired: set[str] = set()
        for due in claim.recipients:
            outcome = outcomes.get(due.forward_path)
            if outcome is not None and outcome.result is Result.TRANSIENT:
                at = retry_at(retry_for(parcel, due), claim.received_at, now, due.attempts)
                if at is not None and _may_go_soon(parcel, due, outcome):
                    at = min(at, now + SOON_SECONDS)
                waiting |= {} if at is None else {due.forward_path: at}
                expired |= {due.forward_path} if at is None else set()
        delayed = _delayed(parcel, waiting, now) if waiting else {}
        news = _news(parcel, sent, expired, delayed)
        informed = _with_unasked(parcel) if delayed else claim
        told: Mapping[str, NewMessage] = {}
        if is_wanted(informed, news):  # seldom
            told = await self._notices(informed, parcel.policy, news, content, now)
        notices = tuple({notice.queue_id: notice for notice in told.values()}.values())
        await self._write(Settlement(claim.queue_id, outcomes, waiting, notices, parcel.way.key))
        if news.failed:
            self._see_double_bounce(claim, news)
            refused = len(news.failed) - len(expired)
            self._metrics.bounced(refused=refused, expired=len(expired), told=any(path in told for path in news.failed))
        self._tell_dialogues(parcel, sent)
        self._tell(claim, parcel.transport, outcomes, expired, told)
        if (rule := parcel.policy.site.relay.suppression) is not None and parcel.way.transport != LOCAL:
            await self._suppressions.heard(rule, outcomes, now)
        return bool(notices)

    async def give_up(self, claim: Claim, policy: Policy, why: str, content: Content, now: float) -> bool:
        """Finish recipients that wait, for a person says so; True when the sender hears of it.

        Raises BeingTried, SpoolFull."""
        words = "given up by the administrator of this gateway" + (f": {one_line(why)}" if why else "")
        outcomes = dict.fromkeys((due.forward_path for due in claim.recipients), permanent("5.7.1", words))
        told = await self._notices(claim, policy, News(failed=outcomes), content, now)
        notices = tuple({notice.queue_id: notice for notice in told.values()}.values())
        await self._spool.give_up(Settlement(claim.queue_id, outcomes, notices=notices))
        self._metrics.bounced(refused=len(outcomes), expired=0, told=bool(told))
        self._tell(claim, BY_ORDER, outcomes, (), told)
        return bool(told)

    async def refusal(self, claim: Claim, policy: Policy, why: str, content: Content, now: float) -> NewMessage | None:
        """The notice about a message that a person refuses after we took it; None: nobody wants it, or one too many."""
        words = "refused by the administrator of this gateway" + (f": {one_line(why)}" if why else "")
        outcomes = dict.fromkeys((due.forward_path for due in claim.recipients), permanent("5.7.1", words))
        told = await self._notices(claim, policy, News(failed=outcomes), content, now)
        return next(iter(told.values()), None)

    async def _notices(
        self, claim: Claim, policy: Policy, news: News, content: Content, now: float
    ) -> dict[str, NewMessage]:
        """The notices to store, by the recipients they tell of. The content is read only when there is one."""
        if not is_wanted(claim, news):
            return {}
        text, hostname = await _returned(content), self._means.hostname
        told = notices_of(claim, news, text, hostname=hostname, now=now, new_id=lambda: random_queue_id(now))
        told = self._allowed(claim, policy, told, now)
        signed: dict[str, NewMessage] = {}
        for notice in told.values():
            if notice.queue_id not in signed:
                started = replace(notice, head_start_seconds=head_start(notice))
                signed[notice.queue_id] = await self._means.notice(policy, started)
        return {path: signed[notice.queue_id] for path, notice in told.items()}

    def _allowed(
        self, claim: Claim, policy: Policy, told: Mapping[str, NewMessage], now: float
    ) -> dict[str, NewMessage]:
        """Those of the notices that the rules still allow: a forged sender did not ask for them."""
        rule = policy.site.relay.dsn
        client = f"user {claim.user}" if claim.user else f"host {claim.client}"
        over: set[str] = set()
        for notice_id in {notice.queue_id for notice in told.values()}:
            limit = self._allowance.take(rule, claim.reverse_path, client, now)
            self._metrics.noticed("told" if limit is None else "over-limit")
            if limit is not None:
                over.add(notice_id)
                fields = {"queue_id": claim.queue_id, "sender": claim.reverse_path, "client": client, "limit": limit}
                log.warning("a notice is left out: there were too many", extra={"fields": fields})
        return {path: notice for path, notice in told.items() if notice.queue_id not in over}

    def _see_double_bounce(self, claim: Claim, news: News) -> None:
        """A notice that failed itself ends here: nobody is told, the postmaster neither."""
        if claim.reverse_path != NULL_REVERSE_PATH:
            return
        self._metrics.noticed("undeliverable")
        for path, outcome in news.failed.items():
            fields = {"queue_id": claim.queue_id, "recipient": path, "why": outcome.text}
            log.warning("mail without a sender cannot be delivered, and is dropped", extra={"fields": fields})

    async def _write(self, settlement: Settlement) -> None:
        """A full disk must not lose the news that a message was delivered: it would go out twice."""
        while True:
            try:
                return await self._spool.settle(settlement)
            except SpoolFull as wrong:
                fields = {"queue_id": settlement.queue_id, "why": str(wrong)}
                log.error("an outcome cannot be written yet", extra={"fields": fields})
                await asyncio.sleep(FULL_DISK_SECONDS)

    def _tell(
        self,
        claim: Claim,
        transport: str,
        outcomes: Mapping[str, Outcome],
        expired: Collection[str],
        told: Mapping[str, NewMessage],
    ) -> None:
        attempts = {due.forward_path: due.attempts for due in claim.recipients}
        for path, outcome in outcomes.items():
            kind = "expired" if path in expired else outcome.result.value
            fields = {
                "queue_id": claim.queue_id,
                "sender": claim.reverse_path,
                "recipient": path,
                "transport": transport,
                "host": outcome.said_by,
                "status": outcome.status,
                "reply": outcome.text,
                "attempt": attempts[path],
                "dsn": told[path].queue_id if path in told else "",
            }
            self._record(f"delivery.{kind}", fields)

    def _tell_dialogues(self, parcel: Parcel, sent: Sent) -> None:
        """For `egressguard trace`: once for each connection, whatever number of recipients it was about."""
        if not sent.dialogues:
            return
        loop_now, now = asyncio.get_running_loop().time(), time.time()
        for dialogue in sent.dialogues[-TOLD_DIALOGUES:]:
            told = dialogue.told(loop_now, now)
            self._record(
                DIALOGUE,
                {"queue_id": parcel.claim.queue_id, "transport": parcel.transport, **told},
            )


def retry_for(parcel: Parcel, due: Due) -> Retry:
    """When to try this recipient again. Looked up when an attempt has failed, so that it costs the others nothing."""
    claim, policy = parcel.claim, parcel.policy
    route = None if due.via else choose_route(policy, facts_of(claim, due))
    return retry_of(policy, route, due.forward_path, by_mx=parcel.way.via == (MX,))


def _may_go_soon(parcel: Parcel, due: Due, outcome: Outcome) -> bool:
    return parcel.soon and due.attempts < len(parcel.way.via) and is_loss(outcome)


def _news(parcel: Parcel, sent: Sent, expired: Collection[str], delayed: Mapping[str, float]) -> News:
    """What the sender may have to hear of."""
    outcomes = sent.outcomes
    failed: dict[str, Outcome] = {}
    succeeded: dict[str, Outcome] = {}
    for path, outcome in outcomes.items():
        if outcome.result is Result.PERMANENT or path in expired:
            failed[path] = outcome
        elif outcome.result is Result.DELIVERED and not sent.tells_delivery:
            succeeded[path] = outcome
    return News(
        failed=failed,
        given_up=frozenset(expired),
        succeeded=succeeded,
        local=parcel.way.transport == LOCAL or sent.final,
        delayed={path: outcomes[path] for path in delayed},
        retry_until=min(delayed.values(), default=0.0),
    )


def _delayed(parcel: Parcel, waiting: Collection[str], now: float) -> dict[str, float]:
    """Who of those that wait is late for the first time, and until when it is tried."""
    claim = parcel.claim
    found: dict[str, float] = {}
    for due in claim.recipients:
        if due.forward_path not in waiting:
            continue
        retry = retry_for(parcel, due)
        attempts = max(due.attempts - len(parcel.way.via) + 1, 1)  # some may have come sooner than the schedule says
        if is_first_delay(retry, claim.received_at, now, attempts):
            found[due.forward_path] = claim.received_at + retry.give_up_after_seconds
    return found


def _with_unasked(parcel: Parcel) -> Claim:
    """The claim with DELAY for those that said nothing of NOTIFY, where the rules want them to be warned."""
    claim = parcel.claim
    if not _warns(parcel.policy):
        return claim
    recipients = tuple(
        replace(due, options=replace(due.options, notify=("FAILURE", "DELAY")))
        if due.options.notify is None and retry_for(parcel, due).warn_after_seconds is not None
        else due
        for due in claim.recipients
    )
    return replace(claim, recipients=recipients)


def _warns(policy: Policy) -> bool:
    site = policy.site
    every = [site.relay.retry, *(d.retry for d in site.destinations.values()), *(r.retry for r in policy.routes)]
    return any(retry is not None and retry.warn_after_seconds is not None for retry in every)


async def _returned(content: Content) -> bytes:
    """What a notice may bring back of the message; nothing when it cannot be read."""
    try:
        return await asyncio.to_thread(content.head, RETURNED_OCTETS)
    except OSError as wrong:
        log.error("a notice goes without its message", extra={"fields": {"why": str(wrong)}})
        return b""
