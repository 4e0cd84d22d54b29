"""Why a matcher does not match, in words: what was found and what was wanted.

Contract
    Pure. One function per matcher; whoever adds a matcher adds its words here (a test holds both tables equal).
    The words are for one that answered False or "cannot tell"; of one that matched they say nothing true.
    What comes from a message (names, header fields) is made printable and cut: a hostile message cannot speak here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from egressguard.mail.address import domain_of
from egressguard.net.flow import Flow
from egressguard.policy.facts import Attachment, MailFacts
from egressguard.policy.fields import WEEKDAYS
from egressguard.policy.matchers import ANY_DEVICE, device_of
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import normal
from egressguard.policy.patterns import path_matches, text_matches

SHOWN_CHARACTERS = 60
SHOWN_ITEMS = 8


def shown(text: object) -> str:
    """A text of anybody's, printable and short."""
    clean = "".join(c if c.isprintable() else "?" for c in str(text)[: SHOWN_CHARACTERS + 1])
    return clean if len(clean) <= SHOWN_CHARACTERS else f"{clean[: SHOWN_CHARACTERS - 3]}..."


def listed(items: Iterable[object]) -> str:
    """The first few of them: "lan, @printers"."""
    every = [shown(item) for item in items]
    more = f" and {len(every) - SHOWN_ITEMS} more" if len(every) > SHOWN_ITEMS else ""
    return ", ".join(every[:SHOWN_ITEMS]) + more


def _not_in(found: object, wanted: Iterable[object]) -> str:
    """ "465 is not 25", "465 is not one of 25, 26"."""
    items = list(wanted)
    return f"{shown(found)} is not {'one of ' if len(items) > 1 else ''}{listed(items)}"


def _outside(address: object, wanted: Iterable[object]) -> str:
    items = list(wanted)
    return f"{address} is in none of {listed(items)}" if len(items) > 1 else f"{address} is not in {listed(items)}"


# Flows.


def flow_words(rule: FlowRule, flow: Flow, zones: frozenset[str], key: str, *, known: bool) -> str:
    """Why the matcher `key` of `rule` does not match, or (`known` False) cannot tell."""
    if key == "protocol":
        return _not_in(flow.protocol.value, [rule.protocol])
    if key == "port":
        return _not_in(flow.destination_port, rule.port)
    if key == "from":
        where = listed(sorted(zones)) if zones else "no zone"
        return f"it comes from {where}, not from {listed(rule.from_zone)}"
    if key == "source":
        return _outside(normal(flow.source), rule.source)
    if key == "destination":
        return _outside(normal(flow.destination), rule.destination)
    if key == "speaks":
        return f"it speaks {flow.speaks or 'nothing yet, or something else'}, not {rule.speaks}"
    if key == "source_mac":
        return f"{flow.source_mac or 'a MAC address that is not known'} is {_in_none_of(rule.source_mac)}"
    if key == "time":
        return _time(rule) if known else "the time is not known"
    names = listed(rule.destination_host)
    return f"{normal(flow.destination)} is no address of {names}" if known else f"not known: {names} is not resolved"


def _in_none_of(wanted: Iterable[object]) -> str:
    items = list(wanted)
    return f"in none of {listed(items)}" if len(items) > 1 else f"not {listed(items)}"


def _time(rule: FlowRule) -> str:
    days = [WEEKDAYS[day] for day in sorted(frozenset().union(*rule.weekdays))]
    hours = [f"{_clock(start)}-{_clock(end)}" for start, end in rule.hours]
    return f"it is not {' '.join(part for part in (listed(days), listed(hours)) if part)}"


# Messages: (policy, what the rule wants, facts) -> words.


def mail_words(policy: Policy, key: str, wanted: Any, facts: MailFacts) -> str:
    """Why the matcher `key` of a message rule does not match, or cannot tell."""
    return WORDS[key](policy, wanted, facts)


def _yes_no(found: Callable[[MailFacts], bool]) -> Callable[..., str]:
    def words(_policy: Policy, wanted: bool, facts: MailFacts) -> str:
        return f"{_word(found(facts))}, the rule wants {_word(wanted)}"

    return words


def _word(truth: bool) -> str:
    return "yes" if truth else "no"


def _path(path: str) -> str:
    return path or "<>"


def _domain(path: str) -> str:
    return domain_of(path) or f"{_path(path)} without a domain"


