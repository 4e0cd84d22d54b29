"""Messages as two policies see them: their facts in classes, and each `match` as boxes of them.

Contract
    Pure and exact. `matched` are the boxes that a `match` answers with yes, `unsure` those of "cannot tell"; the rest
    is no. What two policies call by different names and mean alike (a limit, a block list) is one fact.
    Shell patterns are facts of their own, a text for which is made in policy.difference.texts: no pattern is opaque.
    `given` are the facts of one message of a box, in the words of policy.expect: what `explain` takes.
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

from egressguard.mail.address import domain_of
from egressguard.policy.difference.boxes import Box, Search
from egressguard.policy.difference.classes import Addresses, Fact, number, one_of, paths, yes_or_no
from egressguard.policy.difference.texts import text_for
from egressguard.policy.facts import Moment, Verdict
from egressguard.policy.fields import WEEKDAYS, AuthResult
from egressguard.policy.limits import quotas
from egressguard.policy.matchers import ANY_DEVICE, in_hours, is_asked
from egressguard.policy.model import Limit, MailMatch, Policy
from egressguard.policy.networks import PrefixSet, prefixes
from egressguard.policy.patterns import LOCAL, domain_matches, path_matches, shown_name

UNKNOWN = "unknown"
USUAL_CLIENTS = tuple(map(ip_address, ("198.51.100.7", "2001:db8::7")))
RESULTS = get_args(AuthResult)
METHODS = ("spf", "dkim", "dmarc", "arc")
NOT_AT_RCPT = frozenset(
    {
        *("spf", "dkim", "dmarc", "dmarc_policy", "arc", "more_than_recipients", "larger_than_octets", "header"),
        *("attachment_name", "attachment_type", "attachment_encrypted", "attachment_macro", "attachment_active"),
        *("attachment_deeper_than", "verdict", "score_at_least"),
    }
)
"""The keys whose facts nobody knows before the content; SPF and the like are asked when it is there."""

Boxes = tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class _Text:
    """A group of shell patterns that a rule has for one text: `of` is helo, name, type or a header field."""

    of: str
    patterns: tuple[str, ...]


class Messages:
    """What messages bring, for these two policies. `facts` are in no special order; boxes name them by number."""

    def __init__(self, old: Policy, new: Policy) -> None:
        self._policies = policies = (old, new)
        self._matches = matches = [rule.match for policy in policies for rule in (*policy.mail, *policy.routes)]
        self.facts: list[Fact] = []
        self._numbers: dict[str, int] = {}
        self._texts: dict[_Text, int] = {}
        self._kept: dict[tuple[int, str, Any], Boxes] = {}
        self._limits = _alike(*({limit.name: _meaning(limit) for limit in policy.limits} for policy in policies))
        self._lists = _alike(*({n: (b.zone, b.answers) for n, b in p.site.block_lists.items()} for p in policies))
        self._clients = Addresses("client", self._prefix_sets(), USUAL_CLIENTS)
        self._add("client", self._clients.fact)
        listeners = dict.fromkeys(chain.from_iterable(policy.site.relay.listeners for policy in policies))
        self._add("listener", one_of("listener", listeners or ["lan"]))
        self._add("redirected", yes_or_no(yes="redirected", no="not redirected"))
        self._add("user", _users(matches))
        self._add("tls", yes_or_no(yes="over TLS", no="without TLS"))
        self._add("sender", self._paths("sender", "senders", ""))
        self._add("recipient", self._paths("recipient", "recipients", "postmaster"))
        self._add("weekday", one_of("weekday", range(7), lambda day: WEEKDAYS[day]))
        self._add("minute", _minutes(chain.from_iterable(_wanted(matches, "hours"))))
        for name in sorted(self._limits):
            self._add(f"over {name}", yes_or_no(yes=f"above limit {name}", no=f"not above limit {name}"))
        self._add("authenticated-sender", yes_or_no(yes="SPF, DKIM, DMARC, ARC not known", no="SPF and the like known"))
        for method in METHODS:
            self._add(method, one_of(method, ["none", *RESULTS]))
        self._add("dmarc_policy", one_of("dmarc_policy", ["none", "quarantine", "reject"]))
        self._add("lists", yes_or_no(yes="block lists do not answer", no="block lists answer"))
        for name in sorted(self._lists):
            self._add(f"on {name}", yes_or_no(yes=f"on block list {name}", no=f"not on block list {name}"))
        counts = [count + 1 for count in _wanted(matches, "more_than_recipients")]
        self._add("recipients", number("recipients", 1, counts, least=1))
        sizes = [size + 1 for size in _wanted(matches, "larger_than_octets")]
        self._add("octets", number("octets", 1000, [*sizes, *_wanted(matches, "smaller_than_octets")]))
        self._add("verdict", one_of("verdict", [Verdict.CLEAN, *Verdict, None], lambda v: v.value if v else UNKNOWN))
        self._add("score", _scores(_wanted(matches, "score_at_least")))
        self._add("attachments", one_of("attachments", ["none", "some", UNKNOWN]))
        self._add("depth", number("archives around a file", 0, [n + 1 for n in _wanted(matches, "attachment_deeper_than")]))
        for flag in ("encrypted", "macro", "active"):
            self._add(flag, yes_or_no(yes=f"attachment_{flag}", no=f"not attachment_{flag}"))
        for tag in dict.fromkeys(chain.from_iterable(_wanted(matches, "tag"))):
            self._add(f"tag {tag}", yes_or_no(yes=f"tag {tag}", no=f"no tag {tag}"))
        for match in matches:
            for text in _texts_of(match):
                self._texts.setdefault(text, len(self.facts))
                if self._texts[text] == len(self.facts):
                    of, shown = text.of, ", ".join(text.patterns)
                    self.facts.append(yes_or_no(yes=f"{of} {shown}", no=f"no {of} {shown}"))

    @cached_property
    def search(self) -> Search:
        return Search([fact.full for fact in self.facts], self._impossible)

    # A match as boxes.

    def matched(self, policy: Policy, match: Any, *, at_rcpt: bool = False) -> Boxes:
        """The boxes of yes; `at_rcpt` as far as the keys whose facts are known then."""
        keys = [key for key in _keys(match) if not (at_rcpt and key in NOT_AT_RCPT)]
        return self._product(self._answers(policy, key, getattr(match, key)) for key in keys)

    def unsure(self, policy: Policy, match: Any, *, at_rcpt: bool = False) -> Boxes:
        """The boxes of "cannot tell": one key cannot, and no key says no."""
        keys = [key for key in _keys(match) if not (at_rcpt and key in NOT_AT_RCPT)]
        unknown = {key: self._unknown(key) for key in keys}
        found: list[Box] = []
        for blind in dict.fromkeys(name for name in map(_source, keys) if name):
            groups = []
            for key in keys:
                cannot = unknown[key]
                if _source(key) == blind and cannot is not None:
                    groups.append((cannot,))
                else:
                    yes = self._answers(policy, key, getattr(match, key))
                    groups.append((*yes, cannot) if cannot is not None else yes)
            found += self._product(groups)
        return tuple(found)

    def over(self, name: str) -> Box:
        """Above this limit."""
        return {self._numbers[f"over {self._limits[name]}"]: 2}

    def _product(self, groups: Iterable[Boxes]) -> Boxes:
        boxes: list[Box] = [{}]
        for group in groups:
            met = (self.search.meet(box, each) for box in boxes for each in group)
            boxes = [box for box in met if box is not None]
        return tuple(boxes)

    def _answers(self, policy: Policy, key: str, wanted: Any) -> Boxes:
        kept = (id(policy), key, repr(wanted))
        if kept not in self._kept:
            self._kept[kept] = tuple(box for box in self._ask(policy, key, wanted) if all(box.values()))
        return self._kept[kept]

    def _unknown(self, key: str) -> Box | None:
        """When the fact that a key asks of is not known; None: it always is."""
        source = _source(key)
        if not source:
            return None
        fact = self.facts[self._numbers[source]]
        return {self._numbers[source]: fact.where(lambda sample: sample in (None, UNKNOWN, True))}

    def _known(self, source: str) -> Box:
        fact = self.facts[self._numbers[source]]
        return {self._numbers[source]: fact.where(lambda sample: sample not in (None, UNKNOWN, True))}

    def _where(self, name: str, holds: Callable[[Any], bool], said: str = "") -> Box:
        number = self._numbers[name]
        return {number: self.facts[number].where(holds, said)}

    def _ask(self, policy: Policy, key: str, wanted: Any) -> Iterator[Box]:  # noqa: C901, PLR0912  one branch a key
        said = ", ".join(map(str, wanted)) if isinstance(wanted, tuple) else ""
        local = policy.site.domains
        if key == "client":
            yield {self._numbers["client"]: self._client(policy, wanted, said)}
        elif key == "device":
            yield from self._devices(policy, wanted)
        elif key in {"redirected", "tls"}:
            yield self._where(key, lambda sample: sample is wanted)
        elif key == "authenticated":
            yield self._where("user", lambda user: (user is not None) is wanted, "anybody" if wanted else "nobody")
        elif key in {"listener", "user"}:
            yield self._where(key, lambda sample: sample in wanted, said)
        elif key in {"sender", "recipient"}:
            yield self._where(key, lambda path: path_matches(wanted, path), said)
        elif key == "sender_domain":
            yield self._where("sender", lambda path: domain_matches(wanted, path, local), f"of {said}")
        elif key == "recipient_domain":
            yield self._where("recipient", lambda path: is_to(wanted, path, local), f"of {said}")
        elif key == "weekdays":
            yield self._where("weekday", lambda day: any(day in days for days in wanted))
        elif key == "hours":
            yield self._where("minute", lambda minute: in_hours(wanted, Moment(0, minute)))
        elif key == "over_limit":
            yield from map(self.over, wanted)
        elif key in {*METHODS, "dmarc_policy"}:
            yield self._known("authenticated-sender") | self._where(key, lambda result: result in wanted, said)
        elif key == "block_list":
            for name in wanted:
                yield self._known("lists") | {self._numbers[f"on {self._lists[name]}"]: 2}
        elif key == "more_than_recipients":
            yield self._where("recipients", lambda count: count > wanted)
        elif key == "larger_than_octets":
            yield self._where("octets", lambda size: size > wanted)
        elif key == "smaller_than_octets":
            yield self._where("octets", lambda size: size < wanted)
        elif key == "verdict":
            yield self._where("verdict", lambda verdict: verdict in wanted)
        elif key == "score_at_least":
            yield self._where("score", lambda score: score is not None and score >= wanted)
        elif key == "tag":
            for tag in wanted:
                yield {self._numbers[f"tag {tag}"]: 2}
        elif key == "attachment_deeper_than":
            yield self._some() | self._where("depth", lambda depth: depth > wanted)
        elif key in {"attachment_encrypted", "attachment_macro", "attachment_active"}:
            flag = self._numbers[key.removeprefix("attachment_")]
            if wanted:
                yield self._some() | {flag: 2}
            else:
                yield self._where("attachments", lambda sample: sample == "none")
                yield self._some() | {flag: 1}
        else:
            texts = _texts(key, wanted)
            assert texts, f"no boxes for {key}"
            attached = {} if key in {"helo", "header"} else self._some()
            yield attached | {self._texts[text]: 2 for text in texts}

    def _some(self) -> Box:
        return self._where("attachments", lambda sample: sample == "some")

    def _client(self, policy: Policy, wanted: Sequence[str], said: str = "") -> int:
        classes = 0
        for text in wanted:
            classes |= self._clients.within(self._prefixes[id(policy), text], text)
        return self._clients.fact.named(classes, said)

    def _devices(self, policy: Policy, wanted: Sequence[str]) -> Iterator[Box]:
        for device in policy.devices:
            if ANY_DEVICE in wanted or device.name in wanted:
                where = self._clients.within(PrefixSet.of(device.addresses), f"of device {device.name}")
                box = {self._numbers["client"]: where}
                box |= self._where("sender", lambda path: path_matches(device.senders, path), ", ".join(device.senders))  # noqa: B023
                if device.recipients:
                    box |= self._where("recipient", lambda path: path_matches(device.recipients, path))  # noqa: B023
                yield box

    # What there is.

    def _add(self, name: str, fact: Fact) -> None:
        self._numbers[name] = len(self.facts)
        self.facts.append(fact)

    def _prefix_sets(self) -> Iterator[PrefixSet]:
        self._prefixes: dict[tuple[int, str], PrefixSet] = {}
        for policy in self._policies:
            for zone, said in policy.site.zones.items():
                self._prefixes[id(policy), zone] = PrefixSet.of(said.networks)
            for text in chain.from_iterable(rule.match.client for rule in (*policy.mail, *policy.routes)):
                if (id(policy), text) not in self._prefixes:
                    self._prefixes[id(policy), text] = PrefixSet.of(prefixes(policy, (text,)))
            yield from (PrefixSet.of(device.addresses) for device in policy.devices)
        yield from self._prefixes.values()

    def _paths(self, key: str, of_devices: str, without_domain: str) -> Fact:
        devices = chain.from_iterable(policy.devices for policy in self._policies)
        patterns = [*chain(*_wanted(self._matches, key), *(getattr(device, of_devices) for device in devices))]
        domains = [*chain(*_wanted(self._matches, f"{key}_domain"))]
        local = chain.from_iterable(policy.site.domains for policy in self._policies)
        return paths(key, patterns, domains, local, without_domain=without_domain)

    # What cannot be, and what is.

    def _impossible(self, box: Box) -> Box | None:
        """Patterns that no text can match and not match as the box has it."""
        if (wrong := self._no_text(box, "helo", together=True)) is not None:
            return wrong
        for of in dict.fromkeys(text.of for text in self._texts):
            if of.startswith("header ") and (wrong := self._no_text(box, of)) is not None:
                return wrong
        attached = self._numbers["attachments"]
        fact = self.facts[attached]
        if fact.sample(box.get(attached, fact.full)) != "some":
            return None
        for of in ("name", "type"):
            if (wrong := self._no_text(box, f"attachment {of}", least=1)) is not None:
                return wrong | self._some()
        return None

    def _no_text(self, box: Box, of: str, *, together: bool = False, least: int = 0) -> Box | None:
        wanted, unwanted = self._asked(box, of)
        if not (wanted or together or least):
            return None
        if self._made(wanted, unwanted, of, together=together, least=least) is not None:
            return None
        for one in wanted:
            for other in unwanted:  # most conflicts are between two
                if text_for([one.patterns], other.patterns, *_occurring(of)) is None:
                    return {self._texts[one]: 2, self._texts[other]: 1}
        return {self._texts[text]: 2 for text in wanted} | {self._texts[text]: 1 for text in unwanted}

    def _asked(self, box: Box, of: str) -> tuple[list[_Text], list[_Text]]:
        """(what a text has to match, what it must not)."""
        texts = [(text, box.get(number)) for text, number in self._texts.items() if text.of == of]
        return [text for text, answer in texts if answer == 2], [text for text, answer in texts if answer == 1]

    def _made(
        self, wanted: Sequence[_Text], unwanted: Sequence[_Text], of: str, *, together: bool = False, least: int = 0
    ) -> list[str] | None:
        """One text for all (`together`), or one for each; at `least` so many. None: there are none."""
        refused = [pattern for text in unwanted for pattern in text.patterns]
        groups = [[text.patterns for text in wanted]] if together else [[text.patterns] for text in wanted]
        groups += [[]] * (least - len(groups))
        made = [text_for(group, refused, *_occurring(of)) for group in groups]
        return None if None in made else [text for text in made if text is not None]

    def given(self, box: Box) -> dict[str, Any]:
        """The facts of one message in the box, as an expectation gives them; what is usual is left out."""

        def sample(name: str) -> Any:
            number = self._numbers[name]
            return self.facts[number].sample(box.get(number, self.facts[number].full))

        def texts(of: str, *, together: bool = False, least: int = 0) -> list[str]:
            return self._made(*self._asked(box, of), of, together=together, least=least) or []

        given: dict[str, Any] = {"client": str(sample("client")), "listener": sample("listener")}
        given |= {"sender": sample("sender"), "recipient": [sample("recipient")]}
        given |= {key: True for key in ("redirected", "tls") if sample(key)}
        if (user := sample("user")) is not None:
            given["user"] = user
        if helo := "".join(texts("helo", together=True)):
            given["helo"] = helo
        if (when := (sample("weekday"), sample("minute"))) != (0, 720):
            given["when"] = f"{WEEKDAYS[when[0]]} {when[1] // 60:02}:{when[1] % 60:02}"
        given |= {key: value for key in (*METHODS, "dmarc_policy") if (value := sample(key)) != "none"}
        unknown = [word for word, name in (("authentication", "authenticated-sender"), ("block_list", "lists")) if sample(name)]
        if names := [name for name, alike in self._limits.items() if sample(f"over {alike}")]:
            given["over_limit"] = names
        if names := [name for name, alike in self._lists.items() if sample(f"on {alike}")]:
            given["block_list"] = names
        if (count := sample("recipients")) != 1:
            given["recipient_count"] = count
        if (size := sample("octets")) != 1000:
            given["size_octets"] = size
        fields = {of.removeprefix("header "): texts(of) for of in dict.fromkeys(text.of for text in self._texts)
                  if of.startswith("header ")}
        if fields := {name: values for name, values in fields.items() if values}:
            given["header"] = fields
        if (verdict := sample("verdict")) is not Verdict.CLEAN:
            given["verdict"] = verdict.value if verdict else UNKNOWN
        if (score := sample("score")) is None:
            unknown.append("score")
        elif score:
            given["score"] = int(score) if score == int(score) else str(score)
        attached = sample("attachments")
        if attached == "some":
            kinds = texts("attachment type", least=1)
            names = texts("attachment name", least=1)
            given["attachments"] = [
                {"path": names[n % len(names)], "type": kinds[n % len(kinds)]} for n in range(max(len(names), len(kinds)))
            ]
            first = given["attachments"][0]
            first["path"] = [first["path"]] * (sample("depth") + 1)
            first |= {flag: True for flag in ("encrypted", "macro", "active") if sample(flag)}
        elif attached == UNKNOWN:
            unknown.append("attachments")
        elif verdict is None:
            given["attachments"] = []
        if unknown:
            given["unknown"] = unknown
        return given

    def words(self, box: Box) -> str:
        """Which messages these are, in the words of rules."""
        told = (self.facts[number].words(classes) for number, classes in sorted(box.items()))
        return "; ".join(filter(None, told)) or "any"


def is_to(wanted: Iterable[str], path: str, local_domains: Iterable[str]) -> bool:
    """`recipient_domain` of a message rule: a path without a domain is ours (RFC 5321 s4.5.1)."""
    return domain_matches(wanted, path, local_domains) if domain_of(path) else LOCAL in wanted


def _keys(match: Any) -> list[str]:
    return [key for key in type(match).model_fields if is_asked(getattr(match, key))]


def _source(key: str) -> str:
    """The fact that says whether what a key asks of is known; "" = it always is."""
    if key in {*METHODS, "dmarc_policy"}:
        return "authenticated-sender"
    if key.startswith("attachment_"):
        return "attachments"
    return {"block_list": "lists", "verdict": "verdict", "score_at_least": "score"}.get(key, "")


def _wanted(matches: Iterable[Any], key: str) -> list[Any]:
    found = (getattr(match, key, None) for match in matches)
    return [wanted for wanted in found if is_asked(wanted)]


def _texts(key: str, wanted: Any) -> list[_Text]:
    if key == "header":
        return [_Text(f"header {name.lower()}", patterns) for name, patterns in wanted.items()]
    of = {"helo": "helo", "attachment_name": "attachment name", "attachment_type": "attachment type"}.get(key)
    return [_Text(of, wanted)] if of else []


def _texts_of(match: Any) -> Iterator[_Text]:
    for key in ("helo", "header", "attachment_name", "attachment_type"):
        if isinstance(match, MailMatch) and is_asked(wanted := getattr(match, key)):
            yield from _texts(key, wanted)


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


def _users(matches: Iterable[Any]) -> Fact:
    names = list(dict.fromkeys(chain.from_iterable(_wanted(matches, "user"))))
    other = next(name for name in ("somebody", *(f"somebody{n}" for n in range(len(names)))) if name not in names)
    return one_of("user", [None, other, *names], lambda name: name or "nobody")


def _minutes(spans: Iterable[tuple[int, int]]) -> Fact:
    cuts = {bound for span in spans for bound in span if bound < 24 * 60}
    fact = number("time", 720, cuts)
    starts = sorted({0, *cuts})
    ends = dict(zip(starts, [*starts[1:], 24 * 60], strict=True))

    def label(minute: int) -> str:
        start = max(start for start in starts if start <= minute)
        return f"{start // 60:02}:{start % 60:02}-{ends[start] // 60:02}:{ends[start] % 60:02}"

    return Fact("time", fact.samples, [label(minute) for minute in fact.samples])


def _scores(levels: Iterable[float]) -> Fact:
    cuts = sorted(set(levels))
    lowest = min([0.0, *(level - 1 for level in cuts)])
    samples: list[float | None] = [lowest, *cuts]
    usual = max(place for place, cut in enumerate(samples) if cut is not None and cut <= 0)
    samples[usual] = 0.0
    samples.insert(0, samples.pop(usual))
    return Fact("score", [*samples, None], [*(f"{score} or more" for score in samples), UNKNOWN])


def _meaning(limit: Limit) -> object:
    return limit.per, quotas(limit)


def _alike(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, str]:
    """name -> the name that stands for it and for what means the same under another name in the other policy."""
    found = {name: name for name in (*old, *new)}
    gone = {repr(meaning): name for name, meaning in old.items() if name not in new}
    for name, meaning in new.items():
        if name not in old and repr(meaning) in gone:
            found[name] = gone.pop(repr(meaning))
    return found
