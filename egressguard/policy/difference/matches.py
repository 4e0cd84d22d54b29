"""The `match` of message rules as boxes: those of yes, and those of "cannot tell".

Contract
    Pure and exact, in two senses: what is in a box of yes is matched, what is in none is not; "cannot tell" likewise.
    What a key means is asked of policy.patterns and policy.matchers, class by class.
    Whoever adds a matcher adds its boxes here (a test holds that every key has them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from egressguard.mail.address import domain_of
from egressguard.policy.difference.boxes import Box
from egressguard.policy.difference.ends import Boxes
from egressguard.policy.difference.messages import (
    METHODS,
    NO_AUTHENTICATION,
    NO_LISTS,
    NOT_KNOWN,
    Messages,
    texts_of,
)
from egressguard.policy.facts import Moment
from egressguard.policy.matchers import ANY_DEVICE, in_hours, is_asked
from egressguard.policy.model import Policy
from egressguard.policy.networks import PrefixSet
from egressguard.policy.patterns import LOCAL, domain_matches, path_matches
from egressguard.policy.routes import is_local

NOT_AT_RCPT = frozenset(
    {
        *("spf", "dkim", "dmarc", "dmarc_policy", "arc", "more_than_recipients", "larger_than_octets", "header"),
        *("attachment_name", "attachment_type", "attachment_encrypted", "attachment_macro", "attachment_active"),
        *("attachment_deeper_than", "verdict", "score_at_least"),
    }
)
"""The keys whose facts nobody knows before the content; SPF and the like are asked when it is there."""

Ask = Callable[[Messages, Policy, Any], Iterator[Box]]


class Matches:
    """The matches of two policies in the facts of their messages."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages
        self.search = messages.search
        self._kept: dict[tuple[int, str, str], Boxes] = {}

    def matched(self, policy: Policy, match: Any, *, at_rcpt: bool = False) -> Boxes:
        """The boxes of yes; `at_rcpt` as far as the keys whose facts are known then."""
        keys = _keys(match, at_rcpt=at_rcpt)
        return self._product(self._answers(policy, key, getattr(match, key)) for key in keys)

    def unsure(self, policy: Policy, match: Any, *, at_rcpt: bool = False) -> Boxes:
        """The boxes of "cannot tell": one key cannot, and no key says no."""
        keys = _keys(match, at_rcpt=at_rcpt)
        found: list[Box] = []
        for blind in dict.fromkeys(SOURCES[key] for key in keys if key in SOURCES):
            groups: list[Boxes] = []
            for key in keys:
                cannot = (self.messages.where(SOURCES[key], lambda s: s in NOT_KNOWN),) if key in SOURCES else ()
                if SOURCES.get(key) == blind:
                    groups.append(cannot)
                else:
                    groups.append((*self._answers(policy, key, getattr(match, key)), *cannot))
            found += self._product(groups)
        return tuple(found)

    def over(self, limit: str) -> Box:
        """Above this limit."""
        return self.messages.yes(f"over {self.messages.limits[limit]}")

    def tagged(self, tag: str, tagged: bool) -> Box:
        return self.messages.where(f"tag {tag}", lambda sample: sample is tagged)

    def to_mailboxes(self, policy: Policy) -> Boxes:
        """For the site's own addresses."""
        return (self.messages.where("recipient", lambda path: is_local(policy, path)),)

    def also(self, boxes: Boxes, other: Box) -> Boxes:
        met = (self.search.meet(box, other) for box in boxes)
        return tuple(box for box in met if box is not None)

    def _product(self, groups: Iterable[Boxes]) -> Boxes:
        boxes: list[Box] = [{}]
        for group in groups:
            met = (self.search.meet(box, each) for box in boxes for each in group)
            boxes = [box for box in met if box is not None]
        return tuple(boxes)

    def _answers(self, policy: Policy, key: str, wanted: Any) -> Boxes:
        kept = (id(policy), key, repr(wanted))
        if kept not in self._kept:
            asked = BOXES[key](self.messages, policy, wanted)
            self._kept[kept] = tuple(box for box in asked if all(box.values()))
        return self._kept[kept]


def _keys(match: Any, *, at_rcpt: bool) -> list[str]:
    asked = [key for key in type(match).model_fields if is_asked(getattr(match, key))]
    return [key for key in asked if not (at_rcpt and key in NOT_AT_RCPT)]


SOURCES = {
    **dict.fromkeys((*METHODS, "dmarc_policy"), NO_AUTHENTICATION),
    **dict.fromkeys((key for key in NOT_AT_RCPT if key.startswith("attachment_")), "attachments"),
    "block_list": NO_LISTS,
    "verdict": "verdict",
    "score_at_least": "score",
}
"""Key -> the fact that says whether what it asks of is known; a key that is not here always knows."""


def _said(wanted: Any) -> str:
    return ", ".join(map(str, wanted))


def _one_of(name: str) -> Ask:
    def ask(messages: Messages, _policy: Policy, wanted: Any) -> Iterator[Box]:
        yield messages.where(name, lambda sample: sample in wanted, _said(wanted))

    return ask


def _is(name: str, holds: Callable[[Any, Any], bool]) -> Ask:
    """`holds` of (the message's value, what the rule wants)."""

    def ask(messages: Messages, _policy: Policy, wanted: Any) -> Iterator[Box]:
        yield messages.where(name, lambda sample: holds(sample, wanted))

    return ask


