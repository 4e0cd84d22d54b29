"""The matchers of message rules as tables that answer for all rules at once.

Contract
    What a matcher means is said in policy.matchers: each column says the same of the same facts (a test holds them
    equal), but "cannot tell" (None) it says once for all rules that have the matcher.
    Whoever adds a matcher adds its column to COLUMNS.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from egressguard.mail.address import domain_of
from egressguard.policy.facts import Attachment, MailFacts, Moment
from egressguard.policy.index import Remembered, numbers, rule_set, table
from egressguard.policy.index_tables import Domains, Levels, Paths, Patterns
from egressguard.policy.matchers import ANY_DEVICE, in_hours
from egressguard.policy.model import Policy
from egressguard.policy.networks import places_of
from egressguard.policy.patterns import LOCAL, shown_name

Rows = Sequence[tuple[int, Any]]
"""(rule, what its matcher wants), of the rules that have the matcher."""
Ask = Callable[[MailFacts], int | None]
"""Facts -> the rules that one matcher does not rule out; None: it cannot tell."""


class Column(NamedTuple):
    """One matcher, all rules. Those of `hard` have to be asked themselves when nothing else rules them out."""

    ask: Ask
    hard: int = 0


Prepare = Callable[[Policy, Rows, int], Column]
"""(policy, the rules that have the matcher, the set of those that have not) -> Column."""


def _client(policy: Policy, rows: Rows, others: int) -> Column:
    places = places_of(policy)
    by_place = places.rules_at(((rule, places.named(texts)) for rule, texts in rows), others)
    return Column(lambda facts: by_place[places.find(facts.client)])


def _device(policy: Policy, rows: Rows, others: int) -> Column:
    """Devices are looked up like rules: one is left when its address, senders and recipients all fit."""
    places, devices = places_of(policy), list(enumerate(policy.devices))
    anyone = rule_set(number for number, device in devices if not device.recipients)
    here = places.rules_at(((number, (places.devices[number],)) for number, _ in devices), 0)
    senders = Paths([(number, device.senders) for number, device in devices], 0)
    recipients = Paths([(number, device.recipients) for number, device in devices if device.recipients], anyone)
    named = table((rule, [ANY_DEVICE] if ANY_DEVICE in wanted else wanted) for rule, wanted in rows)

    def work_out(fitting: int) -> int:
        rules = others | (named.get(ANY_DEVICE, 0) if fitting else 0)
        for number in numbers(fitting):
            rules |= named.get(policy.devices[number].name, 0)
        return rules

    by_devices = Remembered(work_out)

    def ask(facts: MailFacts) -> int:
        fitting = here[places.find(facts.client)]
        if fitting:
            fitting &= senders.rules(facts.reverse_path) & recipients.rules(facts.forward_path)
        return by_devices[fitting]

    return Column(ask)


def _one_of(of: Callable[[MailFacts], Hashable]) -> Prepare:
    """The message's value is one of those that the rule lists."""

    def prepare(_policy: Policy, rows: Rows, others: int) -> Column:
        wanted = table(rows, others)
        return Column(lambda facts: wanted.get(of(facts), others))

    return prepare


def _one_of_known(of: Callable[[MailFacts], Hashable | None]) -> Prepare:
    """The same of a value that may not be known (None)."""

    def prepare(_policy: Policy, rows: Rows, others: int) -> Column:
        wanted = table(rows, others)
        return Column(lambda facts: None if (value := of(facts)) is None else wanted.get(value, others))

    return prepare


def _each(prepare: Prepare) -> Prepare:
    """For a matcher that wants one value, not several."""
    return lambda policy, rows, others: prepare(policy, [(rule, (value,)) for rule, value in rows], others)


def _sender(_policy: Policy, rows: Rows, others: int) -> Column:
    paths = Paths(rows, others)
    return Column(lambda facts: paths.rules(facts.reverse_path))


def _recipient(_policy: Policy, rows: Rows, others: int) -> Column:
    paths = Paths(rows, others)
    return Column(lambda facts: paths.rules(facts.forward_path))


def _sender_domain(policy: Policy, rows: Rows, others: int) -> Column:
    domains = Domains(rows, others, policy.site.domains)
    return Column(lambda facts: domains.rules(facts.reverse_path))


def _recipient_domain(policy: Policy, rows: Rows, others: int) -> Column:
    domains = Domains(rows, others, policy.site.domains)
    bare = others | rule_set(rule for rule, wanted in rows if LOCAL in wanted)  # <postmaster>: RFC 5321 s4.5.1

    def ask(facts: MailFacts) -> int:
        path = facts.forward_path
        return bare if path and not domain_of(path) else domains.rules(path)

    return Column(ask)


def _weekdays(_policy: Policy, rows: Rows, others: int) -> Column:
    on_day = table(((rule, frozenset[int]().union(*wanted)) for rule, wanted in rows), others)
    return Column(lambda facts: None if facts.moment is None else on_day.get(facts.moment.weekday, others))


def _hours(_policy: Policy, rows: Rows, others: int) -> Column:
    spans = table((rule, [wanted]) for rule, wanted in rows)

    def work_out(minute: int) -> int:
        rules, moment = others, Moment(0, minute)
        for wanted, theirs in spans.items():
            rules |= theirs if in_hours(wanted, moment) else 0
        return rules

    at = Remembered(work_out)
    return Column(lambda facts: None if facts.moment is None else at[facts.moment.minute])


