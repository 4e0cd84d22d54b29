"""One thing that another policy changes: which packets or messages, from what to what, by which rules; a witness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

SHOWN_RULES = 6


@dataclass(frozen=True, slots=True)
class Place:
    """A rule and where it stands; "" = no rule decides."""

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

    def sides(self) -> tuple[str, str]:
        """What comes of it and who says so, before and after."""
        return _side(self.before, self.old), _side(self.after, self.new)

    def row(self) -> dict[str, Any]:
        """As JSON says it."""
        return {
            "part": self.part,
            "which": self.which,
            "before": self.before,
            "after": self.after,
            "rules_before": [{"rule": place.rule, "at": place.at} for place in self.old],
            "rules_after": [{"rule": place.rule, "at": place.at} for place in self.new],
            "witness": self.witness,
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """What `row` made."""
        old, new = (tuple(Place(p["rule"], p["at"]) for p in row[key]) for key in ("rules_before", "rules_after"))
        return cls(row["part"], row["which"], row["before"], row["after"], old, new, row["witness"])


def _side(outcome: str, places: tuple[Place, ...]) -> str:
    if not places:
        return outcome
    more = f" and {len(places) - SHOWN_RULES} more" if len(places) > SHOWN_RULES else ""
    return f"{outcome} by {', '.join(map(str, places[:SHOWN_RULES]))}{more}"
