"""Which messages lie in a folder that mail programs work in.

Contract
    Pure, but for `look`. A file that gets other flags while its directory is read may be seen under neither name: a
    message is gone only when two looks in a row have not seen it, and all are seen when a look finds nothing new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

from egressguard.mailbox.takeover.directory import Directory
from egressguard.mailbox.takeover.uid_lists import base_of

PARTS = ("new", "cur")  # in this order: a message moves from new to cur
LOOKS = 12
_LOOKS_FOR_LISTED = 4

Where = tuple[str, str]
"""(part, file name)"""


def look(parts: Mapping[str, Directory]) -> dict[str, Where]:
    """Base name -> where it was seen. Raises OSError, SourceError."""
    found: dict[str, Where] = {}
    for part, directory in parts.items():
        for name in directory.names():
            if not name.startswith("."):
                found[base_of(name)] = (part, name)
    return found


class Sight:
    """What several looks have seen together."""

    def __init__(self) -> None:
        self._there: dict[str, Where] = {}
        self._missed: Counter[str] = Counter()
        self._looks = 0
        self._found_new = True

    def add(self, seen: Mapping[str, Where]) -> None:
        self._found_new = not seen.keys() <= self._there.keys()
        self._looks += 1
        for base in self._there.keys() - seen.keys():
            self._missed[base] += 1
        for base in seen:
            self._missed.pop(base, None)
        self._there |= seen

    def is_settled(self, listed: Set[str] = frozenset()) -> bool:
        """`listed`: names that should be there, by a list of UIDs; what is in it only was deleted, perhaps."""
        if self._looks < 2 or self._found_new or 1 in self._missed.values():
            return False
        return listed <= self._there.keys() or self._looks >= _LOOKS_FOR_LISTED

    def there(self) -> dict[str, Where]:
        return {base: where for base, where in self._there.items() if self._missed[base] < 2}


def all_in(parts: Mapping[str, Directory]) -> dict[str, Where]:
    """Raises OSError, SourceError."""
    sight = Sight()
    for _ in range(LOOKS):
        sight.add(look(parts))
        if sight.is_settled():
            break
    return sight.there()
