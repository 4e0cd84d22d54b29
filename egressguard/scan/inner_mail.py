"""Mail inside archives, and what Outlook and Macs wrap files in there: read as mail in its turn.

Contract
    `with_mail` passes on what an archive holds; behind a member that is mail come its parts, and what those hold.
    What mail programs could read differently there, or is too deep to be read, is a problem: the caller holds the
    message. All is paid from the budget of the whole message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from egressguard.scan import apple, outlook, tnef
from egressguard.scan.archive import members
from egressguard.scan.budget import Budget, Member, Opened, shown
from egressguard.scan.kinds import media_type
from egressguard.scan.octets import Octets
from egressguard.scan.searching import match, search
from egressguard.scan.spotting import CONTENT_FIELD
from egressguard.scan.walk import walk

MAX_LEVELS = 3
_HEADER_OCTETS = 64 * 1024
_SUFFIXES = (".eml", ".emlx", ".mht", ".mhtml", ".mim", ".nws")
_FIRST_FIELD = re.compile(rb"[\s\xef\xbb\xbf]{0,10}(?:From |[!-9;-~]{1,76}[ \t]{0,3}:)")
_EMPTY_LINE = re.compile(rb"\r?\n[ \t]{0,100}\r?\n")

Found = tuple[tuple[str, ...], Octets]


def with_mail(
    found: Iterable[Member], budget: Budget, nesting: int, opened: Opened, levels: int = MAX_LEVELS
) -> Iterator[Member]:
    """`found` are members of archives; `nesting` is how deep the archives in that mail may be nested."""
    for member in found:
        yield member
        name = member.path[-1]
        if not _is_mail(name, member.content):
            continue
        if levels <= 0:
            opened.problem(f"mail nested too deep: {name}")
            return
        budget.octets -= len(member.content)
        if budget.spent(name, opened):
            return
        for names, content in _parts(name, member.content, budget, opened):
            paths = [(*member.path, shown(one)) for one in names] or [(*member.path, "unnamed")]
            kind = media_type(content)
            mine = [Member(path, content, kind) for path in paths]
            inside = members(paths[0], content, kind, budget, nesting, opened)
            yield from mine
            yield from with_mail(inside, budget, nesting, opened, levels - 1)
            yield from _wrapped_again(mine[:1], budget, nesting, opened, levels)


def _wrapped_again(
    part: Iterable[Member], budget: Budget, nesting: int, opened: Opened, levels: int
) -> Iterator[Member]:
    """A part that is a wrapping in its turn, without itself."""
    again = with_mail(part, budget, nesting, opened, levels - 1)
    next(again, None)
    yield from again


def _is_mail(name: str, content: Octets) -> bool:
    if content.startswith((tnef.TNEF, apple.SINGLE, apple.DOUBLE)) or outlook.has_attachments(content):
        return True
    if name.lower().endswith(_SUFFIXES):
        return bool(content)
    if match(_FIRST_FIELD, content) is None:
        return False
    empty = search(_EMPTY_LINE, content, 0, _HEADER_OCTETS)
    return CONTENT_FIELD.search(b"\n" + content[: empty.start() if empty else _HEADER_OCTETS]) is not None


def _parts(name: str, content: Octets, budget: Budget, opened: Opened) -> Iterator[Found]:
    if content.startswith(tnef.TNEF):
        yield from tnef.attachments(content)
    elif content.startswith((apple.SINGLE, apple.DOUBLE)):
        yield from apple.files(content)
    elif outlook.has_attachments(content):
        yield from outlook.attachments(content)
    else:
        walked = walk(content, budget.describe)
        for problem in walked.problems:
            opened.problem(f"{problem}: {name}")
        for difference in walked.differences:
            opened.problem(f"mail programs read this differently: {name} ({difference})")
        yield from ((part.names, part.content) for part in walked.parts)
