"""What was seen of each source, summed up: first, last, how often, where to. Bounded in memory and in journal rows.

Contract
    A source that does something new (another rule, destination or port) is recorded at once; repetitions are counted
    and recorded with the next `flush`. Nothing that was seen goes uncounted but the sources beyond MAX_SOURCES, where
    the one that was quiet for longest is forgotten after its row is written.
    At most ROWS_PER_SECOND rows a second on average, with bursts of twice that: what is more waits for `flush`.
    `now` is an argument: seconds since 1970, never going back far.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_SOURCES = 4096
MAX_PLACES = 16
ROWS_PER_SECOND = 50

Record = Callable[[str, Mapping[str, object]], None]
Key = tuple[str, str, str]
"""(kind, rule, source)."""


@dataclass(slots=True)
class Sighting:
    """`places` are destinations or names, the first MAX_PLACES of them; `unwritten` is what the journal lacks."""

    first: float
    last: float
    fields: Mapping[str, object]
    count: int = 0
    unwritten: int = 0
    places: list[str] = field(default_factory=list)


class Sightings:
    def __init__(
        self, record: Record, *, max_sources: int = MAX_SOURCES, rows_per_second: int = ROWS_PER_SECOND
    ) -> None:
        self._record = record
        self._max_sources = max_sources
        self._rate = rows_per_second
        self._rows = float(2 * rows_per_second)  # how many rows may be written at once
        self._filled_at = 0.0
        self._seen: OrderedDict[Key, Sighting] = OrderedDict()

    def see(self, now: float, kind: str, place: str, fields: Mapping[str, object]) -> None:
        """`fields` have "rule" and "source"; `place` is where to, in words."""
        key = (kind, str(fields["rule"]), str(fields["source"]))
        seen = self._seen.get(key)
        if seen is None:
            self._make_room(now)
            seen = self._seen[key] = Sighting(now, now, fields)
        self._seen.move_to_end(key)
        seen.last, seen.fields = now, fields
        seen.count += 1
        seen.unwritten += 1
        is_new = place not in seen.places
        if is_new and len(seen.places) < MAX_PLACES:
            seen.places.append(place)
        if is_new:
            self._write(now, key, seen)

    def flush(self, now: float) -> None:
        """Record what has been seen again, as far as the rate allows; the rest waits for the next time."""
        for key, seen in self._seen.items():
            if seen.unwritten and not self._write(now, key, seen):
                return

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each source and rule, the latest first: {kind, rule, source, first, last, count, places ...}."""
        for (kind, _, _), seen in reversed(self._seen.items()):
            told = {"count": seen.count, "first": seen.first, "last": seen.last, "places": list(seen.places)}
            yield {"kind": kind, **seen.fields, **told}

    def _make_room(self, now: float) -> None:
        if len(self._seen) >= self._max_sources:
            key, oldest = self._seen.popitem(last=False)
            if oldest.unwritten:
                self._write(now, key, oldest)

    def _write(self, now: float, key: Key, seen: Sighting) -> bool:
        self._rows = min(self._rows + max(now - self._filled_at, 0.0) * self._rate, 2.0 * self._rate)
        self._filled_at = now
        if self._rows < 1:
            return False
        self._rows -= 1
        more = {"count": seen.unwritten, "first": seen.first, "last": seen.last, "total": seen.count}
        self._record(key[0], {**seen.fields, **more, "places": list(seen.places)})
        seen.unwritten = 0
        return True
