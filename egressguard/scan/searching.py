"""Regular expressions over octets that need not be in memory.

Contract
    What is `bytes` is searched as it is. Of what is Stored only a window is resident at a time, and what is found is
    what would be found in memory, but for expressions that need more than REACH_OCTETS from a match's start to know it
    is one; a run of blanks counts as nothing there. `match` needs no such exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from egressguard.scan import octets
from egressguard.scan.octets import Octets, Stored

REACH_OCTETS = 64 * 1024
_BLANKS = b" \t\r\n\x0b\x0c\0"


def match(
    pattern: re.Pattern[bytes], content: Octets, start: int = 0, end: int | None = None
) -> re.Match[bytes] | None:
    """As pattern.match(content, start, end)."""
    if isinstance(content, bytes):
        return pattern.match(content, start, len(content) if end is None else end)
    try:
        return pattern.match(content.view(), start, len(content) if end is None else end)
    finally:
        content.forget()


def search(
    pattern: re.Pattern[bytes], content: Octets, start: int = 0, end: int | None = None
) -> re.Match[bytes] | None:
    """As pattern.search(content, start, end)."""
    if isinstance(content, bytes):
        return pattern.search(content, start, len(content) if end is None else end)
    try:
        return _search(pattern, content, start, len(content) if end is None else min(end, len(content)))
    finally:
        content.forget()


def _search(pattern: re.Pattern[bytes], content: Stored, start: int, end: int) -> re.Match[bytes] | None:
    view = content.view()
    while start <= end:
        edge = start + octets.WINDOW_OCTETS
        cut = _cut(content, edge, end)
        found = pattern.search(view, start, cut)
        if cut >= end:
            return found
        if found is None or found.start() >= edge:
            start = edge
        elif whole := pattern.match(view, found.start(), end):
            return whole
        else:
            start = found.start() + 1
        content.forget()
    return None


def _cut(content: Stored, at: int, end: int) -> int:
    """REACH_OCTETS behind `at`, blanks in a row there not counted."""
    at = min(at + REACH_OCTETS, end)
    while (behind := _behind_blanks(content, at, end)) > at:
        at = min(behind + REACH_OCTETS, end)
    return at


def _behind_blanks(content: Stored, at: int, end: int) -> int:
    """`at`, or where the run of blanks ends that it stands in."""
    while at < end:
        ahead = content[at - 1 : at + REACH_OCTETS]
        if stripped := ahead.lstrip(_BLANKS):
            return max(at, at - 1 + len(ahead) - len(stripped))
        at += REACH_OCTETS
    return end


def finditer(pattern: re.Pattern[bytes], content: Octets) -> Iterator[re.Match[bytes]]:
    """As pattern.finditer(content), for a pattern that matches no empty octets."""
    if isinstance(content, bytes):
        yield from pattern.finditer(content)
        return
    at = 0
    while (found := search(pattern, content, at)) is not None:
        yield found
        at = found.end()


def run_end(content: Octets, start: int, end: int, letters: re.Pattern[bytes]) -> int:
    """Where the run ends that starts at `start`; `letters` matches any number of what it is made of."""
    if isinstance(content, bytes):
        run = letters.match(content, start, end)
        return run.end() if run else start
    for chunk in octets.windows(content, start, end):
        run = letters.match(chunk)
        taken = run.end() if run else 0
        start += taken
        if taken < len(chunk):
            break
    return start


def replaced(
    pattern: re.Pattern[bytes],
    by: bytes | Callable[[re.Match[bytes]], bytes],
    chunks: Iterable[bytes],
    unfinished: re.Pattern[bytes],
    at_end: re.Pattern[bytes] | None = None,
) -> Iterator[bytes]:
    """As pattern.sub(by, all of `chunks`); `unfinished` finds what at a chunk's end could go on in the next, up to
    REACH_OCTETS of it. `at_end`: in place of `pattern` for what is unfinished when all has come."""
    rest = b""
    for each in chunks:
        chunk = rest + each
        tail = unfinished.search(chunk, max(0, len(chunk) - REACH_OCTETS))
        end = tail.start() if tail else len(chunk)
        yield pattern.sub(by, chunk[:end])
        rest = chunk[end:]
    yield (at_end or pattern).sub(by, rest)


def has_word(content: Octets, word: bytes) -> bool:
    """Whether `word` stands in it, in whatever case; `word` is lower case."""
    return word in content.lower() if isinstance(content, bytes) else content.find(word, lower=True) >= 0


def count_of(content: Octets, word: bytes) -> int:
    """As content.lower().count(word), for a word that no two finds of can overlap."""
    return sum(window.lower().count(word) for _, window in octets.overlapping(content, len(word) - 1))
