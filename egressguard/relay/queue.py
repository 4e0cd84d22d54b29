"""The queue manager: claims what is due, has it attempted, settles it; nothing is ever only in memory.

Contract
    Bounded: claimed recipients, attempts at one destination and in all; large content is never in memory whole.
    What is put here and can be tried at once is claimed in the transaction that stores it.
    One slow destination holds up nobody else: see relay.destination; nor does one that much waits for: the less room
    there is, the less of it is claimed at once.
    A destination that somebody suspended is left out of claims, as one that rests is; what is being tried ends.
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

from egressguard.mail.outcome import Outcome, transient
from egressguard.policy.model import Policy
from egressguard.policy.pacing import concurrency_at, concurrency_over
from egressguard.policy.scheduling import Concurrency, Retry
from egressguard.relay.attempt import LOCAL, MX, Means, Way, attempt, ways_of
from egressguard.relay.destination import Destinations
from egressguard.relay.metrics import RelayMetrics
from egressguard.relay.pace import heard
from egressguard.relay.parcel import Parcel, claim_of, head_start
from egressguard.relay.rates import Rates
from egressguard.relay.schedule import lease_until
from egressguard.relay.settling import FULL_DISK_SECONDS, Record, Settling
from egressguard.relay.suppression import Suppressions
from egressguard.relay.suspension import Suspensions
from egressguard.relay.turns import Turn, Turns, is_over_smart_hosts
from egressguard.smtp.client import Sent
from egressguard.store.content import Content
from egressguard.store.interface import Claim, NewMessage, Spool, SpoolFull
from egressguard.values import changed

log = logging.getLogger(__name__)

LONGEST_SLEEP_SECONDS = 5.0
"""The clock may jump and a wake-up may be lost: look again at least this often."""

SHORTEST_SLEEP_SECONDS = 0.05
"""What is due and was not claimed waits for somebody else's end; looking for it all the time would help nobody."""

