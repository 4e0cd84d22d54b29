"""Message rules as lists of entries, the first that matches decides: what policy.mail says, in boxes.

Contract
    `at_rcpt`: what is said to RCPT, a refusal or GOES_ON; `at_end`: the decision on the whole message. Each list ends
    in an entry that matches everything.
    A rule's entries: what a limit that is exceeded decides, what the rule decides, and DEFER where it cannot tell.
    Rules that only add something decide nothing and have no entry of yes; what they add is `adding`'s.
    Names of rules are no part of what an entry says: two entries are equal when they do the same to the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from egressguard.policy.decision import MailAction
from egressguard.policy.difference.boxes import Box
from egressguard.policy.difference.messages import NOT_AT_RCPT, Boxes, Messages
from egressguard.policy.limits import quotas
from egressguard.policy.mail import NO_RULE, limit_of
from egressguard.policy.matchers import is_asked
from egressguard.policy.model import Limit, MailRule, Policy
from egressguard.policy.next_hop import canonical

STAYS_OUT = frozenset({MailAction.REJECT.value, MailAction.DEFER.value})


@dataclass(frozen=True, slots=True)
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


GOES_ON = Outcome("goes on", "go on")
CANNOT_TELL = Outcome((MailAction.DEFER.value, "cannot be judged"), "defer, for it cannot be judged now", stays_out=True)
NO, YES = Outcome(None, "not"), Outcome((), "so")
ANY: Boxes = ({},)

Program = list[Entry]


def _end(outcome: Outcome) -> Entry:
    return Entry(ANY, outcome, NO_RULE.rule, "")


_RELAYING_DENIED = Outcome(
    (NO_RULE.action.value, NO_RULE.text), f"{NO_RULE.action.value}, saying {NO_RULE.text!r}", stays_out=True
)


def decided(rule: MailRule) -> Outcome:
    """What a rule that does not `continue` decides."""
    if rule.action == "quarantine":
        return Outcome((rule.action, rule.folder), f"quarantine into {rule.folder}")
    if rule.action in STAYS_OUT:
        words = f"{rule.action}, saying {rule.text!r}" if rule.text else rule.action
        return Outcome((rule.action, rule.text), words, stays_out=True)
    return Outcome((rule.action,), rule.action)


def above(limit: Limit) -> Outcome:
    """What a limit decides that is exceeded. Its own words name numbers, which are another part's matter."""
    words = f"{limit.above}, for it is above a limit"
    if limit.above == "quarantine":
        return Outcome(("quarantine", limit.folder), f"{words} (into {limit.folder})")
    contained = limit.contain_seconds if limit.above == "contain" else 0
    action = "defer" if limit.above == "contain" else limit.above
    if limit.text:
        words += f", saying {limit.text!r}"
    if contained:
        words += f", for {contained} s"
    return Outcome((action, "above", limit.text, contained), words, stays_out=True)


def _limits_in_force(policy: Policy, rule: MailRule) -> Iterator[Limit]:
    for name in rule.limit:
        if (limit := limit_of(policy, name)) is not None and not limit.staged:
            yield limit


def _also(messages: Messages, boxes: Boxes, also: Box) -> Boxes:
    met = (messages.search.meet(box, also) for box in boxes)
    return tuple(box for box in met if box is not None)


def at_end(messages: Messages, policy: Policy) -> Program:
    """The decision on the whole message."""
    program: Program = []
    for rule in policy.mail:
        if rule.staged:
            continue
        boxes = messages.matched(policy, rule.match)
        for limit in _limits_in_force(policy, rule):
            program.append(Entry(_also(messages, boxes, messages.over(limit.name)), above(limit), rule.name, rule.at))
        if rule.action != "continue":
            program.append(Entry(boxes, decided(rule), rule.name, rule.at))
        if unsure := messages.unsure(policy, rule.match):
            program.append(Entry(unsure, CANNOT_TELL, rule.name, rule.at))
    return [*program, _end(_RELAYING_DENIED)]


