"""Decide what happens to a message.

Contract
    Pure: no clock, no DNS, no files. The first rule that matches and does not `continue` wins; none is REJECT.
    A matcher that cannot know its answer says None; a certain no beats it; else the decision is DEFER.
    A limit that a matching rule names and that would be exceeded decides in that rule's place.
    Staged rules and limits decide nothing: what each alone would have done comes along as `would`.
    Nothing here ever returns ACCEPT because something else failed.
    Before DATA size and scan are None: `decide_envelope` refuses only what no content could get accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeVar

from egressguard.policy.decision import NO_EFFECTS, Effects, MailAction, MailDecision, Would
from egressguard.policy.facts import Excess, MailFacts
from egressguard.policy.matchers import matches
from egressguard.policy.model import Limit, MailRule, Policy

Item = TypeVar("Item")

NO_RULE = MailDecision(MailAction.REJECT, "(none)", "no rule matched", text="relaying denied")

_STRICTNESS = (MailAction.DEFER, MailAction.REJECT, MailAction.QUARANTINE, MailAction.HOLD, MailAction.ACCEPT)


def decide_mail(policy: Policy, facts: MailFacts) -> MailDecision:
    """The decision on a whole message for one recipient: what cannot be known now is a DEFER."""
    trail = _Trail(policy, facts)
    for rule in policy.mail:
        answer = matches(policy, rule.match, facts)
        if answer is None and not rule.staged:
            words = "; ".join(facts.scan.findings) if facts.scan else ""
            reason = words or "a matcher cannot answer now"
            text = "cannot be judged now, try again later"
            return trail.end(MailDecision(MailAction.DEFER, rule.name, reason, text=text))
        if answer and (decision := trail.take(rule)) is not None:
            return decision
    return trail.end(NO_RULE)


def decide_envelope(policy: Policy, facts: MailFacts) -> MailDecision | None:
    """The refusal of a recipient whom no content could get accepted, or None: go on to DATA.

    A rule that needs the content to stop the message (malware, too large) is passed over: it may only make
    things stricter, and a stranger is to be refused here, not scanned and held."""
    trail = _Trail(policy, facts)
    for rule in policy.mail:
        if rule.staged:
            continue
        answer = matches(policy, rule.match, facts)
        if answer is False or (answer is None and rule.action != "accept"):
            continue
        decision = trail.take(rule) if answer else None
        if decision is None and rule.action == "continue":
            continue
        refuses = decision is not None and decision.action in {MailAction.REJECT, MailAction.DEFER}
        return decision if refuses else None
    return trail.end(NO_RULE)


def strictest(decisions: Iterable[MailDecision]) -> MailDecision:
    """One reply speaks for all recipients after DATA: the strictest decision holds, with the effects of all.

    The way out (`effects.via`) stays each recipient's own; here it is the strictest decision's."""
    every = tuple(decisions)
    hardest = min(every, key=lambda decision: _STRICTNESS.index(decision.action), default=NO_RULE)
    effects = [decision.effects for decision in every]
    merged = Effects(
        headers=_once(e.headers for e in effects),
        tags=_once(e.tags for e in effects),
        via=hardest.effects.via,
        notify=_once(e.notify for e in effects),
        limits=_once(e.limits for e in effects),
    )
    return replace(hardest, effects=merged, would=_once(decision.would for decision in every))


def _once(groups: Iterable[Iterable[Item]]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(groups)))


@dataclass(slots=True)
class _Trail:
    """What the rules that matched so far have added."""

    policy: Policy
    facts: MailFacts
    effects: Effects = NO_EFFECTS
    would: list[Would] = field(default_factory=list)

    def take(self, rule: MailRule) -> MailDecision | None:
        """`rule` matched: its decision, or None when the evaluation goes on."""
        if rule.staged:
            self.would.append(Would(rule.name, rule.action))
            return None
        self._add(rule)
        for name in rule.limit:
            limit = limit_of(self.policy, name)
            excess = self.facts.exceeded.get(name)
            if limit is None or excess is None:
                continue
            if not limit.staged:
                return self.end(_above(limit, rule, excess))
            self.would.append(Would(f"limit {name}", limit.above))
        if rule.action == "continue":
            return None
        folder = rule.folder if rule.action == "quarantine" else ""
        reason = f"matched at {rule.at}"
        return self.end(MailDecision(MailAction(rule.action), rule.name, reason, folder, rule.text))

    def end(self, decision: MailDecision) -> MailDecision:
        if self.effects is NO_EFFECTS and not self.would:
            return decision
        return replace(decision, effects=self.effects, would=tuple(self.would))

    def _add(self, rule: MailRule) -> None:
        if not (rule.add_header or rule.tag or rule.route or rule.notify or rule.limit):
            return
        have = self.effects
        self.effects = Effects(
            headers=(*have.headers, *rule.add_header.items()),
            tags=_once((have.tags, rule.tag)),
            via=have.via or rule.route,
            notify=(*have.notify, *((rule.name, address) for address in rule.notify)),
            limits=_once((have.limits, rule.limit)),
        )


def limit_of(policy: Policy, name: str) -> Limit | None:
    """The limit of this name; load has checked that there is one."""
    return next((limit for limit in policy.limits if limit.name == name), None)


def _above(limit: Limit, rule: MailRule, excess: Excess) -> MailDecision:
    action = MailAction.DEFER if limit.above == "contain" else MailAction(limit.above)
    return MailDecision(
        action,
        rule.name,
        f"above limit {limit.name} ({limit.at}): {excess}",
        folder=limit.folder if limit.above == "quarantine" else "",
        text=limit.text or f"above the limit {limit.name}: {excess}",
        limit=limit.name,
        contain_seconds=limit.contain_seconds if limit.above == "contain" else 0,
    )
