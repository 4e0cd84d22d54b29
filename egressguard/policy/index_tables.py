"""Tables for the words of message rules: paths, domains, shell patterns, single values, numbers.

Contract
    Each table answers for all rules at once which of them a value of the message does not rule out; `others` are the
    rules that do not ask. The words mean what policy.patterns and policy.matchers say.
    Shell patterns other than a text, "*text" and "text*" are in no table: their rules are never ruled out here.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import isnan
from operator import or_

from egressguard.mail.address import domain_of
from egressguard.policy.index import rule_set, table
from egressguard.policy.patterns import LOCAL, NULL, plain_path

Rows = Sequence[tuple[int, Sequence[str]]]
"""(rule, what it wants)."""
_SPECIAL = re.compile(r"[*?\[]")


class Paths:
    """Addresses, "*@domain" and "<>"."""

    def __init__(self, rows: Rows, others: int) -> None:
        exact: list[tuple[int, list[str]]] = []
        whole: list[tuple[int, list[str]]] = []
        for rule, patterns in rows:
            domains = [pattern for pattern in patterns if pattern.startswith("*@")]
            whole.append((rule, [pattern[2:].lower() for pattern in domains]))
            exact.append((rule, [plain_path(p) for p in patterns if p != NULL and p not in domains]))
        self._exact = table(exact)
        self._whole = table(whole, others)
        self._others = others
        self._null = table(((rule, [NULL]) for rule, patterns in rows if NULL in patterns), others).get(NULL, others)

    def rules(self, path: str) -> int:
        if not path:
            return self._null
        plain = plain_path(path)
        return self._exact.get(plain, 0) | self._whole.get(domain_of(plain), self._others)


class Domains:
    """Domains, ".domain" and "@local". A path without a domain has none of them."""

    def __init__(self, rows: Rows, others: int, local_domains: Iterable[str]) -> None:
        local = [domain.lower() for domain in local_domains]
        exact: list[tuple[int, list[str]]] = []
        below: list[tuple[int, list[str]]] = []
        for rule, patterns in rows:
            lowered = [pattern.lower() for pattern in patterns]
            below.append((rule, [pattern for pattern in lowered if pattern.startswith(".")]))
            exact.append((rule, [p for p in lowered if p != LOCAL and not p.startswith(".")]))
            exact.append((rule, local if LOCAL in lowered else []))
        self._exact = table(exact, others)
        self._below = table(below)
        self._others = others

    def rules(self, path: str) -> int:
        domain = domain_of(path)
        if not domain:
            return self._others
        rules = self._exact.get(domain, self._others)
        at = domain.find(".") if self._below else -1
        while at >= 0:
            rules |= self._below.get(domain[at:], 0)
            at = domain.find(".", at + 1)
        return rules


class Patterns:
    """Shell patterns, folded as the texts are. `hard` are the rules whose patterns have to be asked one by one."""

    def __init__(self, rows: Rows, others: int) -> None:
        self.hard = rule_set(rule for rule, patterns in rows if not all(map(_is_easy, patterns)))
        easy = [(rule, patterns) for rule, patterns in rows if not self.hard >> rule & 1]
        self._others = others | self.hard
        self._exact = table((rule, [p for p in patterns if "*" not in p]) for rule, patterns in easy)
        self._tails = table((rule, [p[1:] for p in patterns if p.startswith("*")]) for rule, patterns in easy)
        self._heads = table((rule, [p[:-1] for p in patterns if p.endswith("*")]) for rule, patterns in easy)
        self._tail_lengths, self._head_lengths = (sorted(set(map(len, t))) for t in (self._tails, self._heads))

    def rules(self, texts: Iterable[str]) -> int:
        """The rules with a pattern that one of the texts matches."""
        rules = self._others
        for text in texts:
            rules |= self._exact.get(text, 0)
            length = len(text)
            for tail in self._tail_lengths:
                if tail > length:
                    break
                rules |= self._tails.get(text[length - tail :], 0)
            for head in self._head_lengths:
                if head > length:
                    break
                rules |= self._heads.get(text[:head], 0)
        return rules


class Levels:
    """Numbers that a message has to be above, or has to reach."""

    def __init__(self, rows: Iterable[tuple[int, float]], others: int) -> None:
        wanted = table((rule, [level]) for rule, level in rows)
        self._levels = sorted(wanted)
        self._rules = list(accumulate((wanted[level] for level in self._levels), or_, initial=others))

    def above(self, number: float) -> int:
        return self._rules[bisect_left(self._levels, number)]

    def reached(self, number: float) -> int:
        """What is not a number (NaN) reaches nothing."""
        return self._rules[0 if isnan(number) else bisect_right(self._levels, number)]


def _is_easy(pattern: str) -> bool:
    text = pattern[1:] if pattern.startswith("*") else pattern.removesuffix("*")
    return not _SPECIAL.search(text)
