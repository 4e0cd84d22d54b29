"""All that another policy changes, part by part. Pure.

Contract
    Policies that decide alike and set alike have no changes: a refactoring is silent.
    `is_whole` False: the search ended early in the parts that `cut` names; what was found until then stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from egressguard.policy.difference.boxes import TooHard
from egressguard.policy.difference.change import Change
from egressguard.policy.difference.flows import FlowComparison
from egressguard.policy.difference.mail import MailComparison
from egressguard.policy.difference.settings import setting_changes
from egressguard.policy.difference.tls import tls_changes
from egressguard.policy.model import Policy

Progress = Callable[[int, int], object]
PARTS = 100
"""What the progress of each part is told in."""


@dataclass(frozen=True, slots=True)
class Difference:
    changes: tuple[Change, ...]
    cut: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return not self.cut

    def __bool__(self) -> bool:
        return bool(self.changes or self.cut)


def compare(old: Policy, new: Policy, progress: Progress = lambda _done, _of: None) -> Difference:
    """From `old` to `new`: packets, messages, TLS, then what no rule decides."""
    changes: list[Change] = []
    cut: list[str] = []
    comparisons: tuple[tuple[str, FlowComparison | MailComparison], ...] = (
        ("flows", FlowComparison(old, new)),
        ("mail", MailComparison(old, new)),
    )
    for number, (part, comparison) in enumerate(comparisons):
        try:
            comparison.run(lambda done, of, n=number: progress(n * PARTS + PARTS * done // of, 2 * PARTS))  # type: ignore[misc]
        except TooHard:
            cut.append(part)
        changes += comparison.changes()
    changes += tls_changes(old, new)
    changes += setting_changes(old, new)
    return Difference(tuple(changes), tuple(cut))
