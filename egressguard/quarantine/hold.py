"""Hold, list, and carry out what people order: release exactly once, reject, delete.

Contract
    `hold` returns when the message is durable; OSError or SpoolFull otherwise, and then nothing is held. Above
    `max_octets` nothing more is held (the client comes again); what is held already is never given up for it.
    An order is written down before its first step (quarantine.order) and carried out once, whatever crashes: the octets
    as they were go into the spool under a source that stands there once for ever, and only then the file goes.
    Nothing judges a released message again. A sender hears of a refusal only if `refusal` says so.
    Every action is recorded with who did it, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from egressguard.mail.header import split_header_section
from egressguard.quarantine.envelope import (
    content_of,
    learned_by,
    message_of,
    narrowed,
    redirected,
    source_of,
    waiting_for,
)
from egressguard.quarantine.index import Held, Index, Wanted
from egressguard.quarantine.maildir import HoldMaildir
from egressguard.quarantine.order import DELETE, EXPIRE, REJECT, RELEASE, Order, OrderBook
from egressguard.scan.learning import Result, Teachers
from egressguard.store import durable
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, Spool, SpoolAway, SpoolBroken, SpoolFull
from egressguard.store.queue_id import random_queue_id

log = logging.getLogger(__name__)

SHOWN_HEADER_OCTETS = 8192
ACTIONS = ("hold", "release", "reject", "delete", "expire", "learn", "expunge", "refuse")
FOLDERS = ("Infected", "Denied", "Ambiguous", "Held")
"""In the metrics from the start."""

Record = Callable[[str, Mapping[str, object]], None]
Refusal = Callable[[NewMessage, str], Awaitable[NewMessage | None]]
"""(the message, why) -> the notice for its sender; None: nobody is to be told."""


class Viewer(Protocol):
    """Hears what becomes of held messages (quarantine.showing). Blocks; raises nothing."""

    @property
    def shows_anything(self) -> bool: ...

    def taken_in(self, held: Held) -> None: ...

    def given_up(self, held: Held) -> None: ...

    def changed(self, held: Held, facts: Mapping[str, Any]) -> None: ...

    def out_of_date(self) -> None: ...


class NotFound(Exception):
    """No such message is held (any more), or not so that this can be done to it."""


class NothingLearns(Exception):
    """No spam filter that learns is configured."""


class NotLearned(Exception):
    """One who was to learn has not; the words say what became of it with each. `is_for_now`: it may be asked again."""

    def __init__(self, words: str, *, is_for_now: bool) -> None:
        super().__init__(words)
        self.is_for_now = is_for_now


async def _nobody_is_told(_message: NewMessage, _why: str) -> NewMessage | None:
    return None


class Quarantine:
    """`released` is called after a release, to wake the queue. `max_octets` may change at any time, None: no limit."""

    def __init__(
        self,
        root: Path,
        spool: Spool,
        record: Record,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.time,
        disk: type[durable.Disk] = durable.Disk,
        released: Callable[[], None] = lambda: None,
        refusal: Refusal = _nobody_is_told,
        teachers: Teachers | None = None,
        viewer: Viewer | None = None,
        max_octets: int | None = None,
    ) -> None:
        """Blocks, as long as it takes to look at all names of files. Raises OSError, sqlite3.Error."""
        self.max_octets = max_octets
        self._maildir = HoldMaildir(root, disk)
        self._orders = OrderBook(root / "orders", disk)
        self._index = Index(self._maildir)
        self._index.reconcile()
        self._spool = spool
        self._record = record
        self._clock = clock
        self._released = released
        self._refusal = refusal
        self._teachers = teachers
        self._viewer = viewer
        self._acting = asyncio.Lock()
        self._messages = Gauge(
            "egressguard_quarantine_messages", "Messages held, by folder.", ["folder"], registry=registry
        )
        self._size = Gauge("egressguard_quarantine_size_bytes", "Octets of the messages held.", registry=registry)
        self._actions = Counter(
            "egressguard_quarantine_actions_total",
            "Messages held, released, refused to their senders, deleted, expired, learned from, expunged by IMAP.",
            ["action"],
            registry=registry,
        )
        self._full = Counter(
            "egressguard_quarantine_deferred_messages_total",
            "Messages deferred: the quarantine had no room.",
            registry=registry,
        )
        for action in ACTIONS:
            self._actions.labels(action)

    def close(self) -> None:
        self._index.close()

    async def hold(self, queue_id: str, folder: str, content: Content, facts: Mapping[str, Any]) -> None:
        """Store a message that a rule holds; `facts` are relay.held's. Raises OSError, SpoolFull."""
        if self.max_octets is not None and self._index.octets + content.size_octets > self.max_octets:
            self._full.inc()
            raise SpoolFull(f"the quarantine would be larger than {self.max_octets} octets")
        if await asyncio.to_thread(self._hold, queue_id, folder, content, facts):
            self._note("hold", queue_id, {"rule": facts["rule"], "folder": folder, "findings": facts["findings"]})

    def _hold(self, queue_id: str, folder: str, content: Content, facts: Mapping[str, Any]) -> bool:
        """False: it was held already."""
        if self._known(queue_id):
            return False
        path = self._maildir.write(queue_id, folder, content, facts, self._clock())
        try:
            self._index.add(queue_id, path, facts, content.size_octets)
        except sqlite3.Error as wrong:  # it is durable; `reconcile` takes it in
            log.error("the quarantine's index was not written", extra={"fields": {"why": str(wrong)}})
            return True
        viewer = self._viewer
        if viewer is not None and viewer.shows_anything and (held := self._index.find(queue_id)) is not None:
            viewer.taken_in(held)
        return True

    def _known(self, queue_id: str) -> bool:
        held = self._index.find(queue_id)
        return held is not None and held.path.exists()

    # Looking.

    async def page(self, wanted: Wanted, after: int = 0, limit: int = 1000) -> list[Held]:
        """What is wanted, in the order in which it was held."""
        return await asyncio.to_thread(self._index.page, wanted, after, limit=limit)

    async def count(self, wanted: Wanted) -> tuple[int, int, int]:
        """(messages, their octets, the number of the last one)."""
        return await asyncio.to_thread(self._index.count, wanted)

    async def rows(self) -> list[dict[str, Any]]:
        """The first thousand held messages, the oldest first."""
        return [held.row() for held in await self.page(Wanted())]

    async def show(self, message_id: str) -> dict[str, Any]:
        """One held message with the beginning of its header section. Raises NotFound."""
        held, path = await self.find(message_id)
        content = Content(file=path, file_octets=SHOWN_HEADER_OCTETS)
        section, _ = split_header_section(await asyncio.to_thread(content.head, SHOWN_HEADER_OCTETS))
        return held.row() | {"header_section": section.decode("utf-8", "replace"), "file": str(path)}

    async def held(self, message_id: str) -> Held:
        """Raises NotFound."""
        held, _ = await self.find(message_id)
        return held

    def every(self) -> Iterator[Held]:
        """All that is held, in the order in which it was. Blocks; raises sqlite3.Error."""
        after, page = 0, self._index.page(Wanted())
        while page:
            yield from page
            after = page[-1].number
            page = self._index.page(Wanted(), after)

    async def find(self, message_id: str) -> tuple[Held, Path]:
        held = await asyncio.to_thread(self._index.find, message_id)
        path = await asyncio.to_thread(self._maildir.locate, message_id, held.path) if held else None
        if held is None or path is None:
            raise NotFound(f"no held message {message_id!r:.60}; it may have been released or deleted already")
        return held, path

    # Orders.

    async def release(self, message_id: str, by: str, why: str = "") -> dict[str, Any]:
        """Send a held message on. Raises as `act` does."""
        return await self.act(Order(RELEASE, message_id, by, why))

    async def delete(self, message_id: str, by: str, why: str = "") -> dict[str, Any]:
        """Raises as `act` does."""
        return await self.act(Order(DELETE, message_id, by, why))

    async def act(self, order: Order) -> dict[str, Any]:
        """Carry an order out. Raises NotFound, OSError, SpoolFull, SpoolBroken.

        Where an earlier order about the message stands, that one is carried out, and this one finds nothing."""
        async with self._acting:
            held, _ = await self.find(order.message_id)
            earlier = await asyncio.to_thread(self._orders.read, order.message_id)
            if earlier is not None:
                await self._carry_out(earlier)
                raise NotFound(f"{order.message_id}: an earlier order ({earlier.verb}, {earlier.by}) was carried out")
            _refuse_nonsense(order, held)
            await asyncio.to_thread(self._orders.write, order)
            return await self._carry_out(order)

    async def finish(self) -> int:
        """Carry out what a crash, or a spool that did not answer, has left; return how many are done."""
        done = 0
        for message_id in await asyncio.to_thread(lambda: list(self._orders.standing())):
            async with self._acting:
                try:
                    order = await asyncio.to_thread(self._orders.read, message_id)
                    if order is not None:
                        await self._carry_out(order)
                        done += 1
                except (OSError, SpoolFull, SpoolBroken) as wrong:
                    fields = {"queue_id": message_id, "why": str(wrong)}
                    log.error("an order about a held message waits", extra={"fields": fields})
        return done

    async def _carry_out(self, order: Order) -> dict[str, Any]:
        message_id = order.message_id
        try:
            held, path = await self.find(message_id)
        except NotFound:  # the last time it got as far as to remove the file
            return await self._finished(order, {})
        try:
            told = await self._send(order, held, path)
        except (SpoolAway, SpoolBroken):
            raise  # it may be there: the order stands, and is carried out by `finish`
        except SpoolFull:
            await asyncio.to_thread(self._orders.withdraw, message_id)
            raise
        left = tuple(one for one in waiting_for(held.facts) if one not in order.recipients)
        if order.recipients and left:
            await asyncio.to_thread(self._settle_some, order, held)
            self._tell(order, told)
            return told
        await asyncio.to_thread(self._remove, held, path)
        return await self._finished(order, told)

    def _settle_some(self, order: Order, held: Held) -> None:
        """The order was about some recipients; the message waits for the others."""
        key = "released" if order.verb == RELEASE else "declined"
        facts = {**held.facts, key: list(dict.fromkeys([*held.facts.get(key, ()), *order.recipients]))}
        self._maildir.write_facts(order.message_id, facts)
        self._index.change_facts(order.message_id, facts)
        self._orders.done(order.message_id)
        if self._viewer is not None:
            self._viewer.changed(held, facts)

    def _remove(self, held: Held, path: Path) -> None:
        self._maildir.remove(held.message_id, path)
        if self._viewer is not None:
            self._viewer.given_up(held)

    async def _send(self, order: Order, held: Held, path: Path) -> dict[str, Any]:
        """Put into the spool what the order is about; the spool takes it once."""
        if order.verb not in {RELEASE, REJECT}:
            return {}
        content = await asyncio.to_thread(content_of, path)
        now = self._clock()
        message = message_of(held.message_id, held.facts, content, now)
        if order.verb == REJECT:
            notice = await self._refusal(message, order.why) if message.envelope.forward_paths else None
            if notice is None:
                return {"sender_told": False}
            await self._spool.put(replace(notice, source_id=source_of(held.message_id)))
            return {"sender_told": True}
        if order.to:
            message = redirected(message, order.to)
        elif order.recipients and set(order.recipients) != set(message.envelope.forward_paths):
            some = [one for one in message.envelope.forward_paths if one in order.recipients]
            message = narrowed(message, some, random_queue_id(now), held.message_id)
        queue_id = await self._spool.put(message)
        return {"queue_id": queue_id, "recipients": list(message.envelope.forward_paths)}

    async def _finished(self, order: Order, told: dict[str, Any]) -> dict[str, Any]:
        await asyncio.to_thread(self._maildir.forget_facts, order.message_id)
        await asyncio.to_thread(self._index.remove, order.message_id)
        await asyncio.to_thread(self._orders.done, order.message_id)
        self._tell(order, told)
        return {_DONE[order.verb]: order.message_id, **told}

    def _tell(self, order: Order, told: Mapping[str, Any]) -> None:
        fields: dict[str, object] = {"by": order.by, "why": order.why, **told}
        self._note(order.verb, order.message_id, fields)
        if order.verb in {RELEASE, REJECT}:
            self._released()

    async def learn(self, message_id: str, kind: str, by: str, why: str = "") -> dict[str, Any]:
        """Show a held message to the spam filters that learn, as "spam" or "ham"; it stays held.

        Those that have learned it so are not asked again. Raises NotFound, NothingLearns, NotLearned, OSError."""
        engines = self._teachers.engines if self._teachers is not None else ()
        if self._teachers is None or not engines:
            raise NothingLearns("no spam filter learns: the rules name neither scan.rspamd.controller nor spamd.learns")
        held, path = await self.find(message_id)
        waiting = [name for name in engines if learned_by(held.facts).get(name) != kind]
        lessons = await self._teachers.teach(kind, await asyncio.to_thread(content_of, path), waiting)
        taught = {one.engine: kind for one in lessons if one.is_remembered}
        if taught:
            await self._remember(message_id, taught)
        told = dict.fromkeys(engines, "known before") | {one.engine: one.words or one.result.value for one in lessons}
        if lessons:
            self._note("learn", message_id, {"by": by, "why": why, "kind": kind, "engines": told})
        failed = [one for one in lessons if not one.is_remembered]
        if failed:
            words = "; ".join(f"{name}: {what}" for name, what in told.items())
            raise NotLearned(words, is_for_now=all(one.result is Result.AWAY for one in failed))
        return {"learned": message_id, "as": kind, "engines": told}

    async def _remember(self, message_id: str, taught: Mapping[str, str]) -> None:
        """Which filter knows the message as what. One that is gone meanwhile needs no memory."""
        async with self._acting:
            with contextlib.suppress(NotFound):
                held, _ = await self.find(message_id)
                facts = {**held.facts, "learned": {**learned_by(held.facts), **taught}}
                await asyncio.to_thread(self._maildir.write_facts, message_id, facts)
                await asyncio.to_thread(self._index.change_facts, message_id, facts)

    # Housekeeping.

    async def expire(self, folder: str, held_before: float | None, max_octets: int | None, limit: int = 100) -> int:
        """Delete what is too old in a folder, and the oldest of what is too much; return how many, at most `limit`.

        Raises as `act` does."""
        reasons: dict[str, str] = {}
        if held_before is not None:
            old = await asyncio.to_thread(self._index.page, Wanted(folder=folder, held_before=held_before), limit=limit)
            reasons |= {held.message_id: "kept long enough" for held in old}
        totals = await asyncio.to_thread(self._index.totals)
        if max_octets is not None and totals.get(folder, (0, 0))[1] > max_octets:
            over = await asyncio.to_thread(self._index.over_size, folder, max_octets, limit)
            reasons = {one: "no room for more in this folder" for one in over} | reasons
        for message_id, why in reasons.items():
            with contextlib.suppress(NotFound):  # somebody was faster
                await self.act(Order(EXPIRE, message_id, "retention", why))
        return len(reasons)

    async def reindex(self) -> dict[str, int]:
        """Bring the index up to date with the Maildir. Raises OSError, sqlite3.Error."""
        async with self._acting:
            found = await asyncio.to_thread(self._index.reconcile)
        for message_id in found.gone:
            self._maildir.forget_facts(message_id)
            self._note("expunge", message_id, {"by": "", "why": "its file is gone"})
        if self._viewer is not None and (found.added or found.moved or found.gone):
            self._viewer.out_of_date()
        return {"added": found.added, "moved": found.moved, "gone": len(found.gone)}

    async def measure(self) -> None:
        """Bring the gauges up to date."""
        totals = dict.fromkeys(FOLDERS, (0, 0)) | await asyncio.to_thread(self._index.totals)
        self._messages.clear()
        for folder, (count, _) in totals.items():
            self._messages.labels(folder or "Inbox").set(count)
        self._size.set(sum(octets for _, octets in totals.values()))

    def note_refusal(self, message_id: str, fields: Mapping[str, object]) -> None:
        """Somebody ordered what he may not."""
        self._note("refuse", message_id, fields)

    def _note(self, action: str, message_id: str, fields: Mapping[str, object]) -> None:
        self._actions.labels(action).inc()
        self._record(f"quarantine.{action}", {"queue_id": message_id, **fields})


_DONE = {RELEASE: "released", REJECT: "rejected", DELETE: "deleted", EXPIRE: "expired"}


def _refuse_nonsense(order: Order, held: Held) -> None:
    """Raises NotFound."""
    waiting = waiting_for(held.facts)
    if order.verb == RELEASE and not waiting and not order.to:
        words = "its envelope is lost, so nobody knows whom it is for; release it --to somebody"
        raise NotFound(f"{held.message_id}: {words}; see {held.path}")
    if missing := [one for one in order.recipients if one not in waiting]:
        raise NotFound(f"{held.message_id} does not wait for {missing[0]!r:.300}; it may have been released already")
