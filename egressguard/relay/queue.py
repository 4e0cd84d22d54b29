"""The queue manager: claims what is due, has it attempted, settles it; nothing is ever only in memory.

Contract
    Bounded: claimed recipients, attempts at one destination and in all; large content is never in memory whole.
    What is put here and can be tried at once is claimed in the transaction that stores it.
    One slow destination holds up nobody else: it fills its own places, and is left out of claims.
    Each way of a message is settled by itself as soon as it has ended: a slow way keeps no other recipient.
    A bug in an attempt is transient for that message. Broken storage ends `run` with SpoolBroken: the process must
    start anew. Full storage never loses an outcome: it is written when there is room again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from egressguard.mail.envelope import NO_OPTIONS
from egressguard.mail.outcome import Outcome, Result, transient
from egressguard.policy.model import Policy
from egressguard.policy.site import Retry
from egressguard.relay.attempt import LOCAL, Means, Way, attempt, ways_of
from egressguard.relay.destination import Destinations
from egressguard.relay.metrics import RelayMetrics
from egressguard.relay.notify import RETURNED_OCTETS, News, is_first_delay, is_wanted, notices_of
from egressguard.relay.schedule import lease_until, retry_at
from egressguard.smtp.client import Sent
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, NewMessage, Settlement, Spool, SpoolFull
from egressguard.store.journal import DIALOGUE
from egressguard.store.queue_id import random_queue_id

log = logging.getLogger(__name__)

FULL_DISK_SECONDS = 1.0
"""How long to wait before writing an outcome again that found no room."""
LONGEST_SLEEP_SECONDS = 5.0
"""The clock may jump and a wake-up may be lost: look again at least this often."""

SHORTEST_SLEEP_SECONDS = 0.05
"""What is due and was not claimed waits for somebody else's end; looking for it all the time would help nobody."""

TOLD_DIALOGUES = 20
"""Of one attempt: an MX with many dead addresses."""

Record = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """`recipients` claimed at once, ways in hand for one destination, attempts, rest of the silent."""

    recipients: int = 2000
    ways_of_destination: int = 100
    attempts: int = 50
    kept_octets: int = 16 * 1024 * 1024  # of contents that lie in memory while they wait for their first attempt
    attempts_at_destination: int = 20  # as Postfix's default_destination_concurrency_limit
    rest_seconds: float = 30.0


