"""Messages as two policies see them: their facts in classes.

Contract
    Pure and exact. What two policies call by different names and mean alike (a limit, a block list) is one fact.
    Shell patterns are facts of their own, a text for which is made in policy.difference.texts: no pattern is opaque.
    Taken as given, each by itself: who is above a limit, who is on a block list, what scanning and SPF, DKIM, DMARC
    and ARC say, whether a message was redirected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from itertools import chain
from typing import Any, get_args

from egressguard.policy.difference.boxes import Box, Search
from egressguard.policy.difference.classes import Addresses, Fact, hours, number, one_of, paths, yes_or_no
from egressguard.policy.difference.texts import text_for
from egressguard.policy.fields import WEEKDAYS, AuthResult
from egressguard.policy.limits import quotas
from egressguard.policy.match import MailMatch, RouteMatch
from egressguard.policy.matchers import is_asked
from egressguard.policy.model import Limit, Policy
from egressguard.policy.networks import PrefixSet, prefixes
from egressguard.policy.patterns import shown_name
from egressguard.policy.verdict import Verdict

UNKNOWN = "unknown"
USUAL_CLIENTS = tuple(map(ip_address, ("198.51.100.7", "2001:db8::7")))
USUAL_OCTETS = 1000
METHODS = ("spf", "dkim", "dmarc", "arc")
FLAGS = ("encrypted", "macro", "active")
NO_AUTHENTICATION, NO_LISTS = "authentication not known", "block lists do not answer"
NOT_KNOWN = (None, UNKNOWN, True)
"""The samples of the facts that say whether something is known: it is not."""


@dataclass(frozen=True, slots=True)
class Text:
    """A group of shell patterns that a rule has for one text: `of` is helo, attachment name or type, header NAME."""

    of: str
    patterns: tuple[str, ...]


class Messages:
    """What messages bring, for these two policies; boxes name a fact by its number."""

    def __init__(self, old: Policy, new: Policy) -> None:
        self._policies = (old, new)
        self._matches = [match for policy in self._policies for match in _matches(policy)]
        self._facts: list[Fact] = []
        self._numbers: dict[str, int] = {}
        self._texts: dict[Text, int] = {}
        self._prefixes: dict[tuple[int, str], PrefixSet] = {}
        limits = ({limit.name: _meaning(limit) for limit in policy.limits} for policy in self._policies)
        lists = ({n: (b.zone, b.answers) for n, b in policy.site.block_lists.items()} for policy in self._policies)
        hosts = (policy.site.smart_hosts for policy in self._policies)
        self.limits, self.lists, self.smart_hosts = alike(*limits), alike(*lists), alike(*hosts)
        """name -> the name that stands for it and for what means the same."""
        self._addresses = Addresses("client", self._prefix_sets(), USUAL_CLIENTS)
        for name, fact in chain(self._of_session(), self._of_envelope(), self._of_checks(), self._of_content()):
            self._numbers[name] = len(self._facts)
            self._facts.append(fact)
        for text in dict.fromkeys(chain.from_iterable(map(_texts_of, self._matches))):
            self._texts[text] = len(self._facts)
            self._facts.append(_pattern(text))

    @cached_property
    def search(self) -> Search:
        return Search([fact.full for fact in self._facts], self._impossible)

    def words(self, box: Box) -> str:
        """Which messages these are, in the words of rules."""
        told = (self._facts[number].words(classes) for number, classes in sorted(box.items()))
        return "; ".join(filter(None, told)) or "any"

    # For those who make boxes.

    def where(self, name: str, holds: Callable[[Any], bool], said: str = "") -> Box:
        number = self._numbers[name]
        return {number: self._facts[number].where(holds, said)}

    def yes(self, name: str) -> Box:
        return {self._numbers[name]: 2}

    def like(self, text: Text) -> Box:
        return {self._texts[text]: 2}

    def from_client(self, policy: Policy, texts: Iterable[str], said: str) -> Box:
        classes = 0
        for text in texts:
            classes |= self._addresses.within(self._prefixes[id(policy), text], text)
        return {self._numbers["client"]: self._addresses.fact.named(classes, said)}

    def from_addresses(self, addresses: PrefixSet, said: str) -> Box:
        return {self._numbers["client"]: self._addresses.within(addresses, said)}

    # For those who make a message of a box.

    def sample(self, box: Box, name: str) -> Any:
        number = self._numbers[name]
        fact = self._facts[number]
        return fact.sample(box.get(number, fact.full))

    def made(self, box: Box, of: str, *, least: int = 0) -> list[str]:
        """The texts that the box asks for, one for each group of patterns."""
        return self._make(*self._asked(box, of), of, least=least) or []

    def header_fields(self) -> list[str]:
        """The names of the fields that rules ask for."""
        of = dict.fromkeys(text.of for text in self._texts)
        return [name.removeprefix("header ") for name in of if name.startswith("header ")]

    # What cannot be.

    def _impossible(self, box: Box) -> Box | None:
        """Patterns that no text can match and not match as the box has it."""
        kinds = [("helo", 1), *((f"header {name}", 0) for name in self.header_fields())]
        attached: Box = {}
        if self.sample(box, "attachments") == "some":
            attached = self.where("attachments", lambda sample: sample == "some")
            kinds += [("attachment name", 1), ("attachment type", 1)]
        for of, least in kinds:
            if (wrong := self._no_text(box, of, least)) is not None:
                return wrong | attached if of.startswith("attachment") else wrong
        return None

    def _no_text(self, box: Box, of: str, least: int) -> Box | None:
        wanted, unwanted = self._asked(box, of)
        if not (wanted or least) or self._make(wanted, unwanted, of, least=least) is not None:
            return None
        for one in wanted:
            for other in unwanted:  # most conflicts are between two
                if text_for([one.patterns], other.patterns, *_occurring(of)) is None:
                    return {self._texts[one]: 2, self._texts[other]: 1}
        return {self._texts[text]: 2 for text in wanted} | {self._texts[text]: 1 for text in unwanted}

    def _asked(self, box: Box, of: str) -> tuple[list[Text], list[Text]]:
        """(what a text has to match, what it must not)."""
        texts = [(text, box.get(number)) for text, number in self._texts.items() if text.of == of]
        return [text for text, answer in texts if answer == 2], [text for text, answer in texts if answer == 1]

    def _make(self, wanted: Sequence[Text], unwanted: Sequence[Text], of: str, *, least: int) -> list[str] | None:
        """There is one HELO, and it has to match all; of the others there may be one for each, at `least` so many.

        None: there are no such texts."""
        refused = [pattern for text in unwanted for pattern in text.patterns]
        groups = [[text.patterns for text in wanted]] if of == "helo" else [[text.patterns] for text in wanted]
        groups += [[]] * (least - len(groups))
        made = [text_for(group, refused, *_occurring(of)) for group in groups]
        return None if None in made else [text for text in made if text is not None]

    # What there is.

    def _of_session(self) -> Iterator[tuple[str, Fact]]:
        yield "client", self._addresses.fact
        listeners = dict.fromkeys(chain.from_iterable(policy.site.relay.listeners for policy in self._policies))
        yield "listener", one_of("listener", listeners or ["lan"])
        yield "redirected", yes_or_no(yes="redirected", no="not redirected")
        yield "user", _users(self._wanted("user"))
        yield "tls", yes_or_no(yes="over TLS", no="without TLS")
        yield "weekday", one_of("weekday", range(7), lambda day: WEEKDAYS[day])
        yield "minute", hours(chain.from_iterable(self._wanted("hours")))

    def _of_envelope(self) -> Iterator[tuple[str, Fact]]:
        yield "sender", self._paths("sender", "senders", "")
        yield "recipient", self._paths("recipient", "recipients", "postmaster")
        counts = [count + 1 for count in self._wanted("more_than_recipients")]
        yield "recipients", number("recipients", 1, counts, least=1)
        for name in sorted(set(self.limits.values())):
            yield f"over {name}", yes_or_no(yes=f"above limit {name}", no=f"not above limit {name}")
        for tag in dict.fromkeys(chain.from_iterable(self._wanted("tag"))):
            yield f"tag {tag}", yes_or_no(yes=f"tag {tag}", no=f"no tag {tag}")

    def _of_checks(self) -> Iterator[tuple[str, Fact]]:
        yield NO_AUTHENTICATION, yes_or_no(yes="SPF, DKIM, DMARC, ARC not known", no="SPF, DKIM, DMARC, ARC known")
        for method in METHODS:
            yield method, one_of(method, ["none", *get_args(AuthResult)])
        yield "dmarc_policy", one_of("dmarc_policy", ["none", "quarantine", "reject"])
        yield NO_LISTS, yes_or_no(yes="block lists do not answer", no="block lists answer")
        for name in sorted(set(self.lists.values())):
            yield f"on {name}", yes_or_no(yes=f"on block list {name}", no=f"not on block list {name}")

    def _of_content(self) -> Iterator[tuple[str, Fact]]:
        sizes = [size + 1 for size in self._wanted("larger_than_octets")]
        yield "octets", number("octets", USUAL_OCTETS, [*sizes, *self._wanted("smaller_than_octets")])
        verdicts = [Verdict.CLEAN, *Verdict, None]
        yield "verdict", one_of("verdict", verdicts, lambda verdict: verdict.value if verdict else UNKNOWN)
        yield "score", _scores(self._wanted("score_at_least"))
        yield "attachments", one_of("attachments", ["none", "some", UNKNOWN])
        depths = [levels + 1 for levels in self._wanted("attachment_deeper_than")]
        yield "depth", number("archives around a file", 0, depths)
        for flag in FLAGS:
            yield flag, yes_or_no(yes=f"attachment_{flag}", no=f"not attachment_{flag}")

    def _wanted(self, key: str) -> list[Any]:
        found = (getattr(match, key, None) for match in self._matches)
        return [wanted for wanted in found if is_asked(wanted)]

    def _prefix_sets(self) -> Iterator[PrefixSet]:
        for policy in self._policies:
            for zone, said in policy.site.zones.items():
                self._prefixes[id(policy), zone] = PrefixSet.of(said.networks)
            for text in chain.from_iterable(match.client for match in _matches(policy)):
                if (id(policy), text) not in self._prefixes:
                    self._prefixes[id(policy), text] = PrefixSet.of(prefixes(policy, (text,)))
            yield from (PrefixSet.of(device.addresses) for device in policy.devices)
        yield from self._prefixes.values()

    def _paths(self, key: str, of_devices: str, without_domain: str) -> Fact:
        devices = chain.from_iterable(policy.devices for policy in self._policies)
        patterns = [*chain(*self._wanted(key), *(getattr(device, of_devices) for device in devices))]
        domains = [*chain(*self._wanted(f"{key}_domain"))]
        local = chain.from_iterable(policy.site.domains for policy in self._policies)
        return paths(key, patterns, domains, local, without_domain=without_domain)


def _matches(policy: Policy) -> list[MailMatch | RouteMatch]:
    return [*(rule.match for rule in policy.mail), *(route.match for route in policy.routes)]


def texts_of(key: str, wanted: Any) -> list[Text]:
    """The groups of shell patterns that a matcher asks of a message; all of them have to match."""
    if key == "header":
        return [Text(f"header {name.lower()}", patterns) for name, patterns in wanted.items()]
    of = {"helo": "helo", "attachment_name": "attachment name", "attachment_type": "attachment type"}.get(key)
    return [Text(of, wanted)] if of else []


def _texts_of(match: MailMatch | RouteMatch) -> Iterator[Text]:
    for key in ("helo", "header", "attachment_name", "attachment_type"):
        if is_asked(wanted := getattr(match, key, None)):
            yield from texts_of(key, wanted)


def _pattern(text: Text) -> Fact:
    shown = ", ".join(text.patterns)
    return yes_or_no(yes=f"{text.of} {shown}", no=f"no {text.of} {shown}")


def _occurring(of: str) -> tuple[Callable[[str], bool], str]:
    """(whether a text can be one of these, a usual one)."""
    if of == "attachment name":
        return _is_name, "file.pdf"
    return _is_value, "application/pdf" if of == "attachment type" else ""


def _is_name(text: str) -> bool:
    """A file name never ends in a dot or a space, as programs show it."""
    return shown_name(text) == text


def _is_value(text: str) -> bool:
    return text == text.strip() and "  " not in text


def _users(wanted: Iterable[tuple[str, ...]]) -> Fact:
    names = list(dict.fromkeys(chain.from_iterable(wanted)))
    other = next(name for name in ("somebody", *(f"somebody{n}" for n in range(len(names)))) if name not in names)
    return one_of("user", [None, other, *names], lambda name: {None: "nobody", other: "any other"}.get(name, name))


def _scores(levels: Iterable[float]) -> Fact:
    cuts = sorted(set(levels))
    samples: list[float | None] = [min([0.0, *(level - 1 for level in cuts)]), *cuts]
    usual = max(place for place, cut in enumerate(samples) if cut is not None and cut <= 0)
    samples[usual] = 0.0
    samples.insert(0, samples.pop(usual))
    return Fact("score", [*samples, None], [*(f"{score} or more" for score in samples), UNKNOWN])


def _meaning(limit: Limit) -> object:
    return limit.per, quotas(limit)


def alike(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, str]:
    """name -> the name that stands for it and for what means the same under another name in the other policy."""
    found = {name: name for name in (*old, *new)}
    gone = {repr(meaning): name for name, meaning in old.items() if name not in new}
    for name, meaning in new.items():
        if name not in old and repr(meaning) in gone:
            found[name] = gone.pop(repr(meaning))
    return found
