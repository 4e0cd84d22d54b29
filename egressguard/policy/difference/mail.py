"""Which classes of messages another policy decides otherwise. Pure and exact.

Contract
    Two policies that decide every message alike have no changes, however their files, names and rules are arranged.
    Decided alike means: refused at RCPT or not, the decision after the content with its folder and words, and for
    messages that are not refused what is added to them, counted, told and the way out that a rule names.
    Each change has a witness. What takes too long raises TooHard; what was found until then stands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from egressguard.policy.difference.change import Change
from egressguard.policy.difference.ends import Ends, Entry, Outcome, Pair, Program, Region
from egressguard.policy.difference.given import given_message
from egressguard.policy.difference.matches import Matches
from egressguard.policy.difference.messages import Messages
from egressguard.policy.difference.programs import (
    GOES_ON,
    NO,
    YES,
    Effect,
    adding,
    all_effects,
    at_end,
    at_rcpt,
    naming_a_way,
    routed,
    tagging,
)
from egressguard.policy.model import Policy

Progress = Callable[[int, int], object]


class MailComparison:
    def __init__(self, old: Policy, new: Policy) -> None:
        messages = Messages(old, new)
        self._matches = Matches(messages)
        self._search = messages.search
        self._ends = Ends(messages.search, messages.words, lambda box: given_message(messages, box))
        self._policies = (old, new)
        self._rcpt = [at_rcpt(self._matches, policy) for policy in self._policies]
        self._end = [at_end(self._matches, policy) for policy in self._policies]

    def changes(self) -> list[Change]:
        """Those that `run` has found so far."""
        return self._ends.changes("mail")

    def run(self, progress: Progress) -> None:
        steps: list[Callable[[], None]] = [self._refused_at_rcpt, self._decided]
        steps += [lambda effect=effect: self._added(effect) for effect in all_effects(self._matches, self._policies)]  # type: ignore[misc]
        steps += [self._ways, self._routes]
        for done, step in enumerate(steps):
            progress(done, len(steps))
            step()
        progress(len(steps), len(steps))

    # The three questions.

    def _refused_at_rcpt(self) -> None:
        """Refused here and not there, or in other words."""
        for one, other in ((0, 1), (1, 0)):
            refusing, going = self._rcpt[one], self._rcpt[other]
            for pair in self._ends.pairs(refusing, going):
                refusal, told = refusing[pair.old], going[pair.new]
                if not refusal.outcome.stays_out or (told.outcome.stays_out and one):
                    continue
                if told.outcome.stays_out:
                    self._ends.tell(pair.region, refusal, told, pair.brought)
                    continue
                is_news = self._is_news(refusal, pair.brought, one)
                for region, end in self._ends.through(pair.region, self._end[other], is_news):
                    self._ends.tell(region, *((end, refusal) if one else (refusal, end)), pair.brought)

    def _decided(self) -> None:
        for pair in self._ends.pairs(self._end[0], self._end[1], self._ends.is_told):
            entries = self._end[0][pair.old], self._end[1][pair.new]
            for region in self._both_taken(pair.region):
                self._ends.tell(region, *entries, pair.brought)
                break

    def _is_news(self, refusal: Entry, brought: Hashable, one: int) -> Callable[[Outcome], bool]:
        """Whether an end is another than this refusal, and such ends were not told often enough."""

        def is_news(outcome: Outcome) -> bool:
            sides = (outcome, refusal.outcome) if one else (refusal.outcome, outcome)
            return outcome != refusal.outcome and not self._ends.is_told(*sides, brought)

        return is_news

    def _added(self, effect: Effect) -> None:
        programs = [adding(self._matches, policy, effect) for policy in self._policies]
        for pair in self._ends.pairs(programs[0], programs[1]):
            entries = programs[0][pair.old], programs[1][pair.new]
            before, after = (f"{'' if entry.outcome != NO else 'not '}{effect.words}" for entry in entries)
            self._tell_beside(pair, entries, (before, after), refused_too=effect.matters_refused)

    def _ways(self) -> None:
        """A way out that a rule names, and another one there: named too, or by `routes`."""
        programs = [naming_a_way(self._matches, policy) for policy in self._policies]
        routes = [routed(self._matches, policy) for policy in self._policies]
        for pair in self._ends.pairs(programs[0], programs[1]):
            entries = programs[0][pair.old], programs[1][pair.new]
            unnamed = next((side for side in (0, 1) if entries[side].outcome == NO), None)
            if unnamed is None:
                self._tell_beside(pair, entries, (entries[0].outcome.words, entries[1].outcome.words))
                continue
            named = entries[1 - unnamed].outcome
            for region in self._tagged(pair.region, _tags(self._policies[unnamed]), [self._policies[unnamed]]):
                others = self._ends.through(region, routes[unnamed], lambda o, named=named: o != named)  # type: ignore[misc]
                told = ((replace(pair, region=inside), end) for inside, end in others)
                if any(self._tell_beside(one, entries, _sides(named, end.outcome, unnamed)) for one, end in told):
                    break

    def _tell_beside(
        self, pair: Pair, entries: tuple[Entry, Entry], words: tuple[str, str], *, refused_too: bool = False
    ) -> bool:
        """Something besides the decision, where that is the same; whether there is such a message."""
        known = [entry.final for entry in entries if entry.final is not None]
        if any(final != known[0] or (final.stays_out and not refused_too) for final in known):
            return False
        wanted = (lambda o: o == known[0]) if known else (lambda o: refused_too or not o.stays_out)
        for region, end in self._ends.through(pair.region, self._end[0], wanted):
            before, after = (
                Entry(entry.boxes, Outcome((said, end.outcome), f"{end.outcome.words}, {said}"), entry.rule, entry.at)
                for entry, said in zip(entries, words, strict=True)
            )
            if self._ends.is_told(before.outcome, after.outcome, pair.brought):
                return True
            same = self._ends.through(region, self._end[1], lambda o, end=end: o == end.outcome)  # type: ignore[misc]
            for decided, _ in same:
                if (taken := next(self._both_taken(decided), None)) is not None:
                    self._ends.tell(taken, before, after, pair.brought)
                    return True
        return False

    def _routes(self) -> None:
        """Another way out by `routes`, where both policies take the message and put the same tags on."""
        programs = [routed(self._matches, policy) for policy in self._policies]
        tags = sorted({*_tags(self._policies[0]), *_tags(self._policies[1])})
        unnamed = [naming_a_way(self._matches, policy) for policy in self._policies]
        for pair in self._ends.pairs(programs[0], programs[1], self._ends.is_told):
            regions = self._tagged(pair.region, tags, self._policies)
            regions = chain.from_iterable(self._both(region, unnamed, lambda o: o == NO) for region in regions)
            regions = chain.from_iterable(
                self._both(region, self._end, lambda o: not o.stays_out) for region in regions
            )
            if (taken := next(chain.from_iterable(map(self._both_taken, regions)), None)) is not None:
                self._ends.tell(taken, programs[0][pair.old], programs[1][pair.new], pair.brought)

    def _tagged(self, region: Region, tags: Sequence[str], policies: Sequence[Policy]) -> Iterator[Region]:
        """Those of the region whose tags are what these policies put on."""
        if not tags:
            yield region
            return
        first, *rest = tags
        programs = [adding(self._matches, policy, tagging(first)) for policy in policies]
        for outcome, box in ((NO, self._matches.tagged(first, False)), (YES, self._matches.tagged(first, True))):
            for inside in self._matches.also((region.inside,), box):
                for found in self._both(Region(inside, region.outside), programs, lambda o, end=outcome: o == end):  # type: ignore[misc]
                    yield from self._tagged(found, rest, policies)

    def _both(self, region: Region, programs: Sequence[Program], wanted: Callable[[Outcome], bool]) -> Iterator[Region]:
        """Those of the region that come to an end of this kind in each of the programs."""
        if not programs:
            yield region
            return
        for found, _ in self._ends.through(region, programs[0], wanted):
            yield from self._both(found, programs[1:], wanted)

    def _both_taken(self, region: Region) -> Iterator[Region]:
        """Those of the region that neither policy refuses at RCPT."""
        yield from self._both(region, self._rcpt, lambda o: o == GOES_ON)


def _tags(policy: Policy) -> list[str]:
    """The tags that its routes look at."""
    return sorted({tag for route in policy.routes for tag in route.match.tag})


def _sides(named: Outcome, by_routes: Outcome, unnamed: int) -> tuple[str, str]:
    return (by_routes.words, named.words) if unnamed == 0 else (named.words, by_routes.words)
