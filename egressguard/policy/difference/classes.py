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
from itertools import pairwise
from typing import Any

from egressguard.mail.address import domain_of
from egressguard.net.flow import IPAddress
from egressguard.policy.fields import DAY_MINUTES
from egressguard.policy.index import numbers
from egressguard.policy.networks import PrefixSet
from egressguard.policy.patterns import LOCAL, NULL, plain_path

SHOWN_ITEMS = 6


@dataclass(slots=True)
class Fact:
    """`samples` has one value of each class; the first is the most usual. `names` are sets of classes with a name."""

    key: str
    samples: Sequence[Any]
    labels: Sequence[str]
    names: dict[int, str] = field(default_factory=dict)

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
        few = classes.bit_count() <= len(self.samples) // 2
        shown = classes if few else self.full & ~classes
        listed = [label for number, label in enumerate(self.labels) if shown >> number & 1]
        more = f" and {len(listed) - SHOWN_ITEMS} more" if len(listed) > SHOWN_ITEMS else ""
        return f"{'' if few else 'not '}{', '.join(listed[:SHOWN_ITEMS])}{more}"


def one_of(key: str, values: Iterable[Hashable], label: Callable[[Any], str] = str) -> Fact:
    """A fact with these values, the most usual first."""
    samples = list(dict.fromkeys(values))
    return Fact(key, samples, [label(sample) for sample in samples])


def yes_or_no(*, yes: str, no: str) -> Fact:
    return Fact("", [False, True], [no, yes])


def number(key: str, usual: int, cuts: Iterable[int], *, least: int = 0) -> Fact:
    """A whole number; each cut is the first of a class."""
    starts = sorted({least, *cuts})
    labels = [f"{a} to {b - 1}" for a, b in pairwise(starts)] + [f"{starts[-1]} or more"]
    home = max(place for place, start in enumerate(starts) if start <= usual)
    samples = [usual if place == home else start for place, start in enumerate(starts)]
    order = [home, *(place for place in range(len(starts)) if place != home)]
    return Fact(key, [samples[place] for place in order], [labels[place] for place in order])


def hours(spans: Iterable[tuple[int, int]]) -> Fact:
    """The minute of the day, cut where a span begins or ends."""
    starts = sorted({0, *(bound for span in spans for bound in span if bound < DAY_MINUTES)})
    fact = number("time", 720, starts)
    ends = dict(zip(starts, [*starts[1:], DAY_MINUTES], strict=True))
    first = [max(start for start in starts if start <= minute) for minute in fact.samples]
    return Fact("time", fact.samples, [f"{_clock(start)}-{_clock(ends[start])}" for start in first])


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


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
        self.fact = Fact(key, samples, [_label(kind[0], spans) for kind, spans in pieces.items()])
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


def _label(version: int, spans: Sequence[tuple[int, int]]) -> str:
    """The prefixes of a class, as many as are bearable."""
    kind: Any = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    shown: list[str] = []
    for first, behind in spans[:SHOWN_ITEMS]:
        ends = str(kind(first)), str(kind(behind - 1))
        whole = behind - first == 1 << (32 if version == 4 else 128)
        shown.append(f"any IPv{version}" if whole else ends[0] if ends[0] == ends[1] else "-".join(ends))
    more = f" and {len(spans) - SHOWN_ITEMS} more" if len(spans) > SHOWN_ITEMS else ""
    return ", ".join(shown) + more


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
    found = {f"{somebody}@{_free('elsewhere', '.example', taken)}": "another domain"}
    found |= {f"{somebody}@{domain}": f"*@{domain}" for domain in known}
    found |= {f"{somebody}@{_free('other', domain, taken)}": f"*@*{domain}" for domain in below}
    found |= {path: path for path in exact} | {without_domain: without_domain or NULL}
    return Fact(key, list(found), list(found.values()))


def _free(label: str, domain: str, taken: set[str]) -> str:
    """A domain below that nobody names."""
    return next(f"{name}{domain}" for name in _names(label) if f"{name}{domain}" not in taken)


def _names(word: str) -> Iterable[str]:
    yield word
    yield from (f"{word}{number}" for number in range(2, 1 << 30))
