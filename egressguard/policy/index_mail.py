"""Which message rules can match a message: per matcher a table from what the message brings to a set of rules, joined.

Contract
    What a matcher means is said in policy.matchers; a test holds the two equal, key by key and rule by rule.
    A rule that is left is matched by the message, or cannot tell: nothing here turns "cannot tell" into yes or no.
    The few matchers that no table answers (header fields, shell patterns such as "a*b") are asked rule by rule, and
    only of rules that everything else lets through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Self, TypeVar

from egressguard.policy.decision import NO_EFFECTS, Effects, MailAction, MailDecision
from egressguard.policy.facts import MailFacts
from egressguard.policy.index import Remembered, every_rule, numbers, rule_set
from egressguard.policy.index_columns import COLUMNS, Ask
from egressguard.policy.matchers import MATCHERS, is_asked
from egressguard.policy.model import Limit, MailRule, Policy
from egressguard.policy.source_routes import FIELD

Item = TypeVar("Item")


class MailIndex:
    """The message rules of one policy. `effects` and `decisions` have what each rule does, by its number.

    `keys` are the matchers that any rule has; "header" is among them where a field can name the way out.
    `header_fields` are those (in lower case) that rules look at, or that the site wants in its journal."""

    def __init__(self, policy: Policy) -> None:
        self._made_from = (policy.site, policy.mail, policy.devices)
        self.rules = policy.mail
        rules = self.rules
        self.effects = effects = Remembered[int, Effects](lambda number: _effects(rules[number]))
        self.decisions = Remembered[int, MailDecision](lambda number: _decision(rules[number], effects[number]))
        self.in_force = rule_set(number for number, rule in enumerate(self.rules) if not rule.staged)
        self.accepting = rule_set(number for number, rule in enumerate(self.rules) if rule.action == "accept")
        self.keys: set[str] = {"header"} if any(rule.source_routes for rule in rules) else set()
        named = [name for rule in rules for name in rule.match.header] + [FIELD] * ("header" in self.keys)
        self.header_fields = frozenset(map(str.lower, (*named, *policy.site.journal.header_field)))
        self._columns: list[tuple[int, Ask]] = []
        self._rest: dict[int, list[tuple[str, Any]]] = {}
        for key, prepare in COLUMNS.items():
            wanted = [(number, getattr(rule.match, key)) for number, rule in enumerate(self.rules)]
            rows = [(number, theirs) for number, theirs in wanted if is_asked(theirs)]
            if not rows:
                continue
            self.keys.add(key)
            having = rule_set(number for number, _ in rows)
            column = prepare(policy, rows, every_rule(self.rules) & ~having)
            self._columns.append((having, column.ask))
            for number, theirs in rows:
                if column.hard >> number & 1:
                    self._rest.setdefault(number, []).append((key, theirs))

    @classmethod
    def prepare(cls, policy: Policy) -> Self:
        return cls(policy)

    def is_of(self, policy: Policy) -> bool:
        site, mail, devices = self._made_from
        return policy.site is site and policy.mail is mail and policy.devices is devices

    def sift(self, facts: MailFacts) -> tuple[int, int]:
        """The rules that no table rules out, and those of them that cannot tell."""
        left, unsure = every_rule(self.rules), 0
        for having, ask in self._columns:
            found = ask(facts)
            if found is None:
                unsure |= having
            else:
                left &= found
                if not left:
                    break
        return left, left & unsure

    def answers(self, policy: Policy, facts: MailFacts, left: int, unsure: int) -> Iterator[tuple[int, bool | None]]:
        """Of what `sift` left, the rules that match (True) or cannot tell (None), in their order."""
        for number in numbers(left):
            answer = None if unsure >> number & 1 else True
            if number in self._rest:
                answers = [MATCHERS[key](policy, wanted, facts) for key, wanted in self._rest[number]]
                if False in answers:
                    continue
                answer = None if None in answers else answer
            yield number, answer


def _effects(rule: MailRule) -> Effects:
    """What the rule adds by itself; NO_EFFECTS itself when that is nothing."""
    adds = rule.add_header or rule.tag or rule.route or rule.notify or rule.limit
    if not (adds or rule.rewrite_sender or rule.source_routes):
        return NO_EFFECTS
    return Effects(
        headers=tuple(rule.add_header.items()),
        tags=once((rule.tag,)),
        via=rule.route,
        notify=tuple((rule.name, address) for address in rule.notify),
        limits=once((rule.limit,)),
        rewrite_sender=rule.rewrite_sender,
        source_routes=rule.source_routes,
    )


def _decision(rule: MailRule, effects: Effects) -> MailDecision:
    """What the rule decides when it is the first that matches. It does not `continue`."""
    folder = rule.folder if rule.action == "quarantine" else ""
    return MailDecision(
        MailAction(rule.action), rule.name, f"matched at {rule.at}", folder=folder, text=rule.text, effects=effects
    )


def once(groups: Iterable[Iterable[Item]]) -> tuple[Item, ...]:
    """All items, each where it comes first."""
    return tuple(dict.fromkeys(chain.from_iterable(groups)))


class Limits:
    """The limits of one policy by name."""

    def __init__(self, policy: Policy) -> None:
        self._made_from = policy.limits
        self.by_name: dict[str, Limit] = {limit.name: limit for limit in reversed(policy.limits)}
        self.contain_hosts = any(limit.above == "contain" for limit in policy.limits)

    @classmethod
    def prepare(cls, policy: Policy) -> Self:
        return cls(policy)

    def is_of(self, policy: Policy) -> bool:
        return policy.limits is self._made_from
