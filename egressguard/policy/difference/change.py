"""One thing that another policy changes: which packets or messages, from what to what, by which rules, and a witness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHOWN_RULES = 6


@dataclass(frozen=True, slots=True)
class Place:
    """A rule and where it stands; "" = no rule names it."""

    rule: str
    at: str = ""

    def __str__(self) -> str:
        return f"{self.rule} ({self.at})" if self.at else self.rule or "no rule"


@dataclass(frozen=True, slots=True)
class Change:
    """`part` is a section of the rules. `which` says what it is about, in the words of rules; `before` and `after` say
    what comes of it, `old` and `new` which rules say so.

    `witness` is the `given` of an expectation (policy.expect) of which both policies say what stands here; None where
    nothing is decided (a setting of the site)."""

    part: str
    which: str
    before: str
    after: str
    old: tuple[Place, ...] = ()
    new: tuple[Place, ...] = ()
    witness: Mapping[str, Any] | None = field(default=None, hash=False)

    def __str__(self) -> str:
        return f"{self.part}: {self.which}: {self.before} -> {self.after}"

    def sides(self) -> tuple[str, str]:
        """What comes of it and who says so, before and after."""
        return _side(self.before, self.old), _side(self.after, self.new)


def _side(outcome: str, places: tuple[Place, ...]) -> str:
    if not places:
        return outcome
    more = f" and {len(places) - SHOWN_RULES} more" if len(places) > SHOWN_RULES else ""
    return f"{outcome} by {', '.join(map(str, places[:SHOWN_RULES]))}{more}"