def _device(policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> str:
    device = device_of(policy, facts.client)
    if device is None:
        return f"{normal(facts.client)} is the address of no device"
    if ANY_DEVICE not in wanted and device.name not in wanted:
        return f"{normal(facts.client)} is {_not_in(device.name, wanted)}"
    if not path_matches(device.senders, facts.reverse_path):
        return f"{device.name} may not send as {shown(_path(facts.reverse_path))}"
    return f"{device.name} may not write to {shown(_path(facts.forward_path))}"


def _weekdays(_policy: Policy, wanted: tuple[frozenset[int], ...], facts: MailFacts) -> str:
    if facts.moment is None:
        return "the time is not known"
    days = sorted(frozenset().union(*wanted))
    return _not_in(WEEKDAYS[facts.moment.weekday], [WEEKDAYS[day] for day in days])


def _hours(_policy: Policy, wanted: tuple[tuple[int, int], ...], facts: MailFacts) -> str:
    if facts.moment is None:
        return "the time is not known"
    return _outside(_clock(facts.moment.minute), [f"{_clock(start)}-{_clock(end)}" for start, end in wanted])


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _result(method: str) -> Callable[..., str]:
    def words(_policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> str:
        if facts.authentication is None:
            return "not known, it could not be checked"
        return _not_in(getattr(facts.authentication, method), wanted)

    return words


def _over(_policy: Policy, wanted: tuple[str, ...], _facts: MailFacts) -> str:
    return f"{listed(wanted)} is not exceeded" if len(wanted) == 1 else f"none of {listed(wanted)} is exceeded"


def _block_list(_policy: Policy, wanted: tuple[str, ...], facts: MailFacts) -> str:
    if facts.listed is None:
        return "not known yet, who gave the mail to the relay service stands in its header"
    return f"{normal(facts.client)} is not listed by {listed(wanted)}"


def _not_more(found: int | None, most: int, what: str) -> str:
    return f"not known yet, more than {most} {what}" if found is None else f"{found} are not more than {most} {what}"


def _header(_policy: Policy, wanted: Mapping[str, tuple[str, ...]], facts: MailFacts) -> str:
    """The first field that does not match."""
    if facts.headers is None:
        return "the header is not known yet"
    for name, patterns in wanted.items():
        values = facts.headers.get(name.lower(), ())
        if not values:
            return f"there is no {name}"
        if not any(text_matches(patterns, value) for value in values):
            return f"{name}: {_not_in(listed(values), patterns)}"
    return "every field matches"  # not reached: nobody asks about a matcher that matched


def _unscanned(facts: MailFacts) -> str:
    if facts.scan is None:
        return "not known before the message is seen"
    why = f" ({listed(facts.scan.findings)})" if facts.scan.findings else ""
    return f"not known, a scanner did not answer{why}"


def _attachments(words: Callable[[tuple[Attachment, ...], Any], str]) -> Callable[..., str]:
    def of_facts(_policy: Policy, wanted: Any, facts: MailFacts) -> str:
        attachments = facts.scan.attachments if facts.scan else None
        return _unscanned(facts) if attachments is None else words(attachments, wanted)

    return of_facts


def _names(attachments: tuple[Attachment, ...], wanted: tuple[str, ...]) -> str:
    return _none_of(dict.fromkeys(name for attachment in attachments for name in attachment.path), wanted)


def _types(attachments: tuple[Attachment, ...], wanted: tuple[str, ...]) -> str:
    return _none_of(dict.fromkeys(attachment.media_type for attachment in attachments), wanted)


def _none_of(found: Iterable[str], wanted: tuple[str, ...]) -> str:
    every = list(found)
    if not every:
        return "there is no attachment"
    return _not_in(every[0], wanted) if len(every) == 1 else f"none of {listed(every)} is one of {listed(wanted)}"


def _flag(what: str) -> Callable[[tuple[Attachment, ...], Any], str]:
    def words(_attachments: tuple[Attachment, ...], wanted: bool) -> str:
        return f"no attachment {what}" if wanted else f"an attachment {what}, the rule wants none"

    return words


def _verdict(_policy: Policy, wanted: tuple[Any, ...], facts: MailFacts) -> str:
    if facts.scan is None or facts.scan.verdict is None:
        return _unscanned(facts)
    return _not_in(facts.scan.verdict.value, [verdict.value for verdict in wanted])


def _score(_policy: Policy, least: float, facts: MailFacts) -> str:
    if facts.scan is None or facts.scan.score is None:
        return "not known, no filter gave a score" if facts.scan else _unscanned(facts)
    return f"{facts.scan.score:g} is less than {least:g}"


WORDS: dict[str, Callable[..., str]] = {
    "client": lambda _policy, wanted, facts: _outside(normal(facts.client), wanted),
    "device": _device,
    "listener": lambda _policy, wanted, facts: _not_in(facts.listener, wanted),
    "redirected": _yes_no(lambda facts: facts.redirected),
    "authenticated": _yes_no(lambda facts: facts.user is not None),
    "user": lambda _policy, wanted, facts: _not_in("nobody" if facts.user is None else facts.user, wanted),
    "tls": _yes_no(lambda facts: facts.tls),
    "helo": lambda _policy, wanted, facts: _not_in(facts.helo or "nothing", wanted),
    "sender": lambda _policy, wanted, facts: _not_in(_path(facts.reverse_path), wanted),
    "sender_domain": lambda _policy, wanted, facts: _not_in(_domain(facts.reverse_path), wanted),
    "recipient": lambda _policy, wanted, facts: _not_in(_path(facts.forward_path), wanted),
    "recipient_domain": lambda _policy, wanted, facts: _not_in(_domain(facts.forward_path), wanted),
    "weekdays": _weekdays,
    "hours": _hours,
    "over_limit": _over,
    "spf": _result("spf"),
    "dkim": _result("dkim"),
    "dmarc": _result("dmarc"),
    "dmarc_policy": _result("dmarc_policy"),
    "arc": _result("arc"),
    "block_list": _block_list,
    "more_than_recipients": lambda _policy, most, facts: _not_more(facts.recipient_count, most, "recipients"),
    "larger_than_octets": lambda _policy, most, facts: _not_more(facts.size_octets, most, "octets"),
    "header": _header,
    "attachment_name": _attachments(_names),
    "attachment_type": _attachments(_types),
    "attachment_encrypted": _attachments(_flag("is encrypted")),
    "attachment_macro": _attachments(_flag("has a macro")),
    "attachment_active": _attachments(_flag("does anything of itself")),
    "attachment_deeper_than": _attachments(lambda _attachments, levels: f"nothing lies deeper than {levels}"),
    "verdict": _verdict,
    "score_at_least": _score,
}
"""The words of every key of MailMatch."""
