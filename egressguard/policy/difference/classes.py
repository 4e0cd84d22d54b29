"""The facts of a message, each cut into the classes that the matchers of two policies tell apart.

Contract
    Pure and exact: whatever a message brings falls into one class of each fact, and all that a class holds is matched
    by the same matchers. Each class has a sample, which is what a witness is made of, and a label for people.
    What a matcher means is asked of policy.patterns and of the words themselves; nothing here says it again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from egressguard.mail.address import domain_of
from egressguard.net.flow import IPAddress
from egressguard.policy.fields import DAY_MINUTES
from egressguard.policy.index import numbers
from egressguard.policy.networks import PrefixSet
from egressguard.policy.patterns import LOCAL, NULL, plain_path

SHOWN_ITEMS = 6
ENDLESS = 1 << 200
"""Behind the last number of a fact that has none."""

Span = tuple[int, int]
"""(first, behind the last)."""


@dataclass(slots=True)
class Fact:
    """`samples` has one value of each class; the first is the most usual. `names` are sets of classes with a name.

    `spans`: of classes of numbers, those that each holds, (first, behind the last); `span_words` says one."""

    key: str
    samples: Sequence[Any]
    labels: Sequence[str]
    names: dict[int, str] = field(default_factory=dict)
    spans: Sequence[Sequence[Span]] = ()
    span_words: Callable[[Span], str] = str

    @property
    def full(self) -> int:
        return (1 << len(self.samples)) - 1

    def where(self, holds: Callable[[Any], bool], name: str = "") -> int:
        """The classes for which this holds; `name` is how a rule says it."""
        found = sum(1 << number for number, sample in enumerate(self.samples) if holds(sample))
        return self.named(found, name)

    def named(self, classes: int, name: str) -> int:
        if name:
            self.names.setdefault(classes, name)
        return classes

    def sample(self, classes: int) -> Any:
        return self.samples[(classes & -classes).bit_length() - 1]

    def words(self, classes: int) -> str:
        """Which classes these are; "" = any."""
        if classes == self.full:
            return ""
        words = self._named(classes)
        return f"{self.key} {words}" if self.key else words

    def _named(self, classes: int) -> str:
        if name := self.names.get(classes):
            return name
        if name := self.names.get(self.full & ~classes):
            return f"not {name}"
        if self.spans:
            return _listed([self.span_words(span) for span in _joined(self.spans[n] for n in numbers(classes))])
        few = classes.bit_count() <= len(self.samples) // 2
        shown = classes if few else self.full & ~classes
        return f"{'' if few else 'not '}{_listed([self.labels[number] for number in numbers(shown)])}"


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN_ITEMS} more" if len(items) > SHOWN_ITEMS else ""
    return ", ".join(items[:SHOWN_ITEMS]) + more


def _joined(classes: Iterable[Sequence[Span]]) -> list[Span]:
    """The spans of several classes, neighbours as one."""
    found: list[Span] = []
    for first, behind in sorted(chain.from_iterable(classes)):
        if found and found[-1][1] == first:
            found[-1] = found[-1][0], behind
        else:
            found.append((first, behind))
    return found


def one_of(key: str, values: Iterable[Hashable], label: Callable[[Any], str] = str) -> Fact:
    """A fact with these values, the most usual first."""
    samples = list(dict.fromkeys(values))
    return Fact(key, samples, [label(sample) for sample in samples])


def yes_or_no(*, yes: str, no: str) -> Fact:
    return Fact("", [False, True], [no, yes])


def number(key: str, usual: int, cuts: Iterable[int], *, least: int = 0, behind: int = ENDLESS) -> Fact:
    """A whole number; each cut is the first of a class."""
    starts = sorted({least, *cuts})
    spans = list(zip(starts, [*starts[1:], behind], strict=True))
    spans.sort(key=lambda span: not span[0] <= usual < span[1])  # the usual class first
    samples = [usual if first <= usual < last else first for first, last in spans]
    return Fact(key, samples, [], spans=[(span,) for span in spans], span_words=_number_words)


def _number_words(span: Span) -> str:
    first, behind = span
    if behind == ENDLESS:
        return f"{first} or more"
    return str(first) if behind == first + 1 else f"{first} to {behind - 1}"


def hours(spans: Iterable[tuple[int, int]]) -> Fact:
    """The minute of the day, cut where a span begins or ends."""
    cuts = {bound for span in spans for bound in span if bound < DAY_MINUTES}
    fact = number("time", 720, cuts, behind=DAY_MINUTES)
    fact.span_words = _clock_words
    return fact


def _clock_words(span: Span) -> str:
    return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in span)


class Addresses:
    """A fact that is an address, cut by the bounds of prefix sets. `versions` are the classes of each IP version."""

    def __init__(self, key: str, sets: Iterable[PrefixSet], usual: Sequence[IPAddress]) -> None:
        self._sets = {each: number for number, each in enumerate(dict.fromkeys(sets))}
        pieces: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for version, size in ((4, 32), (6, 128)):
            for containing, span in self._pieces(version, 1 << size):
                pieces.setdefault((version, containing), []).append(span)
        self._pieces_of = list(pieces.values())
        kinds = list(pieces)
        samples = [_sample(version, spans, usual) for (version, _), spans in pieces.items()]
        spans = [[_apart(version, span) for span in theirs] for (version, _), theirs in pieces.items()]
        self.fact = Fact(key, samples, [], spans=spans, span_words=_address_words)
        self.versions = {v: sum(1 << place for place, kind in enumerate(kinds) if kind[0] == v) for v in (4, 6)}
        self._within = [0] * len(self._sets)
        for place, (_, containing) in enumerate(kinds):
            for each in numbers(containing):
                self._within[each] |= 1 << place

    def within(self, prefixes: PrefixSet, name: str = "") -> int:
        return self.fact.named(self._within[self._sets[prefixes]], name)

    def _pieces(self, version: int, behind_all: int) -> Iterable[tuple[int, tuple[int, int]]]:
        """(the sets that contain it, (first, behind it)) piece by piece."""
        changes: dict[int, int] = {}
        for each, number in self._sets.items():
            for bound in each.bounds_4 if version == 4 else each.bounds_6:
                changes[bound] = changes.get(bound, 0) ^ 1 << number
        containing, first = changes.pop(0, 0), 0
        for bound in sorted(changes):
            if bound < behind_all:
                yield containing, (first, bound)
                containing, first = containing ^ changes[bound], bound
        yield containing, (first, behind_all)


def _sample(version: int, spans: Sequence[tuple[int, int]], usual: Sequence[IPAddress]) -> IPAddress:
    """An address that looks like a host's, where there is one."""
    for address in usual:
        if address.version == version and any(first <= int(address) < behind for first, behind in spans):
            return address
    first, behind = next((span for span in spans if span[0] or span[1] < 1 << 32), spans[0])
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return kind(first + 1 if behind - first > 2 else first)


