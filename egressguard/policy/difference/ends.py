"""Where two lists of rules lead the same message or flow to different ends. Exact.

Contract
    `pairs` finds every pair of entries, one of each list, that some subject comes to and whose outcomes differ.
    Two lists that share most entries can only differ on what matches one of the others: what was added, taken away,
    changed or moved. Only pairs with one of these are looked at.
    What is told is put together by what comes of it and by the rule that brought it, each with one witness.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from egressguard.policy.difference.boxes import Box, Search
from egressguard.policy.difference.change import Change, Place
from egressguard.values import value

MOST_RULES = 10
"""So many rules are looked for on the other side of one change, and no more."""
MOST_BOXES = 3
"""So many classes are named for one change."""

Boxes = tuple[Box, ...]


@value(frozen=True, slots=True)
class Outcome:
    """`meaning` is compared, `words` are told. `stays_out`: the message is not taken."""

    meaning: Hashable
    words: str = field(compare=False)
    stays_out: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """What comes of what is in one of the boxes; `rule` and `at` say who says so.

    `final`: where the outcome is about something besides the decision, the decision, if it falls here."""

    boxes: Boxes
    outcome: Outcome
    rule: str = field(compare=False)
    at: str = field(compare=False)
    final: Outcome | None = None

    @property
    def key(self) -> Hashable:
        """Equal for entries that do the same to the same."""
        return frozenset(frozenset(box.items()) for box in self.boxes), self.outcome, self.final


Program = list[Entry]


Words = Callable[[Box], str]
"""Which messages or flows are in a box."""
Given = Callable[[Box], Mapping[str, Any]]
"""One of them, as an expectation gives it."""


@dataclass(frozen=True, slots=True)
class Region:
    """The subjects in `inside` and in none of `outside`."""

    inside: Box
    outside: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """An entry of each program, by number, and what comes to both; `brought` names the rule that made it so."""

    old: int
    new: int
    region: Region
    brought: Hashable


Skip = Callable[[Outcome, Outcome, Hashable], bool]
"""(outcome before, outcome after, what brought it) -> whether such a pair need not be looked for."""


@dataclass(slots=True)
class _Group:
    """What is told as one: the first witness, and the rules on both sides."""

    before: str
    after: str
    witness: Mapping[str, Any]
    which: dict[str, None] = field(default_factory=dict)
    old: dict[Place, None] = field(default_factory=dict)
    new: dict[Place, None] = field(default_factory=dict)


class Ends:
    def __init__(self, search: Search, words: Words, given: Given) -> None:
        self._search, self._words, self._given = search, words, given
        self._groups: dict[Hashable, _Group] = {}

    def changes(self, part: str) -> list[Change]:
        """What was told, as it is shown."""
        return [
            Change(part, "; or ".join(g.which), g.before, g.after, tuple(g.old), tuple(g.new), g.witness)
            for g in self._groups.values()
        ]

    # Finding.

    def pairs(self, old: Program, new: Program, skip: Skip = lambda _old, _new, _brought: False) -> Iterator[Pair]:
        """Every pair of ends that something comes to and whose outcomes differ; `skip` those that nobody asks for."""
        only_old, only_new = _not_shared(old, new)
        for number in only_old:
            for box in old[number].boxes:
                yield from self._partners(old, number, box, new, frozenset(), skip, swapped=False)
        for number in only_new:
            for box in new[number].boxes:
                yield from self._partners(new, number, box, old, only_old, skip, swapped=True)

    def _partners(
        self, mine: Program, number: int, box: Box, other: Program, seen: frozenset[int], skip: Skip, *, swapped: bool
    ) -> Iterator[Pair]:
        search, entry = self._search, mine[number]
        brought = (swapped, entry.rule)
        before = [each for earlier in mine[:number] for each in earlier.boxes if search.overlaps(box, each)]
        if any(search.covers(each, box) for each in before):
            return
        for place, partner in enumerate(other):
            sides = (partner.outcome, entry.outcome) if swapped else (entry.outcome, partner.outcome)
            if partner.outcome != entry.outcome and place not in seen and not skip(*sides, brought):
                for each in partner.boxes:
                    inside = search.meet(box, each)
                    if inside is not None and search.search(inside, before) is not None:
                        two = (place, number) if swapped else (number, place)
                        yield Pair(*two, Region(inside, tuple(before)), brought)
            if any(search.covers(each, box) for each in partner.boxes):
                return
            before += [each for each in partner.boxes if search.overlaps(box, each)]

    def through(
        self, region: Region, program: Program, wanted: Callable[[Outcome], bool]
    ) -> Iterator[tuple[Region, Entry]]:
        """Those of the region that come to an end of this kind, one entry after the other."""
        search = self._search
        outside = list(region.outside)
        for entry in program:
            if wanted(entry.outcome):
                for box in entry.boxes:
                    inside = search.meet(region.inside, box)
                    if inside is not None and search.search(inside, outside) is not None:
                        yield Region(inside, tuple(outside)), entry
            met = [box for box in entry.boxes if search.overlaps(region.inside, box)]
            if any(search.covers(box, region.inside) for box in met):
                return
            outside += met

    # What is told.

    def is_told(self, before: Outcome, after: Outcome, brought: Hashable) -> bool:
        """Whether this was told often enough."""
        group = self._groups.get((before, after, brought))
        return group is not None and len(group.old) + len(group.new) > MOST_RULES

    def tell(self, region: Region, before: Entry, after: Entry, brought: Hashable) -> None:
        key = (before.outcome, after.outcome, brought)
        group = self._groups.get(key)
        if group is None or len(group.which) < MOST_BOXES:
            found = self._search.search(region.inside, region.outside)
            assert found is not None, "only what something comes to is told"
            if group is None:
                group = _Group(before.outcome.words, after.outcome.words, self._given(found))
                self._groups[key] = group
            group.which[self._words(self._widened(region, found))] = None
        group.old[Place(before.rule, before.at)] = None
        group.new[Place(after.rule, after.at)] = None

    def _widened(self, region: Region, found: Box) -> Box:
        """The largest box around one message in which all come to these ends, but for what earlier rules decide of
        other matters: only facts that the region itself names are told."""
        box: dict[int, int] = {}
        for fact in region.inside:
            have = found.get(fact, self._search.full[fact])
            box[fact] = have & -have
        near = [other for other in region.outside if other.keys() <= box.keys()]
        for fact, classes in region.inside.items():
            box[fact] = classes
            for other in near:
                if all(box[each] & told for each, told in other.items() if each != fact):
                    box[fact] &= ~other.get(fact, 0)
        return box


def _not_shared(old: Sequence[Entry], new: Sequence[Entry]) -> tuple[frozenset[int], frozenset[int]]:
    """The entries of each that stand beside a longest list that both have, in one order."""
    matcher = SequenceMatcher(None, [entry.key for entry in old], [entry.key for entry in new], autojunk=False)
    shared_old: set[int] = set()
    shared_new: set[int] = set()
    for one, other, size in matcher.get_matching_blocks():
        shared_old.update(range(one, one + size))
        shared_new.update(range(other, other + size))
    return frozenset(range(len(old))) - shared_old, frozenset(range(len(new))) - shared_new
