"""What a scenario says: what was tried, what was expected, what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.lab.world import Lab

Rows = Iterator[tuple[str, object, object]]
Scenario = Callable[[Lab], Rows]


@dataclass(frozen=True, slots=True)
class Row:
    scenario: str
    tried: str
    expected: str
    seen: str

    @property
    def ok(self) -> bool:
        return self.expected == self.seen
