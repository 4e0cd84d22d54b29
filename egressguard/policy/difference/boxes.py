"""Is there a message in this box and in none of those? Exact, over facts that each fall into a few classes.

    a class   all values of one fact that no rule of either policy tells apart: bit i of an int is the i-th class
    a box     fact -> the classes that it may be in; a fact left out may be anything; never changed once made
    a rule    the boxes that it matches, one of them is enough

Contract
    Pure and exact: `search` finds a box all of whose messages are inside and outside of everything given, or there is
    none. It never guesses: what takes more than `steps` raises TooHard.
    What single facts cannot say (two patterns that no one text matches) is asked of `check`, which answers with a box
    of what cannot be; it is remembered in `learned`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Box = dict[int, int]


class TooHard(Exception):
    """So many steps, and no answer."""


def _possible(_box: Box) -> Box | None:
    return None


@dataclass(slots=True)
class Search:
    """`full` has all classes of each fact. `check` says of a box what in it cannot be, or None."""

    full: Sequence[int]
    check: Callable[[Box], Box | None] = _possible
    steps: int = 20_000_000
    learned: list[Box] = field(default_factory=list)

    def meet(self, one: Box, other: Box) -> Box | None:
        """What is in both; None: nothing is."""
        small, large = (one, other) if len(one) <= len(other) else (other, one)
        found = dict(large)
        for fact, classes in small.items():
            both = found.get(fact, self.full[fact]) & classes
            if not both:
                return None
            found[fact] = both
        return found

    def overlaps(self, one: Box, other: Box) -> bool:
        for fact, classes in other.items():  # noqa: SIM110  asked millions of times, and all() takes twice as long
            if not one.get(fact, classes) & classes:
                return False
        return True

    def covers(self, large: Box, small: Box) -> bool:
        """Whether all of `small` is in `large`."""
        return all(not small.get(fact, self.full[fact]) & ~classes for fact, classes in large.items())

    def search(self, inside: Box, outside: Sequence[Box]) -> Box | None:
        """A box in `inside` and beside all of `outside`. Raises TooHard."""
        avoided = [box for box in (*outside, *self.learned) if self.overlaps(inside, box)]
        self._spend(len(outside))
        if (found := self._hurried(inside, avoided)) is not None and self.check(found) is None:
            return found
        waiting = [(dict(inside), avoided)]
        while waiting:
            box, avoided = waiting.pop()
            left = self._narrowed(box, avoided)
            if left is None:
                continue
            if left:
                waiting += self._branches(box, left)
            elif (wrong := self.check(box)) is None:
                return box
            else:
                self.learned.append(wrong)
                waiting.append((box, [wrong]))
        return None

    def _hurried(self, inside: Box, avoided: Sequence[Box]) -> Box | None:
        """One way through without looking back: most rules are narrow, and it is easy to step aside."""
        box = dict(inside)
        for other in avoided:
            fact, best = -1, 0.0
            for each, classes in other.items():
                have = box.get(each, self.full[each])
                if not have & classes:
                    break
                if (share := (have & ~classes).bit_count() / have.bit_count()) > best:
                    fact, best = each, share
            else:
                if fact < 0:
                    return None
                box[fact] = box.get(fact, self.full[fact]) & ~other[fact]
        self._spend(len(avoided))
        return box

    def _narrowed(self, box: dict[int, int], avoided: Sequence[Box]) -> list[Box] | None:
        """Do what there is only one way to do; what is left to be avoided, or None: there is no way."""
        left = list(avoided)
        while True:
            self._spend(len(left))
            still: list[Box] = []
            changed = False
            for other in left:
                open_facts: list[int] = []
                for fact, classes in other.items():
                    have = box.get(fact, self.full[fact])
                    if not have & classes:
                        break
                    if have & ~classes:
                        open_facts.append(fact)
                else:
                    if not open_facts:
                        return None
                    if len(open_facts) > 1:
                        still.append(other)
                        continue
                    fact = open_facts[0]
                    box[fact] = box.get(fact, self.full[fact]) & ~other[fact]
                    changed = True
            left = still
            if not changed:
                return left

    def _branches(self, box: dict[int, int], left: list[Box]) -> list[tuple[dict[int, int], list[Box]]]:
        """The two ways with one fact of the first box to be avoided; the more promising one last."""
        other = left[0]

        def share(fact: int) -> float:
            have = box.get(fact, self.full[fact])
            return (have & ~other[fact]).bit_count() / have.bit_count() if have & ~other[fact] else -1.0

        fact = max(other, key=share)
        have = box.get(fact, self.full[fact])
        within, beside = dict(box), dict(box)
        within[fact], beside[fact] = have & other[fact], have & ~other[fact]
        return [(within, left), (beside, left)]

    def _spend(self, steps: int) -> None:
        self.steps -= steps + 1
        if self.steps < 0:
            raise TooHard
