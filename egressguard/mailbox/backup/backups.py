"""A directory of backups: take one, list them, check them, keep the newest.

Contract
    A backup counts when its manifest is there; killed before, nothing of it does, and the next takes less time.
    Objects go only after the manifests that named them. One process works in it at a time.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from egressguard.mailbox.backup.collect import Collector, known_files
from egressguard.mailbox.backup.manifest import BackupError, Entry, Manifests
from egressguard.mailbox.backup.objects import Objects

Tick = Callable[[int], object]


@dataclass(slots=True)
class Taken:
    """What a run did. `octets`: of all files in it; `new_octets`: that no earlier backup had."""

    name: str
    files: int
    octets: int
    new_files: int
    new_octets: int
    problems: list[str]
    removed: list[str] = field(default_factory=list)


class Backups:
    """In `root`, closed to others: it has mail and passwords. Raises OSError, BackupError."""

    def __init__(self, root: Path, *, make: bool = False) -> None:
        if not make and not (root / "manifests").is_dir():
            raise BackupError(f"{root}: no directory of backups; egressguard backup {root} makes one")
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise BackupError(f"{root}: another backup or restore works there") from None
        self.objects = Objects(root / "objects")
        self.manifests = Manifests(root / "manifests")

    def close(self) -> None:
        os.close(self._lock)

    def take(self, state: Path, now: float, keep: int | None, tick: Tick) -> Taken:
        """One more backup, then all but the `keep` newest go."""
        names = self.manifests.names()
        before = known_files(self.manifests.read(names[-1])) if names else {}
        collector = Collector(state, self.objects, before, tick)
        entries = list(collector.collect())
        self.objects.settle()
        name = self.manifests.write(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)), entries)
        files = [entry for entry in entries if entry.digest]
        octets = sum(entry.size for entry in files)
        counted = Taken(name, len(files), octets, collector.new_files, collector.new_octets, collector.problems)
        if keep is not None:
            counted.removed = self.keep_newest(keep)
        return counted

    def keep_newest(self, keep: int) -> list[str]:
        """Remove all but the `keep` newest backups, and what only they had."""
        names = self.manifests.names()
        old = names[: -max(keep, 1)]
        for name in old:
            self.manifests.remove(name)
        if old:
            kept = (entry for name in self.manifests.names() for entry in self.manifests.read(name))
            self.objects.sweep({entry.digest for entry in kept})
        return old

    def damaged(self, tick: Tick = lambda _done: None) -> Iterator[tuple[str, str]]:
        """(backup, path) of what is missing or not what it was: all is read."""
        known: dict[str, bool] = {}
        for name in self.manifests.names():
            for entry in self.manifests.read(name):
                if entry.digest and entry.digest not in known:
                    known[entry.digest] = self.objects.is_whole(entry.digest)
                    tick(entry.size)
                if entry.digest and not known[entry.digest]:
                    yield name, entry.path

    def chosen(self, name: str | None) -> str:
        """The backup of that name; the newest without one."""
        names = self.manifests.names()
        if not names:
            raise BackupError("there is no backup yet")
        if name is not None and name not in names:
            raise BackupError(f"there is no backup {name!r:.60}; there are {', '.join(names)}")
        return name or names[-1]

    def entries(self, name: str) -> Iterator[Entry]:
        return self.manifests.read(name)
