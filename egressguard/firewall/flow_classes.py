"""What was decided on flows, summed up by class for the journal: enough to decide them again under other rules.

Contract
    A class is all that a rule can look at (who, whereto, port, protocol, where it arrived, what it speaks, which host
    names the destination had), with what was decided, in one slot of SLOT_SECONDS: hours in rules mean something then.
    The first of a class is recorded at once, repetitions are counted and recorded when the slot is over, or at `close`.
    At most ROWS_PER_SECOND rows a second on average; at most MAX_CLASSES are remembered. What does not fit is counted
    as `lost`.
    `now` is an argument: seconds since 1970.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from egressguard.net.flow import IPAddress
from egressguard.policy.recorded import FlowFacts

SLOT_SECONDS = 300
MAX_CLASSES = 16_384
ROWS_PER_SECOND = 50

Record = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet that something was decided on; `rule` "" = no rule names it."""

    source: IPAddress
    destination: IPAddress
    port: int
    protocol: str
    interface: str
    mac: str
    speaks: str
    action: str
    rule: str


@dataclass(slots=True)
class _Class:
    facts: FlowFacts
    first: float
    last: float
    unwritten: int = 0


class FlowClasses:
    def __init__(
        self,
        record: Record,
        *,
        max_classes: int = MAX_CLASSES,
        rows_per_second: int = ROWS_PER_SECOND,
    ) -> None:
        self._record = record
        self._max_classes = max_classes
        self._rate = rows_per_second
        self._rows = float(2 * rows_per_second)
        self._filled_at = 0.0
        self._classes: OrderedDict[tuple[Seen, int], _Class] = OrderedDict()
        self.lost = 0

    def see(self, now: float, seen: Seen, facts_of: Callable[[Seen], FlowFacts], count: int = 1) -> None:
        """`facts_of` is asked for the first of a class only."""
        key = (seen, int(now // SLOT_SECONDS))
        known = self._classes.get(key)
        if known is not None:
            known.last = now
            known.unwritten += count
            return
        if len(self._classes) >= self._max_classes:
            _, forgotten = self._classes.popitem(last=False)
            if forgotten.unwritten and not self._write(now, forgotten):
                self.lost += forgotten.unwritten
        fresh = self._classes[key] = _Class(facts_of(seen), now, now, count)
        self._write(now, fresh)

    def flush(self, now: float) -> None:
        """Record, and forget, what belongs to slots that are over, as far as the rate allows."""
        slot = int(now // SLOT_SECONDS)
        while self._classes:
            key, oldest = next(iter(self._classes.items()))
            if key[1] >= slot or (oldest.unwritten and not self._write(now, oldest)):
                return
            del self._classes[key]

    def close(self, now: float) -> None:
        """Record all of it: nobody comes after."""
        for each in self._classes.values():
            if each.unwritten:
                self._tell(each)
        self._classes.clear()
        self._filled_at = now

    def _write(self, now: float, each: _Class) -> bool:
        self._rows = min(self._rows + max(now - self._filled_at, 0.0) * self._rate, 2.0 * self._rate)
        self._filled_at = now
        if self._rows < 1:
            return False
        self._rows -= 1
        self._tell(each)
        return True

    def _tell(self, each: _Class) -> None:
        times = {"first": each.first, "last": each.last, "count": each.unwritten}
        self._record("flow.decided", each.facts.told | times)
        each.unwritten = 0
        each.first = each.last
