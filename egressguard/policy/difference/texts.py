"""A text that matches some shell patterns and not others, made rather than looked for.

Contract
    Pure. `text_for` gives a text that matches a pattern of each group of `wanted` and none of `unwanted`; None where
    there is none. Patterns mean what fnmatch says, folded.
    `is_text` may refuse texts that do not occur (a file name never ends in a dot); then the next one is tried.
    All patterns go through at once, a bit for each place in them. More than MOST_STATES raises TooHard.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache

from egressguard.policy.difference.boxes import TooHard
from egressguard.policy.patterns import text_matches

MOST_STATES = 20_000
_UNUSUAL = "x-0~"
"""Characters that stand for those that no pattern names, the first that is free."""
_SIGN = re.compile(r"\*+|\[!?\]?[^\]]*\]|.", re.DOTALL)


@dataclass(slots=True)
class _Places:
    """A bit for each place in the patterns: where it stands before a `*`, and which characters lead on from it."""

    patterns: list[list[str]] = field(default_factory=list)
    start: int = 0
    stars: int = 0
    ends: list[int] = field(default_factory=list)
    spans: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, patterns: Sequence[str]) -> None:
        """One group: it is matched where one of them is."""
        ends = span = 0
        for pattern in patterns:
            signs = ["*" if sign.startswith("*") else sign for sign in _SIGN.findall(pattern.casefold())]
            self.start |= 1 << self.size
            for place, sign in enumerate(signs):
                if sign == "*":
                    self.stars |= 1 << self.size + place
            self.patterns.append(signs)
            span |= (1 << self.size + len(signs) + 1) - (1 << self.size)
            self.size += len(signs) + 1
            ends |= 1 << self.size - 1
        self.ends.append(ends)
        self.spans.append(span)

    def leading_on(self, character: str) -> int:
        found, place = 0, 0
        for signs in self.patterns:
            for sign in signs:
                if sign != "*" and _is_of(sign, character):
                    found |= 1 << place
                place += 1
            place += 1
        return found

    def settled(self, places: int) -> int:
        """With what is reached without a character: behind a `*`."""
        return places | (places & self.stars) << 1


@lru_cache(maxsize=65536)
def _is_of(sign: str, character: str) -> bool:
    if len(sign) == 1:
        return sign in {"?", character}
    return re.match(translate(sign), character) is not None


def text_for(
    wanted: Sequence[Sequence[str]],
    unwanted: Sequence[str],
    is_text: Callable[[str], bool] = lambda _text: True,
    usual: str = "",
) -> str | None:
    """A text that matches one pattern of each group and none of `unwanted`: `usual` if it does, else the shortest
    there is. Raises TooHard."""
    if is_text(usual) and not text_matches(unwanted, usual) and all(text_matches(group, usual) for group in wanted):
        return usual
    return _shortest(tuple(map(tuple, wanted)), tuple(dict.fromkeys(unwanted)), is_text)


@lru_cache(maxsize=4096)
def _shortest(
    wanted: tuple[tuple[str, ...], ...], unwanted: tuple[str, ...], is_text: Callable[[str], bool]
) -> str | None:
    places = _Places()
    for group in wanted:
        places.add(group)
    places.add(unwanted)
    *goals, refused = places.ends
    hopeless = (refused >> 1) & places.stars  # in front of a `*` at the end: whatever comes, it is matched
    leads = {character: places.leading_on(character) for character in _alphabet(wanted, unwanted)}
    start = places.settled(places.start)
    waiting, seen = deque([(start, "")]), {start}
    while waiting:
        here, text = waiting.popleft()
        if here & hopeless or not all(here & span for span in places.spans[:-1]):
            continue
        if all(here & goal for goal in goals) and not here & refused and is_text(text):
            return text
        for character, lead in leads.items():
            there = places.settled((here & lead) << 1 | here & places.stars)
            if there not in seen:
                if len(seen) >= MOST_STATES:
                    raise TooHard
                seen.add(there)
                waiting.append((there, text + character))
    return None


def _alphabet(wanted: Sequence[Sequence[str]], unwanted: Sequence[str]) -> Iterator[str]:
    """The characters that can make a difference, and one that stands for all others."""
    named: dict[str, None] = {}
    refused: set[str] = set()
    for pattern in (pattern for group in wanted for pattern in group):
        named |= dict.fromkeys(_characters(pattern))
    for pattern in unwanted:
        refused.update(_characters(pattern))
        if "[!" in pattern:
            named |= dict.fromkeys(_characters(pattern))
    yield from named
    others = (*_UNUSUAL, *map(chr, range(ord("a"), ord("z") + 1)), *map(chr, range(0xA1, 0x3000)))
    yield next(c for c in others if c not in named and c not in refused and c == c.casefold())


@lru_cache(maxsize=65536)
def _characters(pattern: str) -> tuple[str, ...]:
    return tuple(c for sign in _SIGN.findall(pattern.casefold()) for c in _characters_of(sign))


def _characters_of(sign: str) -> Iterator[str]:
    """The characters that a sign names; of `[a-c]` its ends and those beside them."""
    if sign.startswith(("*", "?")):
        return
    if len(sign) == 1:
        yield sign
        return
    for character in sign[1:-1].lstrip("!"):
        for near in (-1, 0, 1):
            if ord(character) + near >= 0x20:
                yield chr(ord(character) + near).casefold()[:1]