LOCAL_CONCURRENCY = Concurrency(initial=50, limit=50)
"""Mailboxes: a disk of our own, which does many at once as soon as a few."""
LOCAL_WAYS = 500
"""In place of `Bounds.ways_of_destination`: what is claimed anew is read anew."""
SHARE = 8
"""What one destination may have claimed is at most this part of the room that is left."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """`recipients` claimed at once, ways in hand for one destination, attempts."""

    recipients: int = 5000
    ways_of_destination: int = 100
    attempts: int = 400
    kept_octets: int = 16 * 1024 * 1024  # of contents that lie in memory while they wait for their first attempt


class Queue:
    """`policy` may be replaced at any time; an attempt keeps the one it began with.

    `suspensions` are loaded by `run`; whoever changes them says so (`suspend`, `resume`)."""

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
        rates: Rates | None = None,
    ) -> None:
        self._policy = policy
        self._spool = spool
        self._means = means
        self._record = record
        self._metrics = metrics
        self.suspensions = Suspensions(spool)
        self.suppressions = Suppressions(spool, record)
        metrics.watch_suppressed(lambda: len(self.suppressions))
        self._settling = Settling(spool, record, metrics, means, self.suppressions)
        self.turns = Turns(policy, record, metrics.smart_hosts, self.suspensions, self._end_waits, clock, rates)
        self._clock = clock
        self._bounds = bounds
        self._destinations = Destinations(self._concurrency, total=bounds.attempts)
        self._active: dict[asyncio.Task[None], Parcel] = {}
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

    @property
    def policy(self) -> Policy:
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._destinations.take_settings()
        self.turns.take_policy(policy)
        self._awake.set()

    def _concurrency(self, key: str) -> Concurrency:
        """What the rules give the destination with this Way.key."""
        if key == LOCAL:
            return LOCAL_CONCURRENCY
        kind, _, domain = key.partition(":")
        if kind == MX:
            return concurrency_at(self._policy, domain)
        return concurrency_over(self._policy, key.partition(",")[0])

    def has_room(self, size_octets: int) -> bool:
        return self._spool.has_room(size_octets)

    async def put(self, message: NewMessage) -> str:
        """Store a message, and try it at once where there is a place. Raises SpoolFull, SpoolBroken."""
        policy, now = self.policy, self._clock()
        claim = claim_of(message)
        ways = ways_of(policy, claim)
        destinations = {path: way.key for way in ways for path in way.forward_paths}
        if not self._can_try(message, ways, now):
            start = head_start(message)
            queue_id = await self._spool.put(changed(message, destinations=destinations, head_start_seconds=start))
            self._awake.set()
            return queue_id
        self._count(ways, 1)  # before the wait for the disk: many at once must not take the same place
        lease = lease_until(policy.site.relay.retry, message.received_at, now, 1)
        try:
            queue_id = await self._spool.put(changed(message, destinations=destinations, leased_until=lease))
        finally:
            self._count(ways, -1)
        if queue_id == message.queue_id:
            content = self._kept(message.content)
            for way in ways:
                self._start(Parcel(claim, way, policy, content))
        return queue_id

    def _kept(self, content: Content) -> Content | None:
        """What need not be read again; a file the spool has moved."""
        if content.file is not None or self._kept_octets + content.size_octets > self._bounds.kept_octets:
            return None
        return content

    def _can_try(self, message: NewMessage, ways: Sequence[Way], now: float) -> bool:
        if self._stopping or message.held or not self.suspensions.are_known:
            return False
        if self._in_hand + len(message.envelope.forward_paths) > self._bounds.recipients:
            return False
        return not any(self._is_busy(way.key, now) for way in ways)

    def _is_busy(self, key: str, now: float) -> bool:
        if self._ways_at[key] >= self._most_at(key) or key in self.suspensions:
            return True
        return self._destinations.resting_until(key, now) is not None

    def _most_at(self, key: str) -> int:
        """How many ways a destination may have in hand now."""
        bound = LOCAL_WAYS if key == LOCAL else self._bounds.ways_of_destination
        return max(min(bound, (self._bounds.recipients - self._in_hand) // SHARE), 1)

    def _full(self) -> set[str]:
        """Destinations that have as much in hand as they may."""
        return {key for key, ways in self._ways_at.items() if ways >= self._most_at(key)}

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
        self.hurry()
        return count

    async def suspend(self, destination: str, why: str, by: str) -> None:
        """Leave a destination alone until `resume`; what is being tried now ends."""
        await self.suspensions.add(destination, why, by, self._clock())
        self._destinations.turn_away(destination)
        self._record("queue.suspended", {"destination": destination, "why": why, "by": by})

    async def resume(self, destination: str, by: str) -> bool:
        """False: it was not suspended."""
        if not await self.suspensions.remove(destination):
            return False
        self._record("queue.resumed", {"destination": destination, "by": by})
        self._end_waits()
        return True

    def _end_waits(self) -> None:
        """A smart host is back, or no longer suspended."""
        self._destinations.end_waits()
        self._awake.set()

    def hurry(self) -> None:
        """Somebody wants what is due tried at once, also where it rests."""
        self._destinations.wake_all()
        self._awake.set()

    async def give_up(self, claim: Claim, why: str) -> bool:
        """Finish recipients that wait, with a notice to the sender; True when it hears of it.

        Raises BeingTried, SpoolFull, SpoolBroken; KeyError when the message has gone."""
        content = await self._spool.content(claim.queue_id)
        return await self._settling.give_up(claim, self.policy, why, content, self._clock())

    async def refusal(self, claim: Claim, why: str, content: Content) -> NewMessage | None:
        """The notice for the sender of a message that was held and is not sent on; None: nobody is to be told."""
        return await self._settling.refusal(claim, self.policy, why, content, self._clock())

    async def run(self) -> None:
        """Deliver until stopped. Raises SpoolBroken, or the fault of our own that ended it."""
        self._loop_ended.clear()
        try:
            await self._until_suspensions_are_known()
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

    async def _until_suspensions_are_known(self) -> None:
        while not self._stopping:
            try:
                await self.suppressions.load_again(time.monotonic(), self._clock())
                return await self.suspensions.load(time.monotonic())
            except SpoolFull:  # the database is away
                await asyncio.sleep(FULL_DISK_SECONDS)

    async def _claim_due(self) -> bool:
        """Take what is due, as far as there is room; True when something was taken."""
        await self.suspensions.load_again(time.monotonic())
        await self.suppressions.load_again(time.monotonic(), self._clock())
        room = self._bounds.recipients - self._in_hand
        now, retry = self._clock(), self._policy.site.relay.retry
        full, each = self._full(), self._most_at("")
        self._passed_over = room <= 0 or bool(full)
        if room <= 0:
            return False
        claims = await self._spool.claim(now, room, _next_attempt(retry, now), self._left_out(now, full), each)
        for parcel in [Parcel(c, way, self._policy) for c in claims for way in ways_of(self._policy, c)]:
            self._start(parcel)
        self._destinations.forget_idle(now)
        return bool(claims)

    def _left_out(self, now: float, full: Collection[str]) -> frozenset[str]:
        """Destinations for which nothing is to be claimed now."""
        return frozenset([*full, *self._destinations.resting(now), *self.suspensions])

    def _start(self, parcel: Parcel) -> None:
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
        due = await self._spool.next_due(self._left_out(now, self._full()))
        wait = LONGEST_SLEEP_SECONDS
        if self._in_hand < self._bounds.recipients:
            ends = self._destinations.resting(now).values()
            first = min([*ends, *([] if due is None else [due])], default=now + wait)
            wait = min(max(first - now, SHORTEST_SLEEP_SECONDS), wait)
        try:
            async with asyncio.timeout(wait):
                await self._awake.wait()
        except TimeoutError:
            return

    async def _carry(self, parcel: Parcel) -> None:
        """From a claim to its settlement."""
        way, now = parcel.way, self._clock()
        async with self._destinations.place(way.key, now, parcel.urgency) as has_place:
            until = self._waits_until(way, self._clock())
            if until is not None or not has_place:
                return await self._unclaim(parcel, until or now)
            parcel.dialled = True
            try:
                content = parcel.content or await self._spool.content(parcel.claim.queue_id)
            except KeyError:
                return None  # deleted by hand meanwhile
            except SpoolFull:  # the spool is away, or has no room for a copy
                return await self._unclaim(parcel, now + FULL_DISK_SECONDS)
            tried, suppressed = self.suppressions.parted(way, now)
            turn = None
            if tried is not None:
                turn = self.turns.turn(tried, parcel.claim.queue_id, parcel.policy, self._means.chance)
            if isinstance(turn, float):
                self._destinations.rest(way.key, turn)
                return await self._unclaim(parcel, now)
            sent = Sent({}, begun=True) if turn is None else await self._attempt(parcel, turn, content)
            sent = replace(sent, outcomes={**sent.outcomes, **suppressed}) if suppressed else sent
        if await self._settling.settle(parcel, sent, content, self._clock()):
            self._awake.set()

    def _waits_until(self, way: Way, now: float) -> float | None:
        """When a claim that cannot be tried now is due again; None: it can be tried.

        A rest that may end early is not written down: it keeps from being claimed what is due."""
        if self._stopping or way.key in self.suspensions:
            return now
        if self._destinations.resting_until(way.key, now) is None:
            return None
        return self._destinations.silent_until(way.key, now)

    async def _attempt(self, parcel: Parcel, turn: Turn, content: Content) -> Sent:
        started, way, means = time.monotonic(), turn.way, self._means
        send = turn.watching(means.send) if is_over_smart_hosts(way) else means.send
        try:
            sent = await attempt(way, parcel.claim, content, parcel.policy, means, send)
        except Exception as wrong:  # the one place: the message is kept, the fault is logged, the others go on
            log.exception("an attempt failed by our own fault", extra={"fields": {"queue_id": parcel.claim.queue_id}})
            sent = Sent(self._ours(way, f"internal error: {type(wrong).__name__}"), begun=True)
            turn.cut_off()
        else:
            parcel.soon = turn.ended(sent)
        parcel.sent_over = turn.transport
        self._learn(parcel, sent)
        self._metrics.attempted(parcel.transport, sent.outcomes, time.monotonic() - started)
        return sent

    def _learn(self, parcel: Parcel, sent: Sent) -> None:
        key, said = parcel.way.key, sent.outcomes.values()
        news = heard(said, begun=sent.begun, requiretls=parcel.claim.requiretls)
        until = self._destinations.learn(key, news, self._clock())
        if until is not None:
            log.info("a destination is left alone", extra={"fields": {"destination": key, "until": until}})

    def _ours(self, way: Way, words: str) -> Mapping[str, Outcome]:
        return dict.fromkeys(way.forward_paths, transient("4.3.0", words))

    async def _unclaim(self, parcel: Parcel, due: float) -> None:
        try:
            await self._spool.unclaim(parcel.claim.queue_id, parcel.way.forward_paths, due, parcel.way.key)
        except SpoolFull as wrong:  # the claim wrote down when it is due again: later, but not lost
            log.error("a claim cannot be given back", extra={"fields": {"why": str(wrong)}})

    async def _measure(self) -> None:
        """Counting a long queue takes time: never spend more than a fiftieth of it on that."""
        started = time.monotonic()
        if started < self._measure_at:
            return
        self._metrics.measured(await self._spool.depth(), len(self.suspensions), self._clock())
        took = time.monotonic() - started
        self._measure_at = time.monotonic() + max(1.0, 50 * took)


def _next_attempt(retry: Retry, now: float) -> Callable[[float, int], float]:
    return lambda received_at, attempts: lease_until(retry, received_at, now, attempts)
