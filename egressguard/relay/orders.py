"""What people order about the queue: hold, release, retry, reroute, delete, give up; a page at a time.

Contract
    Bounded: one order works through its selection for STEP_SECONDS and says where to go on; each transaction touches
    STEP_MESSAGES messages at most, so that deliveries go on between.
    What is being tried now is left alone, and counted as skipped; only what is deleted may be delivered yet, and is
    counted as such.
    Who ordered it, why, and which messages it was: in the journal, as `queue.` and the order's name.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egressguard.relay.queue import Queue
from egressguard.store.interface import BeingTried, Spool
from egressguard.store.selection import END, Change, Changed, Move, Picked, Selection

log = logging.getLogger(__name__)

STEP_MESSAGES = 100
STEP_RECIPIENTS = 1000
STEP_SECONDS = 1.0
LIST_MESSAGES = 500

BOUNCE = "bounce"
VERBS = (*(move.value for move in Move), BOUNCE)

Record = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Order:
    """`verb` is one of VERBS; `by` and `why` are for the journal, `why` for the sender too when a message is given up.

    `via` counts for reroute."""

    verb: str
    by: str
    why: str = ""
    via: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """`recipients` of `messages` were changed, `being_tried` of them nevertheless; `skipped` were not.

    `notices`: DSNs that senders get. `after`: where to go on, None = all is done."""

    messages: int = 0
    recipients: int = 0
    being_tried: int = 0
    skipped: int = 0
    notices: int = 0
    after: int | None = None


class Orders:
    def __init__(self, spool: Spool, queue: Queue, record: Record, *, clock: Callable[[], float] = time.time) -> None:
        self._spool = spool
        self._queue = queue
        self._record = record
        self._clock = clock

    async def rows(self, selection: Selection, after: int, limit: int) -> dict[str, Any]:
        """A page of messages that have selected recipients, with all their recipients."""
        page = await self._spool.pick(selection, after, min(limit, LIST_MESSAGES))
        rows = await self._spool.rows_of([picked.queue_id for picked in page.picked]) if page.picked else []
        return {"rows": [{**row, "queue_name": _queue_name(row)} for row in rows], "after": page.after}

    async def count(self, selection: Selection, after: int) -> dict[str, Any]:
        """What is selected behind `after`, as far as STEP_SECONDS get."""
        deadline = time.monotonic() + STEP_SECONDS
        found: list[Picked] = []
        size = recipients = trying = messages = 0
        going: int | None = after
        while going is not None and (going == after or time.monotonic() < deadline):
            page = await self._spool.pick(selection, going, STEP_RECIPIENTS)
            messages += len(page.picked)
            recipients += sum(picked.recipients for picked in page.picked)
            trying += sum(picked.trying for picked in page.picked)
            size += sum(picked.size_octets for picked in page.picked)
            found += page.picked[: 3 - len(found)]
            going = page.after
        counts = {"messages": messages, "recipients": recipients, "being_tried": trying, "size_octets": size}
        return counts | {"examples": [picked.queue_id for picked in found], "after": going}

    async def newest(self) -> int:
        return await self._spool.newest()

    async def carry_out(self, order: Order, selection: Selection, after: int = 0, until: int = END) -> Tally:
        """Do it to what is selected among the messages from `after` to `until`, for STEP_SECONDS."""
        deadline, tally = time.monotonic() + STEP_SECONDS, Tally(after=after)
        while tally.after is not None and (tally.after == after or time.monotonic() < deadline):
            page = await self._spool.pick(selection, tally.after, STEP_MESSAGES)
            tally.after = page.after
            meant = [picked for picked in page.picked if picked.number <= until]
            for some in _in_steps(meant):
                await self._step(order, selection, some, tally)
                await asyncio.sleep(0)
            if len(meant) < len(page.picked) or (tally.after is not None and tally.after >= until):
                tally.after = None
        self._wake(order)
        return tally

    async def _step(self, order: Order, selection: Selection, picked: Sequence[Picked], tally: Tally) -> None:
        ids = [one.queue_id for one in picked]
        before = tally.recipients
        if order.verb == BOUNCE:
            changed = await self._bounce(order, selection, ids, tally)
        else:
            change = Change(Move(order.verb), self._clock(), order.via)
            changed = await self._spool.change(selection, ids, change)
        tally.messages += len(changed.recipients)
        tally.recipients += sum(changed.recipients.values())
        tally.being_tried += changed.trying
        tally.skipped += max(0, sum(one.recipients for one in picked) - (tally.recipients - before))
        self._note(order, selection, changed)

    async def _bounce(self, order: Order, selection: Selection, ids: Sequence[str], tally: Tally) -> Changed:
        given_up: dict[str, int] = {}
        for claim in await self._spool.waiting(selection, ids):
            try:
                tally.notices += await self._queue.give_up(claim, order.why)
            except (BeingTried, KeyError) as wrong:
                log.info("a message is not given up: it is being tried, or gone", extra={"fields": {"id": str(wrong)}})
            else:
                given_up[claim.queue_id] = len(claim.recipients)
        return Changed(given_up)

    def _note(self, order: Order, selection: Selection, changed: Changed) -> None:
        if not changed.recipients:
            return
        ids = list(changed.recipients)
        about: dict[str, object] = {"queue_id": ids[0]} if len(ids) == 1 else {"queue_ids": ids}
        about |= {"by": order.by, "why": order.why, "recipients": sum(changed.recipients.values())}
        about |= {"being_tried": changed.trying} if changed.trying else {}
        about |= {"via": order.via} if order.verb == Move.REROUTE.value else {}
        about |= {"selected": words} if (words := _words(selection)) else {}
        self._record(f"queue.{order.verb}", about)

    def _wake(self, order: Order) -> None:
        if order.verb in {Move.RETRY.value, Move.REROUTE.value}:
            self._queue.hurry()
        else:
            self._queue.wake()


def _in_steps(picked: Sequence[Picked]) -> list[list[Picked]]:
    """Messages that share a transaction."""
    steps: list[list[Picked]] = []
    recipients = STEP_RECIPIENTS
    for one in picked:
        if recipients + one.recipients > STEP_RECIPIENTS:
            steps.append([])
            recipients = 0
        steps[-1].append(one)
        recipients += one.recipients
    return steps


def _words(selection: Selection) -> dict[str, object]:
    """What of it is not said by the queue ids."""
    keys = ("sender", "recipient", "destination", "state", "received_before", "received_after")
    return {key: value for key in keys if (value := getattr(selection, key)) is not None}


def _queue_name(row: Mapping[str, Any]) -> str:
    """As the metrics call the queue that the message is in; it is in the busiest of its recipients'."""
    states = {one["state"] for one in row["recipients"]}
    if "trying" in states:
        return "active"
    if "queued" in states:
        return (
            "deferred" if any(one["attempts"] for one in row["recipients"] if one["state"] == "queued") else "incoming"
        )
    return "held"