def _user(messages: Messages, _policy: Policy, wanted: bool) -> Iterator[Box]:
    yield messages.where("user", lambda user: (user is not None) is wanted, "anybody" if wanted else "nobody")


def _path(name: str) -> Ask:
    def ask(messages: Messages, _policy: Policy, wanted: Any) -> Iterator[Box]:
        yield messages.where(name, lambda path: path_matches(wanted, path), _said(wanted))

    return ask


def _sender_domain(messages: Messages, policy: Policy, wanted: Any) -> Iterator[Box]:
    local = policy.site.domains
    yield messages.where("sender", lambda path: domain_matches(wanted, path, local), f"of {_said(wanted)}")


def _recipient_domain(messages: Messages, policy: Policy, wanted: Any) -> Iterator[Box]:
    local = policy.site.domains

    def is_of(path: str) -> bool:
        """A path without a domain is ours (RFC 5321 s4.5.1)."""
        return domain_matches(wanted, path, local) if domain_of(path) else LOCAL in wanted

    yield messages.where("recipient", is_of, f"of {_said(wanted)}")


def _device(messages: Messages, policy: Policy, wanted: Any) -> Iterator[Box]:
    for device in policy.devices:
        if ANY_DEVICE not in wanted and device.name not in wanted:
            continue
        box = messages.from_addresses(PrefixSet.of(device.addresses), f"of device {device.name}")
        box |= next(_path("sender")(messages, policy, device.senders))
        if device.recipients:
            box |= next(_path("recipient")(messages, policy, device.recipients))
        yield box


def _over_limit(messages: Messages, _policy: Policy, wanted: Any) -> Iterator[Box]:
    for name in wanted:
        yield messages.yes(f"over {messages.limits[name]}")


def _result(method: str) -> Ask:
    def ask(messages: Messages, _policy: Policy, wanted: Any) -> Iterator[Box]:
        known = messages.where(NO_AUTHENTICATION, lambda unknown: not unknown)
        yield known | messages.where(method, lambda result: result in wanted, _said(wanted))

    return ask


def _block_list(messages: Messages, _policy: Policy, wanted: Any) -> Iterator[Box]:
    known = messages.where(NO_LISTS, lambda unknown: not unknown)
    for name in wanted:
        yield known | messages.yes(f"on {messages.lists[name]}")


def _attached(messages: Messages) -> Box:
    return messages.where("attachments", lambda sample: sample == "some")


def _flag(name: str) -> Ask:
    def ask(messages: Messages, _policy: Policy, wanted: bool) -> Iterator[Box]:
        if not wanted:
            yield messages.where("attachments", lambda sample: sample == "none")
        yield _attached(messages) | messages.where(name, lambda sample: sample is wanted)

    return ask


def _depth(messages: Messages, _policy: Policy, wanted: int) -> Iterator[Box]:
    yield _attached(messages) | messages.where("depth", lambda depth: depth > wanted)


def _texts(key: str) -> Ask:
    def ask(messages: Messages, _policy: Policy, wanted: Any) -> Iterator[Box]:
        box = _attached(messages) if key.startswith("attachment_") else {}
        for text in texts_of(key, wanted):
            box |= messages.like(text)
        yield box

    return ask


def _tag(messages: Messages, _policy: Policy, wanted: Any) -> Iterator[Box]:
    for tag in wanted:
        yield messages.yes(f"tag {tag}")


BOXES: dict[str, Ask] = {
    "client": lambda messages, policy, wanted: iter((messages.from_client(policy, wanted, _said(wanted)),)),
    "device": _device,
    "listener": _one_of("listener"),
    "redirected": _is("redirected", lambda sample, wanted: sample is wanted),
    "authenticated": _user,
    "user": _one_of("user"),
    "tls": _is("tls", lambda sample, wanted: sample is wanted),
    "helo": _texts("helo"),
    "sender": _path("sender"),
    "sender_domain": _sender_domain,
    "recipient": _path("recipient"),
    "recipient_domain": _recipient_domain,
    "weekdays": _is("weekday", lambda day, wanted: any(day in days for days in wanted)),
    "hours": _is("minute", lambda minute, wanted: in_hours(wanted, Moment(0, minute))),
    "over_limit": _over_limit,
    "spf": _result("spf"),
    "dkim": _result("dkim"),
    "dmarc": _result("dmarc"),
    "dmarc_policy": _result("dmarc_policy"),
    "arc": _result("arc"),
    "block_list": _block_list,
    "more_than_recipients": _is("recipients", lambda count, wanted: count > wanted),
    "larger_than_octets": _is("octets", lambda size, wanted: size > wanted),
    "header": _texts("header"),
    "attachment_name": _texts("attachment_name"),
    "attachment_type": _texts("attachment_type"),
    "attachment_encrypted": _flag("encrypted"),
    "attachment_macro": _flag("macro"),
    "attachment_active": _flag("active"),
    "attachment_deeper_than": _depth,
    "verdict": _is("verdict", lambda verdict, wanted: verdict in wanted),
    "score_at_least": _is("score", lambda score, wanted: score is not None and score >= wanted),
    "smaller_than_octets": _is("octets", lambda size, wanted: size < wanted),
    "tag": _tag,
}
"""Every key of MailMatch, and those of RouteMatch besides."""