def at_rcpt(messages: Messages, policy: Policy) -> Program:
    """What is said to RCPT; a rule that needs the content to stop a message is passed over."""
    program: Program = []
    for rule in policy.mail:
        if rule.staged:
            continue
        boxes = messages.matched(policy, rule.match, at_rcpt=True)
        unsure = messages.unsure(policy, rule.match, at_rcpt=True)
        if any(is_asked(getattr(rule.match, key)) for key in NOT_AT_RCPT):
            if rule.action == "accept":
                program.append(Entry((*boxes, *unsure), GOES_ON, rule.name, rule.at))
            continue
        for limit in _limits_in_force(policy, rule):
            refusal = above(limit)
            told = refusal if refusal.stays_out else GOES_ON
            program.append(Entry(_also(messages, boxes, messages.over(limit.name)), told, rule.name, rule.at))
        if rule.action == "accept":
            program.append(Entry((*boxes, *unsure), GOES_ON, rule.name, rule.at))
        elif rule.action != "continue":
            told = decided(rule)
            program.append(Entry(boxes, told if told.stays_out else GOES_ON, rule.name, rule.at))
    return [*program, _end(_RELAYING_DENIED)]


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that rules add. `matters_refused`: also where the message is refused in the end."""

    meaning: Hashable
    words: str = field(compare=False)
    matters_refused: bool = field(default=False, compare=False)


def effects_of(policy: Policy, rule: MailRule) -> Iterator[Effect]:
    """What a rule in force adds to the messages it matches, the way out aside."""
    for name, value in rule.add_header.items():
        yield Effect(("header", name.lower(), value), f"the field {name}: {value} is added")
    for tag in rule.tag:
        yield Effect(("tag", tag), f"tagged {tag}")
    for address in rule.notify:
        yield Effect(("notify", address), f"{address} is told of it", matters_refused=True)
    for name in rule.limit:
        if (limit := limit_of(policy, name)) is not None:
            yield Effect(("limit", limit.per, quotas(limit)), f"counted by limit {name}")
    if rule.rewrite_sender:
        yield Effect(("rewrite_sender",), "the sender is rewritten (SRS)")
    for way in rule.source_routes:
        yield Effect(("source_route", *way_meant(policy, (way,))), f"the sender may ask for the way out {way}")


def would(policy: Policy, rule: MailRule) -> Iterator[Effect]:
    """What is told of staged rules and limits."""
    if rule.staged:
        yield Effect(("would", rule.action), f"a staged rule would {rule.action} it", matters_refused=True)
    else:
        for name in rule.limit:
            if (limit := limit_of(policy, name)) is not None and limit.staged:
                words = f"a staged limit would {limit.above} it"
                yield Effect(("would", "limit", limit.above), words, matters_refused=True)


def all_effects(policies: Iterable[Policy]) -> list[Effect]:
    found = (
        effect
        for policy in policies
        for rule in policy.mail
        for effect in (*(() if rule.staged else effects_of(policy, rule)), *would(policy, rule))
    )
    return list(dict.fromkeys(found))


def adding(messages: Messages, policy: Policy, effect: Effect) -> Program:
    """Whether a message gets this effect: YES at the first rule that adds it, NO where a decision comes before."""
    program: Program = []
    for rule in policy.mail:
        boxes = messages.matched(policy, rule.match)
        adds = effect in (would(policy, rule) if rule.staged else effects_of(policy, rule))
        if rule.staged:
            program += [Entry(boxes, YES, rule.name, rule.at)] if adds else []
            continue
        for name in rule.limit:
            limit = limit_of(policy, name)
            if limit is not None and limit.staged and effect.meaning == ("would", "limit", limit.above):
                program.append(Entry(_also(messages, boxes, messages.over(name)), YES, rule.name, rule.at))
        program += _ends(messages, policy, rule, YES if adds else NO)
        if adds and rule.action == "continue":
            program.append(Entry(boxes, YES, rule.name, rule.at))
    return [*program, replace(_end(NO), final=_RELAYING_DENIED)]


def naming_a_way(messages: Messages, policy: Policy) -> Program:
    """The way out that a rule names: the first that does so."""
    program: Program = []
    for rule in policy.mail:
        if not rule.staged:
            way = NO
            if rule.route:
                way = Outcome(way_meant(policy, rule.route), f"by way of {', '.join(rule.route)}")
            program += _ends(messages, policy, rule, way)
            if rule.route and rule.action == "continue":
                program.append(Entry(messages.matched(policy, rule.match), way, rule.name, rule.at))
    return [*program, replace(_end(NO), final=_RELAYING_DENIED)]


def _ends(messages: Messages, policy: Policy, rule: MailRule, outcome: Outcome) -> Iterator[Entry]:
    """Where a rule decides, with something besides; what cannot be judged gets nothing."""
    boxes = messages.matched(policy, rule.match)
    for limit in _limits_in_force(policy, rule):
        over = _also(messages, boxes, messages.over(limit.name))
        yield Entry(over, outcome, rule.name, rule.at, above(limit))
    if rule.action != "continue":
        yield Entry(boxes, outcome, rule.name, rule.at, decided(rule))
    if unsure := messages.unsure(policy, rule.match):
        yield Entry(unsure, NO, rule.name, rule.at, CANNOT_TELL)


def way_meant(policy: Policy, via: Iterable[str]) -> tuple[Hashable, ...]:
    """What the items of a `via` mean: a smart host is what is known of it, not its name."""
    hosts = policy.site.smart_hosts
    return tuple(repr(hosts[item]) if item in hosts else canonical(item) for item in via)
