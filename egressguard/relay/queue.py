"""The queue manager: claims what is due, attempts it, settles it; nothing is ever only in memory.

Contract
    Never more than `max_active` messages in hand, nor PER_DESTINATION attempts at one destination; what exceeds
    the latter goes back with its time unchanged, so that one slow destination holds up nobody else.
    Each way of a message is settled by itself as soon as it has ended: a slow way keeps no other recipient.
    A failure of our own (spool, a bug in an attempt) leaves the message queued: a restart tries it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from egressguard.mail.outcome import Outcome, Result, transient
from egressguard.policy.model import Policy
from egressguard.relay.attempt import Means, Way, attempt, ways_of
from egressguard.relay.metrics import RelayMetrics
from egressguard.relay.notify import failure_notice
from egressguard.relay.schedule import retry_at
from egressguard.store.interface import Claim, Settlement, Spool, SpoolBroken, SpoolFull
from egressguard.store.spool import random_queue_id

log = logging.getLogger(__name__)

PER_DESTINATION = 20  # Postfix's default_destination_concurrency_limit: what postmasters are used to
MAX_ACTIVE = 200
CLAIM_MESSAGES = 50
BUSY_SECONDS = 2
"""A destination with all its places taken is asked for again after this time."""
DEPTH_SECONDS = 5

Record = Callable[[str, Mapping[str, object]], None]


class Queue:
    """`policy` may be replaced at any time; an attempt keeps the one it began with."""

    def __init__(
        self,
        spool: Spool,
        policy: Policy,
        means: Means,
        record: Record,
        metrics: RelayMetrics,
        *,
        clock: Callable[[], float] = time.time,
        max_active: int = MAX_ACTIVE,
    ) -> None:
        self.policy = policy
        self._spool = spool
        self._means = means
        self._record = record
        self._metrics = metrics
        self._clock = clock
        self._max_active = max_active
        self._awake = asyncio.Event()
        self._active: set[asyncio.Task[None]] = set()
        self._busy: Counter[str] = Counter()
        self._stopping = False

    def wake(self) -> None:
        """Something became due: a new message, a retry by hand."""
        self._awake.set()

    async def run(self) -> None:
        """Deliver until cancelled or stopped."""
        measuring = asyncio.create_task(self._measure())
        try:
            while not self._stopping:
                self._awake.clear()
                taken = await self._take_due()
                if taken == 0:
                    await self._sleep()
        finally:
            measuring.cancel()

    async def stop(self, drain_seconds: float) -> None:
        """Take nothing new, and give running attempts `drain_seconds` to end."""
        self._stopping = True
        self._awake.set()
        if self._active:
            _, late = await asyncio.wait(self._active, timeout=drain_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _take_due(self) -> int:
        room = min(CLAIM_MESSAGES, self._max_active - len(self._active))
        if room <= 0:
            return 0
        lease = self.policy.site.relay.attempt_timeout_seconds * 10.0
        try:
            claims = await self._spool.claim(self._clock(), room, lease)
        except (SpoolFull, SpoolBroken) as wrong:
            log.error("the queue cannot be read", extra={"fields": {"why": str(wrong)}})
            return 0
        for claim in claims:
            task = asyncio.create_task(self._work(claim))
            self._active.add(task)
            task.add_done_callback(self._done)
        return len(claims)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._awake.set()
        if not task.cancelled() and (wrong := task.exception()) is not None:
            log.error("an attempt failed by our own fault", exc_info=wrong)

    async def _sleep(self) -> None:
        due = await self._spool.next_due()
        wait = 60.0 if due is None else min(max(due - self._clock(), 0.0), 60.0)
        if len(self._active) >= self._max_active:
            wait = 60.0
        try:
            await asyncio.wait_for(self._awake.wait(), max(wait, 0.02))
        except TimeoutError:
            return

    async def _work(self, claim: Claim) -> None:
        policy = self.policy
        try:
            content = await self._spool.content(claim.queue_id)
        except (KeyError, OSError) as wrong:
            outcome = transient("4.3.0", f"the content cannot be read: {wrong}")
            await self._settle(claim, dict.fromkeys(claim.forward_paths, outcome), policy, b"")
            return
        async with asyncio.TaskGroup() as group:
            for way in ways_of(policy, claim):
                group.create_task(self._one_way(way, claim, content, policy))

    async def _one_way(self, way: Way, claim: Claim, content: bytes, policy: Policy) -> None:
        if self._busy[way.key] >= PER_DESTINATION:
            await self._put_back(way, claim)
            return
        self._busy[way.key] += 1
        started = self._clock()
        try:
            outcomes = await attempt(way, claim, content, policy, self._means)
        except Exception as wrong:  # the one place per message: count it, keep the message, go on
            log.exception("an attempt raised", extra={"fields": {"queue_id": claim.queue_id}})
            outcomes = dict.fromkeys(way.forward_paths, transient("4.3.0", f"{type(wrong).__name__} here"))
        finally:
            self._busy[way.key] -= 1
            if not self._busy[way.key]:
                del self._busy[way.key]
        self._metrics.duration.observe(max(self._clock() - started, 0))
        self._count(way, claim, outcomes)
        await self._settle(claim, outcomes, policy, content)

    async def _put_back(self, way: Way, claim: Claim) -> None:
        """No place free at this destination: not an attempt, and no reason to tell anybody."""
        waiting = dict.fromkeys(way.forward_paths, transient("4.7.0", "waiting for a connection to end"))
        again = self._clock() + BUSY_SECONDS
        await self._spool.settle(Settlement(claim.queue_id, waiting, frozenset(), again))

    def _count(self, way: Way, claim: Claim, outcomes: Mapping[str, Outcome]) -> None:
        for path, outcome in outcomes.items():
            self._metrics.recipients.labels(way.transport, outcome.result.value).inc()
            fields = {
                "queue_id": claim.queue_id,
                "sender": claim.reverse_path,
                "recipient": path,
                "transport": way.transport,
                "host": outcome.said_by,
                "status": outcome.status,
                "reply": outcome.text,
                "attempt": claim.attempts,
            }
            self._record(f"delivery.{outcome.result.value}", fields)

    async def _settle(self, claim: Claim, outcomes: Mapping[str, Outcome], policy: Policy, content: bytes) -> None:
        now = self._clock()
        again = retry_at(policy.site.relay.retry, claim.received_at, now, claim.attempts)
        failed = {p: o for p, o in outcomes.items() if o.result is Result.PERMANENT}
        expired = {p: o for p, o in outcomes.items() if o.result is Result.TRANSIENT and again is None}
        delivered = {p for p, o in outcomes.items() if o.result is Result.DELIVERED}
        self._metrics.bounces.labels("refused").inc(len(failed))
        self._metrics.bounces.labels("expired").inc(len(expired))
        notice = failure_notice(
            claim,
            failed | expired,
            content,
            hostname=self._means.hostname,
            now=now,
            dsn_queue_id=random_queue_id(now),
            given_up=bool(expired),
        )
        finished = frozenset(failed) | frozenset(expired) | delivered
        settlement = Settlement(claim.queue_id, outcomes, finished, again or now, notice)
        await self._settle_surely(settlement)
        self._awake.set()

    async def _settle_surely(self, settlement: Settlement) -> None:
        """A full disk must not lose the news that a message was delivered: it would go out twice."""
        while True:
            try:
                await self._spool.settle(settlement)
                return
            except SpoolFull as wrong:
                log.error("an outcome cannot be written yet", extra={"fields": {"why": str(wrong)}})
                await asyncio.sleep(1)

    async def _measure(self) -> None:
        while True:
            depth = await self._spool.depth()
            self._metrics.messages.set(depth.messages)
            self._metrics.size.set(depth.size_octets)
            age = 0.0 if depth.oldest_received_at is None else self._clock() - depth.oldest_received_at
            self._metrics.oldest.set(max(age, 0.0))
            await asyncio.sleep(DEPTH_SECONDS)
