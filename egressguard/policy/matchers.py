"""What each key of a message rule's `match` asks of the facts.

Contract
    Pure and three-valued: True, False, or None for "cannot tell".
    A key that the rule does not have is not asked; `answers` goes in the schema's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from egressguard.mail.address import domain_of
from egressguard.net.flow import IPAddress
from egressguard.policy.facts import Attachment, MailFacts, Moment
from egressguard.policy.model import Device, MailMatch, Policy
from egressguard.policy.networks import devices_at, within, zones_of
from egressguard.policy.patterns import domain_matches, name_matches, path_matches, text_matches

ANY_DEVICE = "@any"
"""In a rule's `device`: whichever of the policy's devices."""


def matches(policy: Policy, match: MailMatch, facts: MailFacts) -> bool | None:
    """Three-valued: a certain no beats "cannot tell"."""
    unknown = False
    for _key, answer in answers(policy, match, facts):
        if answer is False:
            return False
        unknown = unknown or answer is None
    return None if unknown else True


def answers(policy: Policy, match: MailMatch, facts: MailFacts) -> Iterator[tuple[str, bool | None]]:
    """(key, answer) for each matcher that the rule has, in the schema's order."""
    for key, ask in MATCHERS.items():
        wanted = getattr(match, key)
        if is_asked(wanted):
            yield key, ask(policy, wanted, facts)


def is_asked(wanted: object) -> bool:
    """Whether a rule has the matcher of which it says this."""
    return wanted is not None and wanted not in ((), {})


def device_of(policy: Policy, client: IPAddress) -> Device | None:
    """The first device that has this address."""
    return next(iter(devices_at(policy, client)), None)


