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
from dataclasses import dataclass, replace

from egressguard.policy.decision import NO_EFFECTS, Effects, MailAction, MailDecision, Would
from egressguard.policy.facts import Excess, MailFacts
from egressguard.policy.index import prepared
from egressguard.policy.index_mail import Limits, MailIndex, once
from egressguard.policy.model import Limit, MailRule, Policy
from egressguard.policy.source_routes import as_asked

NO_RULE = MailDecision(MailAction.REJECT, "(none)", "no rule matched", text="relaying denied")

CANNOT_TELL = "cannot be judged now, try again later"
"""The text of a decision that a fact is missing for."""

_STRICTNESS = (MailAction.DEFER, MailAction.REJECT, MailAction.QUARANTINE, MailAction.HOLD, MailAction.ACCEPT)


def decide_mail(policy: Policy, facts: MailFacts) -> MailDecision:
    """The decision on a whole message for one recipient: what cannot be known now is a DEFER."""
    index = prepared(policy, MailIndex)
    trail = _Trail(policy, index, facts)
    for number, answer in index.answers(policy, facts, *index.sift(facts)):
        if answer is None and not index.rules[number].staged:
            words = "; ".join(facts.scan.findings) if facts.scan else ""
            reason = words or "a matcher cannot answer now"
            return trail.end(MailDecision(MailAction.DEFER, index.rules[number].name, reason, text=CANNOT_TELL))
        if answer and (decision := trail.take(number)) is not None:
            return as_asked(policy, decision, facts) if decision.effects.source_routes else decision
    return trail.end(NO_RULE)


def decide_envelope(policy: Policy, facts: MailFacts) -> MailDecision | None:
    """The refusal of a recipient whom no content could get accepted, or None: go on to DATA.

    A rule that needs the content to stop the message (malware, too large) is passed over: it may only make
    things stricter, and a stranger is to be refused here, not scanned and held."""
    index = prepared(policy, MailIndex)
    trail = _Trail(policy, index, facts)
    left, unsure = index.sift(facts)
    left &= index.in_force & (index.accepting | ~unsure)
    for number, answer in index.answers(policy, facts, left, unsure):
        action = index.rules[number].action
        if answer is None and action != "accept":
            continue
        decision = trail.take(number) if answer else None
        if decision is None and action == "continue":
            continue
        refuses = decision is not None and decision.refuses
        return decision if refuses else None
    return trail.end(NO_RULE)


_SCAN_KEYS = frozenset(
    {
        "attachment_name",
        "attachment_type",
        "attachment_encrypted",
        "attachment_macro",
        "attachment_active",
        "attachment_deeper_than",
        "verdict",
        "score_at_least",
    }
)
_AUTHENTICATION_KEYS = frozenset({"spf", "dkim", "dmarc", "dmarc_policy", "arc"})


def asks_for_scan(policy: Policy) -> bool:
    """Whether any message rule, in force or staged, looks at what a scan finds."""
    return not _SCAN_KEYS.isdisjoint(prepared(policy, MailIndex).keys)


def asks_of_engines(policy: Policy) -> frozenset[str]:
    """Which facts of scanning engines any message rule looks at: "verdict", "score"."""
    keys = prepared(policy, MailIndex).keys
    return frozenset(fact for key, fact in (("verdict", "verdict"), ("score_at_least", "score")) if key in keys)


def header_fields(policy: Policy) -> frozenset[str]:
    """The header fields (in lower case) that message rules look at, or that the site wants in its journal."""
    return prepared(policy, MailIndex).header_fields


def asks_for_authentication(policy: Policy) -> bool:
    """Whether any message rule looks at SPF, DKIM, DMARC or ARC."""
    return not _AUTHENTICATION_KEYS.isdisjoint(prepared(policy, MailIndex).keys)


def asks_for_block_lists(policy: Policy) -> bool:
    """Whether any message rule looks at who is on a block list."""
    return "block_list" in prepared(policy, MailIndex).keys


def strictest(decisions: Iterable[MailDecision]) -> MailDecision:
    """One reply speaks for all recipients after DATA: the strictest decision holds, with the effects of all.

    The way out (`effects.via`) stays each recipient's own; here it is the strictest decision's."""
    every = tuple(decisions)
    hardest = min(every, key=lambda decision: _STRICTNESS.index(decision.action), default=NO_RULE)
    effects = [decision.effects for decision in every if decision.effects is not NO_EFFECTS]
    if not effects and not any([decision.would for decision in every]):
        return hardest
    merged = Effects(
        headers=once(e.headers for e in effects),
        tags=once(e.tags for e in effects),
        via=hardest.effects.via,
        notify=once(e.notify for e in effects),
        limits=once(e.limits for e in effects),
        rewrite_sender=any(e.rewrite_sender for e in effects),
    )
    return replace(hardest, effects=merged, would=once(decision.would for decision in every))


@dataclass(slots=True)
class _Trail:
    """What the rules that matched so far have added."""

    policy: Policy
    index: MailIndex
    facts: MailFacts
    effects: Effects = NO_EFFECTS
    would: tuple[Would, ...] = ()

    def take(self, number: int) -> MailDecision | None:
        """The rule of this number matched: its decision, or None when the evaluation goes on."""
        rule = self.index.rules[number]
        if rule.staged:
            self.would += (Would(rule.name, rule.action),)
            return None
        self.effects = _added(self.effects, self.index.effects[number])
        for name in rule.limit:
            excess = self.facts.exceeded.get(name)
            limit = limit_of(self.policy, name) if excess is not None else None
            if limit is None or excess is None:
                continue
            if not limit.staged:
                return self.end(_above(limit, rule, excess))
            self.would += (Would(f"limit {name}", limit.above),)
        return None if rule.action == "continue" else self.end(self.index.decisions[number])

    def end(self, decision: MailDecision) -> MailDecision:
        if decision.effects is self.effects and not self.would:
            return decision
        return replace(decision, effects=self.effects, would=self.would)


def _added(have: Effects, more: Effects) -> Effects:
    if have is NO_EFFECTS or more is NO_EFFECTS:
        return have if more is NO_EFFECTS else more
    return Effects(
        headers=(*have.headers, *more.headers),
        tags=once((have.tags, more.tags)),
        via=have.via or more.via,
        notify=(*have.notify, *more.notify),
        limits=once((have.limits, more.limits)),
        rewrite_sender=have.rewrite_sender or more.rewrite_sender,
        source_routes=once((have.source_routes, more.source_routes)),
    )


def limit_of(policy: Policy, name: str) -> Limit | None:
    """The limit of this name; load has checked that there is one."""
    return prepared(policy, Limits).by_name.get(name)


def contains_hosts(policy: Policy) -> bool:
    """Whether any limit shuts hosts out."""
    return prepared(policy, Limits).contain_hosts


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
