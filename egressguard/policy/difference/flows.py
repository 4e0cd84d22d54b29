"""Which classes of packets another policy decides otherwise. Pure and exact.

Contract
    Two policies that decide every flow alike have no changes, however their files, names and rules are arranged.
    Decided alike means: the action, whether and how often it is journaled, what happens while the daemon that is asked
    is away, and what staged rules would do.
    Each change has a witness. What takes too long raises TooHard; what was found until then stands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from egressguard.policy.difference.change import Change
from egressguard.policy.difference.ends import Ends, Entry, Outcome, Program
from egressguard.policy.difference.openings import Openings
from egressguard.policy.flows import TUNNELS_RULE
from egressguard.policy.model import FlowRule, Policy

Progress = Callable[[int, int], object]
ALLOWED = Outcome("allow", "allow")
UNDECIDED = Outcome("undecided", "drop until a host name is resolved")


class FlowComparison:
    def __init__(self, old: Policy, new: Policy) -> None:
        self._openings = openings = Openings(old, new)
        self._ends = Ends(openings.search, openings.words, openings.given)
        self._policies = (old, new)
        self._decided = [_decided(openings, policy) for policy in self._policies]

    def changes(self) -> list[Change]:
        """Those that `run` has found so far."""
        return self._ends.changes("flows")

    def run(self, progress: Progress) -> None:
        staged = sorted({rule.action for policy in self._policies for rule in policy.flows if rule.staged})
        for done, action in enumerate([None, *staged]):
            progress(done, len(staged) + 1)
            if action is None:
                self._compare()
            else:
                self._compare_staged(action)
        progress(len(staged) + 1, len(staged) + 1)

    def _compare(self) -> None:
        old, new = self._decided
        for pair in self._ends.pairs(old, new, self._ends.is_told):
            self._ends.tell(pair.region, old[pair.old], new[pair.new], pair.brought)

    def _compare_staged(self, action: str) -> None:
        """What staged rules would do, where what is done is the same."""
        old, new = (_would(self._openings, policy, action) for policy in self._policies)
        for pair in self._ends.pairs(old, new, self._ends.is_told):
            entries = old[pair.old], new[pair.new]
            known = {entry.final for entry in entries} - {None}
            if len(known) > 1:
                continue
            for region, end in self._ends.through(pair.region, self._decided[0], lambda o: not known or o in known):  # noqa: B023
                same = self._ends.through(region, self._decided[1], lambda o, end=end: o == end.outcome)  # type: ignore[misc]
                if (last := next(same, None)) is not None:
                    self._ends.tell(last[0], *entries, pair.brought)
                    break


def _decided(openings: Openings, policy: Policy) -> Program:
    return [*_entries(openings, policy), Entry(({},), ALLOWED, "", "")]


def _entries(openings: Openings, policy: Policy) -> Iterator[Entry]:
    for rule in policy.flows:
        if not rule.staged:
            yield Entry(openings.matched(policy, rule), _outcome(rule), rule.name, rule.at)
            if rule.destination_host:
                yield Entry(openings.unsure(policy, rule), UNDECIDED, rule.name, rule.at)
    yield Entry(openings.tunnels(policy), Outcome("reject", "reject"), TUNNELS_RULE, "")


def _would(openings: Openings, policy: Policy, action: str) -> Program:
    """Whether a staged rule of this action matches before anything decides."""
    words = f"a staged rule would {action} it"
    yes, no = Outcome(("would", action), words), Outcome("no", f"not: {words}")
    decided: dict[Hashable, list[Entry]] = {}
    for entry in _entries(openings, policy):
        ending = Entry(entry.boxes, no, entry.rule, entry.at, entry.outcome)
        decided.setdefault((entry.rule, entry.at), []).append(ending)
    program: Program = []
    for rule in policy.flows:
        if not rule.staged:
            program += decided[rule.name, rule.at]
        elif rule.action == action:
            program.append(Entry(openings.matched(policy, rule), yes, rule.name, rule.at))
    return [*program, *decided[TUNNELS_RULE, ""], Entry(({},), no, "", "", ALLOWED)]


def _outcome(rule: FlowRule) -> Outcome:
    meaning: list[Hashable] = [str(rule.action)]
    words = [str(rule.action)]
    if rule.action != "allow":
        if not rule.log:
            words.append("not journaled")
        elif rule.log_per_second:
            words.append(f"journaled {rule.log_per_second} times a second at most")
        meaning.append(rule.log and (rule.log_per_second or "as the site says"))
    if rule.decide == "queue":
        meaning.append(rule.fail)
        words.append(f"by the daemon ({'allowed' if rule.fail == 'open' else 'dropped'} while it is away)")
    usual = len(words) == 1
    return Outcome(rule.action if usual else tuple(meaning), ", ".join(words))