_IPV6 = 1 << 130
"""Added to the numbers of IPv6 addresses, so that no IPv4 address is one of them, nor beside one."""


def _apart(version: int, span: Span) -> Span:
    return (span[0] + _IPV6, span[1] + _IPV6) if version == 6 else span


def _address_words(span: Span) -> str:
    """A prefix, where the addresses are one; else a range."""
    first, behind = (bound - _IPV6 if span[0] >= _IPV6 else bound for bound in span)
    kind: Any = ipaddress.IPv6Address if span[0] >= _IPV6 else ipaddress.IPv4Address
    prefixes = list(islice(ipaddress.summarize_address_range(kind(first), kind(behind - 1)), 2))
    if len(prefixes) > 1:
        return f"{kind(first)}-{kind(behind - 1)}"
    if prefixes[0].prefixlen == 0:
        return f"any IPv{prefixes[0].version}"
    return str(prefixes[0].network_address if prefixes[0].num_addresses == 1 else prefixes[0])


def paths(
    key: str, patterns: Sequence[str], domains: Sequence[str], local_domains: Iterable[str], *, without_domain: str
) -> Fact:
    """A path, cut by patterns of paths ("*@x.example", "<>") and of domains (".x.example").

    `without_domain`: the path that has none, "" the null reverse-path or "postmaster"."""
    every = list(dict.fromkeys(patterns))
    exact = [plain_path(p) for p in every if p != NULL and not p.startswith("*@")]
    named = [p[2:].lower() for p in every if p.startswith("*@")]
    named += [d.lower() for d in domains if d != LOCAL and not d.startswith(".")]
    named += [d.lower() for d in local_domains] + [domain_of(path) for path in exact]
    below = list(dict.fromkeys(d.lower() for d in domains if d.startswith(".")))
    taken = {*exact, *named}
    somebody = next(name for name in _names("somebody") if not any(path.startswith(f"{name}@") for path in exact))
    known = [d for d in dict.fromkeys(named) if d]
    found = {f"{somebody}@{unnamed(taken, below)}": "another domain"}
    found |= {f"{somebody}@{domain}": f"*@{domain}" for domain in known}
    found |= {f"{somebody}@{_free('other', domain, taken)}": f"*@*{domain}" for domain in below}
    found |= {path: path for path in exact} | {without_domain: without_domain or NULL}
    return Fact(key, list(found), list(found.values()))


def unnamed(taken: Iterable[str], below: Iterable[str]) -> str:
    """A domain that nobody names, nor any domain that it lies below."""
    names, ends = set(taken), tuple(below)
    tops = chain(("example", "invalid", "test"), _names("elsewhere"))
    found = (f"elsewhere.{top}" for top in tops)
    return next(name for name in found if name not in names and not name.endswith(ends))


def _free(label: str, domain: str, taken: set[str]) -> str:
    """A domain below that nobody names."""
    return next(f"{name}{domain}" for name in _names(label) if f"{name}{domain}" not in taken)


def _names(word: str) -> Iterable[str]:
    yield word
    yield from (f"{word}{number}" for number in range(2, 1 << 30))
