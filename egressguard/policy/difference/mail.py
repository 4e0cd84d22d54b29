"""Which classes of messages another policy decides otherwise. Pure and exact.

Contract
    Two policies that decide every message alike have no changes, however their files, names and rules are arranged.
    Decided alike means: refused at RCPT or not, the decision after the content with its folder and words, and for
    messages that are not refused what is added to them, counted, told and the way out that a rule names.
    Each change has a witness. Changes are put together by what comes of them and by the rule that brought them.
    What takes too long ends the search: the changes found so far stand, and `is_whole` is False.

Two lists of rules that share most rules can only differ on messages that match one of the others: what was added,
taken away, changed or moved. Only pairs with one of these are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from egressguard.policy.difference.boxes import Box, TooHard
from egressguard.policy.difference.change import Change, Place
from egressguard.policy.difference.messages import Messages
from egressguard.policy.difference.programs import (
    GOES_ON,
    NO,
    Effect,
    Entry,
    Outcome,
    Program,
    adding,
    all_effects,
    at_end,
    at_rcpt,
    naming_a_way,
)
from egressguard.policy.model import Policy

Progress = Callable[[int, int], object]
MOST_RULES = 10
"""So many rules are looked for on the other side of one change, and no more."""


@dataclass(frozen=True, slots=True)
class Region:
    """The messages in `inside` and in none of `outside`."""

    inside: Box
    outside: tuple[Box, ...] = ()


@dataclass(slots=True)
class _Group:
    """What is told as one: the first witness, and the rules on both sides."""

    which: str
    before: str
    after: str
    witness: dict[str, object]
    old: dict[Place, None] = field(default_factory=dict)
    new: dict[Place, None] = field(default_factory=dict)


@dataclass(slots=True)
class MailDifference:
    """`changes` ready to be told; `is_whole`: there are no others."""

    changes: list[Change]
    is_whole: bool


def mail_difference(old: Policy, new: Policy, progress: Progress = lambda _done, _of: None) -> MailDifference:
    comparison = _Comparison(old, new)
    is_whole = True
    try:
        comparison.run(progress)
    except TooHard:
        is_whole = False
    return MailDifference(comparison.changes(), is_whole)


@dataclass(frozen=True, slots=True)
class _Pair:
    """An entry of each program; `mine` numbers those that the other program does not have, in `old` and `new`."""

    old: int
    new: int
    region: Region


class _Comparison:
    def __init__(self, old: Policy, new: Policy) -> None:
        self._messages = Messages(old, new)
        self._search = self._messages.search
        self._policies = (old, new)
        self._groups: dict[object, _Group] = {}
        self._rcpt = [at_rcpt(self._messages, policy) for policy in self._policies]
        self._end = [at_end(self._messages, policy) for policy in self._policies]

    def changes(self) -> list[Change]:
        return [
            Change("mail", g.which, g.before, g.after, tuple(g.old), tuple(g.new), g.witness)
            for g in self._groups.values()
        ]

    def run(self, progress: Progress) -> None:
        steps: list[Callable[[], None]] = [self._refused_at_rcpt, self._decided]
        steps += [lambda effect=effect: self._added(effect) for effect in all_effects(self._policies)]  # type: ignore[misc]
        steps.append(self._ways)
        for done, step in enumerate(steps):
            progress(done, len(steps))
            step()
        progress(len(steps), len(steps))

    # The three questions.

    def _refused_at_rcpt(self) -> None:
        """Refused here and not there, or in other words."""
        for one, other in ((0, 1), (1, 0)):
            refusing, going = self._rcpt[one], self._rcpt[other]
            for pair, brought in self._pairs(refusing, going):
                refusal, told = refusing[pair.old], going[pair.new]
                if not refusal.outcome.stays_out or (told.outcome.stays_out and one):
                    continue
                if told.outcome.stays_out:
                    self._tell(pair.region, (refusal, told), brought)
                    continue
                for region, end in self._through(pair.region, self._end[other], self._is_news(refusal, brought, one)):
                    self._tell(region, (refusal, end) if not one else (end, refusal), brought)

    def _decided(self) -> None:
        for pair, brought in self._pairs(*self._end):
            entries = self._end[0][pair.old], self._end[1][pair.new]
            if self._is_told(*(entry.outcome for entry in entries), brought):
                continue
            for region in self._both_taken(pair.region):
                self._tell(region, entries, brought)
                break

    def _is_news(self, refusal: Entry, brought: object, one: int) -> Callable[[Outcome], bool]:
        """Whether an end is another than this refusal, and such ends were not told often enough."""

        def is_news(outcome: Outcome) -> bool:
            sides = (outcome, refusal.outcome) if one else (refusal.outcome, outcome)
            return outcome != refusal.outcome and not self._is_told(*sides, brought)

        return is_news

    def _is_told(self, before: Outcome, after: Outcome, brought: object) -> bool:
        group = self._groups.get((before, after, brought))
        return group is not None and len(group.old) + len(group.new) > MOST_RULES

    def _added(self, effect: Effect) -> None:
        programs = [adding(self._messages, policy, effect) for policy in self._policies]
        for pair, brought in self._pairs(*programs):
            entries = programs[0][pair.old], programs[1][pair.new]
            words = (f"{'' if entry.outcome != NO else 'not '}{effect.words}" for entry in entries)
            self._tell_beside(pair, entries, tuple(words), brought, refused_too=effect.matters_refused)

    def _ways(self) -> None:
        programs = [naming_a_way(self._messages, policy) for policy in self._policies]
        for pair, brought in self._pairs(*programs):
            entries = programs[0][pair.old], programs[1][pair.new]
            words = (entry.outcome.words if entry.outcome != NO else "the way out by `routes`" for entry in entries)
            self._tell_beside(pair, entries, tuple(words), brought, refused_too=False)

    def _tell_beside(
        self, pair: _Pair, entries: tuple[Entry, Entry], words: tuple[str, ...], brought: object, *, refused_too: bool
    ) -> None:
        """Something besides the decision, where that is the same."""
        known = [entry.final for entry in entries if entry.final is not None]
        if any(final != known[0] or (final.stays_out and not refused_too) for final in known):
            return
        wanted = (lambda o: o == known[0]) if known else (lambda o: refused_too or not o.stays_out)
        for region, end in self._through(pair.region, self._end[0], wanted):
            before, after = (
                Entry(entry.boxes, Outcome((said, end.outcome), f"{end.outcome.words}, {said}"), entry.rule, entry.at)
                for entry, said in zip(entries, words, strict=True)
            )
            if self._is_told(before.outcome, after.outcome, brought):
                continue
            same = self._through(region, self._end[1], lambda o, end=end: o == end.outcome)  # type: ignore[misc]
            for decided, _ in same:
                if (taken := next(self._both_taken(decided), None)) is not None:
                    self._tell(taken, (before, after), brought)
                    return

    # Where in two lists of rules a message can come to different ends.

    def _pairs(self, old: Program, new: Program) -> Iterator[tuple[_Pair, object]]:
        """Every pair of ends that some message comes to, and whose outcomes differ; and the rule that brought it."""
        only_old, only_new = _not_shared(old, new)
        for number in only_old:
            for box in old[number].boxes:
                yield from self._partners(old, number, box, new, None, swapped=False)
        for number in only_new:
            for box in new[number].boxes:
                yield from self._partners(new, number, box, old, only_old, swapped=True)

    def _partners(
        self, mine: Program, number: int, box: Box, other: Program, skip: frozenset[int] | None, *, swapped: bool
    ) -> Iterator[tuple[_Pair, object]]:
        search = self._search
        before = [each for entry in mine[:number] for each in entry.boxes if search.overlaps(box, each)]
        if any(search.covers(each, box) for each in before):
            return
        brought = (swapped, mine[number].rule)
        for place, entry in enumerate(other):
            boxes = [met for each in entry.boxes if (met := search.meet(box, each)) is not None]
            if entry.outcome != mine[number].outcome and not (skip and place in skip):
                for inside in boxes:
                    if search.search(inside, before) is not None:
                        pair = (place, number) if swapped else (number, place)
                        yield _Pair(*pair, Region(inside, tuple(before))), brought
            if any(search.covers(each, box) for each in entry.boxes):
                return
            before += [each for each in entry.boxes if search.overlaps(box, each)]

    def _through(
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

    def _both_taken(self, region: Region) -> Iterator[Region]:
        """Those of the region that neither policy refuses at RCPT."""
        for first, _ in self._through(region, self._rcpt[0], lambda o: o == GOES_ON):
            for second, _ in self._through(first, self._rcpt[1], lambda o: o == GOES_ON):
                yield second

    # What is told.

    def _tell(self, region: Region, entries: tuple[Entry, Entry], brought: object) -> None:
        before, after = entries
        key = (before.outcome, after.outcome, brought)
        group = self._groups.get(key)
        if group is None:
            found = self._search.search(region.inside, region.outside)
            assert found is not None
            which = self._messages.words(self._widened(region, found))
            group = _Group(which, before.outcome.words, after.outcome.words, self._messages.given(found))
            self._groups[key] = group
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
            for other in near:
                if all(box[each] & told for each, told in other.items() if each != fact):
                    classes &= ~other.get(fact, 0)
            box[fact] = classes
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
