"""Message rules as lists of entries, the first that matches decides: what policy.mail says, in boxes.

Contract
    `at_rcpt`: what is said to RCPT, a refusal or GOES_ON; `at_end`: the decision on the whole message. Each list ends
    in an entry that matches everything.
    A rule's entries: what a limit that is exceeded decides, what the rule decides, and DEFER where it cannot tell.
    Rules that only add something decide nothing and have no entry of yes; what they add is `adding`'s.
    Names of rules are no part of what an entry says: two entries are equal when they do the same to the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from egressguard.policy.decision import MailAction
from egressguard.policy.difference.ends import Boxes, Entry, Outcome, Program
from egressguard.policy.difference.matches import NOT_AT_RCPT, Matches
from egressguard.policy.limits import quotas
from egressguard.policy.mail import NO_RULE, limit_of
from egressguard.policy.matchers import is_asked
from egressguard.policy.model import Limit, MailRule, Policy
from egressguard.policy.next_hop import canonical
from egressguard.policy.routes import MX
from egressguard.policy.scheduling import Retry

STAYS_OUT = frozenset({MailAction.REJECT.value, MailAction.DEFER.value})


GOES_ON = Outcome("goes on", "go on")
CANNOT_TELL = Outcome(
    (MailAction.DEFER.value, "cannot be judged"), "defer, for it cannot be judged now", stays_out=True
)
NO, YES = Outcome(None, "not"), Outcome((), "so")
ANY: Boxes = ({},)


def _end(outcome: Outcome) -> Entry:
    return Entry(ANY, outcome, "", "")


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


def at_end(matches: Matches, policy: Policy) -> Program:
    """The decision on the whole message."""
    program: Program = []
    for rule in policy.mail:
        if rule.staged:
            continue
        boxes = matches.matched(policy, rule.match)
        for limit in _limits_in_force(policy, rule):
            program.append(Entry(matches.also(boxes, matches.over(limit.name)), above(limit), rule.name, rule.at))
        if rule.action != "continue":
            program.append(Entry(boxes, decided(rule), rule.name, rule.at))
        if unsure := matches.unsure(policy, rule.match):
            program.append(Entry(unsure, CANNOT_TELL, rule.name, rule.at))
    return [*program, _end(_RELAYING_DENIED)]


def at_rcpt(matches: Matches, policy: Policy) -> Program:
    """What is said to RCPT; a rule that needs the content to stop a message is passed over."""
    program: Program = []
    for rule in policy.mail:
        if rule.staged:
            continue
        boxes = matches.matched(policy, rule.match, at_rcpt=True)
        unsure = matches.unsure(policy, rule.match, at_rcpt=True)
        if any(is_asked(getattr(rule.match, key)) for key in NOT_AT_RCPT):
            if rule.action == "accept":
                program.append(Entry((*boxes, *unsure), GOES_ON, rule.name, rule.at))
            continue
        for limit in _limits_in_force(policy, rule):
            refusal = above(limit)
            told = refusal if refusal.stays_out else GOES_ON
            program.append(Entry(matches.also(boxes, matches.over(limit.name)), told, rule.name, rule.at))
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


def tagging(tag: str) -> Effect:
    return Effect(("tag", tag), f"tagged {tag}")


def effects_of(matches: Matches, policy: Policy, rule: MailRule) -> Iterator[Effect]:
    """What a rule in force adds to the messages it matches, the way out aside."""
    for name, value in rule.add_header.items():
        yield Effect(("header", name.lower(), value), f"the field {name}: {value} is added")
    for tag in rule.tag:
        yield tagging(tag)
    for address in rule.notify:
        yield Effect(("notify", address), f"{address} is told of it", matters_refused=True)
    for name in rule.limit:
        if (limit := limit_of(policy, name)) is not None:
            yield Effect(("limit", limit.per, quotas(limit)), f"counted by limit {name}")
    if rule.rewrite_sender:
        yield Effect(("rewrite_sender",), "the sender is rewritten (SRS)")
    for way in rule.source_routes:
        yield Effect(
            ("source_route", *way_meant(matches.messages.smart_hosts, (way,))),
            f"the sender may ask for the way out {way}",
        )


def would(policy: Policy, rule: MailRule) -> Iterator[Effect]:
    """What is told of staged rules and limits."""
    if rule.staged:
        yield Effect(("would", rule.action), f"a staged rule would {rule.action} it", matters_refused=True)
    else:
        for name in rule.limit:
            if (limit := limit_of(policy, name)) is not None and limit.staged:
                words = f"a staged limit would {limit.above} it"
                yield Effect(("would", "limit", limit.above), words, matters_refused=True)


def all_effects(matches: Matches, policies: Iterable[Policy]) -> list[Effect]:
    found = (
        effect
        for policy in policies
        for rule in policy.mail
        for effect in (*(() if rule.staged else effects_of(matches, policy, rule)), *would(policy, rule))
    )
    return list(dict.fromkeys(found))


def adding(matches: Matches, policy: Policy, effect: Effect) -> Program:
    """Whether a message gets this effect: YES at the first rule that adds it, NO where a decision comes before."""
    program: Program = []
    for rule in policy.mail:
        boxes = matches.matched(policy, rule.match)
        adds = effect in (would(policy, rule) if rule.staged else effects_of(matches, policy, rule))
        if rule.staged:
            program += [Entry(boxes, YES, rule.name, rule.at)] if adds else []
            continue
        program += _ends(matches, policy, rule, YES if adds else NO, staged_limit=effect.meaning)
        if adds and rule.action == "continue":
            program.append(Entry(boxes, YES, rule.name, rule.at))
    return [*program, replace(_end(NO), final=_RELAYING_DENIED)]


def naming_a_way(matches: Matches, policy: Policy) -> Program:
    """The way out that a rule names: the first that does so."""
    program: Program = []
    for rule in policy.mail:
        if not rule.staged:
            way = NO
            if rule.route:
                way = _way_out(matches, rule.route, None)
            program += _ends(matches, policy, rule, way)
            if rule.route and rule.action == "continue":
                program.append(Entry(matches.matched(policy, rule.match), way, rule.name, rule.at))
    return [*program, replace(_end(NO), final=_RELAYING_DENIED)]


def _ends(
    matches: Matches, policy: Policy, rule: MailRule, outcome: Outcome, *, staged_limit: Hashable = None
) -> Iterator[Entry]:
    """Where a rule decides, with something besides; what cannot be judged gets nothing. Limits come in their order:
    what stands behind one that decides is not asked, a staged one that would do what `staged_limit` says included."""
    boxes = matches.matched(policy, rule.match)
    for limit in filter(None, (limit_of(policy, name) for name in rule.limit)):
        over = matches.also(boxes, matches.over(limit.name))
        if not limit.staged:
            yield Entry(over, outcome, rule.name, rule.at, above(limit))
        elif staged_limit == ("would", "limit", limit.above):
            yield Entry(over, YES, rule.name, rule.at)
    if rule.action != "continue":
        yield Entry(boxes, outcome, rule.name, rule.at, decided(rule))
    if unsure := matches.unsure(policy, rule.match):
        yield Entry(unsure, NO, rule.name, rule.at, CANNOT_TELL)


def routed(matches: Matches, policy: Policy) -> Program:
    """The way out where no rule names one."""
    local = Entry(matches.to_mailboxes(policy), Outcome("local", "into a mailbox here"), "", "")
    program: Program = [local] if all(local.boxes[0].values()) else []
    for route in policy.routes:
        if not route.staged:
            way = _way_out(matches, route.via, route.retry)
            program.append(Entry(matches.matched(policy, route.match), way, route.name, route.at))
    return [*program, Entry(ANY, _way_out(matches, (MX,), None), "", "")]


def _way_out(matches: Matches, via: Sequence[str], retry: Retry | None) -> Outcome:
    words = "leaves by MX" if tuple(via) == (MX,) else f"leaves by way of {', '.join(via)}"
    meaning = way_meant(matches.messages.smart_hosts, via), repr(retry)
    return Outcome(meaning, f"{words}, tried again at other times" if retry else words)


def way_meant(names: Mapping[str, str], via: Iterable[str]) -> tuple[Hashable, ...]:
    """What the items of a `via` mean; `names`: smart hosts, and the names that stand for them."""
    return tuple(names[item] if item in names else canonical(item) for item in via)
