"""What a reviewer asks of a change of rules: what it changes, what it would have done, what it breaks.

Contract
    Reads only. Nothing of it decides: what is red, broken or changed is said, the reader draws the line.
    What cannot be found out here (no journal, not allowed to read it) is said in `not_judged`, and is no fault.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from egressguard.app.backtest import backtest
from egressguard.app.places import Places
from egressguard.app.promises import Promises, promises
from egressguard.policy.backtest import Tally
from egressguard.policy.difference.whole import Difference, compare
from egressguard.policy.model import Policy

Tick = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Review:
    """`kept`: what the rules promise; `past`: what past decisions would come to, None: see `not_judged`."""

    difference: Difference
    kept: Promises
    past: Tally | None
    not_judged: str = ""

    @property
    def is_green(self) -> bool:
        """Nothing that the rules themselves promise is broken."""
        return not self.kept.broken


def review(old: Policy, new: Policy, directory: Path, places: Places, *, since: float, tick: Tick) -> Review:
    """`directory` has the files of `new`, expectations beside them; `places` has the journal."""
    difference = compare(old, new, tick)
    kept = promises(directory, new, places.site)
    try:
        past = backtest(new, places, since=since, old=old)
    except PermissionError as wrong:
        return Review(difference, kept, None, f"{wrong.filename}: permission denied")
    except (sqlite3.Error, OSError) as wrong:
        return Review(difference, kept, None, f"the journal cannot be read ({wrong})")
    if not past.summary()["judged"]:
        return Review(difference, kept, None, "no past decisions are recorded here")
    return Review(difference, kept, past)
