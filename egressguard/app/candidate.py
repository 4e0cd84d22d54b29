"""The rules as they lie in the rules directory, read and judged before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from egressguard.app.places import Places
from egressguard.app.promises import broken_promises
from egressguard.app.provenance import Provenance, provenance_of, why_not_signed
from egressguard.app.rules import read_rules
from egressguard.policy.model import Policy

SHOWN_FAULTS = 20


class Refused(Exception):
    """Why nothing was changed (or all was changed back), and what to do; `kind` as control.CommandError's."""

    def __init__(self, words: str, kind: str = "failed") -> None:
        super().__init__(words)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Candidate:
    """`files` by their paths below `source`; `red` are the promises that do not hold, in words."""

    policy: Policy
    files: Mapping[str, bytes]
    source: Path
    provenance: Provenance
    red: list[str]


def read_candidate(places: Places, *, only_signed: bool, force: bool, judged: bool = True) -> Candidate:
    """Raises Refused: faults, a broken promise (unless `force`), no signature where one is wanted.

    `judged` False: nobody asks for promises, at a start."""
    loaded, files = read_rules(places.rules, places.site)
    if loaded.policy is None:
        faults = "\n".join(map(str, loaded.faults[:SHOWN_FAULTS]))
        raise Refused(f"{faults}\nthe rules have faults: nothing was changed")
    found = provenance_of(places.rules)
    if only_signed and (why := why_not_signed(found)) is not None:
        raise Refused(f"{why}\nnothing was changed", "refused")
    red = broken_promises(places.rules, loaded.policy, places.site) if judged else []
    if red and not force:
        words = "\n".join(red)
        raise Refused(f"{words}\nnothing was changed; mend the rules or the promise (or --force with a --reason)")
    loaded.policy._origin = found.short
    return Candidate(loaded.policy, files, places.rules, found, red)