@dataclass(eq=False, slots=True)
class _Parcel:
    """One way of one claimed message. `dialled`: it counts as an attempt from here on.

    `content` is what was put just now and need not be read again."""

    claim: Claim
    way: Way
    policy: Policy
    content: Content | None = None
    dialled: bool = False

    @property
    def kept_octets(self) -> int:
        return 0 if self.content is None else self.content.size_octets


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
        bounds: Bounds = Bounds(),
    ) -> None:
        self.policy = policy
        self._spool = spool
        self._means = means
        self._record = record
        self._metrics = metrics
        self._clock = clock
        self._bounds = bounds
        self._destinations = Destinations(limit=bounds.attempts_at_destination, total=bounds.attempts)
        self._active: dict[asyncio.Task[None], _Parcel] = {}
        self._in_hand = 0  # recipients
        self._ways_at: Counter[str] = Counter()
        self._kept_octets = 0
        self._passed_over = False  # something was due and not claimed: look again when there is room
        self._awake = asyncio.Event()
        self._stopping = False
        self._loop_ended = asyncio.Event()
        self._loop_ended.set()
        self._fatal: BaseException | None = None
        self._measure_at = 0.0

    def has_room(self, size_octets: int) -> bool:
        return self._spool.has_room(size_octets)

    async def put(self, message: NewMessage) -> str:
        """Store a message, and try it at once where there is a place. Raises SpoolFull, SpoolBroken."""
        policy, now = self.policy, self._clock()
        claim = _claim_of(message)
        ways = ways_of(policy, claim)
        destinations = {path: way.key for way in ways for path in way.forward_paths}
        if not self._can_try(message, ways, now):
            queue_id = await self._spool.put(replace(message, destinations=destinations))
            self._awake.set()
            return queue_id
        self._count(ways, 1)  # before the wait for the disk: many at once must not take the same place
        lease = lease_until(policy.site.relay.retry, message.received_at, now, 1)
        try:
            queue_id = await self._spool.put(replace(message, destinations=destinations, leased_until=lease))
        finally:
            self._count(ways, -1)
        if queue_id == message.queue_id:
            content = self._kept(message.content)
            for way in ways:
                self._start(_Parcel(claim, way, policy, content))
        return queue_id

    def _kept(self, content: Content) -> Content | None:
        """What need not be read again; a file the spool has moved."""
        if content.file is not None or self._kept_octets + content.size_octets > self._bounds.kept_octets:
            return None
        return content

    def _can_try(self, message: NewMessage, ways: Sequence[Way], now: float) -> bool:
        if self._stopping or message.held:
            return False
        if self._in_hand + len(message.envelope.forward_paths) > self._bounds.recipients:
            return False
        return not any(self._is_busy(way.key, now) for way in ways)

    def _is_busy(self, key: str, now: float) -> bool:
        full = self._ways_at[key] >= self._bounds.ways_of_destination
        return full or self._destinations.resting_until(key, now) is not None

    def _count(self, ways: Sequence[Way], change: int) -> None:
        for way in ways:
            self._in_hand += change * len(way.forward_paths)
            self._ways_at[way.key] += change
            if not self._ways_at[way.key]:
                del self._ways_at[way.key]

    def wake(self) -> None:
        """Something became due: a new message, a release."""
        self._awake.set()

    async def retry(self, queue_id: str | None = None) -> int:
        """Try a message (None = all) now, wherever it goes; return how many recipients it has (0 = no message)."""
        count = await self._spool.retry_now(queue_id, self._clock())
        self._destinations.wake_all()
        self._awake.set()
        return count

    async def release(self, queue_id: str) -> int:
        """Let a held message go; return how many recipients it had held."""
        count = await self._spool.release(queue_id, self._clock())
        self._awake.set()
        return count

    async def run(self) -> None:
        """Deliver until stopped. Raises SpoolBroken, or the fault of our own that ended it."""
        self._loop_ended.clear()
        try:
            while not self._stopping:
                self._awake.clear()
                try:
                    await self._turn()
                except SpoolFull as wrong:
                    log.error("nothing is delivered: the spool cannot be used", extra={"fields": {"why": str(wrong)}})
                    await asyncio.sleep(FULL_DISK_SECONDS)
                if self._fatal is not None:
                    raise self._fatal
        finally:
            self._loop_ended.set()
            if not self._stopping:
                await self.stop(0)

    async def _turn(self) -> None:
        """Raises SpoolFull."""
        claimed = await self._claim_due()
        await self._measure()
        if not claimed:
            await self._sleep()

    async def stop(self, drain_seconds: float) -> None:
        """Take nothing new, give back what was not tried yet, and let running attempts end in `drain_seconds`."""
        self._stopping = True
        self._awake.set()
        await self._loop_ended.wait()
        await self._give_back_undialled()
        if self._active:
            _, late = await asyncio.wait(list(self._active), timeout=drain_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _give_back_undialled(self) -> None:
        waiting = {task: parcel for task, parcel in self._active.items() if not parcel.dialled}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for parcel in waiting.values():
            if self._fatal is None:
                await self._unclaim(parcel, self._clock())

    async def _claim_due(self) -> bool:
        """Take what is due, as far as there is room; True when something was taken."""
        room = self._bounds.recipients - self._in_hand
        now, retry = self._clock(), self.policy.site.relay.retry
        busy = self._busy(now)
        self._passed_over = room <= 0 or bool(busy)
        if room <= 0:
            return False
        each = self._bounds.ways_of_destination
        claims = await self._spool.claim(now, room, _next_attempt(retry, now), busy, each)
        for parcel in [_Parcel(c, way, self.policy) for c in claims for way in ways_of(self.policy, c)]:
            self._start(parcel)
        self._destinations.forget_idle(now)
        return bool(claims)

    def _busy(self, now: float) -> frozenset[str]:
        """Destinations for which nothing is to be claimed now."""
        full = {key for key, ways in self._ways_at.items() if ways >= self._bounds.ways_of_destination}
        return frozenset(full | self._destinations.resting(now))

    def _start(self, parcel: _Parcel) -> None:
        task = asyncio.create_task(self._carry(parcel))
        self._active[task] = parcel
        self._kept_octets += parcel.kept_octets
        self._count((parcel.way,), 1)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        parcel = self._active.pop(task)
        self._kept_octets -= parcel.kept_octets
        self._count((parcel.way,), -1)
        if not task.cancelled() and (wrong := task.exception()) is not None:
            self._fatal = self._fatal or wrong
            self._awake.set()
        if self._passed_over:
            self._awake.set()

    async def _sleep(self) -> None:
        now = self._clock()
        due = await self._spool.next_due(self._busy(now))
        wait = LONGEST_SLEEP_SECONDS
        if due is not None and self._in_hand < self._bounds.recipients:
            wait = min(max(due - now, SHORTEST_SLEEP_SECONDS), wait)
        try:
            await asyncio.wait_for(self._awake.wait(), wait)
        except TimeoutError:
            return

    async def _carry(self, parcel: _Parcel) -> None:
        """From a claim to its settlement."""
        claim, way = parcel.claim, parcel.way
        async with self._destinations.place(way.key):
            now = self._clock()
            until = now if self._stopping else self._destinations.resting_until(way.key, now)
            if until is not None:
                return await self._unclaim(parcel, until)
            parcel.dialled = True
            try:
                content = parcel.content or await self._spool.content(claim.queue_id)
            except KeyError:
                return None  # deleted by hand meanwhile
            except SpoolFull:  # the spool is away, or has no room for a copy
                return await self._unclaim(parcel, now + FULL_DISK_SECONDS)
            sent = await self._attempt(parcel, content)
        await self._settle(parcel, sent, content)

    async def _attempt(self, parcel: _Parcel, content: Content) -> Sent:
        started = time.monotonic()
        try:
            sent = await attempt(parcel.way, parcel.claim, content, parcel.policy, self._means)
        except Exception as wrong:  # the one place: the message is kept, the fault is logged, the others go on
            log.exception("an attempt failed by our own fault", extra={"fields": {"queue_id": parcel.claim.queue_id}})
            sent = Sent(self._ours(parcel.way, f"internal error: {type(wrong).__name__}"), begun=True)
        if not sent.begun:
            self._destinations.rest(parcel.way.key, self._clock() + self._bounds.rest_seconds)
        self._metrics.attempted(parcel.way.transport, sent.outcomes, time.monotonic() - started)
        return sent

    def _ours(self, way: Way, words: str) -> Mapping[str, Outcome]:
        return dict.fromkeys(way.forward_paths, transient("4.3.0", words))

    async def _settle(self, parcel: _Parcel, sent: Sent, content: Content) -> None:
        now, claim, outcomes = self._clock(), parcel.claim, sent.outcomes
        retry = parcel.policy.site.relay.retry
        waiting: dict[str, float] = {}
        expired: set[str] = set()
        for due in claim.recipients:
            outcome = outcomes.get(due.forward_path)
            if outcome is not None and outcome.result is Result.TRANSIENT:
                at = retry_at(retry, claim.received_at, now, due.attempts)
                waiting |= {} if at is None else {due.forward_path: at}
                expired |= {due.forward_path} if at is None else set()
        news = _news(parcel, sent, expired, now)
        told = await self._notices(parcel.policy, claim, news, content, now)
        notices = tuple({notice.queue_id: notice for notice in told.values()}.values())
        await self._write(Settlement(claim.queue_id, outcomes, waiting, notices, parcel.way.key))
        if news.failed:
            refused = len(news.failed) - len(expired)
            self._metrics.bounced(refused=refused, expired=len(expired), told=any(path in told for path in news.failed))
        self._tell_dialogues(parcel, sent)
        self._tell(parcel, outcomes, expired, {path: notice.queue_id for path, notice in told.items()})

    async def _notices(
        self, policy: Policy, claim: Claim, news: News, content: Content, now: float
    ) -> Mapping[str, NewMessage]:
        """The notices to store, by the recipients they tell of. The content is read only when there is one."""
        if not is_wanted(claim, news):
            return {}
        text, hostname = await _returned(content), self._means.hostname
        told = notices_of(claim, news, text, hostname=hostname, now=now, new_id=lambda: random_queue_id(now))
        signed = {id(notice): await self._means.sign(policy, notice) for notice in told.values()}
        return {path: signed[id(notice)] for path, notice in told.items()}

    async def _write(self, settlement: Settlement) -> None:
        """A full disk must not lose the news that a message was delivered: it would go out twice."""
        while True:
            try:
                return await self._spool.settle(settlement)
            except SpoolFull as wrong:
                fields = {"queue_id": settlement.queue_id, "why": str(wrong)}
                log.error("an outcome cannot be written yet", extra={"fields": fields})
                await asyncio.sleep(FULL_DISK_SECONDS)

    async def _unclaim(self, parcel: _Parcel, due: float) -> None:
        try:
            await self._spool.unclaim(parcel.claim.queue_id, parcel.way.forward_paths, due, parcel.way.key)
        except SpoolFull as wrong:  # the claim wrote down when it is due again: later, but not lost
            log.error("a claim cannot be given back", extra={"fields": {"why": str(wrong)}})

    def _tell(
        self, parcel: _Parcel, outcomes: Mapping[str, Outcome], expired: set[str], told: Mapping[str, str]
    ) -> None:
        attempts = {due.forward_path: due.attempts for due in parcel.claim.recipients}
        for path, outcome in outcomes.items():
            kind = "expired" if path in expired else outcome.result.value
            fields = {
                "queue_id": parcel.claim.queue_id,
                "sender": parcel.claim.reverse_path,
                "recipient": path,
                "transport": parcel.way.transport,
                "host": outcome.said_by,
                "status": outcome.status,
                "reply": outcome.text,
                "attempt": attempts[path],
                "dsn": told.get(path, ""),
            }
            self._record(f"delivery.{kind}", fields)

    def _tell_dialogues(self, parcel: _Parcel, sent: Sent) -> None:
        """For `egressguard trace`: once for each connection, whatever number of recipients it was about."""
        if not sent.dialogues:
            return
        loop_now, now = asyncio.get_running_loop().time(), time.time()
        for dialogue in sent.dialogues[-TOLD_DIALOGUES:]:
            told = dialogue.told(loop_now, now)
            self._record(DIALOGUE, {"queue_id": parcel.claim.queue_id, "transport": parcel.way.transport, **told})

    async def _measure(self) -> None:
        """Counting a long queue takes time: never spend more than a fiftieth of it on that."""
        started = time.monotonic()
        if started < self._measure_at:
            return
        self._metrics.measured(await self._spool.depth(), self._clock())
        took = time.monotonic() - started
        self._measure_at = time.monotonic() + max(1.0, 50 * took)


def _claim_of(message: NewMessage) -> Claim:
    """What claiming a message would give that was put just now."""
    envelope = message.envelope
    return Claim(
        message.queue_id,
        envelope.reverse_path,
        message.received_at,
        message.content.size_octets,
        envelope.smtputf8,
        envelope.body_8bit,
        tuple(
            Due(path, 1, tuple(message.via.get(path, ())), envelope.recipients.get(path, NO_OPTIONS))
            for path in envelope.forward_paths
        ),
        message.tags,
        envelope.ret,
        envelope.envid,
        envelope.requiretls,
        envelope.binary,
        message.client,
        message.listener,
        message.user,
        message.verdict,
    )


def _news(parcel: _Parcel, sent: Sent, expired: Collection[str], now: float) -> News:
    """What the sender may have to hear of."""
    claim, outcomes, retry = parcel.claim, sent.outcomes, parcel.policy.site.relay.retry
    attempts = {due.forward_path: due.attempts for due in claim.recipients}
    return News(
        failed={p: o for p, o in outcomes.items() if o.result is Result.PERMANENT or p in expired},
        given_up=frozenset(expired),
        succeeded={p: o for p, o in outcomes.items() if o.result is Result.DELIVERED and not sent.tells_delivery},
        local=parcel.way.transport == LOCAL,
        delayed={
            path: outcome
            for path, outcome in outcomes.items()
            if outcome.result is Result.TRANSIENT
            and path not in expired
            and is_first_delay(retry, claim.received_at, now, attempts[path])
        },
        retry_until=claim.received_at + retry.give_up_after_seconds,
    )


async def _returned(content: Content) -> bytes:
    """What a notice may bring back of the message; nothing when it cannot be read."""
    try:
        return await asyncio.to_thread(content.head, RETURNED_OCTETS)
    except OSError as wrong:
        log.error("a notice goes without its message", extra={"fields": {"why": str(wrong)}})
        return b""


def _next_attempt(retry: Retry, now: float) -> Callable[[float, int], float]:
    return lambda received_at, attempts: lease_until(retry, received_at, now, attempts)
