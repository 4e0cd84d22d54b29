"""Recipients that nobody writes to any more: the list that the spool keeps, looked up without asking it.

Contract
    A recipient on the list is refused without dialling, in words that say since when and why.
    Where the rules ask for it (relay.suppression), a recipient that hosts do not know gets on the list by itself: after
    so many refusals, an hour or more between two, no success between. Counting begins anew with the relay.
    An empty list costs nothing. Bounded: MAX_ENTRIES on the list, MAX_COUNTED that may get there.
    Where several gateways share a spool, what the others put there is known within LOOK_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from egressguard.mail.outcome import Outcome, Result, permanent
from egressguard.mail.trace import date_time
from egressguard.policy.bounces import Suppression
from egressguard.relay.attempt import Way
from egressguard.store.interface import Spool, SpoolFull, Suppressed

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
MAX_ENTRIES = 100_000
MAX_COUNTED = 10_000
BETWEEN_SECONDS = 3600
"""A host that is set up wrongly for a minute refuses many messages: they count as one."""
UNKNOWN = frozenset({"5.1.1", "5.1.2", "5.1.6", "5.1.10", "5.2.1"})
"""No mailbox, no domain, moved, takes no mail, disabled (RFC 3463 s3.2, s3.3; RFC 7505)."""
BY_ITSELF = "refused as unknown, most recently"

Record = Callable[[str, Mapping[str, object]], None]


class TooMany(Exception):
    """The list is as long as it may be."""


class Suppressions:
    def __init__(self, spool: Spool, record: Record) -> None:
        self._spool = spool
        self._record = record
        self._known: dict[str, Suppressed] = {}
        self._counted: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._look_at = 0.0
        self._one = asyncio.Lock()  # a look that began before a change would undo it here

    def __len__(self) -> int:
        return len(self._known)

    async def load_again(self, at: float, now: float) -> None:
        """If it is time to; `at` is monotonic. What is over goes from the list. Raises SpoolFull, SpoolBroken."""
        if at < self._look_at:
            return
        self._look_at = at + LOOK_SECONDS
        async with self._one:
            found = await self._spool.suppressed(MAX_ENTRIES)
            self._known = {entry.address: entry for entry in found if not _is_over(entry, now)}
        if len(self._known) < len(found):
            await self._spool.forget_suppressed(now)

    def entries(self, now: float) -> list[Suppressed]:
        return [entry for entry in self._known.values() if not _is_over(entry, now)]

    def refused(self, paths: Iterable[str], now: float) -> dict[str, Outcome]:
        """Those of `paths` that are on the list, and what becomes of them."""
        found = {path: self._known.get(key_of(path)) for path in paths}
        return {path: _refusal(entry) for path, entry in found.items() if entry and not _is_over(entry, now)}

    def parted(self, way: Way, now: float) -> tuple[Way | None, dict[str, Outcome]]:
        """The way with those of its recipients who are not on the list (None: all are), and the others' outcomes."""
        refused = self.refused(way.forward_paths, now) if self._known else {}
        if not refused:
            return way, refused
        others = tuple(path for path in way.forward_paths if path not in refused)
        return (replace(way, forward_paths=others) if others else None), refused

    async def add(self, address: str, why: str, until: float, by: str, now: float) -> Suppressed:
        """`until` 0: for good. Raises TooMany, SpoolFull, SpoolBroken."""
        entry = Suppressed(key_of(address), why, now, until)
        if len(self._known) >= MAX_ENTRIES and entry.address not in self._known:
            raise TooMany(f"the suppression list has {MAX_ENTRIES} entries, and takes no more")
        async with self._one:
            await self._spool.suppress(entry)
            self._known[entry.address] = entry
        self._record("suppression.added", {"recipient": entry.address, "why": why, "until": until, "by": by})
        return entry

    async def remove(self, address: str, by: str) -> bool:
        """False: it was not on the list. Raises SpoolFull, SpoolBroken."""
        key = key_of(address)
        async with self._one:
            removed = await self._spool.unsuppress(key)
            self._known.pop(key, None)
        self._counted.pop(key, None)
        if removed:
            self._record("suppression.removed", {"recipient": key, "by": by})
        return removed

    async def heard(self, rule: Suppression, outcomes: Mapping[str, Outcome], now: float) -> None:
        """Count what hosts said of recipients; who has been refused too often gets on the list. Raises SpoolBroken."""
        for path, outcome in outcomes.items():
            if outcome.result is Result.DELIVERED:
                self._counted.pop(key_of(path), None)
            elif outcome.result is Result.PERMANENT and outcome.status in UNKNOWN and self._count(rule, path, now):
                await self._add_by_itself(rule, path, outcome, now)

    def _count(self, rule: Suppression, path: str, now: float) -> bool:
        """Whether this was once too often."""
        key = key_of(path)
        count, last = self._counted.pop(key, (0, 0.0))
        if now - last > rule.for_seconds:
            count = 0
        if count == 0 or now - last >= BETWEEN_SECONDS:
            count, last = count + 1, now
        if count >= rule.after:
            return True
        self._counted[key] = (count, last)
        while len(self._counted) > MAX_COUNTED:
            self._counted.popitem(last=False)
        return False

    async def _add_by_itself(self, rule: Suppression, path: str, outcome: Outcome, now: float) -> None:
        said = f"{outcome.said_by}: " if outcome.said_by else ""
        try:
            await self.add(path, f"{BY_ITSELF}: {said}{outcome.text}"[:400], now + rule.for_seconds, "", now)
        except (SpoolFull, TooMany) as wrong:
            fields = {"recipient": path, "why": str(wrong)}
            log.warning("a recipient that is not known cannot be suppressed", extra={"fields": fields})


def key_of(path: str) -> str:
    """No host of our days tells Anna from anna."""
    return path.lower()


def _is_over(entry: Suppressed, now: float) -> bool:
    return 0 < entry.until <= now


def _refusal(entry: Suppressed) -> Outcome:
    words = f"not tried: on this gateway's suppression list since {date_time(entry.since)}"
    return permanent("5.7.1", f"{words} ({entry.why})" if entry.why else words)