def _over_limit(_policy: Policy, rows: Rows, others: int) -> Column:
    over = table(rows)

    def ask(facts: MailFacts) -> int:
        rules = others
        for name in facts.exceeded:
            rules |= over.get(name, 0)
        return rules

    return Column(ask)


def _block_list(_policy: Policy, rows: Rows, others: int) -> Column:
    on = table(rows)

    def ask(facts: MailFacts) -> int | None:
        if facts.listed is None:
            return None
        rules = others
        for name in facts.listed:
            rules |= on.get(name, 0)
        return rules

    return Column(ask)


def _helo(_policy: Policy, rows: Rows, others: int) -> Column:
    patterns = Patterns([(rule, [p.casefold() for p in wanted]) for rule, wanted in rows], others)
    return Column(lambda facts: patterns.rules((facts.helo.casefold(),)), patterns.hard)


def _header(_policy: Policy, rows: Rows, others: int) -> Column:
    """Only whether the first field that the rule names is there at all; its value has to be asked."""
    named = table((rule, [next(iter(wanted)).lower()]) for rule, wanted in rows)

    def ask(facts: MailFacts) -> int | None:
        if facts.headers is None:
            return None
        rules = others
        for name in named.keys() & facts.headers.keys():
            rules |= named[name]
        return rules

    return Column(ask, rule_set(rule for rule, _ in rows))


def _above(of: Callable[[MailFacts], int | None]) -> Prepare:
    """The message's number is more than what the rule says."""

    def prepare(_policy: Policy, rows: Rows, others: int) -> Column:
        levels = Levels(rows, others)
        return Column(lambda facts: None if (number := of(facts)) is None else levels.above(number))

    return prepare


def _score(_policy: Policy, rows: Rows, others: int) -> Column:
    levels = Levels(rows, others)

    def ask(facts: MailFacts) -> int | None:
        return None if facts.scan is None or facts.scan.score is None else levels.reached(facts.scan.score)

    return Column(ask)


def _attachments(facts: MailFacts) -> tuple[Attachment, ...] | None:
    return facts.scan.attachments if facts.scan else None


def _texts_of_attachments(fold: Callable[[str], str], texts_of: Callable[[Attachment], Iterable[str]]) -> Prepare:
    """Shell patterns, folded by `fold`, for texts of any attachment."""

    def prepare(_policy: Policy, rows: Rows, others: int) -> Column:
        patterns = Patterns([(rule, [fold(pattern) for pattern in wanted]) for rule, wanted in rows], others)

        def ask(facts: MailFacts) -> int | None:
            attachments = _attachments(facts)
            if attachments is None:
                return None
            if not attachments:  # an attachment that is not there matches no pattern, be it as hard as it may
                return others
            return patterns.rules({text for attachment in attachments for text in texts_of(attachment)})

        return Column(ask, patterns.hard)

    return prepare


def _any_attachment(has: Callable[[Attachment], bool]) -> Callable[[MailFacts], bool | None]:
    def of(facts: MailFacts) -> bool | None:
        attachments = _attachments(facts)
        return None if attachments is None else any(map(has, attachments))

    return of


def _depth(facts: MailFacts) -> int | None:
    attachments = _attachments(facts)
    return None if attachments is None else max((len(a.path) - 1 for a in attachments), default=-1)


def _result(method: str) -> Callable[[MailFacts], object]:
    return lambda facts: None if facts.authentication is None else getattr(facts.authentication, method)


COLUMNS: dict[str, Prepare] = {
    "client": _client,
    "device": _device,
    "listener": _one_of(lambda facts: facts.listener),
    "redirected": _each(_one_of(lambda facts: facts.redirected)),
    "authenticated": _each(_one_of(lambda facts: facts.user is not None)),
    "user": _one_of(lambda facts: facts.user),
    "tls": _each(_one_of(lambda facts: facts.tls)),
    "helo": _helo,
    "sender": _sender,
    "sender_domain": _sender_domain,
    "recipient": _recipient,
    "recipient_domain": _recipient_domain,
    "weekdays": _weekdays,
    "hours": _hours,
    "over_limit": _over_limit,
    "spf": _one_of_known(_result("spf")),
    "dkim": _one_of_known(_result("dkim")),
    "dmarc": _one_of_known(_result("dmarc")),
    "dmarc_policy": _one_of_known(_result("dmarc_policy")),
    "arc": _one_of_known(_result("arc")),
    "block_list": _block_list,
    "more_than_recipients": _above(lambda facts: facts.recipient_count),
    "larger_than_octets": _above(lambda facts: facts.size_octets),
    "header": _header,
    "attachment_name": _texts_of_attachments(str.casefold, lambda attachment: map(shown_name, attachment.path)),
    "attachment_type": _texts_of_attachments(str.lower, lambda attachment: (attachment.media_type.lower(),)),
    "attachment_encrypted": _each(_one_of_known(_any_attachment(lambda attachment: attachment.encrypted))),
    "attachment_macro": _each(_one_of_known(_any_attachment(lambda attachment: attachment.macro))),
    "attachment_active": _each(_one_of_known(_any_attachment(lambda attachment: attachment.active))),
    "attachment_deeper_than": _above(_depth),
    "verdict": _one_of_known(lambda facts: facts.scan.verdict if facts.scan else None),
    "score_at_least": _score,
}
"""Every key of MailMatch, in its order."""