def _client(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    if not zones_of(policy, facts.client, "", frozenset()).isdisjoint(wanted):
        return True
    others = tuple(text for text in wanted if text not in policy.site.zones)
    return bool(others) and within(policy, facts.client, others)


def _device(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    """Pinned: its address, one of its senders, one of its recipients."""
    named = (d for d in devices_at(policy, facts.client) if ANY_DEVICE in wanted or d.name in wanted)
    return any(
        path_matches(device.senders, facts.reverse_path)
        and (not device.recipients or path_matches(device.recipients, facts.forward_path))
        for device in named
    )


def _sender_domain(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    return domain_matches(wanted, facts.reverse_path, policy.site.domains)


def _recipient_domain(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    if not domain_of(facts.forward_path):  # <postmaster> without a domain is ours (RFC 5321 s4.5.1)
        return "@local" in wanted and bool(facts.forward_path)
    return domain_matches(wanted, facts.forward_path, policy.site.domains)


def in_weekdays(wanted: tuple[frozenset[int], ...], moment: Moment) -> bool:
    return any(moment.weekday in days for days in wanted)


def in_hours(wanted: tuple[tuple[int, int], ...], moment: Moment) -> bool:
    """Whether the minute lies in one of the spans; one that starts later than it ends goes over midnight."""
    minute = moment.minute
    return any(start <= minute < end if start < end else (minute >= start or minute < end) for start, end in wanted)


def _weekdays(_policy: Policy, wanted: tuple[frozenset[int], ...], facts: MailFacts) -> bool | None:
    return None if facts.moment is None else in_weekdays(wanted, facts.moment)


def _hours(_policy: Policy, wanted: tuple[tuple[int, int], ...], facts: MailFacts) -> bool | None:
    return None if facts.moment is None else in_hours(wanted, facts.moment)


def _authentication(method: str) -> Callable[[Policy, tuple[str, ...], MailFacts], bool | None]:
    def ask(_policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool | None:
        return None if facts.authentication is None else getattr(facts.authentication, method) in wanted

    return ask


def _more_recipients(_policy: Policy, limit: int, facts: MailFacts) -> bool | None:
    return None if facts.recipient_count is None else facts.recipient_count > limit


def _larger(_policy: Policy, limit: int, facts: MailFacts) -> bool | None:
    return None if facts.size_octets is None else facts.size_octets > limit


def _header(_policy: Policy, wanted: Mapping[str, tuple[str, ...]], facts: MailFacts) -> bool | None:
    if facts.headers is None:
        return None
    headers = facts.headers
    return all(
        any(text_matches(patterns, value) for value in headers.get(name.lower(), ()))
        for name, patterns in wanted.items()
    )


def _over_attachments(holds: Callable[[Attachment, Any], bool]) -> Callable[..., bool | None]:
    """A matcher that is true when `holds` is for one attachment; None while the attachments are not known."""

    def ask(_policy: Policy, wanted: Any, facts: MailFacts) -> bool | None:
        attachments = facts.scan.attachments if facts.scan else None
        return None if attachments is None else any(holds(attachment, wanted) for attachment in attachments)

    return ask


def _over_flag(has: Callable[[Attachment], bool]) -> Callable[..., bool | None]:
    def ask(_policy: Policy, wanted: bool, facts: MailFacts) -> bool | None:
        attachments = facts.scan.attachments if facts.scan else None
        return None if attachments is None else any(map(has, attachments)) is wanted

    return ask


def _has_type(attachment: Attachment, wanted: tuple[str, ...]) -> bool:
    return any(fnmatchcase(attachment.media_type.lower(), pattern.lower()) for pattern in wanted)


def _verdict(_policy: Policy, wanted: tuple[object, ...], facts: MailFacts) -> bool | None:
    if facts.scan is None or facts.scan.verdict is None:
        return None
    return facts.scan.verdict in wanted


def _score(_policy: Policy, least: float, facts: MailFacts) -> bool | None:
    if facts.scan is None or facts.scan.score is None:
        return None
    return facts.scan.score >= least


MATCHERS: dict[str, Callable[..., bool | None]] = {
    "client": _client,
    "device": _device,
    "listener": lambda _policy, wanted, facts: facts.listener in wanted,
    "redirected": lambda _policy, wanted, facts: facts.redirected is wanted,
    "authenticated": lambda _policy, wanted, facts: (facts.user is not None) is wanted,
    "user": lambda _policy, wanted, facts: facts.user is not None and facts.user in wanted,
    "tls": lambda _policy, wanted, facts: facts.tls is wanted,
    "helo": lambda _policy, wanted, facts: text_matches(wanted, facts.helo),
    "sender": lambda _policy, wanted, facts: path_matches(wanted, facts.reverse_path),
    "sender_domain": _sender_domain,
    "recipient": lambda _policy, wanted, facts: path_matches(wanted, facts.forward_path),
    "recipient_domain": _recipient_domain,
    "weekdays": _weekdays,
    "hours": _hours,
    "over_limit": lambda _policy, wanted, facts: not facts.exceeded.keys().isdisjoint(wanted),
    "spf": _authentication("spf"),
    "dkim": _authentication("dkim"),
    "dmarc": _authentication("dmarc"),
    "dmarc_policy": _authentication("dmarc_policy"),
    "arc": _authentication("arc"),
    "block_list": lambda _policy, wanted, facts: None if facts.listed is None else not facts.listed.isdisjoint(wanted),
    "more_than_recipients": _more_recipients,
    "larger_than_octets": _larger,
    "header": _header,
    "attachment_name": _over_attachments(lambda a, wanted: any(name_matches(wanted, name) for name in a.path)),
    "attachment_type": _over_attachments(_has_type),
    "attachment_encrypted": _over_flag(lambda a: a.encrypted),
    "attachment_macro": _over_flag(lambda a: a.macro),
    "attachment_active": _over_flag(lambda a: a.active),
    "attachment_deeper_than": _over_attachments(lambda a, levels: len(a.path) - 1 > levels),
    "verdict": _verdict,
    "score_at_least": _score,
}
"""Every key of MailMatch, in its order."""
