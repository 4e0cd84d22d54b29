"""Decide what happens to a message.

Contract
    Pure: no clock, no DNS, no files. The first rule that matches wins; no rule matching is REJECT.
    A matcher that cannot know its answer says None; a certain no beats it; else the decision is DEFER.
    Nothing here ever returns ACCEPT because something else failed.
    Before DATA size and scan are None: `decide_envelope` refuses only what no content could get accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase

from egressguard.mail.address import domain_of
from egressguard.net.flow import IPAddress
from egressguard.policy.decision import MailAction, MailDecision
from egressguard.policy.facts import Attachment, MailFacts
from egressguard.policy.model import Device, MailMatch, MailRule, Policy
from egressguard.policy.networks import normal, within, zones_of
from egressguard.policy.patterns import domain_matches, name_matches, path_matches

NO_RULE = MailDecision(MailAction.REJECT, "(none)", "no rule matched", text="relaying denied")

ANY_DEVICE = "@any"
"""In a rule's `device`: whichever of the policy's devices."""

_STRICTNESS = (MailAction.DEFER, MailAction.REJECT, MailAction.QUARANTINE, MailAction.ACCEPT)


def decide_mail(policy: Policy, facts: MailFacts) -> MailDecision:
    """The decision on a whole message for one recipient: what cannot be known now is a DEFER."""
    for rule in policy.mail:
        answer = matches(policy, rule.match, facts)
        if answer is None:
            words = "; ".join(facts.scan.findings) if facts.scan else ""
            reason = words or "a matcher cannot answer now"
            return MailDecision(MailAction.DEFER, rule.name, reason, text="cannot be judged now, try again later")
        if answer:
            return _decision(rule)
    return NO_RULE


def decide_envelope(policy: Policy, facts: MailFacts) -> MailDecision | None:
    """The refusal of a recipient whom no content could get accepted, or None: go on to DATA.

    A rule that needs the content to stop the message (malware, too large) is passed over: it may only make
    things stricter, and a stranger is to be refused here, not scanned and held."""
    for rule in policy.mail:
        answer = matches(policy, rule.match, facts)
        if answer is False or (answer is None and rule.action != "accept"):
            continue
        return _decision(rule) if answer and rule.action in {"reject", "defer"} else None
    return NO_RULE


def strictest(decisions: Iterable[MailDecision]) -> MailDecision:
    """One reply speaks for all recipients after DATA: the strictest decision holds for the message."""
    return min(decisions, key=lambda decision: _STRICTNESS.index(decision.action), default=NO_RULE)


def device_of(policy: Policy, client: IPAddress) -> Device | None:
    """The first device that has this address."""
    return next((device for device in policy.devices if _is_device(device, client)), None)


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
    for key, ask in _MATCHERS.items():
        wanted = getattr(match, key)
        if wanted is not None and wanted != ():
            yield key, ask(policy, wanted, facts)


def _decision(rule: MailRule) -> MailDecision:
    folder = rule.folder if rule.action == "quarantine" else ""
    return MailDecision(MailAction(rule.action), rule.name, f"matched at {rule.at}", folder, rule.text)


def _client(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    if not zones_of(policy, facts.client, "", frozenset()).isdisjoint(wanted):
        return True
    others = tuple(text for text in wanted if text not in policy.site.zones)
    return bool(others) and within(policy, facts.client, others)


def _device(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    named = (device for device in policy.devices if ANY_DEVICE in wanted or device.name in wanted)
    return any(_device_may(device, facts) for device in named)


def _is_device(device: Device, client: IPAddress) -> bool:
    address = normal(client)  # a device has a handful of addresses
    return any(address.version == network.version and address in network for network in device.addresses)


def _device_may(device: Device, facts: MailFacts) -> bool:
    """Pinned: its address, one of its senders, one of its recipients."""
    return (
        _is_device(device, facts.client)
        and path_matches(device.senders, facts.reverse_path)
        and (not device.recipients or path_matches(device.recipients, facts.forward_path))
    )


def _larger(_policy: Policy, limit: int, facts: MailFacts) -> bool | None:
    return None if facts.size_octets is None else facts.size_octets > limit


def _attachments(facts: MailFacts) -> tuple[Attachment, ...] | None:
    return facts.scan.attachments if facts.scan else None


def _attachment_name(_policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool | None:
    attachments = _attachments(facts)
    if attachments is None:
        return None
    return any(name_matches(wanted, name) for attachment in attachments for name in attachment.path)


def _attachment_type(_policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool | None:
    attachments = _attachments(facts)
    if attachments is None:
        return None
    return any(fnmatchcase(a.media_type.lower(), pattern.lower()) for a in attachments for pattern in wanted)


def _verdict(_policy: Policy, wanted: tuple[object, ...], facts: MailFacts) -> bool | None:
    if facts.scan is None or facts.scan.verdict is None:
        return None
    return facts.scan.verdict in wanted


def _sender_domain(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    return domain_matches(wanted, facts.reverse_path, policy.site.domains)


def _recipient_domain(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    if not domain_of(facts.forward_path):  # <postmaster> without a domain is ours (RFC 5321 s4.5.1)
        return "@local" in wanted and bool(facts.forward_path)
    return domain_matches(wanted, facts.forward_path, policy.site.domains)


_MATCHERS: dict[str, Callable[..., bool | None]] = {
    "client": _client,
    "device": _device,
    "listener": lambda _policy, wanted, facts: facts.listener in wanted,
    "redirected": lambda _policy, wanted, facts: facts.redirected is wanted,
    "authenticated": lambda _policy, wanted, facts: (facts.user is not None) is wanted,
    "user": lambda _policy, wanted, facts: facts.user is not None and facts.user in wanted,
    "tls": lambda _policy, wanted, facts: facts.tls is wanted,
    "sender": lambda _policy, wanted, facts: path_matches(wanted, facts.reverse_path),
    "sender_domain": _sender_domain,
    "recipient": lambda _policy, wanted, facts: path_matches(wanted, facts.forward_path),
    "recipient_domain": _recipient_domain,
    "larger_than_octets": _larger,
    "attachment_name": _attachment_name,
    "attachment_type": _attachment_type,
    "verdict": _verdict,
}
